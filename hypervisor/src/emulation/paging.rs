//! Walks a guest's page tables (SDM 4.3 32-bit paging, 4.4 PAE paging, 4.5 4-level paging): to read
//! the instruction that an exit wants emulated, without a check, for the processor has just fetched
//! from there; and to access memory for the guest, with the checks.

use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, efer};
use arch::vmcs;

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

/// What is done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
}

/// On whose behalf (SDM 4.6 Access rights).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Privilege levels 0 to 2.
    Supervisor,
    /// Privilege level 3.
    User,
}

/// An access that paging does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address, for CR2.
    pub linear: u64,
    /// The exception's error code (SDM 4.7 Page-fault exceptions).
    pub error_code: u32,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;
/// In the lowest byte of an entry.
const ACCESSED: u8 = 1 << 5;
const DIRTY: u8 = 1 << 6;

/// What a linear address stands for.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    physical: u64,
    /// The bits that all entries have.
    rights: u64,
    /// Where the entries are that have accessed flags, from the root; the last has a dirty flag.
    entries: [u64; 4],
    levels: usize,
}

impl Mapping {
    const NONE: Self = Self {
        physical: 0,
        rights: u64::MAX,
        entries: [0; 4],
        levels: 0,
    };

    /// Goes through an entry at `address`; `None` if it is not present.
    fn pass(&mut self, address: u64, entry: u64) -> Option<()> {
        *self.entries.get_mut(self.levels)? = address;
        self.levels += 1;
        self.rights &= entry;
        (entry & PRESENT != 0).then_some(())
    }

    const fn at(self, physical: u64) -> Self {
        Self { physical, ..self }
    }
}

impl PagingRegisters {
    /// Those of the current guest.
    pub fn read(vmcs: &impl Vmcs) -> Result<Self, VmxError> {
        Ok(Self {
            cr0: vmcs.read(vmcs::GUEST_CR0)?,
            cr3: vmcs.read(vmcs::GUEST_CR3)?,
            cr4: vmcs.read(vmcs::GUEST_CR4)?,
            efer: vmcs.read(vmcs::GUEST_EFER)?,
        })
    }

