//! Breakpoints in VMX non-root operation: what an exit says of them, and what it leaves pending.

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, primary, secondary};
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

/// Single step in the pending debug exceptions, as in DR6.
const SINGLE_STEP: u64 = 1 << 14;
const TRAP_FLAG: u64 = 1 << 8;

/// A guest whose `code` begins with mov ss, [rdi], which meets a data breakpoint.
fn behind_mov_ss(code: &[u8]) -> Guest {
    let guest = with_breakpoint(&[&[0x8e, 0x17], code].concat());
    let selector = guest.get(vmcs::GUEST_SS_SELECTOR);
    guest.store(DATA, &selector.to_le_bytes());
    guest
}

// SDM 26.7.3: debug exceptions that entry loaded while MOV SS blocks are one #DB with the single step of
// the next instruction; none is left.
#[test]
fn debug_exceptions_loaded_behind_mov_ss_join_the_next_trap() {
    for intercepted in [true, false] {
        let mut guest = Guest::new(&[0x90, 0x90, 0x90]);
        if intercepted {
            guest.set(vmcs::EXCEPTION_BITMAP, 1 << 1);
        }
        guest
            .set(vmcs::GUEST_RFLAGS, 2 | TRAP_FLAG)
            .set(vmcs::GUEST_INTERRUPTIBILITY_STATE, MOV_SS)
            .set(
                vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS,
                ENABLED_BREAKPOINT | SINGLE_STEP | 2,
            );
        guest.launch(3);
        if intercepted {
            assert_eq!(guest.expect_exit(R::ExceptionOrNmi), SINGLE_STEP | 2);
            assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 1);
            assert_eq!(guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
        } else {
            guest.go_on(2);
            assert_eq!(guest.handler(), Some(1));
            assert_eq!(guest.cpu().dr[6] & (SINGLE_STEP | 15), SINGLE_STEP | 2);
            assert_eq!(guest.cpu().vmx.guest.pending_debug, 0);
            let frame = guest.cpu().registers[4];
            assert_eq!(guest.ram().load::<u64>(frame), GUEST_CODE + 1);
        }
    }
}

// SDM 25.5.2, 6.9: the exit by the monitor trap flag comes before the trap of the same instruction, which
// is pending then and delivered by the next entry (SDM 26.7.3).
#[test]
fn the_monitor_trap_flag_comes_before_a_debug_trap() {
    // mov [rdi], eax; nop
    let mut guest = with_breakpoint(&[0x89, 0x07, 0x90]);
    guest.add_primary(primary::MONITOR_TRAP_FLAG);
    guest.set(vmcs::GUEST_RFLAGS, 2 | TRAP_FLAG);
    guest.launch(3);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 2);
    assert_eq!(
        guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS),
        ENABLED_BREAKPOINT | SINGLE_STEP | 1
    );
    guest.remove_primary(primary::MONITOR_TRAP_FLAG);
    guest.resume(2);
    assert_eq!(guest.handler(), Some(1));
    assert_eq!(guest.cpu().dr[6] & (SINGLE_STEP | 15), SINGLE_STEP | 1);
}

// SDM 26.3.1.5: with TF set, BS has to be pending behind MOV SS, so an exit saves it: the guest can be
// entered again.
#[test]
fn an_exit_behind_mov_ss_saves_its_single_step() {
    // mov ss, [rdi]; cpuid; nop
    let mut guest = behind_mov_ss(&[0x0f, 0xa2, 0x90]);
    guest.set(vmcs::GUEST_RFLAGS, 2 | TRAP_FLAG);
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    assert_eq!(
        guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS),
        ENABLED_BREAKPOINT | SINGLE_STEP | 1
    );
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 4);
    guest.resume(2);
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(1));
    assert_eq!(guest.cpu().dr[6] & (SINGLE_STEP | 15), SINGLE_STEP | 1);
}

// SDM 6.8.3: INT1 is a #DB of its own; a breakpoint that MOV SS held back until then is in DR6 with it,
// and not delivered once more.
#[test]
fn int1_brings_what_mov_ss_held_back() {
    let mut guest = behind_mov_ss(&[0xf1, 0x90]);
    // iretq in the handler
    guest.store(GUEST_HANDLERS + 16, &[0x48, 0xcf]);
    guest.launch(3);
    assert_eq!(guest.handler(), Some(1));
    assert_eq!(guest.cpu().dr[6] & 15, 1);
    guest.go_on(2);
    assert_eq!(guest.handler(), None);
    assert_eq!(guest.cpu().rip(), GUEST_CODE + 4);
}

// SDM 26.7.3: an injected event takes the place of pending debug exceptions, unless it is a software interrupt
// or exception behind MOV SS; then they are delivered before the handler's first instruction.
#[test]
fn an_injected_event_takes_the_place_of_pending_debug_exceptions() {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    for (information, blocking, delivered) in [
        (0x8000_0051_u32, 0, false),
        (0x8000_0202, 0, false),
        (0x8000_0306, 0, false),
        (0x8000_0306, MOV_SS, false),
        (0x8000_0501, MOV_SS, false),
        (0x8000_0480, 0, false),
        (0x8000_0603, 0, false),
        (0x8000_0480, MOV_SS, true),
        (0x8000_0603, MOV_SS, true),
    ] {
        let mut guest = Guest::new(&[0x90; 4]);
        guest
            .set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT_FLAG)
            .set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, ENABLED_BREAKPOINT | 1)
            .set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information)
            .set(vmcs::GUEST_INTERRUPTIBILITY_STATE, blocking)
            .set(vmcs::ENTRY_INSTRUCTION_LENGTH, 1);
        guest.cpu().dr[6] = 0;
        guest.launch(1);
        guest.expect_no_exit();
        assert_eq!(
            guest.cpu().dr[6] & 15,
            u64::from(delivered),
            "{information:#x}"
        );
        let vector = if delivered { 1 } else { information as u8 };
        assert_eq!(guest.handler(), Some(vector), "{information:#x}");
        if delivered {
            let injected = GUEST_HANDLERS + u64::from(information & 0xff) * 16;
            let frame = guest.cpu().registers[4];
            assert_eq!(guest.ram().load::<u64>(frame), injected);
        }
    }
}
