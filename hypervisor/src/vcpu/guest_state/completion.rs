//! The end of an instruction that the hypervisor has carried out for the guest.

use super::is_64_bit;
use crate::vcpu::event_injection::interruptibility;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::rflags;
use arch::debug_register::{debugctl, pending};
use arch::vmcs;

/// Completes an instruction of `length` bytes: moves RIP past it, ends blocking by STI and MOV SS (SDM
/// 28.3.3, "interruptibility state") and RFLAGS.RF (SDM 17.3.1.1), and leaves the single-step trap
/// pending that the processor would have made (SDM 17.3.1.4).
#[inline(always)]
pub fn complete_instruction(vmcs: &mut impl Vmcs, length: u32) -> Result<(), VmxError> {
    let start = vmcs.read(vmcs::GUEST_RIP)?;
    let mut rip = start.wrapping_add(u64::from(length));
    if (start ^ rip) >> 32 != 0 {
        rip = carried(rip, vmcs)?;
    }
    vmcs.write(vmcs::GUEST_RIP, rip)?;
    end_boundary(vmcs)?;
    let flags = vmcs.read(vmcs::GUEST_RFLAGS)?;
    if flags & (rflags::TF | rflags::RF) != 0 {
        end_step(flags, Step::Instruction, vmcs)?;
    }
    Ok(())
}

/// Completes a branch to `target`, an offset that is legal in the code segment.
pub fn complete_branch(vmcs: &mut impl Vmcs, target: u64) -> Result<(), VmxError> {
    vmcs.write(vmcs::GUEST_RIP, target)?;
    end_boundary(vmcs)?;
    let flags = vmcs.read(vmcs::GUEST_RFLAGS)?;
    end_step(flags, Step::Branch, vmcs)
}

/// What is stepped over: with IA32_DEBUGCTL.BTF only a branch traps (SDM 17.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Instruction,
    Branch,
}

/// Ends what holds for one instruction boundary.
#[inline(always)]
fn end_boundary(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
    if state & (interruptibility::STI | interruptibility::MOV_SS) != 0 {
        vmcs.write(
            vmcs::GUEST_INTERRUPTIBILITY_STATE,
            state & !(interruptibility::STI | interruptibility::MOV_SS),
        )?;
    }
    Ok(())
}

/// RIP after a carry into bit 32: EIP is 32 bits wide outside 64-bit mode, where an entry wants bits
/// 63:32 to be 0 (SDM 27.3.1.4). In 64-bit mode RIP may become the first address that is not canonical,
/// which an entry takes, and whose fetch gives the guest its #GP.
#[cold]
#[inline(never)]
fn carried(rip: u64, vmcs: &impl Vmcs) -> Result<u64, VmxError> {
    Ok(if is_64_bit(vmcs)? {
        rip
    } else {
        rip & 0xffff_ffff
    })
}

#[cold]
#[inline(never)]
fn end_step(flags: u64, step: Step, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    if flags & rflags::RF != 0 {
        vmcs.write(vmcs::GUEST_RFLAGS, flags & !rflags::RF)?;
    }
    let traps =
        step == Step::Branch || vmcs.read(vmcs::GUEST_DEBUGCTL)? & debugctl::BRANCH_TRAP_FLAG == 0;
    if flags & rflags::TF != 0 && traps {
        let due = vmcs.read(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS)?;
        vmcs.write(
            vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS,
            due | pending::SINGLE_STEP,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;
    use arch::control_register::efer;

    const LONG_CODE: u64 = 0xa09b;
    const CODE_32: u64 = 0xc09b;

    fn guest(rip: u64, code: u64, efer: u64, flags: u64) -> MapVmcs {
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_RIP.0, rip),
            (vmcs::GUEST_CS_ACCESS_RIGHTS.0, code),
            (vmcs::GUEST_EFER.0, efer),
            (vmcs::GUEST_RFLAGS.0, flags | rflags::RESERVED_1),
        ]);
        map
    }

    #[test]
    fn the_instruction_pointer_is_as_wide_as_the_mode() {
        let long = efer::LME | efer::LMA;
        for (rip, code, efer, after) in [
            (0xffff_fffe, CODE_32, 0, 0),
            (0xffff_ffff, CODE_32, 0, 1),
            // Compatibility mode.
            (0xffff_fffe, CODE_32, long, 0),
            // 16-bit code: the limit of CS stops it.
            (0xfffe, 0x9b, 0, 0x1_0000),
            (0xffff_fffe, LONG_CODE, long, 0x1_0000_0000),
            (0x7fff_ffff_fffe, LONG_CODE, long, 0x8000_0000_0000),
            (
                0xffff_ffff_8000_0000,
                LONG_CODE,
                long,
                0xffff_ffff_8000_0002,
            ),
            (u64::MAX - 1, LONG_CODE, long, 0),
        ] {
            let mut map = guest(rip, code, efer, 0);
            complete_instruction(&mut map, 2).unwrap();
            assert_eq!(map.fields[&vmcs::GUEST_RIP.0], after, "{rip:#x} {code:#x}");
        }
    }

    #[test]
    fn a_branch_goes_to_its_target_and_traps_even_where_only_branches_do() {
        for debugctl in [0, 2] {
            let mut map = guest(0x1000, LONG_CODE, 0x500, rflags::TF | rflags::RF);
            map.fields.extend([
                (vmcs::GUEST_DEBUGCTL.0, debugctl),
                (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 1),
            ]);
            complete_branch(&mut map, 0x7000).unwrap();
            assert_eq!(map.fields[&vmcs::GUEST_RIP.0], 0x7000);
            assert_eq!(map.fields[&vmcs::GUEST_RFLAGS.0], 0x102);
            assert_eq!(map.fields[&vmcs::GUEST_INTERRUPTIBILITY_STATE.0], 0);
            let due = map.fields[&vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0];
            assert_eq!(due, 0x4000, "{debugctl}");
        }
    }

    #[test]
    fn what_holds_one_instruction_ends_with_it() {
        let mut map = guest(0x1000, LONG_CODE, 0x500, rflags::RF | rflags::IF);
        map.fields
            .insert(vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 0b1011);
        complete_instruction(&mut map, 3).unwrap();
        assert_eq!(map.fields[&vmcs::GUEST_INTERRUPTIBILITY_STATE.0], 0b1000);
        assert_eq!(map.fields[&vmcs::GUEST_RFLAGS.0], 0x202);
        assert!(
            !map.fields
                .contains_key(&vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0)
        );
    }

    #[test]
    fn a_step_leaves_its_trap_pending_unless_branches_are_stepped() {
        for (debugctl, due) in [(0, 0x5001), (2, 0x1001)] {
            let mut map = guest(0x1000, LONG_CODE, 0x500, rflags::TF | rflags::RF);
            map.fields.extend([
                (vmcs::GUEST_DEBUGCTL.0, debugctl),
                (vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0, 0x1001),
            ]);
            complete_instruction(&mut map, 1).unwrap();
            let pending = map.fields[&vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0];
            assert_eq!(pending, due);
            assert_eq!(map.fields[&vmcs::GUEST_RFLAGS.0], 0x102);
        }
    }
}
