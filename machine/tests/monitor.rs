//! MONITOR and MWAIT (SDM volume 2; 8.10 Management of idle and blocked conditions), and their exits
//! (25.1.3).

mod support;
#[path = "support/tables.rs"]
mod tables;
mod vmx;

use apic::non_maskable::Handling;
use arch::exit::ExitReason as R;
use arch::msr;
use arch::vmcs;
use arch::vmx_control::primary;
use posthaste_machine::cpu::{Activity, Cpu, Processor, Stop};
use support::{CODE, DATA, step};
use tables::*;
use vmx::Guest;

const MONITOR: &[u8] = &[0x0f, 0x01, 0xc8];
const MWAIT: &[u8] = &[0x0f, 0x01, 0xc9];
/// IA32_MISC_ENABLE bit 18.
const ENABLE_MONITOR: u64 = 1 << 18;

// Volume 4, IA32_MISC_ENABLE; volume 2, CPUID leaf 5.
#[test]
fn misc_enable_turns_the_instructions_off() {
    let mut cpu = kernel(&[]).cpu;
    assert_ne!(cpu.cpuid(1, 0).ecx & 1 << 3, 0);
    let leaf = cpu.cpuid(5, 0);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (64, 64, 0, 0));
    let value = cpu.read_msr(msr::IA32_MISC_ENABLE).unwrap();
    cpu.write_msr(msr::IA32_MISC_ENABLE, value & !ENABLE_MONITOR)
        .unwrap();
    assert_eq!(cpu.cpuid(1, 0).ecx & 1 << 3, 0);
    assert_eq!(cpu.cpuid(5, 0).eax, 0);
}

#[test]
fn faults_of_monitor_and_mwait() {
    type Case = (&'static str, &'static [u8], fn(&mut Cpu), Option<(u8, u64)>);
    let table: &[Case] = &[
        ("MONITOR", MONITOR, |_| {}, None),
        ("MWAIT that is not armed", MWAIT, |_| {}, None),
        (
            "MONITOR, extensions",
            MONITOR,
            |c| c.registers[1] = 1,
            Some((13, 0)),
        ),
        (
            "MWAIT, extensions",
            MWAIT,
            |c| c.registers[1] = 1,
            Some((13, 0)),
        ),
        (
            "ECX has 32 bits",
            MONITOR,
            |c| c.registers[1] = 1 << 32,
            None,
        ),
        ("hints matter not", MONITOR, |c| c.registers[2] = 7, None),
        (
            "MONITOR where nothing is",
            MONITOR,
            |c| c.registers[0] = 1 << 40,
            Some((14, 0)),
        ),
        (
            "MONITOR, not canonical",
            MONITOR,
            |c| c.registers[0] = 1 << 47,
            Some((13, 0)),
        ),
        (
            "MONITOR is off",
            MONITOR,
            |c| c.msrs.misc_enable &= !ENABLE_MONITOR,
            Some((6, CODE)),
        ),
        (
            "MWAIT is off",
            MWAIT,
            |c| c.msrs.misc_enable &= !ENABLE_MONITOR,
            Some((6, CODE)),
        ),
        // With a segment override, and with an address of 32 bits.
        (
            "FS",
            &[0x64, 0x0f, 0x01, 0xc8],
            |c| c.segments[4].base = 1 << 40,
            Some((14, 0)),
        ),
        (
            "67H",
            &[0x67, 0x0f, 0x01, 0xc8],
            |c| c.registers[0] = 1 << 40 | DATA,
            None,
        ),
    ];
    for (name, code, change, expected) in table {
        let mut processor = kernel(code);
        processor.cpu.registers[0] = DATA;
        change(&mut processor.cpu);
        assert_eq!(fault_of(&mut processor), *expected, "{name}");
        assert_eq!(processor.cpu.activity, Activity::Active, "{name}");
    }
    for code in [MONITOR, MWAIT] {
        assert_eq!(fault_of(&mut user(code)), Some((6, CODE)));
    }
}

/// A processor that has executed MONITOR of DATA + 72 and is about to execute MWAIT.
fn armed() -> Processor {
    let mut processor = kernel(&[MONITOR, MWAIT, &[0x90, 0xeb, 0xfd]].concat());
    processor.cpu.registers[0] = DATA + 72;
    step(&mut processor, 1);
    processor
}

fn run(processor: &mut Processor) -> Stop {
    step(processor, 3)
}

