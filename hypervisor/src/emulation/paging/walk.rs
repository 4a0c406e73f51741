//! One walk from the root to the page.

use super::{Access, PageFault, PagingRegisters, Privilege};
use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use arch::control_register::{cr0, cr4, efer};
use arch::exception::page_fault as error;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
/// The address bits of an 8-byte entry.
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// Why a walk did not come to its end.
pub(super) enum Failed {
    Fault(PageFault),
    /// An entry was changed before its flags were set.
    Changed,
}

impl From<PageFault> for Failed {
    fn from(fault: PageFault) -> Self {
        Self::Fault(fault)
    }
}

/// A paging-structure entry.
#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    /// Bytes: 4 or 8.
    size: u8,
    value: u64,
}

impl Entry {
    const fn has(&self, bit: u64) -> bool {
        self.value & bit != 0
    }
}

pub(super) struct Walk<'a, F> {
    pub(super) registers: &'a PagingRegisters,
    pub(super) memory: &'a GuestMemory<F>,
    pub(super) linear: u64,
    pub(super) access: Access,
    pub(super) privilege: Privilege,
}

impl<F: FrameAccess> Walk<'_, F> {
    /// Goes through the tables once.
    pub(super) fn attempt(&self) -> Result<u64, Failed> {
        let registers = self.registers;
        if registers.cr4 & cr4::PAE == 0 {
            return self.attempt_with_4_byte_entries();
        }
        if registers.ia32e_mode() {
            return self.attempt_with_8_byte_entries(registers.cr3, 39);
        }
        let [first, second, third, fourth] = registers.directory_pointers;
        let pointer = match self.linear >> 30 & 3 {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        };
        if pointer & PRESENT == 0 {
            return Err(self.fault(0).into());
        }
        self.attempt_with_8_byte_entries(pointer, 21)
    }

    /// From the table that `pointer` names and that bits `shift` and up of the linear address index.
    fn attempt_with_8_byte_entries(&self, pointer: u64, mut shift: u32) -> Result<u64, Failed> {
        let mut table = pointer & ADDRESS;
        let mut rights = WRITABLE | USER;
        loop {
            let entry = self.entry(table + (self.linear >> shift & 0x1ff) * 8, 8)?;
            let last = shift == 12 || shift < 39 && entry.has(LARGE);
            if entry.value & self.reserved(last, shift) != 0 {
                return Err(self.fault(error::PRESENT | error::RESERVED).into());
            }
            rights = rights & entry.value | (rights | entry.value) & EXECUTE_DISABLE;
            if last {
                let offset = (1 << shift) - 1;
                self.check(rights)?;
                self.mark_last(entry)?;
                return Ok(entry.value & ADDRESS & !offset | self.linear & offset);
            }
            self.mark(entry, ACCESSED)?;
            table = entry.value & ADDRESS;
            shift -= 9;
        }
    }

    /// The reserved bits of an 8-byte entry (SDM 4.5.4, tables "Format of a ...").
    fn reserved(&self, last: bool, shift: u32) -> u64 {
        let limits = self.registers.limits;
        let width = limits.physical_address_width.min(52);
        let mut reserved = u64::MAX << width & ADDRESS;
        if self.registers.efer & efer::NXE == 0 {
            reserved |= EXECUTE_DISABLE;
        }
        if last && shift > 12 {
            // Bit 12 is PAT in a large page; the bits between it and the page size are reserved.
            reserved |= ((1 << shift) - 1) & !0x1fff;
        }
        if shift == 39 || shift == 30 && !limits.gigabyte_pages {
            reserved |= LARGE;
        }
        reserved
    }

    fn attempt_with_4_byte_entries(&self) -> Result<u64, Failed> {
        let registers = self.registers;
        let directory = registers.cr3 & 0xffff_f000;
        let entry = self.entry(directory + (self.linear >> 22 & 0x3ff) * 4, 4)?;
        if entry.has(LARGE) && registers.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 20:13 are bits 39:32 of the address; bit 21 is reserved.
            if entry.has(1 << 21) {
                return Err(self.fault(error::PRESENT | error::RESERVED).into());
            }
            self.check(entry.value)?;
            self.mark_last(entry)?;
            let frame = entry.value & 0xffc0_0000 | (entry.value >> 13 & 0xff) << 32;
            return Ok(frame | self.linear & 0x3f_ffff);
        }
        self.mark(entry, ACCESSED)?;
        let table = entry.value & 0xffff_f000;
        let last = self.entry(table + (self.linear >> 12 & 0x3ff) * 4, 4)?;
        self.check(entry.value & last.value)?;
        self.mark_last(last)?;
        Ok(last.value & 0xffff_f000 | self.linear & 0xfff)
    }

    /// The entry at `address`, which is present. Where there is no memory all bits read as 1.
    fn entry(&self, address: u64, size: u8) -> Result<Entry, PageFault> {
        let place = GuestPhysical(address);
        let value = match size {
            4 => self.memory.read_u32(place).unwrap_or(u32::MAX).into(),
            _ => self.memory.read_u64(place).unwrap_or(u64::MAX),
        };
        if value & PRESENT == 0 {
            return Err(self.fault(0));
        }
        Ok(Entry {
            address,
            size,
            value,
        })
    }

    // SDM 4.6.1 Determination of access rights.
    fn check(&self, rights: u64) -> Result<(), PageFault> {
        let registers = self.registers;
        let user_page = rights & USER != 0;
        let writable = rights & WRITABLE != 0;
        let executable = rights & EXECUTE_DISABLE == 0;
        let smap = registers.cr4 & cr4::SMAP != 0;
        let smep = registers.cr4 & cr4::SMEP != 0;
        let kept_out = user_page && smap && self.privilege == Privilege::Supervisor;
        let permitted = match (self.privilege, self.access) {
            (Privilege::User, Access::Read) => user_page,
            (Privilege::User, Access::Write) => user_page && writable,
            (Privilege::User, Access::Fetch) => user_page && executable,
            (_, Access::Read) => !kept_out,
            (_, Access::Write) => !kept_out && (writable || registers.cr0 & cr0::WP == 0),
            (_, Access::Fetch) => executable && !(user_page && smep),
        };
        if permitted {
            Ok(())
        } else {
            Err(self.fault(error::PRESENT))
        }
    }

    fn mark_last(&self, entry: Entry) -> Result<(), Failed> {
        let bits = match self.access {
            Access::Write => ACCESSED | DIRTY,
            Access::Read | Access::Fetch => ACCESSED,
        };
        self.mark(entry, bits)
    }

    /// Sets flags of an entry that is still what was read.
    fn mark(&self, entry: Entry, bits: u64) -> Result<(), Failed> {
        let new = entry.value | bits;
        if new == entry.value {
            return Ok(());
        }
        let place = GuestPhysical(entry.address);
        match self
            .memory
            .compare_exchange(place, entry.size, entry.value, new)
        {
            // Where there is no memory a write goes nowhere.
            Ok(true) | Err(_) => Ok(()),
            Ok(false) => Err(Failed::Changed),
        }
    }

    /// The page fault with these bits besides those that the access sets.
    pub(super) fn fault(&self, code: u32) -> PageFault {
        let registers = self.registers;
        let mut error_code = code;
        if self.access == Access::Write {
            error_code |= error::WRITE;
        }
        if self.privilege == Privilege::User {
            error_code |= error::USER;
        }
        // SDM 4.7: I/D is 1 only where execute-disable or SMEP is in use.
        let tells_fetches = registers.cr4 & cr4::PAE != 0 && registers.efer & efer::NXE != 0
            || registers.cr4 & cr4::SMEP != 0;
        if self.access == Access::Fetch && tells_fetches {
            error_code |= error::FETCH;
        }
        PageFault {
            linear: self.linear,
            error_code,
        }
    }
}
