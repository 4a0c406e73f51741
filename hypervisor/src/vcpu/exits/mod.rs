//! What happens at each VM exit, a file per family.

mod apic;
mod control_register;
pub mod cpuid;
mod emulated;
mod event;
mod interrupt;
mod io;
mod memory;
mod model_specific_register;
mod simple;
mod string_io;

pub(super) use self::apic::{follow_up, xapic_unicast};
pub(super) use self::event::EXCEPTION_BITMAP;
pub(super) use self::model_specific_register::unicast;

use super::event_injection::Event;
use super::guest_state::complete_instruction;
use super::run::Leave;
use super::virtual_processor::VirtualProcessor;
use crate::host::processor::Processor;
use crate::system::Hypervisor;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::exception;
use arch::exit::ExitReason;
use arch::vmcs;

/// What surrounds the vCPU while its exit is handled.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The hypervisor.
    pub hypervisor: &'a Hypervisor,
    /// The processor that runs the vCPU.
    pub processor: &'a Processor,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter again.
    Resume,
    /// Leave the run loop.
    Leave(Leave),
}

/// What a handler gives back.
pub type Outcome = Result<Next, VmxError>;

/// Completes the instruction that exited.
#[inline(always)]
pub(super) fn advance(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let length = vmcs.read(vmcs::EXIT_INSTRUCTION_LENGTH)?;
    complete_instruction(vmcs, length)
}

/// Makes the guest see fault `vector` instead of the instruction.
pub(super) fn raise(vcpu: &mut VirtualProcessor, vector: u8) -> Outcome {
    vcpu.event = Some(Event::exception(vector, 0));
    Ok(Next::Resume)
}

/// #GP(0).
pub(super) fn general_protection(vcpu: &mut VirtualProcessor) -> Outcome {
    raise(vcpu, exception::GENERAL_PROTECTION)
}

/// Handles every exit that the run loop has not handled itself.
#[inline(never)]
pub fn dispatch(
    exit_reason: u32,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let Some(reason) = ExitReason::from_number(exit_reason as u16) else {
        return simple::unexpected(exit_reason, vcpu, vmcs, context);
    };
    match reason {
        ExitReason::ExternalInterrupt => interrupt::external(vmcs, context),
        ExitReason::ApicWrite => apic::write(vcpu, vmcs, context),
        ExitReason::Wrmsr => model_specific_register::write(vcpu, vmcs, context),
        ExitReason::Rdmsr => model_specific_register::read(vcpu, vmcs, context),
        ExitReason::VirtualizedEoi => apic::virtualized_eoi(vcpu, vmcs, context),
        ExitReason::TprBelowThreshold => apic::tpr_below_threshold(vcpu, context),
        ExitReason::ApicAccess => memory::apic_access(vcpu, vmcs, context),
        ExitReason::EptViolation => memory::ept_violation(vcpu, vmcs, context),
        ExitReason::InterruptWindow => interrupt::window(vcpu, vmcs),
        ExitReason::NmiWindow => interrupt::nmi_window(vcpu, vmcs),
        ExitReason::ExceptionOrNmi => event::exception_or_nmi(vcpu, vmcs, context),
        ExitReason::Hlt => simple::hlt(vcpu, vmcs),
        ExitReason::Cpuid => cpuid::cpuid(vcpu, vmcs, context),
        ExitReason::IoInstruction => io::instruction(vcpu, vmcs, context),
        ExitReason::ControlRegisterAccess => control_register::access(vcpu, vmcs, context),
        ExitReason::Xsetbv | ExitReason::Rdpmc => general_protection(vcpu),
        // Without effect, or with one that EPT's write-back memory makes none.
        ExitReason::Wbinvd | ExitReason::Invd | ExitReason::Pause | ExitReason::Invlpg => {
            advance(vmcs)?;
            Ok(Next::Resume)
        }
        ExitReason::PreemptionTimer => {
            context.processor.note_timer();
            Ok(Next::Resume)
        }
        // What CPUID hides does not exist.
        ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Vmcall
        | ExitReason::Vmfunc
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::Getsec
        | ExitReason::Mwait
        | ExitReason::Monitor
        | ExitReason::Umwait
        | ExitReason::Tpause
        | ExitReason::Encls
        | ExitReason::Invpcid
        | ExitReason::Xsaves
        | ExitReason::Xrstors
        | ExitReason::Rsm => raise(vcpu, exception::INVALID_OPCODE),
        ExitReason::TripleFault => simple::triple_fault(vcpu, vmcs, context),
        _ => simple::unexpected(exit_reason, vcpu, vmcs, context),
    }
}
