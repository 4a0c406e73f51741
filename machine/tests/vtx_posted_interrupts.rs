//! Posted-interrupt processing and virtual-interrupt delivery (SDM 30.2, 30.6), clause by clause:
//! `docs/clauses.md`, A8.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::primary;
use posthaste_machine::cpu::Activity;
use vmx::*;

const NOP: u8 = 0x90;

fn posted_guest(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_x2apic().with_posted_interrupts();
    guest
}

/// Posts `vector` into descriptor 0 as another processor does, and sends the notification.
fn post(guest: &mut Guest, vector: u8) {
    let at = DESCRIPTORS + u64::from(vector / 8);
    let old: u8 = guest.ram().load(at);
    guest.ram().store(at, old | 1 << (vector % 8));
    let control = guest.descriptor_control(0);
    guest.set_descriptor_control(0, control | 1);
    send(guest, 0xe0);
}

/// An interrupt from outside arrives at the processor's local APIC.
fn send(guest: &mut Guest, vector: u8) {
    let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
    mailbox.post_vector(vector, arch::interrupt_command::TriggerMode::Edge);
}

// SDM 30.6, steps 1 to 7.
#[test]
fn a_notification_is_processed_without_an_exit() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.with_interrupts_enabled();
    guest.launch(2);
    // Reserved bits and SN, NV, NDST of the descriptor stay.
    let control = 3 << 32 | 0xaa << 24 | 0xe0 << 16 | 0x1230 | 2;
    guest.set_descriptor_control(0, control);
    post(&mut guest, 0x51);
    guest.go_on(1);
    guest.expect_no_exit();
    assert_eq!(
        guest.descriptor_control(0),
        control,
        "ON cleared, the rest kept"
    );
    assert_eq!(guest.posted(0), []);
    assert_eq!(guest.handler(), Some(0x51));
    // Delivery (SDM 30.2.2): VISR, SVI, VPPR, VIRR, RVI.
    assert_eq!(guest.virtual_apic(0x120), 1 << 17);
    assert_eq!(guest.virtual_apic(0x220), 0);
    assert_eq!(guest.virtual_apic(0xa0), 0x50);
    let interrupts = guest.cpu().vmx.guest.virtual_interrupts;
    assert_eq!((interrupts.requesting, interrupts.servicing), (0, 0x51));
    // The physical interrupt was ended: another of the same vector is taken.
    guest.cpu().set_rip(GUEST_CODE);
    guest.cpu().activity = Activity::Active;
    post(&mut guest, 0x61);
    guest.go_on(1);
    assert_eq!(guest.cpu().counters.notifications_processed, 2);
    // IF is 0 in the handler: 61H is requested.
    let interrupts = guest.cpu().vmx.guest.virtual_interrupts;
    assert_eq!((interrupts.requesting, interrupts.servicing), (0x61, 0x51));
}

#[test]
fn requests_merge_and_the_highest_is_delivered_first() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.with_interrupts_enabled();
    guest.launch(2);
    for vector in [0x31, 0x99, 0x45] {
        post(&mut guest, vector);
    }
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(0x99));
    assert_eq!(guest.cpu().counters.notifications_processed, 1);
    let interrupts = guest.cpu().vmx.guest.virtual_interrupts;
    assert_eq!((interrupts.requesting, interrupts.servicing), (0x45, 0x99));
    // RVI := max(RVI, highest of PIR): a lower one changes nothing.
    post(&mut guest, 0x22);
    guest.go_on(1);
    assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.requesting, 0x45);
    assert_eq!(guest.virtual_apic(0x210), 1 << 2 | 1 << 17);
}

// A notification with empty PIR is legal: a consumer drained it in between.
#[test]
fn an_empty_notification_does_nothing() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.with_interrupts_enabled();
    guest.launch(2);
    send(&mut guest, 0xe0);
    guest.go_on(1);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), None);
    assert_eq!(guest.cpu().counters.notifications_processed, 1);
    assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.status(), 0);
}

#[test]
fn any_other_vector_exits_with_its_number() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.launch(2);
    send(&mut guest, 0xe1);
    guest.go_on(1);
    guest.expect_exit(R::ExternalInterrupt);
    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_00e1);
    assert_eq!(guest.cpu().counters.notifications_processed, 0);
}

