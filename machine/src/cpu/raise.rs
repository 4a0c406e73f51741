//! How an instruction stops short: exceptions and VM exits on their way to be handled.

use arch::exception as vector;

use super::Cpu;
use crate::vtx::VmExit;

/// Says that [`Cpu::pending`] holds the reason why the instruction did not complete.
#[derive(Debug)]
#[must_use]
pub struct Raised(());

/// An event that is not an external interrupt, about to be delivered or to leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// An exception: a fault, or a trap whose RIP is already right.
    Exception(Exception),
    /// A VM exit.
    VmExit(VmExit),
    /// The instruction asks to be run again after events were looked at (a long string operation).
    Again,
    /// The processor stops until it is reset.
    Shutdown,
}

/// An exception with what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector, 0 to 31.
    pub vector: u8,
    /// The error code of those that push one.
    pub error_code: Option<u32>,
    /// The faulting linear address of #PF; the DR6 bits of #DB.
    pub detail: u64,
    /// How it came about.
    pub source: Source,
}

/// How an event came about; it matters to delivery and to the VMCS's interruption type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The processor found a fault; RIP is that of the instruction.
    Fault,
    /// A trap (#DB after an instruction); RIP is that of the next instruction.
    Trap,
    /// INT n.
    SoftwareInterrupt,
    /// INT3 or INTO.
    SoftwareException,
    /// INT1.
    PrivilegedSoftwareException,
    /// A maskable interrupt from outside.
    ExternalInterrupt,
    /// A non-maskable interrupt.
    NonMaskableInterrupt,
}

impl Cpu {
    /// Raises whatever is in `pending`.
    #[cold]
    pub fn raise(&mut self, pending: Pending) -> Raised {
        self.pending = pending;
        Raised(())
    }

    /// Raises a fault.
    #[cold]
    pub fn fault(&mut self, vector: u8, error_code: Option<u32>) -> Raised {
        self.raise(Pending::Exception(Exception {
            vector,
            error_code,
            detail: 0,
            source: Source::Fault,
        }))
    }

    /// #GP(`error_code`).
    #[cold]
    pub fn general_protection(&mut self, error_code: u32) -> Raised {
        self.fault(vector::GENERAL_PROTECTION, Some(error_code))
    }

    /// #UD.
    #[cold]
    pub fn invalid_opcode(&mut self) -> Raised {
        self.fault(vector::INVALID_OPCODE, None)
    }

    /// #PF at `linear`.
    #[cold]
    pub fn page_fault(&mut self, linear: u64, error_code: u32) -> Raised {
        self.raise(Pending::Exception(Exception {
            vector: vector::PAGE_FAULT,
            error_code: Some(error_code),
            detail: linear,
            source: Source::Fault,
        }))
    }

    /// The VM exit `exit`, fault-like: RIP stays at the instruction.
    #[cold]
    pub fn vm_exit(&mut self, exit: VmExit) -> Raised {
        self.raise(Pending::VmExit(exit))
    }
}
