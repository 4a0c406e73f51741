//! Exceptions and NMIs that exit.

use super::{Context, Next, Outcome};
use crate::host::non_maskable;
use crate::vcpu::event_injection::Event;
use crate::vcpu::extended_state::update_debug_status;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::debug_register::{dr6, dr7};
use arch::exception;
use arch::interruption::{InterruptionInformation, InterruptionType};
use arch::vmcs;

/// The exceptions that exit (SDM 25.6.3 Exception bitmap). Delivery of #AC and #DB can meet the same
/// exception again without an end, and would hold the processor for as long as the guest likes
/// (CVE-2015-5307, CVE-2015-8104): their exits let the hypervisor in between. A machine check is the
/// machine's, not the guest's.
pub(in crate::vcpu) const EXCEPTION_BITMAP: u32 =
    1 << exception::DEBUG | 1 << exception::ALIGNMENT_CHECK | 1 << exception::MACHINE_CHECK;

/// Exit reason 0.
pub(super) fn exception_or_nmi(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let information = InterruptionInformation(vmcs.read(vmcs::EXIT_INTERRUPTION_INFORMATION)?);
    if information.interruption_type() == InterruptionType::HardwareException
        && information.vector() == exception::MACHINE_CHECK
    {
        context.hypervisor.end_for_machine_check(context.processor);
        return Ok(Next::Leave(Leave::Ending));
    }
    // An event that was being delivered comes again, unless an exception takes its place.
    vcpu.event = Event::interrupted(vmcs)?;
    if !information.is_valid() {
        return Ok(Next::Resume);
    }
    if information.interruption_type() == InterruptionType::NonMaskable {
        non_maskable::note();
        context.processor.note_timer();
        return Ok(Next::Resume);
    }
    vcpu.event = Some(reflected(information, vmcs)?);
    if information.vector() == exception::DEBUG {
        debug_exception(information.interruption_type(), vmcs)?;
    }
    Ok(Next::Resume)
}

/// The exception as the guest gets it after all. INT1 is a software exception with its length; the exit
/// leaves RIP at it.
fn reflected(information: InterruptionInformation, vmcs: &impl Vmcs) -> Result<Event, VmxError> {
    Ok(Event {
        // Bit 12 is for exits alone: the IRET that it tells of has failed for the guest as well, which
        // has its NMIs unblocked.
        information: InterruptionInformation(
            information.0 & !InterruptionInformation::NMI_UNBLOCKING,
        ),
        error_code: if information.has_error_code() {
            vmcs.read(vmcs::EXIT_INTERRUPTION_ERROR_CODE)?
        } else {
            0
        },
        instruction_length: vmcs.read(vmcs::EXIT_INSTRUCTION_LENGTH)?,
    })
}

/// What delivery of a debug exception does to the debug registers, which neither the exit nor the injection
/// changes (SDM 28.1, 27.6.1.1). INT1 by itself does nothing; breakpoints that a MOV SS before it held
/// back join it.
fn debug_exception(kind: InterruptionType, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let met = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    if kind == InterruptionType::HardwareException {
        clear_general_detect(vmcs)?;
    } else if met == 0 {
        return Ok(());
    }
    update_debug_status(|status| status_after(status, met));
    Ok(())
}

/// DR6 after a debug exception whose exit qualification was `met`. B3 to B0 are those that were met now, the others stay until the guest
/// clears them (SDM 17.2.3 Debug status register).
const fn status_after(status: u64, met: u64) -> u64 {
    const SET: u64 = dr6::BREAKPOINTS | dr6::REGISTER_ACCESS | dr6::SINGLE_STEP;
    (status & !dr6::BREAKPOINTS | met & SET) & !(met & dr6::ACTIVE_LOW)
}

/// Delivery of a debug exception clears DR7.GD, so that its handler may use the registers (SDM 17.2.4).
fn clear_general_detect(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let control = vmcs.read(vmcs::GUEST_DR7)?;
    if control & dr7::GENERAL_DETECT != 0 {
        vmcs.write(vmcs::GUEST_DR7, control & !dr7::GENERAL_DETECT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;

    #[test]
    fn the_debug_status_keeps_all_but_the_breakpoints() {
        const RESET: u64 = 0xffff_0ff0;
        for (status, met, after) in [
            (RESET, 0x4000, 0xffff_4ff0),
            (0xffff_4ff0, 0x1, 0xffff_4ff1),
            (0xffff_0fff, 0x4, 0xffff_0ff4),
            (0xffff_2ff3, 0, 0xffff_2ff0),
            (RESET, 0x2000, 0xffff_2ff0),
            // A bus lock, and a transaction.
            (RESET, 0x0800, 0xffff_07f0),
            (RESET, 0x1_0001, 0xfffe_0ff1),
            // "Enabled breakpoint" is not a bit of DR6.
            (RESET, 0x1008, 0xffff_0ff8),
        ] {
            assert_eq!(status_after(status, met), after, "{status:#x} {met:#x}");
        }
    }

    #[test]
    fn general_detect_ends_with_the_exception() {
        let mut map = MapVmcs::default();
        map.fields.insert(vmcs::GUEST_DR7.0, 0x2401);
        clear_general_detect(&mut map).unwrap();
        assert_eq!(map.fields[&vmcs::GUEST_DR7.0], 0x401);
        map.writes.clear();
        clear_general_detect(&mut map).unwrap();
        assert!(map.writes.is_empty());
    }

    #[test]
    fn an_exception_goes_back_as_it_came() {
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::EXIT_INTERRUPTION_ERROR_CODE.0, 0),
            (vmcs::EXIT_INSTRUCTION_LENGTH.0, 1),
        ]);
        // #AC(0) out of an IRET that unblocked NMIs, and INT1.
        for (came, goes) in [(0x8000_1b11, 0x8000_0b11), (0x8000_0501, 0x8000_0501)] {
            let event = reflected(InterruptionInformation(came), &map).unwrap();
            assert_eq!(event.information.0, goes);
            assert_eq!((event.error_code, event.instruction_length), (0, 1));
        }
    }

    #[test]
    fn what_can_come_without_an_end_exits() {
        assert_eq!(EXCEPTION_BITMAP, 0x6_0002);
    }
}