// SDM 30.6: posted-interrupt processing does not depend on RFLAGS.IF; delivery does. HLT ends only
// when a virtual interrupt is recognized.
#[test]
fn halted_guests_wake_for_deliverable_vectors_only() {
    for (enabled, priority, wakes) in [(true, 0, true), (false, 0, false), (true, 0x60, false)] {
        let mut guest = posted_guest(&[0xf4, NOP, NOP]);
        guest.set(vmcs::GUEST_RFLAGS, if enabled { 0x202 } else { 2 });
        guest.set_virtual_apic(0x80, priority);
        guest.launch(3);
        guest.expect_no_exit();
        assert_eq!(guest.cpu().activity, Activity::Halted);
        post(&mut guest, 0x51);
        guest.processor.cpu.slice_end = guest.cpu().instructions;
        guest.processor.run();
        guest.expect_no_exit();
        assert_eq!(guest.cpu().counters.notifications_processed, 1);
        assert_eq!(guest.handler() == Some(0x51), wakes);
        assert_eq!(guest.cpu().activity == Activity::Halted, !wakes);
    }
}

// A notification that comes in VMX root operation is a plain interrupt.
#[test]
fn in_root_operation_a_notification_is_an_interrupt_like_any_other() {
    let mut guest = posted_guest(&[0x0f, 0xa2]);
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    post(&mut guest, 0x51);
    guest.run(3);
    assert_eq!(guest.posted(0), [0x51], "PIR stays");
    assert_eq!(guest.descriptor_control(0) & 1, 1);
    // The VMM did not take it (IF = 0): the next VM entry is followed by its processing.
    guest.store(GUEST_CODE, &[NOP; 8]);
    guest.with_interrupts_enabled();
    guest.resume(3);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(0x51));
}

// Prior-art B5 #8: the processor processes whatever descriptor the VMCS in force names.
#[test]
fn processing_uses_the_descriptor_of_the_vmcs_in_force() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.set(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, DESCRIPTORS + 64);
    guest.with_interrupts_enabled();
    guest.launch(2);
    post(&mut guest, 0x51);
    guest.go_on(1);
    assert_eq!(
        guest.posted(0),
        [0x51],
        "another vCPU's request is not drained"
    );
    assert_eq!(guest.handler(), None);
}

// SN is ignored by the receiver.
#[test]
fn the_receiver_ignores_sn() {
    let mut guest = posted_guest(&[NOP; 16]);
    guest.with_interrupts_enabled();
    guest.set_descriptor_control(0, 2);
    guest.launch(2);
    post(&mut guest, 0x51);
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(0x51));
}

// SDM 30.2.1: VM entry evaluates; RVI[7:4] must be above VPPR[7:4].
#[test]
fn vm_entry_delivers_what_is_pending() {
    for (status, tpr, delivered) in [
        (0x0051_u16, 0, Some(0x51)),
        (0x0051, 0x50, None),
        (0x0051, 0x4f, Some(0x51)),
        (0x5051, 0, None),
        (0x4151, 0, Some(0x51)),
        (0x000f, 0, None),
    ] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.with_x2apic().with_interrupts_enabled();
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, status);
        guest.set_virtual_apic(0x220, 1 << 17);
        guest.set_virtual_apic(0x80, tpr);
        guest.launch(2);
        guest.expect_no_exit();
        assert_eq!(guest.handler(), delivered, "{status:#x} {tpr:#x}");
    }
}

// SDM 30.2.2: not while interrupts are off or blocked; after the blocking ends.
#[test]
fn delivery_waits_for_the_shadow_to_end() {
    let mut guest = Guest::new(&[0xfb, NOP, NOP]); // sti; nop
    guest.with_x2apic();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
    guest.set_virtual_apic(0x220, 1 << 17);
    guest.launch(2);
    assert_eq!(guest.handler(), None, "sti's shadow covers one instruction");
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(0x51));
    // The stack frame holds the address after the NOP.
    let frame: u64 = guest.ram().load(GUEST_STACK - 40);
    assert_eq!(frame, GUEST_CODE + 2);
}

// SDM 30.2.1: with interrupt-window exiting nothing is recognized; the window exits instead.
#[test]
fn interrupt_window_exiting_comes_first() {
    let mut guest = Guest::new(&[NOP; 8]);
    guest.with_x2apic().with_interrupts_enabled();
    guest.add_primary(primary::INTERRUPT_WINDOW_EXITING);
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
    guest.launch(2);
    guest.expect_exit(R::InterruptWindow);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPT_STATUS), 0x51);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
}

