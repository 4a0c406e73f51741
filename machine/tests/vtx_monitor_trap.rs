//! The monitor trap flag (SDM 25.5.2 Monitor trap flag, 26.6.2, 26.7.8).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{pin, primary, secondary};
use posthaste_machine::cpu::Activity;
use vmx::*;

fn watched(code: &[u8]) -> Guest {
    let mut guest = Guest::new(&[code, &[0x90; 8]].concat());
    guest.add_primary(primary::MONITOR_TRAP_FLAG);
    guest.cpu().registers[6] = DATA;
    guest.cpu().registers[7] = DATA + 0x100;
    guest
}

/// Lets the processor run as it does outside tests, which look at each instruction.
fn launch_freely(guest: &mut Guest) {
    guest.launch(1);
    if guest.cpu().vmx.non_root {
        guest.cpu().single_step = false;
        let end = guest.cpu().instructions + 50;
        guest.cpu().slice_end = end;
        guest.cpu().look_at_events();
        guest.processor.run();
    }
}

// "If the first iteration of the instruction does not cause a fault, an MTF VM exit is pending on the
// instruction boundary after that iteration."
#[test]
fn each_iteration_of_a_string_instruction_exits() {
    for (name, code) in [
        ("rep movsb", [0xf3, 0xa4]),
        ("rep stosb", [0xf3, 0xaa]),
        ("rep lodsb", [0xf3, 0xac]),
        ("repe cmpsb", [0xf3, 0xa6]),
        ("repe scasb", [0xf3, 0xae]),
        ("rep outsb", [0xf3, 0x6e]),
        ("rep insb", [0xf3, 0x6c]),
    ] {
        let mut guest = watched(&code);
        guest.cpu().registers[1] = 3;
        guest.cpu().registers[2] = 0x80;
        for left in [2, 1, 0] {
            launch_or_resume(&mut guest, left == 2);
            guest.expect_exit(R::MonitorTrapFlag);
            assert_eq!(guest.cpu().registers[1], left, "{name}");
            let rip = if left == 0 {
                GUEST_CODE + 2
            } else {
                GUEST_CODE
            };
            assert_eq!(guest.get(vmcs::GUEST_RIP), rip, "{name}");
            // SDM 17.3.1.1: a breakpoint on the instruction is not met again.
            let resume = guest.get(vmcs::GUEST_RFLAGS) >> 16 & 1;
            assert_eq!(resume, u64::from(left != 0), "{name}");
        }
    }
}

fn launch_or_resume(guest: &mut Guest, first: bool) {
    if first {
        launch_freely(guest);
    } else {
        guest.resume(5);
    }
}

// "If the first iteration of the instruction causes a fault, an MTF VM exit is pending on the instruction
// boundary following delivery of the fault (or any nested exception)."
#[test]
fn the_delivery_of_a_fault_exits() {
    let absent = PAGES + 0x1f_e000;
    for code in [&[0xf3, 0xa4][..], &[0x8a, 0x06], &[0x0f, 0x0b]] {
        for nested in [false, true] {
            let mut guest = watched(code);
            guest.ram().store(PAGE_TABLE + 0x1fe * 8, 0_u64);
            guest.cpu().registers[1] = 3;
            guest.cpu().registers[6] = absent;
            let mut vector = if code[1] == 0x0b { 6 } else { 14 };
            if nested {
                // The gate is not present: #NP, or #DF behind a page fault.
                guest.ram().store(GUEST_IDT + vector * 16 + 5, 0x0e_u8);
                vector = if vector == 6 { 11 } else { 8 };
            }
            guest.launch(5);
            guest.expect_exit(R::MonitorTrapFlag);
            assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + vector * 16);
        }
    }
}

// Software exceptions and interrupts exit behind their delivery, HLT in the HLT state.
#[test]
fn software_interrupts_and_halt() {
    for (code, vector) in [(&[0xcc_u8][..], 3), (&[0xf1], 1), (&[0xcd, 0x80], 0x80)] {
        let mut guest = watched(code);
        guest.launch(5);
        guest.expect_exit(R::MonitorTrapFlag);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + vector * 16);
    }
    let mut guest = watched(&[0xf4]);
    guest.launch(5);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 1);
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 1);
}

