//! The processors, from ACPI's multiple APIC description table (MADT).

use crate::physical_memory::PhysicalMemory;
use core::fmt;

/// The most processors this guest runs on.
pub const MAXIMUM_PROCESSORS: usize = 256;

/// Why ACPI did not tell the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// Nothing that is an RSDP at the given address.
    NoRsdp(u64),
    /// A table is unreadable or its checksum is wrong.
    BadTable(u64),
    /// No table with the signature "APIC".
    NoMadt,
    /// More enabled processors than [`MAXIMUM_PROCESSORS`].
    TooManyProcessors,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRsdp(address) => write!(formatter, "no valid RSDP at {address:#x}"),
            Self::BadTable(address) => write!(formatter, "ACPI table at {address:#x} is damaged"),
            Self::NoMadt => write!(formatter, "ACPI has no MADT"),
            Self::TooManyProcessors => {
                write!(formatter, "more than {MAXIMUM_PROCESSORS} processors")
            }
        }
    }
}

/// The APIC IDs of the enabled processors, in the MADT's order.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorList {
    ids: [u32; MAXIMUM_PROCESSORS],
    length: usize,
}

impl Default for ProcessorList {
    fn default() -> Self {
        Self {
            ids: [0; MAXIMUM_PROCESSORS],
            length: 0,
        }
    }
}

impl ProcessorList {
    /// The IDs.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.length]
    }

    /// Puts the given processor at the front; false if it is not in the list.
    pub fn put_first(&mut self, apic_id: u32) -> bool {
        match self.ids().iter().position(|id| *id == apic_id) {
            Some(position) => {
                self.ids[..=position].rotate_right(1);
                true
            }
            None => false,
        }
    }

    fn push(&mut self, apic_id: u32) -> Result<(), AcpiError> {
        if self.ids().contains(&apic_id) {
            return Ok(());
        }
        let slot = self
            .ids
            .get_mut(self.length)
            .ok_or(AcpiError::TooManyProcessors)?;
        *slot = apic_id;
        self.length += 1;
        Ok(())
    }
}

/// Looks for the RSDP where a PC's BIOS leaves it: the first KiB of the extended BIOS data area,
/// then E0000H to FFFFFH (ACPI 5.2.5.1).
pub fn find_rsdp(memory: &impl PhysicalMemory) -> Option<u64> {
    let extended_bios_data = u64::from(memory.word(0x40e)?) << 4;
    let areas = [
        (extended_bios_data, extended_bios_data + 0x400),
        (0xe_0000, 0x10_0000),
    ];
    areas
        .into_iter()
        .flat_map(|(from, to)| (from..to).step_by(16))
        .find(|address| *address != 0 && is_rsdp(memory, *address))
}

fn is_rsdp(memory: &impl PhysicalMemory, address: u64) -> bool {
    memory.matches(address, b"RSD PTR ") && memory.sum(address, 20) == Some(0)
}

/// Lists the enabled processors.
///
/// # Errors
/// When the tables are missing, damaged, or name too many processors.
pub fn processors(memory: &impl PhysicalMemory, rsdp: u64) -> Result<ProcessorList, AcpiError> {
    if !is_rsdp(memory, rsdp) {
        return Err(AcpiError::NoRsdp(rsdp));
    }
    let madt = find_madt(memory, rsdp)?;
    let length = table_length(memory, madt)?;
    let mut list = ProcessorList::default();
    let read = |entry: ProcessorEntry| -> Result<Option<u32>, AcpiError> {
        entry.enabled_id(memory).ok_or(AcpiError::BadTable(madt))
    };
    let end = madt + u64::from(length);
    let mut at = madt + 44;
    while at + 2 <= end {
        let (kind, size) = memory
            .byte(at)
            .zip(memory.byte(at + 1))
            .filter(|(_, size)| *size >= 2)
            .ok_or(AcpiError::BadTable(madt))?;
        let id = match kind {
            0 => read(ProcessorEntry::LocalApic(at))?,
            9 => read(ProcessorEntry::LocalX2apic(at))?,
            _ => None,
        };
        if let Some(id) = id {
            list.push(id)?;
        }
        at += u64::from(size);
    }
    Ok(list)
}

/// A MADT entry that names a processor, at its address (ACPI 5.2.12.2 and 5.2.12.12).
enum ProcessorEntry {
    LocalApic(u64),
    LocalX2apic(u64),
}

impl ProcessorEntry {
    fn enabled_id(&self, memory: &impl PhysicalMemory) -> Option<Option<u32>> {
        let (id, flags) = match self {
            Self::LocalApic(at) => (u32::from(memory.byte(at + 3)?), memory.doubleword(at + 4)?),
            Self::LocalX2apic(at) => (memory.doubleword(at + 4)?, memory.doubleword(at + 8)?),
        };
        Some((flags & 1 != 0).then_some(id))
    }
}

fn table_length(memory: &impl PhysicalMemory, table: u64) -> Result<u32, AcpiError> {
    memory
        .doubleword(table.saturating_add(4))
        .filter(|length| (36..1 << 20).contains(length))
        .filter(|length| memory.sum(table, *length) == Some(0))
        .ok_or(AcpiError::BadTable(table))
}

