//! The little that the hypervisor needs from the platform's ACPI tables: the processors' APIC IDs
//! and who made the platform (ACPI 5.2.5 RSDP, 5.2.7 RSDT, 5.2.8 XSDT, 5.2.12 MADT).
#![allow(unsafe_code, reason = "reads firmware tables by physical address")]

use alloc::vec::Vec;

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// APIC IDs of the processors that are enabled.
    pub apic_ids: Vec<u32>,
    /// OEM ID of the MADT.
    pub oem_id: [u8; 6],
}

/// APIC IDs of enabled processors from the bytes of a MADT, in table order.
pub fn processors(madt: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = madt.get(44..).unwrap_or(&[]);
    while let [kind, length, ..] = *rest {
        let length = usize::from(length);
        if length < 2 || length > rest.len() {
            break;
        }
        let (entry, tail) = rest.split_at(length);
        rest = tail;
        let word = |at: usize| {
            entry
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        // Bit 0 of the flags: enabled.
        let id = match kind {
            0 if word(4) & 1 != 0 => entry.get(3).map(|id| u32::from(*id)),
            9 if word(8) & 1 != 0 => Some(word(4)),
            _ => None,
        };
        if let Some(id) = id
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

/// Follows the RSDP at `rsdp` to the MADT.
///
/// # Safety
/// `rsdp` must be the address of an RSDP whose tables are mapped.
pub unsafe fn read(rsdp: u64) -> Option<Platform> {
    let bytes = |address: u64, length: usize| {
        // SAFETY: firmware tables lie in identity-mapped memory that nobody writes.
        unsafe { core::slice::from_raw_parts(address as *const u8, length) }
    };
    let u32_at = |address: u64| {
        let b = bytes(address, 4);
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    };
    let u64_at = |address: u64| u64::from(u32_at(address)) | u64::from(u32_at(address + 4)) << 32;
    if bytes(rsdp, 8) != b"RSD PTR " {
        return None;
    }
    let (root, entry_size) = match bytes(rsdp, 16)[15] {
        2.. if u64_at(rsdp + 24) != 0 => (u64_at(rsdp + 24), 8),
        _ => (u64::from(u32_at(rsdp + 16)), 4),
    };
    let length = u64::from(u32_at(root + 4));
    let mut entry = root + 36;
    while entry + entry_size <= root + length {
        let table = if entry_size == 8 {
            u64_at(entry)
        } else {
            u64::from(u32_at(entry))
        };
        entry += entry_size;
        if bytes(table, 4) == b"APIC" {
            let madt = bytes(table, u32_at(table + 4) as usize);
            let mut oem_id = [0; 6];
            oem_id.copy_from_slice(&madt[10..16]);
            return Some(Platform {
                apic_ids: processors(madt),
                oem_id,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn madt(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = alloc::vec![0; 44];
        entries
            .iter()
            .for_each(|entry| table.extend_from_slice(entry));
        table
    }

    #[test]
    fn enabled_processors_of_both_kinds_are_found_once() {
        let table = madt(&[
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[0, 8, 1, 5, 1, 0, 0, 0],
            &[0, 8, 2, 6, 0, 0, 0, 0],
            &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0],
            &[9, 16, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0],
        ]);
        assert_eq!(processors(&table), [0, 5, 256]);
    }

    #[test]
    fn a_broken_table_ends_the_search() {
        assert_eq!(processors(&[]), []);
        assert_eq!(processors(&madt(&[&[0, 0, 0, 0]])), []);
        assert_eq!(processors(&madt(&[&[0, 8, 0, 3, 1, 0]])), []);
        assert_eq!(processors(&madt(&[&[0, 3, 9]])), []);
    }
}
