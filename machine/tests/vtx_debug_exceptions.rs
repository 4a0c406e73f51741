//! Breakpoints in VMX non-root operation: what an exit says of them, and what it leaves pending.

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, secondary};
use vmx::*;

/// MOV SS in the interruptibility state.
const MOV_SS: u32 = 1 << 1;
/// Enabled breakpoint in the pending debug exceptions.
const ENABLED_BREAKPOINT: u64 = 1 << 12;
/// DR7: breakpoint 0 for 4 bytes, reads and writes.
const DATA_BREAKPOINT: u64 = 0x400 | 2 | 15 << 16;

fn loading_debug_registers(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    let controls = guest.get(vmcs::ENTRY_CONTROLS);
    guest.set(vmcs::ENTRY_CONTROLS, controls | entry::LOAD_DEBUG_CONTROLS);
    guest
}

/// A guest with a data breakpoint at [`DATA`], whose address is in RDI.
fn with_breakpoint(code: &[u8]) -> Guest {
    let mut guest = loading_debug_registers(code);
    guest.set(vmcs::GUEST_DR7, DATA_BREAKPOINT);
    guest.cpu().dr[0] = DATA;
    guest.cpu().registers[7] = DATA;
    guest
}

// SDM 27.2.1, table 27-1: the qualification has the bits that DR6 would get; DR6 is not changed.
#[test]
fn an_intercepted_data_breakpoint_is_in_the_qualification() {
    // mov [rdi], eax
    let mut guest = with_breakpoint(&[0x89, 0x07, 0x90]);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 1);
    let before = guest.cpu().dr[6];
    guest.launch(2);
    assert_eq!(guest.expect_exit(R::ExceptionOrNmi), 1);
    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0301);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 2);
    assert_eq!(guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
    assert_eq!(guest.cpu().dr[6], before);
}

// SDM 27.3.4: what MOV SS holds back is pending when the next instruction exits, and delivered behind
// the instruction that the guest goes on with (SDM 26.7.3).
#[test]
fn a_trap_held_back_by_mov_ss_is_left_pending() {
    // mov ss, [rdi]; cpuid; nop; nop
    let mut guest = with_breakpoint(&[0x8e, 0x17, 0x0f, 0xa2, 0x90, 0x90]);
    let selector = guest.get(vmcs::GUEST_SS_SELECTOR);
    guest.store(DATA, &selector.to_le_bytes());
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE), MOV_SS);
    let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
    assert_eq!(pending, ENABLED_BREAKPOINT | 1);
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 4);
    guest.resume(2);
    guest.go_on(2);
    assert_eq!(guest.handler(), Some(1));
    assert_eq!(guest.cpu().dr[6] & 15, 1);
    let frame = guest.cpu().registers[4];
    assert_eq!(guest.ram().load::<u64>(frame), GUEST_CODE + 5);
}

// A guest's translations outlive exits by its VPID; those made without breakpoints must not.
#[test]
fn a_breakpoint_set_between_entries_is_met_on_pages_used_before() {
    // mov [rdi], eax; cpuid; mov [rdi], eax
    let mut guest = loading_debug_registers(&[0x89, 0x07, 0x0f, 0xa2, 0x89, 0x07]);
    guest.add_secondary(secondary::ENABLE_VPID);
    guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 1);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 1);
    guest.cpu().registers[7] = DATA;
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    guest.cpu().dr[0] = DATA;
    guest.set(vmcs::GUEST_DR7, DATA_BREAKPOINT);
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 4);
    guest.resume(2);
    assert_eq!(guest.expect_exit(R::ExceptionOrNmi), 1);
}
