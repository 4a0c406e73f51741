//! Reads a machine's ACPI tables: its processors, interrupt controllers and fixed hardware.
//!
//! The tables may be anything: every length is bounded before it is used.

use super::fixed_hardware::FixedHardware;
use super::{HEADER_LENGTH, RSDP_LENGTH, sum};
use crate::memory::{MemoryError, PhysicalMemory};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// The longest table that is read whole; a MADT of 4096 processors has 64 KiB.
pub const MAXIMUM_TABLE: u32 = 256 * 1024;

/// Why the tables could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// There is no valid root pointer at the address.
    NoRootPointer {
        /// The address.
        address: u64,
    },
    /// A table's bytes do not sum to zero.
    Checksum {
        /// Its signature.
        signature: [u8; 4],
        /// Its address.
        address: u64,
    },
    /// A table has another signature than what points to it says.
    Signature {
        /// What was expected.
        expected: [u8; 4],
        /// The address.
        address: u64,
    },
    /// A table's length cannot be.
    Length {
        /// Its signature.
        signature: [u8; 4],
        /// Its address.
        address: u64,
        /// The length it gives.
        length: u32,
    },
    /// A table is not there.
    Missing {
        /// Its signature.
        signature: [u8; 4],
    },
    /// An entry of the MADT does not fit in it.
    Entry {
        /// Its offset in the MADT.
        offset: usize,
    },
    /// Memory refused an access.
    Memory(MemoryError),
}

impl From<MemoryError> for AcpiError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer { address } => {
                write!(f, "no valid ACPI root pointer at {address:#x}")
            }
            Self::Checksum { signature, address } => write!(
                f,
                "ACPI table {} at {address:#x} has a wrong checksum",
                signature.escape_ascii()
            ),
            Self::Signature { expected, address } => {
                write!(
                    f,
                    "no ACPI table {} at {address:#x}",
                    expected.escape_ascii()
                )
            }
            Self::Length {
                signature,
                address,
                length,
            } => write!(
                f,
                "ACPI table {} at {address:#x} claims a length of {length}",
                signature.escape_ascii()
            ),
            Self::Missing { signature } => {
                write!(f, "there is no ACPI table {}", signature.escape_ascii())
            }
            Self::Entry { offset } => {
                write!(
                    f,
                    "the entry at byte {offset} of the ACPI MADT is malformed"
                )
            }
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AcpiError {}

/// Whether a processor can be started (ACPI 5.2.12.2, local APIC flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorState {
    /// Ready for use.
    Enabled,
    /// Absent now, may be added.
    OnlineCapable,
    /// Never usable.
    Disabled,
}

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its local APIC's ID.
    pub apic_id: u32,
    /// Its UID in the namespace.
    pub uid: u32,
    /// Whether it can be started.
    pub state: ProcessorState,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its ID.
    pub id: u8,
    /// Its physical address.
    pub address: u32,
    /// The global system interrupt of its pin 0.
    pub gsi_base: u32,
}

/// An ISA interrupt that is wired unlike the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptOverride {
    /// The ISA IRQ.
    pub irq: u8,
    /// The global system interrupt it reaches.
    pub gsi: u32,
    /// MPS INTI flags: polarity in bits 1:0 (1 high, 3 low), trigger in bits 3:2 (1 edge, 3 level),
    /// 0 as the bus has it.
    pub flags: u16,
}

/// A local APIC input that is wired to NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNmi {
    /// The processor's UID; `None` is every processor.
    pub uid: Option<u32>,
    /// The input, 0 or 1.
    pub lint: u8,
}

/// What the tables say about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// OEM ID of the root pointer.
    pub oem_id: [u8; 6],
    /// Physical address of the local APICs.
    pub local_apic_address: u64,
    /// There is a pair of 8259 that must be masked before the I/O APIC is used.
    pub has_8259: bool,
    /// The processors in the tables' order; the first enabled one is the boot processor by custom.
    pub processors: Vec<Processor>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// Interrupt source overrides.
    pub overrides: Vec<InterruptOverride>,
    /// NMI inputs.
    pub local_nmis: Vec<LocalNmi>,
    /// From the FADT; `None` without a valid one.
    pub fixed_hardware: Option<FixedHardware>,
}

