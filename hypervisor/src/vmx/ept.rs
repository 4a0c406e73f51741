//! Extended page tables (SDM 29.3 The extended page table mechanism (EPT)), built over any memory
//! that can hold tables.

use arch::vmx_control::ept_vpid_capability as capability;

/// Memory that holds the tables.
pub trait TableMemory {
    /// A zeroed 4-KByte frame, or `None` when there is no memory left.
    fn allocate_table(&mut self) -> Option<u64>;
    /// The 8-byte entry at physical address `address`.
    fn read(&self, address: u64) -> u64;
    /// Stores the 8-byte entry at physical address `address` at once.
    fn write(&mut self, address: u64, entry: u64);
}

/// What a guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read, write and execute.
    All,
    /// Read and execute.
    ReadOnly,
}

impl Permission {
    const fn bits(self) -> u64 {
        match self {
            Self::All => 7,
            Self::ReadOnly => 5,
        }
    }
}

/// Why a mapping was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptError {
    /// No memory for another table.
    NoMemory,
    /// An address or size is not a multiple of 4 KBytes, or lies beyond 48 bits.
    BadRange {
        /// Guest-physical address.
        guest: u64,
        /// Host-physical address.
        host: u64,
        /// Bytes.
        size: u64,
    },
    /// Something larger is mapped there already.
    Occupied(u64),
}

impl core::fmt::Display for EptError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
            Self::NoMemory => formatter.write_str("no memory for EPT tables"),
            Self::BadRange { guest, host, size } => write!(
                formatter,
                "cannot map guest-physical {guest:#x} to {host:#x}, {size:#x} bytes"
            ),
            Self::Occupied(guest) => {
                write!(formatter, "guest-physical {guest:#x} is mapped already")
            }
        }
    }
}

const ADDRESS: u64 = 0xf_ffff_ffff_f000;
const LARGE: u64 = 1 << 7;
/// Memory type of a page, bits 5:3: write-back.
const WRITE_BACK: u64 = 6 << 3;
/// EPT pointer: write-back tables, page-walk length 4 (SDM 25.6.11 Extended-page-table pointer).
const POINTER: u64 = 6 | 3 << 3;
const POINTER_ACCESSED_DIRTY: u64 = 1 << 6;

/// One EPT hierarchy.
#[derive(Debug)]
pub struct Ept {
    root: u64,
    accessed_dirty: bool,
    has_2m: bool,
    has_1g: bool,
}

impl Ept {
    /// An empty hierarchy that uses what IA32_VMX_EPT_VPID_CAP (`ept_vpid`) allows.
    pub fn new(memory: &mut impl TableMemory, ept_vpid: u64) -> Result<Self, EptError> {
        Ok(Self {
            root: memory.allocate_table().ok_or(EptError::NoMemory)?,
            accessed_dirty: ept_vpid & capability::ACCESSED_DIRTY != 0,
            has_2m: ept_vpid & capability::PAGE_2M != 0,
            has_1g: ept_vpid & capability::PAGE_1G != 0,
        })
    }

    /// The EPT pointer.
    pub fn pointer(&self) -> u64 {
        self.root
            | POINTER
            | if self.accessed_dirty {
                POINTER_ACCESSED_DIRTY
            } else {
                0
            }
    }

    /// Maps `size` bytes at guest-physical `guest` to host-physical `host`, write-back, with the
    /// largest pages that alignment and processor allow.
    pub fn map(
        &self,
        memory: &mut impl TableMemory,
        guest: u64,
        host: u64,
        size: u64,
        permission: Permission,
    ) -> Result<(), EptError> {
        let bad = EptError::BadRange { guest, host, size };
        let fits = |start: u64| start.checked_add(size).is_some_and(|end| end <= 1 << 48);
        if (guest | host | size) & 0xfff != 0 || !fits(guest) || !fits(host) {
            return Err(bad);
        }
        let mut done = 0;
        while done < size {
            let (g, h, left) = (guest + done, host + done, size - done);
            let level = [(3, self.has_1g), (2, self.has_2m)]
                .into_iter()
                .find(|(level, allowed)| {
                    let page = page_size(*level);
                    *allowed && (g | h) & (page - 1) == 0 && left >= page
                })
                .map_or(1, |(level, _)| level);
            self.map_page(memory, g, h, level, permission)?;
            done += page_size(level);
        }
        Ok(())
    }

