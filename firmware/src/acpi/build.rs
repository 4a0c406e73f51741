//! Builds the ACPI tables of a PC: RSDP, RSDT, XSDT, FACS, DSDT, FADT and MADT.

use super::{HEADER_LENGTH, POSTHASTE_OEM_ID, RSDP_LENGTH, aml, sum};
use alloc::vec::Vec;
use core::fmt;

/// How the operating system may address interrupts (FADT flag bit 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationRule {
    /// As it likes.
    Any,
    /// Physical destination mode only.
    ForcePhysical,
}

/// FADT flag bits (ACPI 5.2.9, table 5-10).
pub mod fadt_flag {
    /// WBINVD works.
    pub const WBINVD: u32 = 1 << 0;
    /// The C1 power state works on every processor.
    pub const PROC_C1: u32 = 1 << 2;
    /// No fixed power button.
    pub const PWR_BUTTON: u32 = 1 << 4;
    /// No fixed sleep button.
    pub const SLP_BUTTON: u32 = 1 << 5;
    /// The RTC wake status is not in fixed registers.
    pub const FIX_RTC: u32 = 1 << 6;
    /// The PM timer has 32 bits.
    pub const TMR_VAL_EXT: u32 = 1 << 8;
    /// RESET_REG works.
    pub const RESET_REG_SUP: u32 = 1 << 10;
    /// Local APICs must be addressed in physical destination mode.
    pub const FORCE_APIC_PHYSICAL_DESTINATION_MODE: u32 = 1 << 19;
    /// Hardware-reduced ACPI.
    pub const HW_REDUCED_ACPI: u32 = 1 << 20;
}

/// IAPC_BOOT_ARCH bits (ACPI 5.2.9.3).
pub mod boot_architecture {
    /// There are devices on the ISA bus, serial ports for instance.
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    /// There is a keyboard controller.
    pub const KEYBOARD_8042: u16 = 1 << 1;
    /// There is no VGA: do not probe it.
    pub const VGA_NOT_PRESENT: u16 = 1 << 2;
    /// There is no CMOS real-time clock.
    pub const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
}

/// What the tables say.
#[derive(Clone, Copy, Debug)]
pub struct TableConfig<'a> {
    /// Guest-physical address of the RSDP; the tables follow it. A multiple of 16, in
    /// E0000H-FFFFFH if software is to find it by searching.
    pub base: u64,
    /// OEM ID of every table.
    pub oem_id: [u8; 6],
    /// APIC IDs of the processors; a processor's UID is its index.
    pub apic_ids: &'a [u32],
    /// Address of the local APICs.
    pub local_apic_address: u32,
    /// ID of the I/O APIC, whose pins are GSI 0 and up.
    pub io_apic_id: u8,
    /// Address of the I/O APIC.
    pub io_apic_address: u32,
    /// Port of the PM1a event block (4 bytes).
    pub pm1a_event: u16,
    /// Port of the PM1a control block (2 bytes).
    pub pm1a_control: u16,
    /// Port of the PM timer (4 bytes).
    pub pm_timer: u16,
    /// Bits of the PM timer: 32, anything else means 24.
    pub pm_timer_bits: u8,
    /// SLP_TYP of S5.
    pub sleep_type_off: u8,
    /// SLP_TYP of S3, if there is one, which the alarm of the real-time clock ends.
    pub sleep_type_suspend: Option<u8>,
    /// IRQ of the system control interrupt; level-triggered, active high.
    pub sci: u8,
    /// Port and value that reset the machine.
    pub reset: Option<(u16, u8)>,
    /// FADT flag bit 19.
    pub destinations: DestinationRule,
    /// IAPC_BOOT_ARCH, of [`boot_architecture`].
    pub boot_architecture: u16,
}

impl<'a> TableConfig<'a> {
    /// Our machine without S3: tables at E0000H, PM block at 600H, reset by CF9H, serial port and CMOS clock,
    /// neither keyboard nor VGA.
    pub const fn posthaste(apic_ids: &'a [u32]) -> Self {
        Self {
            base: 0xe_0000,
            oem_id: POSTHASTE_OEM_ID,
            apic_ids,
            local_apic_address: 0xfee0_0000,
            io_apic_id: 0,
            io_apic_address: 0xfec0_0000,
            pm1a_event: 0x600,
            pm1a_control: 0x604,
            pm_timer: 0x608,
            pm_timer_bits: 32,
            sleep_type_off: 5,
            sleep_type_suspend: None,
            sci: 9,
            reset: Some((0xcf9, 6)),
            destinations: DestinationRule::Any,
            boot_architecture: boot_architecture::LEGACY_DEVICES
                | boot_architecture::VGA_NOT_PRESENT,
        }
    }
}

