//! Events in VMX non-root operation: external interrupts, NMIs, INIT, injection, and their priorities.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{exit, pin, primary, secondary};
use vmx::*;

const NOP: u8 = 0x90;

/// An interrupt from outside arrives at the processor's local APIC.
fn send(guest: &mut Guest, vector: u8) {
    let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
    mailbox.post_vector(vector, arch::interrupt_command::TriggerMode::Edge);
}

#[test]
fn external_interrupts_with_and_without_acknowledge() {
    for acknowledge in [true, false] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
        if acknowledge {
            guest.add_exit(exit::ACKNOWLEDGE_INTERRUPT);
        }
        guest.launch(2);
        send(&mut guest, 0x77);
        guest.go_on(1);
        // RFLAGS.IF is 0 and does not matter.
        guest.expect_exit(R::ExternalInterrupt);
        let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
        assert_eq!(information, if acknowledge { 0x8000_0077 } else { 0 });
        assert_eq!(guest.cpu().deliverable_interrupt().is_some(), !acknowledge);
    }
    // Without the control the guest takes it.
    let mut guest = Guest::new(&[NOP; 8]);
    guest.with_interrupts_enabled();
    guest.launch(2);
    send(&mut guest, 0x77);
    guest.go_on(1);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(0x77));
}

#[test]
fn nmis_exit_or_are_delivered() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.launch(2);
    guest.cpu().platform.inboxes[0].mailbox.post_non_maskable();
    guest.go_on(1);
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0202);
    assert!(guest.cpu().nmi_blocked, "blocked in the host");
    let mut guest = Guest::new(&[NOP; 8]);
    let controls = guest.get(vmcs::PIN_BASED_CONTROLS);
    guest.set(vmcs::PIN_BASED_CONTROLS, controls & !pin::NMI_EXITING);
    guest.launch(2);
    guest.cpu().platform.inboxes[0].mailbox.post_non_maskable();
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(2));
    assert!(guest.cpu().nmi_blocked);
}

// SDM 24.6.1, virtual NMIs: injection blocks virtual NMIs until IRET; the window exits.
#[test]
fn virtual_nmis_have_blocking_of_their_own() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest
        .add_pin(pin::VIRTUAL_NMIS)
        .add_primary(primary::NMI_WINDOW_EXITING);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202);
    guest.store(GUEST_HANDLERS + 0x20, &[0x48, 0xcf]); // iretq
    guest.launch(1);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(2));
    assert!(guest.cpu().vmx.guest.virtual_nmi_blocked && !guest.cpu().nmi_blocked);
    guest.go_on(2);
    guest.expect_exit(R::NmiWindow);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
}

#[test]
fn init_leaves_the_guest_and_is_blocked_in_root() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.launch(2);
    guest.cpu().platform.inboxes[0].mailbox.post_init();
    guest.go_on(1);
    guest.expect_exit(R::InitSignal);
    guest.cpu().platform.inboxes[0].mailbox.post_init();
    guest.run(3);
    assert_eq!(guest.cpu().rip(), HOST_RIP, "no reset");
    assert!(guest.cpu().init_pending);
    // VMXOFF ends the blocking: the bootstrap processor starts anew.
    guest.run_root(&[0x0f, 0x01, 0xc4]);
    assert!(!guest.cpu().vmx.on);
    assert!(!guest.cpu().init_pending);
}

// SDM 25.2: a start-up IPI in the wait-for-SIPI state exits; elsewhere it is lost.
#[test]
fn start_up_ipis() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 3);
    guest.launch(2);
    guest.expect_no_exit();
    guest.cpu().platform.inboxes[0].mailbox.post_init();
    guest.go_on(1);
    guest.expect_no_exit();
    guest.cpu().init_pending = false;
    guest.cpu().platform.inboxes[0].mailbox.post_start_up(0x9a);
    guest.go_on(1);
    assert_eq!(guest.expect_exit(R::StartUpIpi), 0x9a);
    let mut guest = Guest::new(&[NOP; 8]);
    guest.launch(2);
    guest.cpu().platform.inboxes[0].mailbox.post_start_up(0x9a);
    guest.go_on(2);
    guest.expect_no_exit();
}

