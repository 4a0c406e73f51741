//! The guest-state area of the VMCS as the hypervisor changes it. This is the one place that does: what
//! the processor has saved at an exit is legal (SDM 27.3.1 checks what it saves), so that an entry is
//! refused only for what was written since, and each function here writes a legal value or says that
//! the guest's instruction is to fault.
//!
//! [`guest_state_checks`](crate::vmx::guest_state_checks) has every rule of the entry as a table, with what keeps it.

mod completion;
mod control_registers;
mod page_directory_pointers;
mod pending_debug;
mod start;

pub use self::completion::{complete_branch, complete_instruction};
pub use self::control_registers::{
    Accepted, CR0_HOST_OWNED, CR4_GUEST, CR4_HOST_OWNED, ProcessorLimits, seen_cr0, seen_cr4,
    write_cr0, write_cr3, write_cr4, write_efer,
};
pub use self::pending_debug::{is_due as debug_exception_is_due, settle as settle_pending_debug};
pub use self::start::{CR0_RESET, Start, write};

use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::efer;
use arch::segment::rights;
use arch::vmcs;

/// Whether the guest is in 64-bit mode.
pub fn is_64_bit(vmcs: &impl Vmcs) -> Result<bool, VmxError> {
    Ok(vmcs.read(vmcs::GUEST_EFER)? & efer::LMA != 0
        && vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)? & rights::LONG != 0)
}

#[cfg(test)]
mod tests;