// SDM 30.2.2: virtual interrupts come before external ones; both before the next instruction.
#[test]
fn a_virtual_interrupt_precedes_an_external_one() {
    let mut guest = posted_guest(&[NOP; 8]);
    guest.with_interrupts_enabled();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
    guest.set_virtual_apic(0x220, 1 << 17);
    send(&mut guest, 0x40);
    guest.launch(2);
    guest.expect_exit(R::ExternalInterrupt);
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPT_STATUS), 0x5100);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + 0x510);
}

// SDM 30.6: a notification between two iterations of a string instruction; RF is 1 in the image of
// RFLAGS that the delivery saves, and the instruction goes on where it was.
#[test]
fn a_notification_comes_between_iterations() {
    // std; rep stosb
    let mut guest = posted_guest(&[0xfd, 0xf3, 0xaa, 0xf4]);
    guest.with_interrupts_enabled();
    guest.cpu().registers[1] = 2000;
    guest.cpu().registers[7] = DATA + 3000;
    guest.launch(3);
    let before = guest.cpu().registers[1];
    assert!(before > 0 && before < 2000, "{before} left");
    post(&mut guest, 0x51);
    guest.go_on(1);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(0x51));
    let left = guest.cpu().registers[1];
    assert!(left > 0, "in the middle");
    let saved_rip: u64 = guest.ram().load(GUEST_STACK - 40);
    let saved_flags: u64 = guest.ram().load(GUEST_STACK - 24);
    assert_eq!(saved_rip, GUEST_CODE + 1);
    assert_ne!(saved_flags & 1 << 16, 0, "RF");
    // An exit there saves the same; one elsewhere does not.
    for (count, paused) in [(3, true), (2, false)] {
        let mut guest = posted_guest(&[0xfd, 0xf3, 0xaa, 0xf4]);
        guest.cpu().registers[1] = 2000;
        guest.cpu().registers[7] = DATA + 3000;
        guest.launch(count);
        send(&mut guest, 0xe1);
        guest.go_on(1);
        guest.expect_exit(R::ExternalInterrupt);
        assert_eq!(guest.get(vmcs::GUEST_RFLAGS) & 1 << 16 != 0, paused);
    }
}

// SDM 30.2.2: blocking by MOV SS holds delivery back; shutdown and wait-for-SIPI are not ended.
#[test]
fn states_that_hold_delivery_back() {
    for (blocking, activity, delivered) in [
        (0, 0, true),
        (2, 0, false),
        (1, 0, false),
        (0, 1, true),
        (0, 2, false),
        (0, 3, false),
    ] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.with_x2apic().with_interrupts_enabled();
        guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, blocking);
        guest.set(vmcs::GUEST_ACTIVITY_STATE, activity);
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
        guest.set_virtual_apic(0x220, 1 << 17);
        guest.launch(1);
        guest.expect_no_exit();
        guest.processor.cpu.slice_end = guest.cpu().instructions;
        guest.processor.run();
        assert_eq!(
            guest.handler(),
            delivered.then_some(0x51),
            "blocking {blocking}, activity {activity}"
        );
    }
}

// SDM 30.2.2: delivery ends the inactive state that MWAIT entered, too; an interrupt that is not delivered does
// not.
#[test]
fn a_posted_interrupt_ends_mwait() {
    for enabled in [true, false] {
        // monitor; mwait
        let code = [&[0x0f, 0x01, 0xc8, 0x0f, 0x01, 0xc9][..], &[NOP; 8]].concat();
        let mut guest = posted_guest(&code);
        if enabled {
            guest.with_interrupts_enabled();
        }
        guest.cpu().registers[0] = DATA;
        guest.cpu().registers[1] = 0;
        guest.cpu().registers[2] = 0;
        guest.launch(3);
        guest.expect_no_exit();
        assert!(guest.cpu().monitor.is_waiting());
        post(&mut guest, 0x51);
        guest.go_on(1);
        guest.expect_no_exit();
        assert_eq!(guest.posted(0), [], "processed in either case");
        assert_eq!(guest.handler(), enabled.then_some(0x51));
        assert_eq!(guest.cpu().monitor.is_waiting(), !enabled);
        if enabled {
            // The handler returns behind MWAIT.
            let frame = guest.cpu().registers[4];
            assert_eq!(guest.ram().load::<u64>(frame), GUEST_CODE + 6);
        }
    }
}

