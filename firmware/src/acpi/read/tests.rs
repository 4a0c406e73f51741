use super::super::build::{BuildError, DestinationRule, TableConfig, Tables, build, fadt_flag};
use super::super::fixed_hardware::{PmTimer, PowerOff, ResetRegister};
use super::*;
use alloc::string::ToString;

/// Memory with the tables in it and nothing else.
struct Around<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl PhysicalMemory for Around<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let error = MemoryError {
            address,
            length: buffer.len() as u64,
        };
        let offset = address.checked_sub(self.base).ok_or(error)?;
        self.bytes.read(offset, buffer).map_err(|_| error)
    }
}

fn around(tables: &Tables) -> Around<'_> {
    Around {
        base: tables.base,
        bytes: &tables.bytes,
    }
}

#[test]
fn what_is_built_is_read() {
    let ids = [0, 2, 4, 254, 255, 256, 70_000];
    let tables = build(&TableConfig::posthaste(&ids)).unwrap();
    assert_eq!(find_rsdp(&around(&tables)), Some(0xe_0000));
    let hardware = read(&around(&tables), tables.base).unwrap();
    assert_eq!(&hardware.oem_id, b"POSTHA");
    assert_eq!(hardware.local_apic_address, 0xfee0_0000);
    assert!(hardware.has_8259);
    let read_ids: Vec<u32> = hardware.processors.iter().map(|p| p.apic_id).collect();
    assert_eq!(read_ids, ids);
    for (uid, processor) in (0..).zip(&hardware.processors) {
        assert_eq!(
            (processor.uid, processor.state),
            (uid, ProcessorState::Enabled)
        );
    }
    assert_eq!(
        hardware.io_apics,
        [IoApic {
            id: 0,
            address: 0xfec0_0000,
            gsi_base: 0
        }]
    );
    assert_eq!([0, 1, 9].map(|irq| hardware.gsi_of_irq(irq)), [2, 1, 9]);
    assert_eq!(hardware.overrides[1].flags, 0x0d);
    assert_eq!(hardware.local_nmis, [LocalNmi { uid: None, lint: 1 }; 2]);
    let fixed = hardware.fixed_hardware.unwrap();
    assert_eq!(
        fixed.power_off,
        Some(PowerOff {
            pm1a_control: 0x604,
            pm1a_value: 0x3400,
            pm1b: None
        })
    );
    assert_eq!(
        fixed.reset,
        Some(ResetRegister::Port {
            port: 0xcf9,
            value: 6
        })
    );
    assert_eq!(
        fixed.pm_timer,
        Some(PmTimer {
            port: 0x608,
            bits: 32
        })
    );
    assert_eq!((fixed.sci, fixed.boot_architecture), (9, 5));
    assert_eq!(fixed.flags, 0x535);
}

#[test]
fn configuration_reaches_the_tables() {
    let mut config = TableConfig::posthaste(&[0]);
    config.destinations = DestinationRule::ForcePhysical;
    config.pm_timer_bits = 24;
    config.reset = None;
    config.oem_id = *b"OTHER ";
    config.base = 0x7fe0_0000;
    let tables = build(&config).unwrap();
    let hardware = read(&around(&tables), tables.base).unwrap();
    assert_eq!(&hardware.oem_id, b"OTHER ");
    let fixed = hardware.fixed_hardware.unwrap();
    assert_ne!(
        fixed.flags & fadt_flag::FORCE_APIC_PHYSICAL_DESTINATION_MODE,
        0
    );
    assert_eq!(fixed.flags & fadt_flag::HW_REDUCED_ACPI, 0);
    assert_eq!(fixed.flags & fadt_flag::FIX_RTC, 0);
    assert_eq!((fixed.reset, fixed.pm_timer.unwrap().bits), (None, 24));
    config.base = 8;
    assert_eq!(build(&config), Err(BuildError::Unaligned { base: 8 }));
    config.base = 0xffff_ff00;
    assert_eq!(
        build(&config),
        Err(BuildError::AboveFourGib { base: 0xffff_ff00 })
    );
    config.base = !15;
    assert!(build(&config).is_err());
}

#[test]
fn many_processors_stay_below_the_bound() {
    let ids: Vec<u32> = (0..2000).collect();
    let tables = build(&TableConfig::posthaste(&ids)).unwrap();
    assert!(tables.bytes.len() <= 4096 + 128 * ids.len());
    let hardware = read(&around(&tables), tables.base).unwrap();
    assert_eq!(hardware.processors.len(), 2000);
    assert!(hardware.fixed_hardware.unwrap().power_off.is_some());
}

