//! External interrupts and the windows.

use super::{Context, Next, Outcome};
use crate::host::interrupt;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::interruption::InterruptionInformation;
use arch::vmcs;
use arch::vmx_control::primary;

/// An interrupt for the hypervisor; the processor has acknowledged it.
pub(super) fn external(vmcs: &mut impl Vmcs, context: Context) -> Outcome {
    let information = InterruptionInformation(vmcs.read(vmcs::EXIT_INTERRUPTION_INFORMATION)?);
    if information.is_valid() {
        interrupt::handle(context.processor, information.vector());
    }
    if context.hypervisor.vm.is_ending() {
        return Ok(Next::Leave(Leave::Ending));
    }
    Ok(Next::Resume)
}

/// The guest can take an interrupt now: the next entry injects it.
pub(super) fn window(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs) -> Outcome {
    close(vcpu, vmcs, primary::INTERRUPT_WINDOW_EXITING)
}

/// The guest can take an NMI now.
pub(super) fn nmi_window(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs) -> Outcome {
    close(vcpu, vmcs, primary::NMI_WINDOW_EXITING)
}

fn close(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs, bit: u32) -> Result<Next, VmxError> {
    vcpu.controls.primary.clear_bits(vmcs, bit)?;
    Ok(Next::Resume)
}
