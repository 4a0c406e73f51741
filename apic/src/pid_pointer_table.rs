//! The PID-pointer table: from a virtual APIC ID to a posted-interrupt descriptor (SDM 30.1.6 IPI
//! virtualization).
//!
//! The processor reads entries at any moment and without a lock, so an entry only ever changes by
//! one 64-bit store, and a descriptor outlives every processor that could have read its entry.

use arch::pid_pointer::PidPointerEntry;

use crate::sync::{AtomicU64, Ordering};

/// Why IPI virtualization ends in an APIC-write VM exit for page offset 300H.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The vector is below 16.
    IllegalVector {
        /// The vector.
        vector: u8,
    },
    /// The virtual APIC ID is beyond the last PID-pointer index. Every x2APIC broadcast is.
    BeyondLastIndex {
        /// The virtual APIC ID.
        target: u32,
        /// The VMCS field "last PID-pointer index".
        last: u16,
    },
    /// Bits 5:0 of the entry are not 000001b, or it has a bit beyond the physical-address width.
    UnusableEntry {
        /// The entry.
        entry: u64,
    },
}

/// The table index for a vector and a virtual APIC ID.
///
/// # Errors
/// [`Refusal::IllegalVector`], then [`Refusal::BeyondLastIndex`].
// SDM 30.1.6 IPI Virtualization, the checks before the table is read.
pub const fn entry_index(vector: u8, target: u32, last: u16) -> Result<u16, Refusal> {
    if vector < 16 {
        Err(Refusal::IllegalVector { vector })
    } else if target > last as u32 {
        Err(Refusal::BeyondLastIndex { target, last })
    } else {
        Ok(target as u16)
    }
}

/// The physical address of the descriptor that an entry names.
///
/// # Errors
/// [`Refusal::UnusableEntry`].
// SDM 30.1.6 IPI Virtualization, the checks of the entry.
pub const fn descriptor_address(entry: u64, physical_address_width: u32) -> Result<u64, Refusal> {
    match PidPointerEntry(entry).descriptor(physical_address_width) {
        Some(address) => Ok(address),
        None => Err(Refusal::UnusableEntry { entry }),
    }
}

/// The valid entry that names the descriptor at physical address `descriptor`.
///
/// # Errors
/// The address is misaligned or too wide.
pub const fn entry_for(
    descriptor: u64,
    physical_address_width: u32,
) -> Result<PidPointerEntry, TableError> {
    if descriptor & PidPointerEntry::LOW_BITS != 0 {
        return Err(TableError::Misaligned {
            address: descriptor,
        });
    }
    let entry = PidPointerEntry::new(descriptor);
    if entry.descriptor(physical_address_width).is_none() {
        return Err(TableError::BeyondAddressWidth {
            address: descriptor,
            width: physical_address_width,
        });
    }
    Ok(entry)
}

/// Which virtual APIC IDs the guest can send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicIdSpace {
    /// The guest may use xAPIC mode: FFH is a broadcast, and entry 255 must stay invalid or the
    /// processor would take it for one target (SDM 30.1.6 knows no broadcast).
    Xapic,
    /// x2APIC mode only: 255 is an ID as any other.
    X2apic,
}

/// Why an entry or a table cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// A table has 1 to 65 536 entries.
    Length {
        /// The number of entries.
        entries: usize,
    },
    /// The virtual APIC ID has no entry.
    NoSuchEntry {
        /// The virtual APIC ID.
        apic_id: u32,
        /// The last one with an entry.
        last: u16,
    },
    /// FFH is the broadcast of xAPIC mode.
    Broadcast,
    /// The descriptor's address is not a multiple of 64.
    Misaligned {
        /// The address.
        address: u64,
    },
    /// The descriptor's address has bits beyond the physical-address width.
    BeyondAddressWidth {
        /// The address.
        address: u64,
        /// The width in bits.
        width: u32,
    },
}

impl core::fmt::Display for TableError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { entries } => {
                write!(
                    formatter,
                    "a PID-pointer table has 1 to 65536 entries, not {entries}"
                )
            }
            Self::NoSuchEntry { apic_id, last } => {
                write!(
                    formatter,
                    "virtual APIC ID {apic_id} is beyond the table's last index {last}"
                )
            }
            Self::Broadcast => formatter.write_str("virtual APIC ID 255 is the xAPIC broadcast"),
            Self::Misaligned { address } => {
                write!(
                    formatter,
                    "posted-interrupt descriptor at {address:#x} is not 64-byte aligned"
                )
            }
            Self::BeyondAddressWidth { address, width } => write!(
                formatter,
                "posted-interrupt descriptor at {address:#x} is beyond {width} physical-address bits"
            ),
        }
    }
}

impl core::error::Error for TableError {}

/// A table in use by processors.
#[derive(Clone, Copy, Debug)]
pub struct PidPointerTable<'a> {
    entries: &'a [AtomicU64],
    last: u16,
    apic_ids: ApicIdSpace,
    physical_address_width: u32,
}

impl<'a> PidPointerTable<'a> {
    /// A table over `entries`, which are left as they are (all zero: none valid).
    ///
    /// # Errors
    /// [`TableError::Length`].
    pub fn new(
        entries: &'a [AtomicU64],
        apic_ids: ApicIdSpace,
        physical_address_width: u32,
    ) -> Result<Self, TableError> {
        let last = entries
            .len()
            .checked_sub(1)
            .and_then(|last| u16::try_from(last).ok())
            .ok_or(TableError::Length {
                entries: entries.len(),
            })?;
        Ok(Self {
            entries,
            last,
            apic_ids,
            physical_address_width,
        })
    }