fn find_madt(memory: &impl PhysicalMemory, rsdp: u64) -> Result<u64, AcpiError> {
    let missing = AcpiError::NoRsdp(rsdp);
    let revision = memory.byte(rsdp + 15).ok_or(missing)?;
    let xsdt = if revision >= 2 {
        memory.quadword(rsdp + 24).ok_or(missing)?
    } else {
        0
    };
    let (root, entry_size) = if xsdt != 0 {
        (xsdt, 8)
    } else {
        let rsdt = memory.doubleword(rsdp + 16).ok_or(missing)?;
        (u64::from(rsdt), 4)
    };
    let length = u64::from(table_length(memory, root)?);
    for offset in (36..).step_by(entry_size) {
        if offset + entry_size as u64 > length {
            break;
        }
        let table = if entry_size == 8 {
            memory.quadword(root + offset)
        } else {
            memory.doubleword(root + offset).map(u64::from)
        }
        .ok_or(AcpiError::BadTable(root))?;
        if memory.matches(table, b"APIC") {
            return Ok(table);
        }
    }
    Err(AcpiError::NoMadt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical_memory::sparse::Sparse;

    fn sealed(mut bytes: Vec<u8>, checksum_at: usize, over: usize) -> Vec<u8> {
        let sum = bytes[..over].iter().fold(0u8, |a, b| a.wrapping_add(*b));
        bytes[checksum_at] = bytes[checksum_at].wrapping_sub(sum);
        bytes
    }

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(signature);
        bytes.extend_from_slice(body);
        let length = bytes.len();
        bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        sealed(bytes, 9, length)
    }

    fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[15] = revision;
        bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
        bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
        sealed(bytes, 8, 20)
    }

    fn local_apic(id: u8, flags: u32) -> Vec<u8> {
        let mut entry = vec![0, 8, 0xaa, id];
        entry.extend_from_slice(&flags.to_le_bytes());
        entry
    }

    fn local_x2apic(id: u32, flags: u32) -> Vec<u8> {
        let mut entry = vec![9, 16, 0, 0];
        entry.extend_from_slice(&id.to_le_bytes());
        entry.extend_from_slice(&flags.to_le_bytes());
        entry.extend_from_slice(&[0; 4]);
        entry
    }

    fn madt(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend(entries.concat());
        table(b"APIC", &body)
    }

    fn machine(revision: u8, madt: &[u8]) -> Sparse {
        let mut memory = Sparse::default();
        memory.put(0x1000, &rsdp(revision, 0x2000, 0x3000));
        let mut rsdt = 0x5000u32.to_le_bytes().to_vec();
        rsdt.extend(0x4000u32.to_le_bytes());
        let mut xsdt = 0x5000u64.to_le_bytes().to_vec();
        xsdt.extend(0x4000u64.to_le_bytes());
        memory.put(0x2000, &table(b"RSDT", &rsdt));
        memory.put(0x3000, &table(b"XSDT", &xsdt));
        memory.put(0x5000, &table(b"FACP", &[0; 8]));
        memory.put(0x4000, madt);
        memory
    }

    #[test]
    fn lists_enabled_processors_of_both_kinds_by_either_root() {
        let tables = madt(&[
            local_apic(3, 1),
            local_apic(9, 0),
            vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            local_apic(0, 1),
            local_x2apic(300, 1),
            local_x2apic(301, 2),
            local_x2apic(3, 1),
        ]);
        for revision in [0, 2] {
            let mut list = processors(&machine(revision, &tables), 0x1000).unwrap();
            assert_eq!(list.ids(), [3, 0, 300]);
            assert!(list.put_first(300));
            assert_eq!(list.ids(), [300, 3, 0]);
            assert!(!list.put_first(9));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let good = madt(&[local_apic(0, 1)]);
        let memory = machine(2, &good);
        assert_eq!(
            processors(&memory, 0x1010).unwrap_err(),
            AcpiError::NoRsdp(0x1010)
        );
        let mut damaged = good.clone();
        damaged[40] ^= 1;
        assert_eq!(
            processors(&machine(2, &damaged), 0x1000).unwrap_err(),
            AcpiError::BadTable(0x4000)
        );
        assert_eq!(
            processors(&machine(2, &madt(&[vec![0, 0]])), 0x1000).unwrap_err(),
            AcpiError::BadTable(0x4000)
        );
        assert_eq!(
            processors(&machine(2, &table(b"HPET", &[0; 8])), 0x1000).unwrap_err(),
            AcpiError::NoMadt
        );
        let many: Vec<_> = (0..257).map(|id| local_x2apic(id, 1)).collect();
        assert_eq!(
            processors(&machine(2, &madt(&many)), 0x1000).unwrap_err(),
            AcpiError::TooManyProcessors
        );
    }

    #[test]
    fn the_rsdp_is_found_in_both_areas() {
        let pointer = rsdp(0, 0x2000, 0);
        let mut low = Sparse::default();
        low.put(0x40e, &0x9fc0u16.to_le_bytes());
        low.put(0x9fc20, &pointer);
        assert_eq!(find_rsdp(&low), Some(0x9_fc20));
        let mut high = Sparse::default();
        high.put(0x40e, &[0, 0]);
        high.put(0xf_5af0, &pointer);
        assert_eq!(find_rsdp(&high), Some(0xf_5af0));
        let mut none = Sparse::default();
        none.put(0x40e, &[0, 0]);
        none.put(0xf_5af8, &pointer);
        assert_eq!(find_rsdp(&none), None);
    }
}
