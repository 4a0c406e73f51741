//! Walks a guest's page tables, to read the instruction that an exit wants emulated (SDM 4.3 32-bit
//! paging, 4.4 PAE paging, 4.5 4-level paging). Permissions are not checked: the processor has just
//! fetched from there.

use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use arch::control_register::{cr0, cr4, efer};

/// The registers that say how linear addresses are translated.
#[derive(Clone, Copy, Debug)]
pub struct PagingRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

impl PagingRegisters {
    /// Where `linear` is in guest-physical memory; `None` if it is not mapped.
    pub fn translate<F: FrameAccess>(&self, memory: &GuestMemory<F>, linear: u64) -> Option<u64> {
        if self.cr0 & cr0::PG == 0 {
            return Some(linear & 0xffff_ffff);
        }
        let read_8 = |address| memory.read_u64(GuestPhysical(address)).ok();
        if self.cr4 & cr4::PAE == 0 {
            let read_4 = |address| memory.read_u32(GuestPhysical(address)).ok().map(u64::from);
            let entry = read_4((self.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4)?;
            if entry & PRESENT == 0 {
                return None;
            }
            if entry & LARGE != 0 && self.cr4 & cr4::PSE != 0 {
                return Some(entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32 | linear & 0x3f_ffff);
            }
            let entry = read_4((entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4)?;
            return (entry & PRESENT != 0).then_some(entry & 0xffff_f000 | linear & 0xfff);
        }
        let (mut table, levels) = if self.efer & efer::LMA != 0 {
            (self.cr3 & ADDRESS, 4)
        } else {
            // PAE: four page-directory-pointer-table entries.
            let entry = read_8((self.cr3 & 0xffff_ffe0) + (linear >> 30 & 3) * 8)?;
            if entry & PRESENT == 0 {
                return None;
            }
            (entry & ADDRESS, 2)
        };
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = read_8(table.checked_add((linear >> shift & 0x1ff) * 8)?)?;
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || level < 4 && entry & LARGE != 0 {
                let offset = (1u64 << shift) - 1;
                return Some(entry & ADDRESS & !offset | linear & offset);
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// Reads up to 15 bytes of code at `linear`; how many there are, up to the first that is not
    /// mapped.
    pub fn read_code<F: FrameAccess>(
        &self,
        memory: &GuestMemory<F>,
        linear: u64,
        bytes: &mut [u8; 15],
    ) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = linear.wrapping_add(done as u64);
            let in_page = (4096 - (at & 0xfff)) as usize;
            let end = bytes.len().min(done + in_page);
            let Some(physical) = self.translate(memory, at) else {
                break;
            };
            if memory
                .read(GuestPhysical(physical), &mut bytes[done..end])
                .is_err()
            {
                break;
            }
            done = end;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::memory::MemoryLayout;
    use std::cell::RefCell;

    struct Ram(RefCell<Vec<u8>>);

    impl FrameAccess for Ram {
        fn read(&self, offset: u64, bytes: &mut [u8]) {
            let at = offset as usize;
            bytes.copy_from_slice(&self.0.borrow()[at..at + bytes.len()]);
        }
        fn write(&self, offset: u64, bytes: &[u8]) {
            let at = offset as usize;
            self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn memory(entries: &[(u64, u64)]) -> GuestMemory<Ram> {
        let size = 1 << 20;
        let memory = GuestMemory::new(
            MemoryLayout::new(size),
            Ram(RefCell::new(vec![0; size as usize])),
        );
        for (address, entry) in entries {
            memory.write_u64(GuestPhysical(*address), *entry).unwrap();
        }
        memory
    }

    const LONG: PagingRegisters = PagingRegisters {
        cr0: cr0::PG | cr0::PE,
        cr3: 0x1000,
        cr4: cr4::PAE,
        efer: efer::LMA,
    };

    #[test]
    fn four_levels_with_every_page_size() {
        let memory = memory(&[
            (0x1000, 0x2001),
            (0x2000, 0x3001),
            (0x2008, 0x4000_0083),
            (0x3000, 0x4001),
            (0x3008, 0x60_0083),
            (0x4010, 0x7001),
        ]);
        assert_eq!(LONG.translate(&memory, 0x2345), Some(0x7345));
        assert_eq!(LONG.translate(&memory, 0x20_1234), Some(0x60_1234));
        assert_eq!(LONG.translate(&memory, 0x4000_5678), Some(0x4000_5678));
        assert_eq!(LONG.translate(&memory, 0x3000), None);
        assert_eq!(LONG.translate(&memory, 1 << 39), None);
    }

    #[test]
    fn thirty_two_bit_and_pae_paging() {
        let memory = memory(&[
            (0x1000, 0x2001),
            (0x1008, 0x83 | 0x80_0000),
            (0x2000, 0x5001),
        ]);
        let bits32 = PagingRegisters {
            cr4: cr4::PSE,
            efer: 0,
            ..LONG
        };
        assert_eq!(bits32.translate(&memory, 0x123), Some(0x5123));
        assert_eq!(bits32.translate(&memory, 0x80_0456), Some(0x80_0456));
        let pae = PagingRegisters { efer: 0, ..LONG };
        let pae_memory = self::memory(&[(0x1000, 0x2001), (0x2000, 0x3001), (0x3008, 0x9001)]);
        assert_eq!(pae.translate(&pae_memory, 0x1abc), Some(0x9abc));
        assert_eq!(pae.translate(&pae_memory, 0x4000_0000), None);
    }

    #[test]
    fn without_paging_linear_is_physical() {
        let off = PagingRegisters { cr0: 1, ..LONG };
        assert_eq!(off.translate(&memory(&[]), 0x1_0000_0010), Some(0x10));
    }

    #[test]
    fn code_is_read_up_to_the_end_of_what_is_mapped() {
        let memory = memory(&[
            (0x1000, 0x2001),
            (0x2000, 0x3001),
            (0x3000, 0x4001),
            (0x4000, 0x8001),
        ]);
        memory
            .write(GuestPhysical(0x8ff8), &[1, 2, 3, 4, 5, 6, 7, 8])
            .unwrap();
        let mut bytes = [0; 15];
        assert_eq!(LONG.read_code(&memory, 0xffc, &mut bytes), 4);
        assert_eq!(bytes[..4], [5, 6, 7, 8]);
    }

    #[test]
    fn tables_outside_memory_do_not_map() {
        let wild = PagingRegisters {
            cr3: 0xf_ffff_ffff_f000,
            ..LONG
        };
        assert_eq!(wild.translate(&memory(&[]), u64::MAX), None);
    }
}