impl Hardware {
    /// Where an ISA interrupt arrives: its override, or the pin of its number.
    pub fn gsi_of_irq(&self, irq: u8) -> u32 {
        self.overrides
            .iter()
            .find(|entry| entry.irq == irq)
            .map_or(u32::from(irq), |entry| entry.gsi)
    }
}

/// Searches for the root pointer where a BIOS leaves it (ACPI 5.2.5.1): the first KiB of the
/// extended BIOS data area and E0000H-FFFFFH, at multiples of 16.
pub fn find_rsdp(memory: &(impl PhysicalMemory + ?Sized)) -> Option<u64> {
    let mut segment = [0; 2];
    let area = match memory.read(0x40e, &mut segment) {
        Ok(()) => u64::from(u16::from_le_bytes(segment)) << 4,
        Err(_) => 0,
    };
    let extended = (area..area + 1024).step_by(16).filter(|_| area != 0);
    extended
        .chain((0xe_0000..0x10_0000).step_by(16))
        .find(|address| read_rsdp(memory, *address).is_ok())
}

/// Reads the tables from the root pointer on.
pub fn read(memory: &(impl PhysicalMemory + ?Sized), rsdp: u64) -> Result<Hardware, AcpiError> {
    let root = read_rsdp(memory, rsdp)?;
    let mut madt = None;
    let mut fadt = None;
    for address in root.tables(memory)? {
        let mut signature = [0; 4];
        if memory.read(address, &mut signature).is_err() {
            continue;
        }
        match &signature {
            b"APIC" if madt.is_none() => madt = Some(Table::read(memory, address, *b"APIC")?),
            // Without a FADT there is no power-off, but there still are processors.
            b"FACP" if fadt.is_none() => fadt = Table::read(memory, address, *b"FACP").ok(),
            _ => {}
        }
    }
    let madt = madt.ok_or(AcpiError::Missing {
        signature: *b"APIC",
    })?;
    let mut hardware = Hardware {
        oem_id: root.oem_id,
        local_apic_address: u64::from(madt.u32(36)),
        has_8259: madt.u32(40) & 1 != 0,
        processors: Vec::new(),
        io_apics: Vec::new(),
        overrides: Vec::new(),
        local_nmis: Vec::new(),
        fixed_hardware: fadt.map(|fadt| FixedHardware::read(memory, &fadt)),
    };
    read_madt(&madt, &mut hardware)?;
    Ok(hardware)
}

struct Root {
    oem_id: [u8; 6],
    rsdt: u32,
    xsdt: u64,
}

fn read_rsdp(memory: &(impl PhysicalMemory + ?Sized), address: u64) -> Result<Root, AcpiError> {
    let error = AcpiError::NoRootPointer { address };
    let mut rsdp = Table {
        bytes: vec![0; RSDP_LENGTH],
    };
    let (first, extended) = rsdp.bytes.split_at_mut(20);
    memory.read(address, first)?;
    if !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
        return Err(error);
    }
    // ACPI 5.2.5.3: what follows the first 20 bytes came with revision 2. A table longer than
    // revision 2's has its checksum over more than is read here.
    let revision = first.get(15).copied().unwrap_or(0);
    if revision >= 2 {
        memory.read(address.saturating_add(20), extended)?;
        let length = rsdp.u32(20) as usize;
        if length < RSDP_LENGTH || length == RSDP_LENGTH && sum(&rsdp.bytes) != 0 {
            return Err(error);
        }
    }
    let mut oem_id = [0; 6];
    oem_id.copy_from_slice(rsdp.bytes.get(9..15).ok_or(error)?);
    Ok(Root {
        oem_id,
        rsdt: rsdp.u32(16),
        xsdt: if revision >= 2 { rsdp.u64(24) } else { 0 },
    })
}

impl Root {
    /// Addresses of the tables: from the XSDT, or from the RSDT where there is none.
    fn tables(&self, memory: &(impl PhysicalMemory + ?Sized)) -> Result<Vec<u64>, AcpiError> {
        if self.xsdt != 0 {
            let table = Table::read(memory, self.xsdt, *b"XSDT")?;
            let offsets = (HEADER_LENGTH..table.bytes.len().saturating_sub(7)).step_by(8);
            return Ok(offsets.map(|offset| table.u64(offset)).collect());
        }
        let table = Table::read(memory, u64::from(self.rsdt), *b"RSDT")?;
        let offsets = (HEADER_LENGTH..table.bytes.len().saturating_sub(3)).step_by(4);
        Ok(offsets.map(|offset| u64::from(table.u32(offset))).collect())
    }
}

