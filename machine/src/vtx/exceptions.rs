//! Exceptions in VMX non-root operation (SDM 25.2, 24.6.3 Exception bitmap).

use arch::{
    exception,
    exit::ExitReason,
    interruption::{InterruptionInformation, InterruptionType},
};

use super::{VmExit, exit};
use crate::cpu::{
    Cpu,
    raise::{Exception, Source},
};

/// Leaves the guest if `event`, about to be delivered, is intercepted; true if so. An event that VM entry
/// injects never is (SDM 26.6.1.2 VM Exits During Event Injection).
pub fn intercept(cpu: &mut Cpu, event: &Exception) -> bool {
    if !cpu.vmx.non_root || cpu.vmx.guest.injecting || !intercepts(cpu, event) {
        return false;
    }
    if event.source.is_software() {
        cpu.vmx.instruction_length = cpu.rip().wrapping_sub(cpu.instruction_start) as u8;
        cpu.set_rip(cpu.instruction_start);
    }
    // SDM 27.2.1: the linear address of a page fault, the cause of a debug exception.
    let qualification = match event.vector {
        exception::PAGE_FAULT | exception::DEBUG => event.detail,
        _ => 0,
    };
    exit(
        cpu,
        VmExit {
            qualification,
            ..VmExit::by_event(ExitReason::ExceptionOrNmi, *event)
        },
    );
    true
}

fn intercepts(cpu: &Cpu, event: &Exception) -> bool {
    let controls = &cpu.vmx.guest.controls;
    let bit = controls.exception_bitmap >> (event.vector & 31) & 1 != 0;
    match event.source {
        // NMIs and external interrupts have controls of their own; INT n has none.
        Source::ExternalInterrupt | Source::NonMaskableInterrupt | Source::SoftwareInterrupt => {
            false
        }
        Source::Fault | Source::Trap if event.vector == exception::PAGE_FAULT => {
            // SDM 25.2: the bit's meaning is inverted where mask and match disagree.
            let code = event.error_code.unwrap_or(0);
            let matches = code & controls.page_fault_mask == controls.page_fault_match;
            bit == matches
        }
        Source::Fault
        | Source::Trap
        | Source::SoftwareException
        | Source::PrivilegedSoftwareException => bit,
    }
}

/// The interruption-information field and error code that describe an event (SDM 24.9.2, 24.9.3).
pub(super) fn interruption(cpu: &Cpu, event: &Exception) -> (u32, u32) {
    let kind = match event.source {
        Source::Fault | Source::Trap => InterruptionType::HardwareException,
        Source::SoftwareInterrupt => InterruptionType::SoftwareInterrupt,
        Source::SoftwareException => InterruptionType::SoftwareException,
        Source::PrivilegedSoftwareException => InterruptionType::PrivilegedSoftwareException,
        Source::ExternalInterrupt => InterruptionType::ExternalInterrupt,
        Source::NonMaskableInterrupt => InterruptionType::NonMaskable,
    };
    // Exceptions in real-address mode have no error code.
    let error_code = event.error_code.filter(|_| cpu.protected_mode());
    (
        InterruptionInformation::new(event.vector, kind, error_code.is_some()).0,
        error_code.unwrap_or(0),
    )
}
