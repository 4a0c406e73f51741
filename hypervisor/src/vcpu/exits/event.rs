//! Exceptions and NMIs that exit.

use super::{Next, Outcome};
use crate::vcpu::event_injection::Event;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::vmcs::Vmcs;
use arch::interruption::{InterruptionInformation, InterruptionType};
use arch::vmcs;

/// No exception is intercepted, so this is a physical NMI; anything else goes back to the guest.
pub(super) fn exception_or_nmi(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs) -> Outcome {
    let information = InterruptionInformation(vmcs.read(vmcs::EXIT_INTERRUPTION_INFORMATION)?);
    let interrupted = Event::interrupted(vmcs)?;
    if interrupted.is_some() {
        vcpu.event = interrupted;
    }
    if information.is_valid() && information.interruption_type() != InterruptionType::NonMaskable {
        vcpu.event = Some(Event {
            information: InterruptionInformation(
                information.0 & !InterruptionInformation::NMI_UNBLOCKING,
            ),
            error_code: if information.has_error_code() {
                vmcs.read(vmcs::EXIT_INTERRUPTION_ERROR_CODE)?
            } else {
                0
            },
            instruction_length: vmcs.read(vmcs::EXIT_INSTRUCTION_LENGTH)?,
        });
    }
    Ok(Next::Resume)
}