    fn map_page(
        &self,
        memory: &mut impl TableMemory,
        guest: u64,
        host: u64,
        level: u32,
        permission: Permission,
    ) -> Result<(), EptError> {
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            let at = entry_address(table, guest, above);
            let entry = memory.read(at);
            table = if entry & 7 == 0 {
                let new = memory.allocate_table().ok_or(EptError::NoMemory)?;
                memory.write(at, new | Permission::All.bits());
                new
            } else if entry & LARGE != 0 && above < 4 {
                return Err(EptError::Occupied(guest));
            } else {
                entry & ADDRESS
            };
        }
        let at = entry_address(table, guest, level);
        let old = memory.read(at);
        if level > 1 && old & 7 != 0 && old & LARGE == 0 {
            return Err(EptError::Occupied(guest));
        }
        let large = if level > 1 { LARGE } else { 0 };
        memory.write(at, host | WRITE_BACK | large | permission.bits());
        Ok(())
    }

    /// Makes the 4-KByte page at `guest` not present, if a 4-KByte page is mapped there.
    pub fn unmap_page(&self, memory: &mut impl TableMemory, guest: u64) {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let entry = memory.read(entry_address(table, guest, level));
            if entry & 7 == 0 || entry & LARGE != 0 && level < 4 {
                return;
            }
            table = entry & ADDRESS;
        }
        memory.write(entry_address(table, guest, 1), 0);
    }

    /// Where `guest` is in host-physical memory.
    pub fn translate(&self, memory: &impl TableMemory, guest: u64) -> Option<u64> {
        let mut table = self.root;
        for level in [4, 3, 2, 1] {
            let entry = memory.read(entry_address(table, guest, level));
            if entry & 7 == 0 {
                return None;
            }
            if level == 1 || level < 4 && entry & LARGE != 0 {
                let page = page_size(level);
                return Some(entry & ADDRESS & !(page - 1) | guest & (page - 1));
            }
            table = entry & ADDRESS;
        }
        None
    }
}

const fn page_size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

const fn entry_address(table: u64, guest: u64, level: u32) -> u64 {
    table + (guest >> (12 + 9 * (level - 1)) & 0x1ff) * 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Map {
        entries: BTreeMap<u64, u64>,
        tables: u64,
        limit: u64,
    }

    impl Map {
        fn new() -> Self {
            Self {
                limit: 100,
                ..Default::default()
            }
        }
    }

    impl TableMemory for Map {
        fn allocate_table(&mut self) -> Option<u64> {
            self.tables += 1;
            (self.tables <= self.limit).then_some(self.tables << 12)
        }
        fn read(&self, address: u64) -> u64 {
            self.entries.get(&address).copied().unwrap_or(0)
        }
        fn write(&mut self, address: u64, entry: u64) {
            self.entries.insert(address, entry);
        }
    }

    const ALL: u64 = capability::PAGE_2M | capability::PAGE_1G | capability::ACCESSED_DIRTY;

    #[test]
    fn the_largest_pages_are_used() {
        for (capabilities, tables) in [(ALL, 4), (capability::PAGE_2M, 5), (0, 517)] {
            let mut memory = Map::new();
            memory.limit = 1000;
            let ept = Ept::new(&mut memory, capabilities).unwrap();
            // 1 GiB at 1 GiB, then 8 KiB.
            ept.map(
                &mut memory,
                1 << 30,
                3 << 30,
                (1 << 30) + 0x2000,
                Permission::All,
            )
            .unwrap();
            for guest in [1 << 30, (1 << 30) + 0x1234_5678, (2 << 30) + 0x1fff] {
                assert_eq!(
                    ept.translate(&memory, guest),
                    Some(guest + (2 << 30)),
                    "{guest:#x}"
                );
            }
            assert_eq!(ept.translate(&memory, (2 << 30) + 0x2000), None);
            assert_eq!(ept.translate(&memory, 0), None);
            assert_eq!(memory.tables, tables);
        }
    }

    #[test]
    fn the_pointer_says_write_back_four_levels_and_ad() {
        let mut memory = Map::new();
        let ept = Ept::new(&mut memory, ALL).unwrap();
        assert_eq!(ept.pointer(), 0x1000 | 6 | 3 << 3 | 1 << 6);
        let ept = Ept::new(&mut memory, 0).unwrap();
        assert_eq!(ept.pointer(), 0x2000 | 6 | 3 << 3);
    }

    #[test]
    fn entries_carry_permission_and_memory_type() {
        let mut memory = Map::new();
        let ept = Ept::new(&mut memory, 0).unwrap();
        ept.map(&mut memory, 0x5000, 0x9000, 0x1000, Permission::ReadOnly)
            .unwrap();
        let leaf = *memory.entries.iter().next_back().unwrap().1;
        assert_eq!(leaf, 0x9000 | 6 << 3 | 5);
        ept.unmap_page(&mut memory, 0x5000);
        assert_eq!(ept.translate(&memory, 0x5000), None);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let mut memory = Map::new();
        let ept = Ept::new(&mut memory, ALL).unwrap();
        for (guest, host, size) in [
            (1, 0, 0x1000),
            (0, 1, 0x1000),
            (0, 0, 1),
            (1 << 48, 0, 0x1000),
            (0, !0xfff, 0x2000),
        ] {
            assert!(matches!(
                ept.map(&mut memory, guest, host, size, Permission::All),
                Err(EptError::BadRange { .. })
            ));
        }
        ept.map(&mut memory, 0, 0, 1 << 21, Permission::All)
            .unwrap();
        assert_eq!(
            ept.map(&mut memory, 0x1000, 0, 0x1000, Permission::All),
            Err(EptError::Occupied(0x1000))
        );
        memory.limit = 0;
        assert_eq!(
            ept.map(&mut memory, 1 << 40, 0, 0x1000, Permission::All),
            Err(EptError::NoMemory)
        );
    }
}
