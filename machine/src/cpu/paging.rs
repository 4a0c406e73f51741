//! Paging: 32-bit, PAE and 4-level (SDM chapter 4), and what lies behind a physical address.

use arch::control_register::{cr0, cr4, efer};
use arch::exception::page_fault as error;

use super::{
    Cpu,
    raise::Raised,
    tlb::{Access, Cached, Permitted, Privilege},
};
use crate::memory::Atomic;
use crate::vtx::{self, GuestPhysicalAccess, LinearMode};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// What a linear address leads to, at the byte that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// RAM, by RAM offset.
    Ram(u64),
    /// No RAM: a device or nothing, by physical address.
    Device(u64),
    /// The APIC-access page of the VMCS in force, by offset in the page.
    ApicAccess(u64),
}

impl Place {
    /// The place `distance` bytes on, in the same page.
    pub fn byte(self, distance: u64) -> Self {
        match self {
            Self::Ram(offset) => Self::Ram(offset + distance),
            Self::Device(physical) => Self::Device(physical + distance),
            Self::ApicAccess(offset) => Self::ApicAccess(offset + distance),
        }
    }
}

/// What the paging structures say of a page.
#[derive(Clone, Copy)]
struct Page {
    /// Guest-physical address of the byte.
    physical: u64,
    /// What is permitted at this privilege; writes only once the dirty flag is set.
    rights: Permitted,
    /// Whether it is a user page.
    mode: LinearMode,
    /// Bits of the linear address that the page does not translate.
    offset: u64,
}

/// What combined U/S flags make a page.
const fn mode_of(combined: u64) -> LinearMode {
    if combined & USER != 0 {
        LinearMode::User
    } else {
        LinearMode::Supervisor
    }
}

