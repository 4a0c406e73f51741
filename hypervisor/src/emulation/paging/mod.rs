//! Walks a guest's page tables for the hypervisor's accesses on the guest's behalf, with the checks and
//! the flags of the processor's own walk (SDM 4.3 32-bit paging, 4.4 PAE paging, 4.5 4-level paging,
//! 4.6 Access rights, 4.7 Page-fault exceptions, 4.8 Accessed and dirty flags).

mod walk;

use self::walk::{Failed, Walk};
use crate::host::paging::EntryLimits;
use crate::vm::memory::{FrameAccess, GuestMemory};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, efer};
use arch::exception::page_fault as error;
use arch::vmcs;

/// The registers that say how linear addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The page-directory-pointer-table entries, which the processor keeps in registers (SDM 4.4.1); 0
    /// without PAE paging.
    pub directory_pointers: [u64; 4],
    /// What entries may hold.
    pub limits: EntryLimits,
}

/// What is done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write, or a read that a write follows.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// On whose behalf (SDM 4.6 Access rights).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Privilege levels 0 to 2, or an access of the processor's own.
    Supervisor,
    /// Privilege levels 0 to 2 with RFLAGS.AC = 1, which SMAP does not keep out of user pages.
    SupervisorReachingUser,
    /// Privilege level 3.
    User,
}

/// An access that paging does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address, for CR2.
    pub linear: u64,
    /// The exception's error code.
    pub error_code: u32,
}

/// Walks that found an entry changed under them, before the guest gets a page fault that it does not
/// deserve: those are allowed (SDM 4.10.4.3), and it tries again.
const ATTEMPTS: u32 = 100;

impl PagingRegisters {
    /// Those of the current guest.
    pub fn read(vmcs: &impl Vmcs) -> Result<Self, VmxError> {
        let mut registers = Self {
            cr0: vmcs.read(vmcs::GUEST_CR0)?,
            cr3: vmcs.read(vmcs::GUEST_CR3)?,
            cr4: vmcs.read(vmcs::GUEST_CR4)?,
            efer: vmcs.read(vmcs::GUEST_EFER)?,
            directory_pointers: [0; 4],
            limits: EntryLimits::of_processor(),
        };
        if registers.cr0 & cr0::PG != 0 && registers.cr4 & cr4::PAE != 0 && !registers.ia32e_mode()
        {
            registers.directory_pointers = [
                vmcs.read(vmcs::GUEST_PDPTE_0)?,
                vmcs.read(vmcs::GUEST_PDPTE_1)?,
                vmcs.read(vmcs::GUEST_PDPTE_2)?,
                vmcs.read(vmcs::GUEST_PDPTE_3)?,
            ];
        }
        Ok(registers)
    }

    /// IA-32e mode: linear addresses have 48 bits, elsewhere 32.
    pub const fn ia32e_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// A linear address as wide as linear addresses are.
    pub const fn truncate(&self, linear: u64) -> u64 {
        if self.ia32e_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Where `linear`, which is canonical, is in guest-physical memory; sets accessed and dirty flags.
    pub fn translate<F: FrameAccess>(
        &self,
        memory: &GuestMemory<F>,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<u64, PageFault> {
        let linear = self.truncate(linear);
        if self.cr0 & cr0::PG == 0 {
            return Ok(linear);
        }
        let walk = Walk {
            registers: self,
            memory,
            linear,
            access,
            privilege,
        };
        for _ in 0..ATTEMPTS {
            match walk.attempt() {
                Ok(physical) => return Ok(physical),
                Err(Failed::Fault(fault)) => return Err(fault),
                Err(Failed::Changed) => {}
            }
        }
        Err(walk.fault(error::PRESENT))
    }
}

#[cfg(test)]
pub(crate) mod tests;