/// Why tables could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The base is not a multiple of 16.
    Unaligned {
        /// The base.
        base: u64,
    },
    /// The tables do not end below 4 GiB, where the RSDT can name them.
    AboveFourGib {
        /// The base.
        base: u64,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { base } => {
                write!(f, "ACPI tables at {base:#x}: not a multiple of 16")
            }
            Self::AboveFourGib { base } => {
                write!(f, "ACPI tables at {base:#x} do not end below 4 GiB")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// Tables ready to be put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Address of the RSDP and of the first of `bytes`.
    pub base: u64,
    /// The tables; the RSDP is the first [`RSDP_LENGTH`] bytes.
    pub bytes: Vec<u8>,
    /// Address of the FACS, which has the waking vector.
    pub facs: u64,
}

impl Tables {
    /// The RSDP's bytes, for a boot protocol that hands over a copy.
    pub fn rsdp(&self) -> &[u8] {
        self.bytes.get(..RSDP_LENGTH).unwrap_or(&[])
    }
}

/// Builds the tables.
pub fn build(config: &TableConfig<'_>) -> Result<Tables, BuildError> {
    let base = config.base;
    if !base.is_multiple_of(16) {
        return Err(BuildError::Unaligned { base });
    }
    // No table holds more than a few bytes a processor, so this bounds the whole from above.
    let bound = 4096 + config.apic_ids.len() as u64 * 128;
    if base.checked_add(bound).is_none_or(|end| end > 1 << 32) {
        return Err(BuildError::AboveFourGib { base });
    }
    let mut bytes = Vec::from([0; RSDP_LENGTH]);
    let mut place = |table: Vec<u8>, alignment: u64| {
        let address = (base + bytes.len() as u64).next_multiple_of(alignment);
        bytes.resize((address - base) as usize, 0);
        bytes.extend(table);
        address
    };
    let facs = place(facs(), 64);
    let block = aml::definition_block(
        config.sleep_type_off,
        config.sleep_type_suspend,
        config.apic_ids.len() as u32,
    );
    let dsdt = place(table(*b"DSDT", 2, config, &block), 16);
    let fadt = place(fadt(config, facs, dsdt), 16);
    let madt = place(madt(config), 16);
    let entries = [fadt, madt];
    let narrow: Vec<u8> = entries
        .iter()
        .flat_map(|address| (*address as u32).to_le_bytes())
        .collect();
    let wide: Vec<u8> = entries
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    let rsdt = place(table(*b"RSDT", 1, config, &narrow), 16);
    let xsdt = place(table(*b"XSDT", 1, config, &wide), 16);
    if let Some(slot) = bytes.first_chunk_mut() {
        *slot = rsdp(config, rsdt, xsdt);
    }
    Ok(Tables { base, bytes, facs })
}

/// ACPI 5.2.5.3.
fn rsdp(config: &TableConfig<'_>, rsdt: u64, xsdt: u64) -> [u8; RSDP_LENGTH] {
    let mut rsdp = [0; RSDP_LENGTH];
    put(&mut rsdp, 0, b"RSD PTR ");
    put(&mut rsdp, 9, &config.oem_id);
    put(&mut rsdp, 15, &[2]);
    put(&mut rsdp, 16, &(rsdt as u32).to_le_bytes());
    put(&mut rsdp, 20, &(RSDP_LENGTH as u32).to_le_bytes());
    put(&mut rsdp, 24, &xsdt.to_le_bytes());
    let first = 0_u8.wrapping_sub(sum(&rsdp[..20]));
    put(&mut rsdp, 8, &[first]);
    let extended = 0_u8.wrapping_sub(sum(&rsdp));
    put(&mut rsdp, 32, &[extended]);
    rsdp
}

/// A table with the common header (ACPI 5.2.6).
fn table(signature: [u8; 4], revision: u8, config: &TableConfig<'_>, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::from(signature);
    table.extend(((HEADER_LENGTH + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(config.oem_id);
    table.extend(b"MACHINE ");
    table.extend(1_u32.to_le_bytes());
    table.extend(b"PHST");
    table.extend(1_u32.to_le_bytes());
    table.extend(body);
    let checksum = 0_u8.wrapping_sub(sum(&table));
    put(&mut table, 9, &[checksum]);
    table
}

/// ACPI 5.2.10; it has no checksum.
fn facs() -> Vec<u8> {
    let mut facs = Vec::from([0; 64]);
    put(&mut facs, 0, b"FACS");
    put(&mut facs, 4, &64_u32.to_le_bytes());
    put(&mut facs, 32, &[2]);
    facs
}

/// ACPI 5.2.9, table 5-9; offsets are from the start of the table.
fn fadt(config: &TableConfig<'_>, facs: u64, dsdt: u64) -> Vec<u8> {
    let mut body = [0; 276 - HEADER_LENGTH];
    let mut set = |offset: usize, bytes: &[u8]| put(&mut body, offset - HEADER_LENGTH, bytes);
    set(36, &(facs as u32).to_le_bytes());
    set(40, &(dsdt as u32).to_le_bytes());
    // Desktop; the SCI; no SMI command port, so ACPI is always on.
    set(45, &[1]);
    set(46, &u16::from(config.sci).to_le_bytes());
    for (offset, port) in [
        (56, config.pm1a_event),
        (64, config.pm1a_control),
        (76, config.pm_timer),
    ] {
        set(offset, &u32::from(port).to_le_bytes());
    }
    // Lengths of PM1_EVT, PM1_CNT and PM_TMR.
    set(88, &[4, 2]);
    set(91, &[4]);
    // C2 and C3 latencies beyond 100 and 1000 us: not supported.
    set(96, &0x0fff_u16.to_le_bytes());
    set(98, &0x0fff_u16.to_le_bytes());
    // The CMOS register of the century.
    set(108, &[0x32]);
    set(109, &config.boot_architecture.to_le_bytes());
    // Without FIX_RTC the real-time clock's alarm is in PM1.
    let mut flags =
        fadt_flag::WBINVD | fadt_flag::PROC_C1 | fadt_flag::PWR_BUTTON | fadt_flag::SLP_BUTTON;
    if config.pm_timer_bits == 32 {
        flags |= fadt_flag::TMR_VAL_EXT;
    }
    if config.destinations == DestinationRule::ForcePhysical {
        flags |= fadt_flag::FORCE_APIC_PHYSICAL_DESTINATION_MODE;
    }
    if let Some((port, value)) = config.reset {
        flags |= fadt_flag::RESET_REG_SUP;
        set(116, &io_register(port, 8));
        set(128, &[value]);
    }
    set(112, &flags.to_le_bytes());
    // Revision 6.5.
    set(131, &[5]);
    // Of FIRMWARE_CTRL and X_FIRMWARE_CTRL only one may be given; X_DSDT repeats DSDT.
    set(140, &dsdt.to_le_bytes());
    set(148, &io_register(config.pm1a_event, 32));
    set(172, &io_register(config.pm1a_control, 16));
    set(208, &io_register(config.pm_timer, 32));
    table(*b"FACP", 6, config, &body)
}

/// A generic address in I/O space (ACPI 5.2.3.2).
fn io_register(port: u16, bits: u8) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    let access = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    [1, bits, 0, access, low, high, 0, 0, 0, 0, 0, 0]
}

/// ACPI 5.2.12.
fn madt(config: &TableConfig<'_>) -> Vec<u8> {
    let mut body = Vec::from(config.local_apic_address.to_le_bytes());
    // PCAT_COMPAT: there is a pair of 8259.
    body.extend(1_u32.to_le_bytes());
    for (uid, id) in (0_u32..).zip(config.apic_ids) {
        match (u8::try_from(uid), u8::try_from(*id)) {
            // 5.2.12.2 Processor local APIC; 255 is the broadcast.
            (Ok(uid), Ok(id)) if id < 255 => body.extend([0, 8, uid, id, 1, 0, 0, 0]),
            // 5.2.12.12 Processor local x2APIC.
            _ => {
                body.extend([9, 16, 0, 0]);
                body.extend(id.to_le_bytes());
                body.extend(1_u32.to_le_bytes());
                body.extend(uid.to_le_bytes());
            }
        }
    }
    // 5.2.12.3 I/O APIC.
    body.extend([1, 12, config.io_apic_id, 0]);
    body.extend(config.io_apic_address.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    // 5.2.12.5 Interrupt source override: IRQ 0 is wired to pin 2, as on the bus; the SCI is level,
    // active high.
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend([2, 10, 0, config.sci, config.sci, 0, 0, 0, 0x0d, 0]);
    // 5.2.12.7 Local APIC NMI and 5.2.12.13 Local x2APIC NMI: LINT1 of every processor.
    body.extend([4, 6, 0xff, 0, 0, 1]);
    body.extend([0x0a, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    table(*b"APIC", 6, config, &body)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}