#[test]
fn both_root_tables_lead_to_the_same() {
    let mut tables = build(&TableConfig::posthaste(&[0, 1])).unwrap();
    let by_xsdt = read(&around(&tables), tables.base).unwrap();
    // As revision 0 the root pointer has 20 bytes and no XSDT.
    tables.bytes[15] = 0;
    tables.bytes[8] = tables.bytes[8].wrapping_add(2);
    assert_eq!(read(&around(&tables), tables.base).unwrap(), by_xsdt);
}

#[test]
fn every_table_is_checked() {
    let tables = build(&TableConfig::posthaste(&[0, 1])).unwrap();
    let find = |signature: &[u8]| {
        tables
            .bytes
            .windows(4)
            .position(|window| window == signature)
            .unwrap()
    };
    for signature in [b"APIC", b"XSDT"] {
        let mut broken = tables.clone();
        broken.bytes[find(signature) + 30] ^= 1;
        assert_eq!(
            read(&around(&broken), tables.base),
            Err(AcpiError::Checksum {
                signature: *signature,
                address: tables.base + find(signature) as u64
            })
        );
        broken.bytes[find(signature) + 7] = 0xff;
        let message = read(&around(&broken), tables.base).unwrap_err().to_string();
        assert!(message.contains("claims a length of 42781"), "{message}");
    }
    let mut broken = tables.clone();
    broken.bytes[find(b"FACP") + 30] ^= 1;
    let hardware = read(&around(&broken), tables.base).unwrap();
    assert_eq!(hardware.fixed_hardware, None);
    broken.bytes[0] = b'X';
    assert_eq!(
        read(&around(&broken), tables.base).unwrap_err().to_string(),
        "no valid ACPI root pointer at 0xe0000"
    );
    assert_eq!(find_rsdp(&around(&broken)), None);
}

#[test]
fn a_table_without_processors_is_an_error() {
    let mut tables = build(&TableConfig::posthaste(&[0])).unwrap();
    let at = tables.bytes.windows(4).position(|w| w == b"APIC").unwrap();
    tables.bytes[at] = b'B';
    assert_eq!(
        read(&around(&tables), tables.base).unwrap_err().to_string(),
        "there is no ACPI table APIC"
    );
}

#[test]
fn corrupted_tables_never_panic() {
    let tables = build(&TableConfig::posthaste(&[0, 300])).unwrap();
    for length in 0..tables.bytes.len() {
        let cut = Around {
            base: tables.base,
            bytes: &tables.bytes[..length],
        };
        assert!(read(&cut, tables.base).is_err());
    }
    // With checksums put right again, so that the damage gets past them.
    for offset in 0..tables.bytes.len() {
        for value in [0, 1, 2, 7, 0x7f, 0xff] {
            let mut broken = tables.clone();
            broken.bytes[offset] = value;
            for signature in [b"APIC", b"XSDT", b"FACP"] {
                let Some(at) = broken.bytes.windows(4).position(|w| w == signature) else {
                    continue;
                };
                let length = u32::from_le_bytes(broken.bytes[at + 4..at + 8].try_into().unwrap());
                if let Some(table) = broken.bytes.get_mut(at..at + length as usize)
                    && table.len() > 9
                {
                    table[9] = table[9].wrapping_sub(sum(table));
                }
            }
            let rest = sum(&broken.bytes[..20]);
            broken.bytes[8] = broken.bytes[8].wrapping_sub(rest);
            let rest = sum(&broken.bytes[..36]);
            broken.bytes[32] = broken.bytes[32].wrapping_sub(rest);
            let _ = read(&around(&broken), tables.base);
        }
    }
}

#[test]
fn tables_with_s3_name_the_clock_and_the_facs() {
    let config = TableConfig {
        sleep_type_suspend: Some(1),
        ..TableConfig::posthaste(&[0])
    };
    let tables = build(&config).unwrap();
    let facs = (tables.facs - tables.base) as usize;
    assert_eq!(&tables.bytes[facs..facs + 4], b"FACS");
    assert_eq!(tables.facs % 64, 0);
    let hardware = read(&around(&tables), tables.base).unwrap();
    let fixed = hardware.fixed_hardware.unwrap();
    assert_eq!(fixed.flags & fadt_flag::FIX_RTC, 0);
}