// SDM 26.6.1: what each type of injected event pushes.
#[test]
fn injected_events_are_delivered() {
    for (information, length, error, rip) in [
        (0x8000_0050_u32, 0_u32, None, GUEST_CODE), // external interrupt
        (0x8000_0202, 0, None, GUEST_CODE),         // NMI
        (0x8000_0306, 0, None, GUEST_CODE),         // #UD
        (0x8000_0b0d, 0, Some(0x18), GUEST_CODE),   // #GP(18H)
        (0x8000_0480, 2, None, GUEST_CODE + 2),     // INT 80H
        (0x8000_0603, 1, None, GUEST_CODE + 1),     // INT3
        (0x8000_0501, 1, None, GUEST_CODE + 1),     // INT1
    ] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.with_interrupts_enabled();
        // The exception bitmap does not concern the injected event itself.
        guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.set(vmcs::ENTRY_INSTRUCTION_LENGTH, length);
        guest.set(vmcs::ENTRY_EXCEPTION_ERROR_CODE, 0x18);
        guest.launch(1);
        guest.expect_no_exit();
        assert_eq!(guest.handler(), Some(information as u8), "{information:#x}");
        let top = guest.cpu().registers[4];
        let pushed: u64 = guest.ram().load(top);
        let frame = if error.is_some() { top + 8 } else { top };
        if let Some(code) = error {
            assert_eq!(pushed, code);
        }
        assert_eq!(guest.ram().load::<u64>(frame), rip, "{information:#x}");
    }
}

// SDM 27.2.4: a fault during delivery that exits names the event it interrupted.
#[test]
fn faults_during_injection_report_idt_vectoring() {
    for (information, length) in [(0x8000_0050_u32, 0_u32), (0x8000_0480, 2), (0x8000_0b0d, 0)] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.with_interrupts_enabled();
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 11 | 1 << 14);
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.set(vmcs::ENTRY_INSTRUCTION_LENGTH, length);
        guest.set(vmcs::ENTRY_EXCEPTION_ERROR_CODE, 0x18);
        // The gate's page is not there.
        guest.set(vmcs::GUEST_IDTR_BASE, PAGES + 0x1f_e000);
        guest.ram().store(PAGE_TABLE + 0x1fe * 8, 0_u64);
        guest.launch(1);
        let address = PAGES + 0x1f_e000 + u64::from(information as u8) * 16;
        assert_eq!(guest.expect_exit(R::ExceptionOrNmi), address);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0b0e);
        assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), information);
        if information & 1 << 11 != 0 {
            assert_eq!(guest.get(vmcs::IDT_VECTORING_ERROR_CODE), 0x18);
        }
        if length != 0 {
            assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), length);
        }
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
    }
}

// SDM 25.2, 24.6.3: exception bitmap with the page-fault error-code filter.
#[test]
fn page_faults_are_filtered_by_error_code() {
    let read_absent = load_u32(PAGES + 0x1f_e000);
    for (bit, mask, matches, exits) in [
        (true, 0_u32, 0_u32, true),
        (false, 0, 0, false),
        (false, 0, 1, true),
        (true, 0, 1, false),
        (true, 2, 2, false),
        (true, 2, 0, true),
    ] {
        let mut guest = Guest::new(&program(std::slice::from_ref(&read_absent)));
        guest.ram().store(PAGE_TABLE + 0x1fe * 8, 0_u64);
        guest.set(vmcs::EXCEPTION_BITMAP, u32::from(bit) << 14);
        guest.set(vmcs::PAGE_FAULT_ERROR_CODE_MASK, mask);
        guest.set(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, matches);
        guest.launch(2);
        if exits {
            assert_eq!(guest.expect_exit(R::ExceptionOrNmi), PAGES + 0x1f_e000);
            assert_eq!(guest.cpu().cr2, 0, "CR2 stays");
        } else {
            guest.expect_no_exit();
            assert_eq!(guest.handler(), Some(14));
            assert_eq!(guest.cpu().cr2, PAGES + 0x1f_e000);
        }
    }
}

#[test]
fn software_exceptions_exit_with_their_type_and_length() {
    for (code, information) in [
        (&[0xcc_u8][..], 0x8000_0603_u32),
        (&[0xf1], 0x8000_0501),
        (&[0x0f, 0x0b], 0x8000_0306),
    ] {
        let mut guest = Guest::new(code);
        guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
        guest.launch(2);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), information);
        assert_eq!(
            guest.get(vmcs::EXIT_INSTRUCTION_LENGTH) as usize,
            code.len()
        );
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
    }
    // INT n is no exception.
    let mut guest = Guest::new(&[0xcd, 3]);
    guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
    guest.launch(2);
    guest.expect_no_exit();
}

#[test]
fn a_triple_fault_exits() {
    let mut guest = Guest::new(&[0x0f, 0x0b]);
    guest.set(vmcs::GUEST_IDTR_LIMIT, 0);
    guest.launch(2);
    guest.expect_exit(R::TripleFault);
    assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), 0);
}

// SDM 25.5.2: the monitor trap flag exits after one instruction, or after an injection.
#[test]
fn monitor_trap_flag() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.add_primary(primary::MONITOR_TRAP_FLAG);
    guest.launch(10);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 1);
    guest.resume(10);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 2);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0306);
    guest.resume(10);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + 0x60);
    // Injection of a pending MTF exit (SDM 26.6.2), without the control.
    guest.remove_primary(primary::MONITOR_TRAP_FLAG);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
    guest.resume(10);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + 0x60);
}

