//! The exits of APIC virtualization, and what an access to the virtual APIC entails.

use super::model_specific_register::guest_time;
use super::{Context, Next, Outcome};
use crate::interrupts::ipi_dispatch::dispatch_unicast;
use crate::interrupts::posting::Sender;
use crate::interrupts::virtual_apic::ApicExit;
use crate::vcpu::control_refresh;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::vmcs::{Vmcs, VmxError};
use apic::apic_base::ApicMode;
use apic::local_apic::Effect;
use arch::apic_register::{INTERRUPT_COMMAND, INTERRUPT_COMMAND_HIGH};
use arch::vmcs;

/// The common IPI of an xAPIC guest: an APIC-write exit for 300H with a fixed, physical unicast, both
/// words on the page already. `false`: it is something else, and nothing was done.
#[inline(always)]
pub(in crate::vcpu) fn xapic_unicast(
    vcpu: &VirtualProcessor,
    vmcs: &impl Vmcs,
    context: Context,
) -> Result<bool, VmxError> {
    let local_apic = vcpu.apic.apic();
    if local_apic.mode() != ApicMode::Xapic
        || vmcs.read(vmcs::EXIT_QUALIFICATION)? as u32 & 0xfff != INTERRUPT_COMMAND
    {
        return Ok(false);
    }
    let low = local_apic.page().read_u32(INTERRUPT_COMMAND);
    let high = local_apic.page().read_u32(INTERRUPT_COMMAND_HIGH);
    let sender = Sender {
        processor: context.processor.number,
    };
    let vm = &context.hypervisor.vm.interrupts;
    let Some(signal) = dispatch_unicast(vm, low, high >> 24, sender) else {
        return Ok(false);
    };
    context.hypervisor.signal(signal, context.processor);
    Ok(true)
}

/// Exit reason 56. Trap-like: RIP is past the instruction already (SDM 30.4.3.3).
pub(super) fn write(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let offset = vmcs.read(vmcs::EXIT_QUALIFICATION)? as u32 & 0xfff;
    trap(ApicExit::ApicWrite { offset }, vcpu, vmcs, context)
}

/// Exit reason 45.
pub(super) fn virtualized_eoi(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let vector = vmcs.read(vmcs::EXIT_QUALIFICATION)? as u8;
    trap(ApicExit::VirtualizedEoi { vector }, vcpu, vmcs, context)
}

/// Exit reason 43: the next entry finds what became deliverable.
pub(super) fn tpr_below_threshold(vcpu: &mut VirtualProcessor, _context: Context) -> Outcome {
    let _ = vcpu
        .apic
        .exit(ApicExit::TprBelowThreshold, guest_time(vcpu));
    Ok(Next::Resume)
}

fn trap(
    exit: ApicExit,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let now = guest_time(vcpu);
    let effect = vcpu.apic.exit(exit, now);
    follow_up(effect, vcpu, vmcs, context)?;
    Ok(Next::Resume)
}

/// Does everything that an access to the virtual APIC asks for.
pub(in crate::vcpu) fn follow_up(
    effect: Effect,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Result<(), VmxError> {
    let hypervisor = context.hypervisor;
    let sender = Sender {
        processor: context.processor.number,
    };
    let todo = vcpu.apic.follow_up(
        effect,
        &hypervisor.vm.interrupts,
        &mut vcpu.dispatcher,
        sender,
        |signal| hypervisor.signal(signal, context.processor),
    );
    if let Some(vector) = todo.end_of_interrupt {
        hypervisor.end_of_interrupt(vector, context.processor);
    }
    if todo.timer {
        context.processor.note_timer();
    }
    if let Some((publication, arrivals)) = todo.published {
        hypervisor.settle(publication, arrivals, vcpu, context.processor);
        control_refresh::refresh(vmcs, vcpu, hypervisor)?;
    }
    Ok(())
}