#[test]
fn mwait_waits_for_a_store_to_the_line() {
    for (distance, wakes) in [
        (63, false),
        (64, true),
        (72, true),
        (127, true),
        (128, false),
    ] {
        let mut processor = armed();
        assert_eq!(run(&mut processor), Stop::Idle);
        assert_eq!(processor.cpu.activity, Activity::Halted);
        assert_eq!(processor.cpu.rip(), CODE + 6);
        processor.cpu.store(DATA + distance, 1_u8);
        assert_eq!(processor.cpu.monitor_triggered(), wakes, "{distance}");
        let stop = run(&mut processor);
        assert_eq!(stop == Stop::SliceEnd, wakes, "{distance}");
        assert_eq!(processor.cpu.monitor.is_waiting(), !wakes);
    }
    // A store between the two, and none at all: not armed a second time.
    let mut processor = armed();
    processor.cpu.store(DATA + 64, 1_u8);
    assert_eq!(run(&mut processor), Stop::SliceEnd);
    processor.cpu.set_rip(CODE + 3);
    assert_eq!(run(&mut processor), Stop::SliceEnd);
    // Its wait has an end.
    let mut processor = armed();
    assert_eq!(run(&mut processor), Stop::Idle);
    let deadline = processor.cpu.next_own_event().expect("a deadline");
    assert!(deadline > processor.cpu.now());
    processor.cpu.instructions += deadline - processor.cpu.now();
    assert_eq!(run(&mut processor), Stop::SliceEnd);
    assert_eq!(processor.cpu.next_own_event(), None);
}

#[test]
fn mwait_ends_with_an_interrupt_and_a_later_hlt_is_its_own() {
    let mut processor = armed();
    set_gate(&mut processor.cpu, 2, HANDLER, CODE_64, 0x8e, 1);
    // The handler halts, for good.
    assert_eq!(run(&mut processor), Stop::Idle);
    processor.cpu.nmi_pending.accept(1, Handling::No);
    processor.cpu.look_at_events();
    assert_eq!(run(&mut processor), Stop::Idle);
    assert_eq!(processor.cpu.rip(), HANDLER + 1);
    assert!(!processor.cpu.monitor.is_waiting());
    processor.cpu.store(DATA + 64, 1_u8);
    assert_eq!(run(&mut processor), Stop::Idle);
    // RIP after MWAIT is where it goes on.
    let frame = processor.cpu.registers[4];
    assert_eq!(processor.cpu.ram.load::<u64>(frame), CODE + 6);
}

fn guest(code: &[u8]) -> Guest {
    let mut guest = Guest::new(&[code, &[0xf4]].concat());
    guest.add_primary(primary::HLT_EXITING);
    guest.cpu().registers[0] = vmx::DATA;
    guest.cpu().registers[1] = 0;
    guest
}

// SDM 25.1.3; 27.2.1: the qualification of MWAIT's exit says whether monitoring is armed.
#[test]
fn monitor_and_mwait_exit() {
    let both = [MONITOR, MWAIT].concat();
    for (code, controls, reason, qualification) in [
        (MONITOR, primary::MONITOR_EXITING, R::Monitor, 0),
        (MONITOR, primary::MWAIT_EXITING, R::Hlt, 0),
        (MWAIT, primary::MWAIT_EXITING, R::Mwait, 0),
        (MWAIT, primary::MONITOR_EXITING, R::Hlt, 0),
        (&both, primary::MWAIT_EXITING, R::Mwait, 1),
    ] {
        let mut guest = guest(code);
        guest.add_primary(controls);
        guest.launch(10);
        assert_eq!(guest.expect_exit(reason), qualification, "{code:x?}");
        // Monitoring ends with the exit: MWAIT again is not armed.
        if qualification == 1 {
            guest.resume(10);
            assert_eq!(guest.expect_exit(R::Mwait), 0);
        }
    }
    // The exit comes before the fault for extensions, and after #UD.
    let mut extended = guest(MWAIT);
    extended.cpu().registers[1] = 1;
    extended.add_primary(primary::MWAIT_EXITING);
    extended.launch(10);
    extended.expect_exit(R::Mwait);
    let mut off = guest(MWAIT);
    off.cpu().msrs.misc_enable &= !ENABLE_MONITOR;
    off.add_primary(primary::MWAIT_EXITING);
    off.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
    off.launch(10);
    off.expect_exit(R::ExceptionOrNmi);
}

// SDM 24.4.2 Guest non-register state: the activity state never reflects MWAIT.
#[test]
fn an_exit_from_mwait_saves_the_active_state() {
    let mut guest = guest(&[MONITOR, MWAIT].concat());
    guest.launch(3);
    assert!(guest.cpu().monitor.is_waiting());
    guest.cpu().nmi_pending.accept(1, Handling::No);
    guest.cpu().look_at_events();
    guest.go_on(3);
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0);
    assert_eq!(guest.get(vmcs::GUEST_RIP), vmx::GUEST_CODE + 6);
    assert!(!guest.cpu().monitor.is_waiting());
}