/// A table's bytes; fields beyond its end read as 0.
pub(super) struct Table {
    bytes: Vec<u8>,
}

impl Table {
    fn read(
        memory: &(impl PhysicalMemory + ?Sized),
        address: u64,
        signature: [u8; 4],
    ) -> Result<Self, AcpiError> {
        let mut header = [0; 8];
        memory.read(address, &mut header)?;
        let [s0, s1, s2, s3, l0, l1, l2, l3] = header;
        if [s0, s1, s2, s3] != signature {
            return Err(AcpiError::Signature {
                expected: signature,
                address,
            });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if !(HEADER_LENGTH as u32..=MAXIMUM_TABLE).contains(&length) {
            return Err(AcpiError::Length {
                signature,
                address,
                length,
            });
        }
        let mut bytes = vec![0; length as usize];
        memory.read(address, &mut bytes)?;
        if sum(&bytes) != 0 {
            return Err(AcpiError::Checksum { signature, address });
        }
        Ok(Self { bytes })
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.bytes
            .get(offset..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .unwrap_or([0; N])
    }

    pub(super) fn u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.field(offset))
    }

    pub(super) fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.field(offset))
    }

    pub(super) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.field(offset))
    }

    pub(super) fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.field(offset))
    }
}

/// ACPI 5.2.12: entries of a type and a length, from byte 44 on.
fn read_madt(madt: &Table, hardware: &mut Hardware) -> Result<(), AcpiError> {
    let mut offset = 44;
    while offset < madt.bytes.len() {
        let error = AcpiError::Entry { offset };
        let length = usize::from(madt.u8(offset + 1));
        if length < 2 || offset + length > madt.bytes.len() {
            return Err(error);
        }
        // An entry shorter than its type demands would read its neighbour's bytes.
        let at_least = |least: usize| if length < least { Err(error) } else { Ok(()) };
        match madt.u8(offset) {
            0 => {
                at_least(8)?;
                hardware.processors.push(Processor {
                    apic_id: u32::from(madt.u8(offset + 3)),
                    uid: u32::from(madt.u8(offset + 2)),
                    state: processor_state(madt.u32(offset + 4)),
                });
            }
            1 => {
                at_least(12)?;
                hardware.io_apics.push(IoApic {
                    id: madt.u8(offset + 2),
                    address: madt.u32(offset + 4),
                    gsi_base: madt.u32(offset + 8),
                });
            }
            2 => {
                at_least(10)?;
                hardware.overrides.push(InterruptOverride {
                    irq: madt.u8(offset + 3),
                    gsi: madt.u32(offset + 4),
                    flags: madt.u16(offset + 8),
                });
            }
            4 => {
                at_least(6)?;
                let uid = u32::from(madt.u8(offset + 2));
                hardware.local_nmis.push(LocalNmi {
                    uid: (uid != 0xff).then_some(uid),
                    lint: madt.u8(offset + 5),
                });
            }
            5 => {
                at_least(12)?;
                hardware.local_apic_address = madt.u64(offset + 4);
            }
            9 => {
                at_least(16)?;
                hardware.processors.push(Processor {
                    apic_id: madt.u32(offset + 4),
                    uid: madt.u32(offset + 12),
                    state: processor_state(madt.u32(offset + 8)),
                });
            }
            0x0a => {
                at_least(12)?;
                let uid = madt.u32(offset + 4);
                hardware.local_nmis.push(LocalNmi {
                    uid: (uid != u32::MAX).then_some(uid),
                    lint: madt.u8(offset + 8),
                });
            }
            _ => {}
        }
        offset += length;
    }
    Ok(())
}

const fn processor_state(flags: u32) -> ProcessorState {
    match flags & 3 {
        1 | 3 => ProcessorState::Enabled,
        2 => ProcessorState::OnlineCapable,
        _ => ProcessorState::Disabled,
    }
}

#[cfg(test)]
mod tests;
