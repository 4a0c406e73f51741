//! Why an instruction that is emulated stops short.

use super::paging::PageFault;
use crate::vmx::vmcs::VmxError;
use arch::exception;

/// An exception that the guest gets in place of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error_code: u32,
    /// What CR2 becomes, for a page fault.
    pub page_fault_address: Option<u64>,
}

impl Fault {
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::new(exception::GENERAL_PROTECTION, 0);
    /// #SS(0).
    pub const STACK: Self = Self::new(exception::STACK_FAULT, 0);
    /// #DE.
    pub const DIVIDE_ERROR: Self = Self::new(exception::DIVIDE_ERROR, 0);
    /// #UD.
    pub const INVALID_OPCODE: Self = Self::new(exception::INVALID_OPCODE, 0);
    /// #NM.
    pub const DEVICE_NOT_AVAILABLE: Self = Self::new(exception::DEVICE_NOT_AVAILABLE, 0);
    /// #AC(0).
    pub const ALIGNMENT_CHECK: Self = Self::new(exception::ALIGNMENT_CHECK, 0);

    /// An exception other than a page fault.
    pub const fn new(vector: u8, error_code: u32) -> Self {
        Self {
            vector,
            error_code,
            page_fault_address: None,
        }
    }
}

impl From<PageFault> for Fault {
    fn from(fault: PageFault) -> Self {
        Self {
            vector: exception::PAGE_FAULT,
            error_code: fault.error_code,
            page_fault_address: Some(fault.linear),
        }
    }
}

/// Why an instruction is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It faults.
    Fault(Fault),
    /// Nothing here does what it does.
    NotEmulated,
    /// A VMX instruction failed.
    Vmx(VmxError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<PageFault> for Stop {
    fn from(fault: PageFault) -> Self {
        Self::Fault(fault.into())
    }
}

impl From<VmxError> for Stop {
    fn from(error: VmxError) -> Self {
        Self::Vmx(error)
    }
}