// SDM 30.2.1: TPR, EOI and self-IPI virtualization evaluate; CR8 is the TPR.
#[test]
fn what_evaluates_and_what_does_not() {
    let mov_to_cr8 = vec![0x44, 0x0f, 0x22, 0xc3, 0xf4]; // mov cr8, rbx
    for (name, code, tpr, status, delivered) in [
        ("TPR", write_msr(0x808, 0x40), 0x60, 0x0051, Some(0x51)),
        (
            "TPR, still high",
            write_msr(0x808, 0x50),
            0x60,
            0x0051,
            None,
        ),
        ("CR8", mov_to_cr8, 0x60, 0x0051, Some(0x51)),
        ("EOI", write_msr(0x80b, 0), 0, 0x6151, Some(0x51)),
        ("EOI, TPR high", write_msr(0x80b, 0), 0x50, 0x6151, None),
        ("self-IPI", write_msr(SELF_IPI, 0x71), 0, 0, Some(0x71)),
        (
            "self-IPI, TPR high",
            write_msr(SELF_IPI, 0x71),
            0x70,
            0,
            None,
        ),
    ] {
        let mut guest = Guest::new(&code);
        guest.with_x2apic().with_interrupts_enabled();
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, status);
        guest.set_virtual_apic(0x80, tpr);
        if status as u8 != 0 {
            guest.set_virtual_apic(0x220, 1 << 17);
        }
        guest.set_virtual_apic(0x130, if status >> 8 != 0 { 2 } else { 0 });
        guest.cpu().registers[3] = 4;
        guest.launch(6);
        guest.expect_no_exit();
        assert_eq!(guest.handler(), delivered, "{name}");
    }
    // Nothing else does: VPPR changed by another agent makes no difference by itself.
    let mut guest = posted_guest(&[NOP; 16]);
    guest.with_interrupts_enabled();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
    guest.set_virtual_apic(0x220, 1 << 17);
    guest.set_virtual_apic(0x80, 0x60);
    guest.launch(2);
    guest.set_virtual_apic(0x80, 0);
    guest.set_virtual_apic(0xa0, 0);
    guest.go_on(4);
    assert_eq!(guest.handler(), None);
    // Posted-interrupt processing does, even if nothing is posted.
    send(&mut guest, 0xe0);
    guest.go_on(1);
    assert_eq!(guest.handler(), Some(0x51));
}

// SDM 30.1.3: VPPR is VTPR if its class is as high as SVI's, else SVI's class.
#[test]
fn the_processor_priority_is_the_higher_class() {
    for (tpr, servicing, priority) in [
        (0x00, 0x00, 0x00),
        (0x35, 0x41, 0x40),
        (0x45, 0x41, 0x45),
        (0x55, 0x41, 0x55),
        (0x0f, 0x1f, 0x10),
    ] {
        let mut guest = Guest::new(&[NOP; 8]);
        guest.with_x2apic();
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, servicing << 8);
        guest.set_virtual_apic(0x80, tpr);
        guest.launch(2);
        assert_eq!(guest.virtual_apic(0xa0), priority);
    }
}

// SDM 30.6, step 6: RVI is not lowered, and an empty PIR leaves it.
#[test]
fn posting_only_raises_rvi() {
    for (posted, expected) in [(Some(0x41), 0x51), (Some(0x61), 0x61), (None, 0x51)] {
        let mut guest = posted_guest(&[NOP; 16]);
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
        guest.launch(2);
        match posted {
            Some(vector) => post(&mut guest, vector),
            None => send(&mut guest, 0xe0),
        }
        guest.go_on(1);
        let interrupts = guest.cpu().vmx.guest.virtual_interrupts;
        assert_eq!(interrupts.requesting, expected);
    }
}

// SDM 30.6: without the control, the notification vector is an external interrupt.
#[test]
fn without_posted_interrupt_processing_the_notification_exits() {
    let mut guest = Guest::new(&[NOP; 16]);
    guest.with_x2apic();
    guest.launch(2);
    post(&mut guest, 0x51);
    guest.go_on(1);
    guest.expect_exit(R::ExternalInterrupt);
    assert_eq!(guest.posted(0), [0x51]);
    assert_eq!(guest.descriptor_control(0) & ON, ON);
}