// SDM 26.7.3: pending debug exceptions are delivered after entry.
#[test]
fn pending_debug_exceptions() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
    guest.launch(1);
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(1));
    assert_ne!(guest.cpu().dr[6] & 1 << 14, 0);
}

// SDM 25.5.1: the timer runs with the time-stamp counter and expires in HLT too.
#[test]
fn the_preemption_timer_expires() {
    let mut guest = Guest::new(&[0xeb, 0xfe]);
    guest
        .add_pin(pin::PREEMPTION_TIMER)
        .add_exit(exit::SAVE_PREEMPTION_TIMER);
    guest.set(vmcs::PREEMPTION_TIMER_VALUE, 40);
    guest.launch(1000);
    guest.expect_exit(R::PreemptionTimer);
    assert_eq!(guest.get(vmcs::PREEMPTION_TIMER_VALUE), 0);
    let spent = guest.cpu().counters.guest_instructions;
    assert!((39..=40).contains(&spent), "40 ticks: {spent}");
    // 0 expires before the first instruction.
    guest.resume(10);
    guest.expect_exit(R::PreemptionTimer);
    // An earlier exit saves what is left.
    guest.set(vmcs::PREEMPTION_TIMER_VALUE, 100);
    guest.store(GUEST_CODE, &[0x90, 0x90, 0x0f, 0xa2]);
    guest.resume(10);
    guest.expect_exit(R::Cpuid);
    assert!((97..=98).contains(&guest.get(vmcs::PREEMPTION_TIMER_VALUE)));
    let halted = &mut Guest::new(&[0xf4]);
    halted.add_pin(pin::PREEMPTION_TIMER);
    halted.set(vmcs::PREEMPTION_TIMER_VALUE, 30);
    halted.launch(3);
    assert!(halted.cpu().next_own_event().is_some());
}

// SDM 25.5.1: a guest that reads a time at which the timer has expired is left before its next instruction.
#[test]
fn no_instruction_follows_one_that_shows_the_timer_expired() {
    // rdtsc; rdtscp; mov ecx, 10H and rdmsr; each between NOPs
    let read_msr: &[u8] = &[0xb9, 0x10, 0, 0, 0, 0x0f, 0x32];
    for read in [[0x0f, 0x31].as_slice(), &[0x0f, 0x01, 0xf9], read_msr] {
        let mut guest =
            Guest::new(&[[0x90; 8].as_slice(), read, &[0x90; 8], &[0x0f, 0xa2]].concat());
        guest.add_pin(pin::PREEMPTION_TIMER);
        guest.add_secondary(secondary::ENABLE_RDTSCP);
        guest.set(vmcs::PREEMPTION_TIMER_VALUE, 5);
        guest.launch(1);
        guest.cpu().single_step = false;
        let end = guest.cpu().instructions + 50;
        guest.cpu().slice_end = end;
        guest.processor.run();
        guest.expect_exit(R::PreemptionTimer);
        assert!(guest.get(vmcs::GUEST_RIP) <= GUEST_CODE + 8 + read.len() as u64);
    }
}

// The whole of interrupt status and activity goes back to the VMCS.
#[test]
fn guest_non_register_state_is_saved() {
    let mut guest = Guest::new(&[0xf4]);
    guest.with_x2apic().add_exit(exit::ACKNOWLEDGE_INTERRUPT);
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x2131);
    guest.launch(3);
    guest.expect_no_exit();
    send(&mut guest, 0x44);
    guest.go_on(1);
    guest.expect_exit(R::ExternalInterrupt);
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 1);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPT_STATUS), 0x2131);
    // Blocking by STI.
    let mut guest = Guest::new(&[0xfb, 0x0f, 0xa2]);
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE), 1);
    // Blocking by MOV SS.
    let mut guest = Guest::new(&[0x8e, 0xd1, 0x0f, 0xa2]);
    guest.cpu().registers[1] = 0x10;
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE), 2);
}

// SDM 27.2.3: bit 12 tells that an IRET ended the blocking before it faulted.
#[test]
fn nmi_unblocking_by_iret_is_reported() {
    let mut guest = Guest::new(&[0x48, 0xcf]); // iretq from a stack that is not there
    guest.add_pin(pin::VIRTUAL_NMIS);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 14);
    guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 8);
    guest.set(vmcs::GUEST_RSP, PAGES + 0x1f_e000);
    guest.ram().store(PAGE_TABLE + 0x1fe * 8, 0_u64);
    guest.launch(2);
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_1b0e);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE), 0);
}
