//! HLT, triple fault, and what should not happen.

use super::{Context, Next, Outcome, advance};
use crate::say;
use crate::system::Ending;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::{Activity, VirtualProcessor};
use crate::vmx::vmcs::Vmcs;
use arch::exit::ExitReason;
use arch::vmcs;
use core::fmt;

/// HLT: the run loop lets the vCPU sleep unless something is there for it.
pub(super) fn hlt(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs) -> Outcome {
    advance(vmcs)?;
    vcpu.activity = Activity::Halted;
    Ok(Next::Resume)
}

/// Ends the virtual machine in one line.
fn stop(
    what: fmt::Arguments,
    vcpu: &VirtualProcessor,
    vmcs: &impl Vmcs,
    context: Context,
) -> Outcome {
    say!(
        "posthaste: vcpu {}: {what} at CS:RIP {:#x}:{:#x}, RSP {:#x}, CR0 {:#x}, CR3 {:#x}, CR4 {:#x}, EFER {:#x}, qualification {:#x}",
        vcpu.number,
        vmcs.read(vmcs::GUEST_CS_SELECTOR)?,
        vmcs.read(vmcs::GUEST_RIP)?,
        vmcs.read(vmcs::GUEST_RSP)?,
        vmcs.read(vmcs::GUEST_CR0)?,
        vmcs.read(vmcs::GUEST_CR3)?,
        vmcs.read(vmcs::GUEST_CR4)?,
        vmcs.read(vmcs::GUEST_EFER)?,
        vmcs.read(vmcs::EXIT_QUALIFICATION)?
    );
    context.hypervisor.end(Ending::GuestCrashed);
    Ok(Next::Leave(Leave::Ending))
}

/// A triple fault ends the virtual machine.
pub(super) fn triple_fault(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    stop(format_args!("triple fault"), vcpu, vmcs, context)
}

/// An exit that no control asked for, or one that nothing here can emulate, ends the virtual machine.
pub(super) fn unexpected(
    exit_reason: u32,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let name = ExitReason::from_number(exit_reason as u16).map_or("?", ExitReason::name);
    let what = format_args!("exit reason {exit_reason:#x} ({name}) is not handled");
    stop(what, vcpu, vmcs, context)
}

/// An access that nothing answers and that cannot be emulated.
pub(super) fn unmapped(
    address: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let what =
        format_args!("guest-physical address {address:#x} cannot be accessed by this instruction");
    stop(what, vcpu, vmcs, context)
}