    /// The value for the VMCS field "last PID-pointer index".
    pub const fn last_index(&self) -> u16 {
        self.last
    }

    /// Publishes the descriptor at physical address `descriptor` for `apic_id`, whole, in one
    /// 64-bit store: a processor reads either the old entry or the new one.
    ///
    /// # Errors
    /// The ID has no entry or is the xAPIC broadcast; the address is misaligned or too wide.
    pub fn set(&self, apic_id: u32, descriptor: u64) -> Result<(), TableError> {
        let entry = self.entry(apic_id)?;
        let value = entry_for(descriptor, self.physical_address_width)?;
        // Release: whoever reads the entry also sees the descriptor initialized.
        entry.store(value.0, Ordering::Release);
        Ok(())
    }

    /// Makes the entry invalid. A processor may still be using what it read before.
    ///
    /// # Errors
    /// The ID has no entry or is the xAPIC broadcast.
    pub fn invalidate(&self, apic_id: u32) -> Result<(), TableError> {
        self.entry(apic_id)?.store(0, Ordering::Release);
        Ok(())
    }

    /// What the processor finds: the descriptor's physical address.
    ///
    /// # Errors
    /// Why it takes the APIC-write VM exit instead.
    pub fn look_up(&self, vector: u8, target: u32) -> Result<u64, Refusal> {
        let index = entry_index(vector, target, self.last)?;
        let entry = match self.entries.get(usize::from(index)) {
            Some(entry) => entry.load(Ordering::Acquire),
            None => 0,
        };
        descriptor_address(entry, self.physical_address_width)
    }

    fn entry(&self, apic_id: u32) -> Result<&'a AtomicU64, TableError> {
        if apic_id == 0xff && self.apic_ids == ApicIdSpace::Xapic {
            return Err(TableError::Broadcast);
        }
        usize::try_from(apic_id)
            .ok()
            .and_then(|index| self.entries.get(index))
            .ok_or(TableError::NoSuchEntry {
                apic_id,
                last: self.last,
            })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    const WIDTH: u32 = 39;

    fn entries(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn look_up_refuses_in_the_manuals_order() {
        let storage = entries(4);
        let table = PidPointerTable::new(&storage, ApicIdSpace::X2apic, WIDTH).unwrap();
        for id in 0..3 {
            table.set(id, 0x1000 + u64::from(id) * 64).unwrap();
        }
        assert_eq!(table.last_index(), 3);
        assert_eq!(table.look_up(0x10, 0), Ok(0x1000));
        assert_eq!(table.look_up(0xff, 2), Ok(0x1080));
        assert_eq!(
            table.look_up(0xf1, 3),
            Err(Refusal::UnusableEntry { entry: 0 })
        );
        for target in [4, 0x1_0000, 0xffff_ffff] {
            let refusal = Refusal::BeyondLastIndex { target, last: 3 };
            assert_eq!(table.look_up(0xf1, target), Err(refusal));
            let refusal = Refusal::IllegalVector { vector: 15 };
            assert_eq!(
                table.look_up(15, target),
                Err(refusal),
                "vector comes first"
            );
        }
        table.invalidate(2).unwrap();
        assert_eq!(
            table.look_up(0xf1, 2),
            Err(Refusal::UnusableEntry { entry: 0 })
        );
    }

    #[test]
    fn an_entry_needs_exactly_its_bits() {
        assert_eq!(descriptor_address(0x1001, WIDTH), Ok(0x1000));
        for bit in 0..64 {
            let entry = 0x1001 ^ 1 << bit;
            let usable = (6..WIDTH).contains(&bit);
            assert_eq!(
                descriptor_address(entry, WIDTH).is_ok(),
                usable,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_table_refuses_what_a_processor_would() {
        let storage = entries(300);
        let table = PidPointerTable::new(&storage, ApicIdSpace::Xapic, WIDTH).unwrap();
        assert_eq!(
            table.set(0, 0x1020),
            Err(TableError::Misaligned { address: 0x1020 })
        );
        let address = 1 << WIDTH;
        assert_eq!(
            table.set(0, address),
            Err(TableError::BeyondAddressWidth {
                address,
                width: WIDTH
            })
        );
        let missing = TableError::NoSuchEntry {
            apic_id: 300,
            last: 299,
        };
        assert_eq!(table.set(300, 0x1000), Err(missing));
        assert_eq!(table.invalidate(300), Err(missing));
        // ipi-virtualization.md A3: FFH would be taken for a unicast.
        assert_eq!(table.set(0xff, 0x1000), Err(TableError::Broadcast));
        assert_eq!(
            table.look_up(0xf1, 0xff),
            Err(Refusal::UnusableEntry { entry: 0 })
        );
        let x2apic = PidPointerTable::new(&storage, ApicIdSpace::X2apic, WIDTH).unwrap();
        assert_eq!(x2apic.set(0xff, 0x1000), Ok(()));
        assert_eq!(x2apic.look_up(0xf1, 0xff), Ok(0x1000));
    }

    #[test]
    fn a_table_has_1_to_65536_entries() {
        for (count, legal) in [(0, false), (1, true), (65_536, true), (65_537, false)] {
            let storage = entries(count);
            let table = PidPointerTable::new(&storage, ApicIdSpace::X2apic, WIDTH);
            assert_eq!(table.is_ok(), legal, "{count}");
        }
    }
}