impl Cpu {
    /// Translates `linear` for an access at `privilege`, setting accessed and dirty flags, and caches
    /// the translation if it leads to RAM. The address must be canonical.
    pub fn translate(
        &mut self,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Place, Raised> {
        let page = self.walk(linear, access, privilege)?;
        let host = vtx::ept::translate(
            self,
            page.physical,
            access,
            GuestPhysicalAccess::Operand {
                linear,
                mode: page.mode,
            },
        )?;
        if let Some(place) = vtx::apic_access_page(self, host.physical) {
            return Ok(place);
        }
        let Some(offset) = self.ram.offset(host.physical) else {
            return Ok(Place::Device(host.physical));
        };
        if self.apic_page_at(host.physical).is_some() {
            return Ok(Place::Device(host.physical));
        }
        let frame = offset & !0xfff;
        let cached = !self.looks_at_accesses(linear, privilege);
        let write = if cached && page.rights.write && host.write {
            self.frames.right(frame, &self.platform.code_map)
        } else {
            None
        };
        self.tlb.note_page_size(linear, page.offset);
        self.tlb.insert(
            linear,
            frame,
            Cached {
                read: cached && page.rights.read && host.read,
                write,
                execute: page.rights.execute && host.execute,
            },
            privilege,
        );
        Ok(Place::Ram(offset))
    }

    fn walk(&mut self, linear: u64, access: Access, privilege: Privilege) -> Result<Page, Raised> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(Page {
                physical: linear,
                rights: Permitted {
                    read: true,
                    write: true,
                    execute: true,
                },
                mode: LinearMode::User,
                offset: 0xfff,
            });
        }
        if self.ia32e_mode() {
            self.walk_wide(self.cr3, 39, linear, access, privilege)
        } else if self.cr4 & cr4::PAE != 0 {
            self.walk_pae(linear, access, privilege)
        } else {
            self.walk_32_bit(linear, access, privilege)
        }
    }

    // SDM 4.4 PAE paging
    fn walk_pae(
        &mut self,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Page, Raised> {
        let pdpte = self.pdpte[(linear >> 30 & 3) as usize];
        if pdpte & PRESENT == 0 {
            return Err(self.paging_fault(linear, access, privilege, 0));
        }
        self.walk_wide(pdpte, 21, linear, access, privilege)
    }

    /// The levels with 8-byte entries (SDM 4.4 PAE paging, 4.5 4-level paging), from the table that
    /// `pointer` names and that bits `shift` and up of the linear address index.
    fn walk_wide(
        &mut self,
        pointer: u64,
        mut shift: u32,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Page, Raised> {
        let mut table = pointer & self.model.physical_mask() & !0xfff;
        let mut combined = WRITABLE | USER;
        loop {
            let address = table + (linear >> shift & 0x1ff) * 8;
            let entry = self.read_entry::<u64>(address, linear)?;
            let leaf = shift == 12 || shift < 39 && entry & PAGE_SIZE != 0;
            self.check_entry(entry, leaf, shift, linear, access, privilege)?;
            combined = combined & entry | (combined | entry) & EXECUTE_DISABLE;
            if leaf {
                return self.leaf(address, entry, combined, shift, linear, access, privilege);
            }
            self.set_entry_bits::<u64>(address, entry, ACCESSED, linear)?;
            table = entry & self.model.physical_mask() & !0xfff;
            shift -= 9;
        }
    }

    // SDM 4.3 32-bit paging
    fn walk_32_bit(
        &mut self,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Page, Raised> {
        let directory = (self.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
        let entry = u64::from(self.read_entry::<u32>(directory, linear)?);
        if entry & PRESENT == 0 {
            return Err(self.paging_fault(linear, access, privilege, 0));
        }
        if entry & PAGE_SIZE != 0 && self.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 20:13 are bits 39:32 of the address; bit 21 is reserved.
            if entry & 1 << 21 != 0 {
                return Err(self.paging_fault(
                    linear,
                    access,
                    privilege,
                    error::PRESENT | error::RESERVED,
                ));
            }
            let base = entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
            let mut rights = self.check_rights(entry, linear, access, privilege)?;
            rights.write &= self.mark_leaf::<u32>(directory, entry, access, linear)?;
            return Ok(Page {
                physical: base | linear & 0x3f_ffff,
                rights,
                mode: mode_of(entry),
                offset: 0x3f_ffff,
            });
        }
        self.set_entry_bits::<u32>(directory, entry, ACCESSED, linear)?;
        let address = (entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
        let last = u64::from(self.read_entry::<u32>(address, linear)?);
        if last & PRESENT == 0 {
            return Err(self.paging_fault(linear, access, privilege, 0));
        }
        let mut rights = self.check_rights(entry & last, linear, access, privilege)?;
        rights.write &= self.mark_leaf::<u32>(address, last, access, linear)?;
        Ok(Page {
            physical: last & 0xffff_f000 | linear & 0xfff,
            rights,
            mode: mode_of(entry & last),
            offset: 0xfff,
        })
    }

    /// Presence and reserved bits of an 8-byte entry (SDM 4.5.4, tables 4-15 to 4-20).
    fn check_entry(
        &mut self,
        entry: u64,
        leaf: bool,
        shift: u32,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<(), Raised> {
        if entry & PRESENT == 0 {
            return Err(self.paging_fault(linear, access, privilege, 0));
        }
        let mut reserved = !self.model.physical_mask() & 0x000f_ffff_ffff_f000;
        if self.efer & efer::NXE == 0 {
            reserved |= EXECUTE_DISABLE;
        }
        if leaf && shift > 12 {
            // Bit 12 is PAT in a large page; the bits between it and the page size are reserved.
            reserved |= ((1 << shift) - 1) & !0x1fff;
        }
        if shift == 39 || shift == 30 && !self.model.pages_1g {
            reserved |= PAGE_SIZE;
        }
        if entry & reserved != 0 {
            return Err(self.paging_fault(
                linear,
                access,
                privilege,
                error::PRESENT | error::RESERVED,
            ));
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one page walk")]
    fn leaf(
        &mut self,
        address: u64,
        entry: u64,
        combined: u64,
        shift: u32,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Page, Raised> {
        let mut rights = self.check_rights(combined, linear, access, privilege)?;
        rights.write &= self.mark_leaf::<u64>(address, entry, access, linear)?;
        let offset = (1 << shift) - 1;
        Ok(Page {
            physical: entry & self.model.physical_mask() & !offset & !0xfff | linear & offset,
            rights,
            mode: mode_of(combined),
            offset,
        })
    }

    /// Access rights (SDM 4.6.1 Determination of access rights).
    fn check_rights(
        &mut self,
        combined: u64,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Permitted, Raised> {
        let user_page = combined & USER != 0;
        let writable = combined & WRITABLE != 0;
        let executable = combined & EXECUTE_DISABLE == 0;
        let rights = if privilege == Privilege::User {
            Permitted {
                read: user_page,
                write: user_page && writable,
                execute: user_page && executable,
            }
        } else {
            let kept_out =
                user_page && privilege == Privilege::Supervisor && self.cr4 & cr4::SMAP != 0;
            Permitted {
                read: !kept_out,
                write: !kept_out && (writable || self.cr0 & cr0::WP == 0),
                execute: executable && !(user_page && self.cr4 & cr4::SMEP != 0),
            }
        };
        let permitted = match access {
            Access::Read => rights.read,
            Access::Write => rights.write,
            Access::Execute => rights.execute,
        };
        if permitted {
            Ok(rights)
        } else {
            Err(self.paging_fault(linear, access, privilege, error::PRESENT))
        }
    }

    /// Sets A, and D for a write; gives whether D is set.
    fn mark_leaf<E: Atomic>(
        &mut self,
        address: u64,
        entry: u64,
        access: Access,
        linear: u64,
    ) -> Result<bool, Raised> {
        let bits = match access {
            Access::Write => ACCESSED | DIRTY,
            Access::Read | Access::Execute => ACCESSED,
        };
        self.set_entry_bits::<E>(address, entry, bits, linear)?;
        Ok((entry | bits) & DIRTY != 0)
    }

    fn read_entry<E: Atomic>(&mut self, address: u64, linear: u64) -> Result<E, Raised> {
        let host = vtx::ept::translate(
            self,
            address,
            Access::Read,
            GuestPhysicalAccess::PagingStructure { linear },
        )?;
        Ok(match self.ram.offset(host.physical) {
            Some(offset) => self.ram.load(offset),
            // Nothing answers: the bus reads as ones.
            None => E::from_u64(u64::MAX),
        })
    }

    fn set_entry_bits<E: Atomic>(
        &mut self,
        address: u64,
        entry: u64,
        bits: u64,
        linear: u64,
    ) -> Result<(), Raised> {
        if entry & bits == bits {
            return Ok(());
        }
        let host = vtx::ept::translate(
            self,
            address,
            Access::Write,
            GuestPhysicalAccess::PagingStructure { linear },
        )?;
        if let Some(offset) = self.ram.offset(host.physical) {
            self.update(offset, |old: E| E::from_u64(old.to_u64() | bits));
        }
        Ok(())
    }

    #[cold]
    fn paging_fault(
        &mut self,
        linear: u64,
        access: Access,
        privilege: Privilege,
        mut code: u32,
    ) -> Raised {
        if access == Access::Write {
            code |= error::WRITE;
        }
        if privilege == Privilege::User {
            code |= error::USER;
        }
        // SDM 4.7: I/D is reported when NX or SMEP can matter.
        let fetch_reported =
            self.cr4 & cr4::PAE != 0 && self.efer & efer::NXE != 0 || self.cr4 & cr4::SMEP != 0;
        if access == Access::Execute && fetch_reported {
            code |= error::FETCH;
        }
        self.page_fault(linear, code)
    }

    /// Loads the four PDPTEs of PAE paging from `cr3` (SDM 4.4.1); #GP(0) if one has a reserved bit.
    pub fn load_pdptes(&mut self, cr3: u64) -> Result<(), Raised> {
        let mut loaded = [0; 4];
        for (i, slot) in (0..).zip(&mut loaded) {
            let host = vtx::ept::translate(
                self,
                (cr3 & 0xffff_ffe0) + i * 8,
                Access::Read,
                GuestPhysicalAccess::PageDirectoryPointers,
            )?;
            let entry: u64 = match self.ram.offset(host.physical) {
                Some(offset) => self.ram.load(offset),
                None => u64::MAX,
            };
            let reserved = !self.model.physical_mask() | 0x1e6;
            if entry & PRESENT != 0 && entry & reserved != 0 {
                return Err(self.general_protection(0));
            }
            *slot = entry;
        }
        self.pdpte = loaded;
        Ok(())
    }
}
