//! The pending debug exceptions of the guest-state area.

use crate::vcpu::event_injection::interruptibility;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::rflags;
use arch::debug_register::{debugctl, pending};
use arch::vmcs;

/// Whether the next entry delivers a debug exception, before anything else that waits (SDM 27.7.3):
/// a vCPU that has executed HLT does not sleep then.
pub fn is_due(vmcs: &impl Vmcs) -> Result<bool, VmxError> {
    let due = vmcs.read(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS)?;
    Ok(due & (pending::ENABLED_BREAKPOINT | pending::SINGLE_STEP) != 0)
}

/// Makes the pending single step agree with RFLAGS.TF while STI or MOV SS blocks, as an entry wants
/// (SDM 27.3.1.5). The processor has not set it where a debug exception itself left the guest, or met
/// an exit on its way to it.
pub fn settle(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let blocking = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
    if blocking & (interruptibility::STI | interruptibility::MOV_SS) == 0 {
        return Ok(());
    }
    let steps = vmcs.read(vmcs::GUEST_RFLAGS)? & rflags::TF != 0
        && vmcs.read(vmcs::GUEST_DEBUGCTL)? & debugctl::BRANCH_TRAP_FLAG == 0;
    let due = vmcs.read(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS)?;
    let settled = if steps {
        due | pending::SINGLE_STEP
    } else {
        due & !pending::SINGLE_STEP
    };
    if settled != due {
        vmcs.write(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, settled)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;

    #[test]
    fn a_single_step_or_an_enabled_breakpoint_is_due() {
        for (field, due) in [(0, false), (0xf, false), (0x1001, true), (0x4000, true)] {
            let mut map = MapVmcs::default();
            map.fields
                .insert(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0, field);
            assert_eq!(is_due(&map), Ok(due), "{field:#x}");
        }
    }

    #[test]
    fn the_pending_step_agrees_with_the_trap_flag_while_something_blocks() {
        for (blocking, flags, debugctl, before, after) in [
            (1, 0x302, 0, 0, 0x4000),
            (2, 0x102, 0, 1, 0x4001),
            (2, 0x102, 2, 0x4000, 0),
            (1, 0x202, 0, 0x5001, 0x1001),
            (8, 0x102, 0, 0, 0),
            (0, 0x002, 0, 0x4000, 0x4000),
        ] {
            let mut map = MapVmcs::default();
            map.fields.extend([
                (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, blocking),
                (vmcs::GUEST_RFLAGS.0, flags),
                (vmcs::GUEST_DEBUGCTL.0, debugctl),
                (vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0, before),
            ]);
            settle(&mut map).unwrap();
            let pending = map.fields[&vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0];
            assert_eq!(pending, after, "{blocking} {flags:#x} {debugctl}");
        }
    }
}