// "... and a pending event (e.g., debug exception or interrupt) is delivered before an instruction can execute,
// an MTF VM exit is pending on the instruction boundary following delivery of the event".
#[test]
fn an_event_delivered_before_the_first_instruction_exits() {
    type Prepare = fn(&mut Guest);
    fn nothing(_: &mut Guest) {}
    let table: [(u64, Prepare, Prepare); 4] = [
        (0x51, nothing, |guest| {
            let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
            mailbox.post_vector(0x51, arch::interrupt_command::TriggerMode::Edge);
        }),
        (
            2,
            |guest| {
                let controls = guest.get(vmcs::PIN_BASED_CONTROLS);
                guest.set(vmcs::PIN_BASED_CONTROLS, controls & !pin::NMI_EXITING);
            },
            |guest| {
                guest.cpu().platform.inboxes[0].mailbox.post_non_maskable();
            },
        ),
        (
            1,
            |guest| {
                guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 12 | 1);
            },
            nothing,
        ),
        (
            0x61,
            |guest| {
                guest.with_apic_virtualization();
                guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x61);
                guest.set_virtual_apic(0x230, 2);
            },
            nothing,
        ),
    ];
    for (vector, prepare, arrives) in table {
        for state in [0, 1] {
            let mut guest = watched(&[]);
            guest.with_interrupts_enabled();
            guest.set(vmcs::GUEST_ACTIVITY_STATE, state);
            prepare(&mut guest);
            guest.launch(1);
            arrives(&mut guest);
            guest.go_on(1);
            guest.expect_exit(R::MonitorTrapFlag);
            let rip = guest.get(vmcs::GUEST_RIP);
            assert_eq!(rip, GUEST_HANDLERS + vector * 16, "{vector:#x}");
            assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0);
        }
    }
}

// Injected events exit before the handler's first instruction; that of a pending MTF VM exit without the
// control, too, and once.
#[test]
fn injected_events_exit_before_the_first_instruction() {
    for information in [
        0x8000_0051_u32,
        0x8000_0202,
        0x8000_0306,
        0x8000_0480,
        0x8000_0603,
    ] {
        let mut guest = watched(&[]);
        guest.with_interrupts_enabled();
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        launch_freely(&mut guest);
        guest.expect_exit(R::MonitorTrapFlag);
        let handler = GUEST_HANDLERS + u64::from(information & 0xff) * 16;
        assert_eq!(guest.get(vmcs::GUEST_RIP), handler);
    }
    let mut guest = Guest::new(&[0x90; 8]);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
    guest.launch(5);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
    guest.resume(5);
    guest.expect_no_exit();
}

// "No MTF VM exit occurs if another VM exit occurs before reaching the instruction boundary on which an MTF VM
// exit would be pending"; it does not stay for the next entry.
#[test]
fn another_exit_comes_instead() {
    let mut guest = watched(&[0x0f, 0xa2]);
    guest.launch(5);
    guest.expect_exit(R::Cpuid);
    guest.remove_primary(primary::MONITOR_TRAP_FLAG);
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 2);
    guest.resume(5);
    guest.expect_no_exit();
    // INIT has priority; the debug trap of the same boundary has not.
    let mut guest = watched(&[0x90]);
    guest.launch(1);
    guest.cpu().platform.inboxes[0].mailbox.post_init();
    guest.go_on(1);
    guest.expect_exit(R::InitSignal);
    // So has an APIC-write exit.
    let mut guest = watched(&store_u32(APIC_ACCESS + 0xf0, 1));
    guest.with_xapic();
    guest.launch(3);
    guest.expect_exit(R::ApicWrite);
}

// 26.7.8, 25.5.2: blocked in the shutdown state; an NMI that ends it without an exit makes one pending.
#[test]
fn the_shutdown_state_blocks_it_until_an_nmi_is_delivered() {
    let mut guest = watched(&[]);
    let controls = guest.get(vmcs::PIN_BASED_CONTROLS);
    guest.set(vmcs::PIN_BASED_CONTROLS, controls & !pin::NMI_EXITING);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 2);
    guest.launch(3);
    guest.expect_no_exit();
    assert_eq!(guest.cpu().activity, Activity::Shutdown);
    guest.cpu().platform.inboxes[0].mailbox.post_non_maskable();
    guest.go_on(1);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + 0x20);
}

// Nothing makes a block of several instructions run past the first.
#[test]
fn one_instruction_without_anything_else() {
    let mut guest = watched(&[0x90; 4]);
    guest.add_secondary(secondary::ENABLE_RDTSCP);
    launch_freely(&mut guest);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 1);
}