    /// A linear address as wide as linear addresses are.
    pub const fn truncate(&self, linear: u64) -> u64 {
        if self.efer & efer::LMA != 0 {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Where `linear` is in guest-physical memory; `None` if it is not mapped.
    pub fn translate<F: FrameAccess>(&self, memory: &GuestMemory<F>, linear: u64) -> Option<u64> {
        self.walk(memory, linear).map(|mapping| mapping.physical)
    }

    /// Where `linear` is in guest-physical memory, for an access that the processor has not checked;
    /// sets accessed and dirty flags (SDM 4.8).
    pub fn access<F: FrameAccess>(
        &self,
        memory: &GuestMemory<F>,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<u64, PageFault> {
        let fault = |protection: u32| PageFault {
            linear,
            error_code: protection
                | u32::from(access == Access::Write) << 1
                | u32::from(privilege == Privilege::User) << 2,
        };
        let mapping = self.walk(memory, linear).ok_or(fault(0))?;
        let user = privilege == Privilege::User;
        let write = access == Access::Write;
        let must_be_writable = write && (user || self.cr0 & cr0::WP != 0);
        if user && mapping.rights & USER == 0 || must_be_writable && mapping.rights & WRITABLE == 0
        {
            return Err(fault(1));
        }
        for (level, entry) in mapping.entries.iter().take(mapping.levels).enumerate() {
            let dirty = write && level + 1 == mapping.levels;
            let bits = if dirty { ACCESSED | DIRTY } else { ACCESSED };
            // The entry was read from there.
            let _ = memory.set_bits(GuestPhysical(*entry), bits);
        }
        Ok(mapping.physical)
    }

    fn walk<F: FrameAccess>(&self, memory: &GuestMemory<F>, linear: u64) -> Option<Mapping> {
        let mut mapping = Mapping::NONE;
        if self.cr0 & cr0::PG == 0 {
            return Some(mapping.at(linear & 0xffff_ffff));
        }
        let read_8 = |address| memory.read_u64(GuestPhysical(address)).ok();
        if self.cr4 & cr4::PAE == 0 {
            let read_4 = |address| memory.read_u32(GuestPhysical(address)).ok().map(u64::from);
            let address = (self.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
            let entry = read_4(address)?;
            mapping.pass(address, entry)?;
            if entry & LARGE != 0 && self.cr4 & cr4::PSE != 0 {
                let frame = entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
                return Some(mapping.at(frame | linear & 0x3f_ffff));
            }
            let address = (entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
            let entry = read_4(address)?;
            mapping.pass(address, entry)?;
            return Some(mapping.at(entry & 0xffff_f000 | linear & 0xfff));
        }
        let (mut table, levels) = if self.efer & efer::LMA != 0 {
            (self.cr3 & ADDRESS, 4)
        } else {
            // PAE: four page-directory-pointer-table entries, without rights and flags.
            let entry = read_8((self.cr3 & 0xffff_ffe0) + (linear >> 30 & 3) * 8)?;
            if entry & PRESENT == 0 {
                return None;
            }
            (entry & ADDRESS, 2)
        };
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let address = table.checked_add((linear >> shift & 0x1ff) * 8)?;
            let entry = read_8(address)?;
            mapping.pass(address, entry)?;
            if level == 1 || level < 4 && entry & LARGE != 0 {
                let offset = (1u64 << shift) - 1;
                return Some(mapping.at(entry & ADDRESS & !offset | linear & offset));
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
        fn set_bits(&self, offset: u64, bits: u8) {
            self.0.borrow_mut()[offset as usize] |= bits;
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

    #[test]
    fn accesses_need_their_rights_and_leave_flags() {
        // Each page's entry, with the others all open.
        let open = memory(&[(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007)]);
        let pages = [(0x4000, 0x5007_u64), (0x4008, 0x6005), (0x4010, 0x7003)];
        for (address, entry) in pages {
            open.write_u64(GuestPhysical(address), entry).unwrap();
        }
        let protected = PagingRegisters {
            cr0: cr0::PG | cr0::PE | cr0::WP,
            ..LONG
        };
        use Access::{Read, Write};
        use Privilege::{Supervisor, User};
        // Page, access, privilege, and with CR0.WP the error code.
        for (linear, access, privilege, error_code) in [
            (0x0123, Write, User, None),
            (0x1123, Read, User, None),
            (0x1123, Write, User, Some(7)),
            (0x1123, Write, Supervisor, Some(3)),
            (0x2123, Read, User, Some(5)),
            (0x2123, Write, Supervisor, None),
            (0x3123, Read, User, Some(4)),
            (0x3123, Write, Supervisor, Some(2)),
        ] {
            let result = protected.access(&open, linear, access, privilege);
            assert_eq!(
                result.err(),
                error_code.map(|error_code| PageFault { linear, error_code }),
                "{linear:#x} {access:?} {privilege:?}"
            );
        }
        // Without CR0.WP a supervisor writes where it only may read.
        assert_eq!(LONG.access(&open, 0x1123, Write, Supervisor), Ok(0x6123));
        let entry = |address| open.read_u64(GuestPhysical(address)).unwrap();
        assert_eq!(entry(0x4000), 0x5067);
        assert_eq!(entry(0x3000), 0x4027);
        assert_eq!(entry(0x1000), 0x2027);
    }

    #[test]
    fn a_refused_access_leaves_no_flags() {
        let memory = memory(&[
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x4000, 0x5001),
        ]);
        let refused = LONG.access(&memory, 0, Access::Read, Privilege::User);
        assert!(refused.is_err());
        let entry = memory.read_u64(GuestPhysical(0x4000)).unwrap();
        assert_eq!(entry, 0x5001);
    }
}
