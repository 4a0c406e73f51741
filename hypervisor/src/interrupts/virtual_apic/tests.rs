use core::num::NonZeroU32;

use apic::{
    apic_base::{ApicMode, Processor},
    local_apic::Features,
    mailbox::ExternalInterrupt,
    register_page::{OwnedPage, set_vector, test_vector},
};
use arch::{apic_register as offset, interrupt_command::InterruptCommand};

use super::*;
use crate::interrupts::{
    ipi_dispatch::IpiDispatcher,
    posting::{Sender, Signal},
    vm_interrupts::{Withdrawal, bench::vm},
};

/// A page that others may change: what the hypervisor has.
#[derive(Default)]
struct SharedPage(OwnedPage);

impl RegisterPage for SharedPage {
    fn read(&self, offset: u32) -> u32 {
        self.0.read(offset)
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.0.write(offset, value);
    }
}

type Apic = VirtualApic<SharedPage>;

/// The 8259 asserts its line.
const LINE: ExternalInterrupt = ExternalInterrupt {
    line: true,
    message: false,
};
const SENDER: Sender = Sender { processor: 0 };
const SOFTWARE: ApicFeatures = ApicFeatures {
    tpr_shadow: false,
    apic_accesses: false,
    x2apic_mode: false,
    register_virtualization: false,
    virtual_interrupt_delivery: false,
    posted_interrupts: false,
    ipi_virtualization: false,
};
const SHADOW_ONLY: ApicFeatures = ApicFeatures {
    tpr_shadow: true,
    ..SOFTWARE
};

/// A software-enabled local APIC of vCPU 0.
fn apic(mode: ApicMode, features: ApicFeatures) -> Apic {
    let configuration = Configuration {
        x2apic_id: 0,
        processor: Processor::Bootstrap,
        physical_address_width: 39,
        tsc_ticks_per_timer_count: NonZeroU32::new(10).unwrap(),
        shortest_timer_period: 0,
        features: Features::ALL,
    };
    let mut apic = Apic::new(SharedPage::default(), 0, configuration, features);
    let base = apic.base().value();
    match mode {
        ApicMode::X2apic => {
            let _ = apic.write_base(base | 1 << 10).unwrap();
            let _ = apic.write_msr(0x80f, 0x1ff, 0).unwrap();
        }
        ApicMode::Xapic => {
            let _ = apic.write_register(offset::SPURIOUS_VECTOR, 0x1ff, 0);
        }
        ApicMode::Disabled => {
            let _ = apic.write_base(base & !(1 << 11)).unwrap();
        }
    }
    let _ = apic.reconfigure();
    apic
}

/// As a PC's firmware leaves it (MultiProcessor Specification 3.6.2.2).
#[test]
fn the_bootstrap_vcpu_takes_the_8259s_interrupts_from_the_start() {
    let vm = vm(2, ApicMode::Xapic);
    for features in [SOFTWARE, ApicFeatures::ALL] {
        let configuration = *apic(ApicMode::Xapic, features).apic().configuration();
        let mut apic = Apic::new(SharedPage::default(), 0, configuration, features);
        let open = GuestInterruptibility::Open;
        assert_eq!(apic.prepare_entry(open, LINE).injection, Injection::None);
        let _ = apic.enter_virtual_wire_mode(&vm);
        assert_eq!(
            apic.controls().virtual_interrupt_delivery,
            features.virtual_interrupt_delivery
        );
        assert!(vm.identities().identity(0).unwrap().software_enabled);
        assert_eq!(
            apic.prepare_entry(open, LINE).injection,
            Injection::ExternalInterrupt
        );
        let _ = apic.init(&vm);
        assert_eq!(apic.prepare_entry(open, LINE).injection, Injection::None);
        // A message goes past LINT0.
        let message = ExternalInterrupt {
            line: false,
            message: true,
        };
        assert_eq!(
            apic.prepare_entry(open, message).injection,
            Injection::ExternalInterrupt
        );
    }
}

fn follow(apic: &mut Apic, vm: &VmInterrupts, effect: Effect) -> (FollowUp, Vec<Signal>) {
    let mut signals = Vec::new();
    let mut dispatcher = IpiDispatcher::default();
    let todo = apic.follow_up(effect, vm, &mut dispatcher, SENDER, |s| signals.push(s));
    (todo, signals)
}

fn open(apic: &mut Apic) -> EntryState {
    apic.prepare_entry(GuestInterruptibility::Open, ExternalInterrupt::NONE)
}

fn blocked(apic: &mut Apic) -> EntryState {
    apic.prepare_entry(GuestInterruptibility::Blocked, ExternalInterrupt::NONE)
}

#[test]
fn without_delivery_the_highest_deliverable_is_injected_when_the_guest_can() {
    for features in [SOFTWARE, SHADOW_ONLY] {
        let mut apic = apic(ApicMode::X2apic, features);
        assert_eq!(open(&mut apic).injection, Injection::None);
        apic.accept(0x41);
        apic.accept(0x81);
        assert_eq!(blocked(&mut apic).injection, Injection::OpenWindow);
        assert_eq!(open(&mut apic).injection, Injection::Vector(0x81));
        assert_eq!(apic.apic().in_service(), Some(0x81));
        assert!(!apic.another_waits(), "0x41 is below what is in service");
        assert_eq!(open(&mut apic).injection, Injection::None);
        let ended = apic.write_msr(0x80b, 0, 0).unwrap();
        assert!(matches!(ended, Effect::EndOfInterrupt { vector: 0x81, .. }));
        assert_eq!(open(&mut apic).injection, Injection::Vector(0x41));
        apic.accept(0x91);
        assert!(
            apic.another_waits(),
            "nested, so the window has to be opened"
        );
    }
}

/// SDM 30.1.4, 24.6.8: each clause of the threshold.
#[test]
fn the_tpr_threshold_is_the_class_that_the_task_priority_holds_back() {
    for (task, requested, in_service, expected) in [
        (0x00, None, None, 0),
        (0x50, Some(0x41), None, 4),
        (0x40, Some(0x41), None, 4),
        (0x3f, Some(0x41), None, 0),
        (0x50, Some(0x41), Some(0x45), 0),
        (0x50, Some(0x41), Some(0x31), 4),
        (0xf0, Some(0xff), None, 15),
    ] {
        let mut apic = apic(ApicMode::X2apic, SHADOW_ONLY);
        if let Some(vector) = in_service {
            set_vector(apic.apic.page_mut(), VectorBank::InService, vector);
        }
        if let Some(vector) = requested {
            apic.accept(vector);
        }
        let _ = apic.write_msr(0x808, task, 0).unwrap();
        let threshold = blocked(&mut apic).tpr_threshold.unwrap_or(0);
        assert_eq!(
            threshold, expected,
            "{task:#x} {requested:?} {in_service:?}"
        );
        assert!(u64::from(threshold) <= task >> 4, "the VM-entry check");
        assert_eq!(blocked(&mut apic).tpr_threshold, None, "unchanged");
    }
}

#[test]
fn a_tpr_below_threshold_exit_leads_to_the_injection() {
    let mut apic = apic(ApicMode::X2apic, SHADOW_ONLY);
    let _ = apic.write_msr(0x808, 0x50, 0).unwrap();
    apic.accept(0x41);
    assert_eq!(
        open(&mut apic),
        EntryState {
            interrupt_status: None,
            tpr_threshold: Some(4),
            end_of_interrupt_exits: None,
            injection: Injection::None,
        }
    );
    // The guest lowers VTPR on the page, by itself.
    apic.apic.page_mut().write(offset::TASK_PRIORITY, 0x30);
    assert_eq!(
        apic.exit(ApicExit::TprBelowThreshold, 0),
        Effect::PriorityChanged
    );
    let state = open(&mut apic);
    assert_eq!(
        (state.injection, state.tpr_threshold),
        (Injection::Vector(0x41), Some(0))
    );
}

#[test]
fn with_delivery_the_processor_injects_and_software_keeps_rvi_and_svi() {
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    assert_eq!(open(&mut apic).interrupt_status, Some(0), "the first entry");
    assert_eq!(open(&mut apic).interrupt_status, None, "nothing changed");
    apic.accept(0x41);
    let state = blocked(&mut apic);
    assert_eq!(
        (state.interrupt_status, state.injection),
        (Some(0x0041), Injection::None)
    );
    // The processor delivers it and takes another: on the page, without software.
    apic.apic
        .page_mut()
        .write(offset::INTERRUPT_REQUEST + 0x20, 0);
    set_vector(apic.apic.page_mut(), VectorBank::InService, 0x41);
    apic.accept(0x93);
    assert_eq!(open(&mut apic).interrupt_status, Some(0x4193));
    // Off and on again: reactivation reads the page.
    for svr in [0xff, 0x1ff] {
        let _ = apic.write_msr(0x80f, svr, 0).unwrap();
        assert!(apic.reconfigure().is_some());
    }
    assert_eq!(open(&mut apic).interrupt_status, Some(0x4193));
}

#[test]
fn posted_requests_go_into_virr_and_rvi() {
    let vm = vm(2, ApicMode::X2apic);
    let port = vm.port(0).unwrap();
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    let _ = open(&mut apic);
    assert_eq!(apic.receive(port), ReceivedEvents::default());
    assert_eq!(open(&mut apic).interrupt_status, None);
    for vector in [0x31, 0xf1, 0x80] {
        let _ = vm
            .around()
            .post_vector(port, vector, Sender { processor: 1 });
    }
    assert_eq!(apic.receive(port), ReceivedEvents::default());
    assert_eq!(apic.requested().collect::<Vec<_>>(), [0x31, 0x80, 0xf1]);
    assert_eq!(open(&mut apic).interrupt_status, Some(0x00f1));
    assert!(apic.has_deliverable());
}

#[test]
fn a_level_triggered_vector_exits_at_its_eoi_and_an_edge_takes_that_back() {
    let vm = vm(2, ApicMode::X2apic);
    let port = vm.port(0).unwrap();
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    assert_eq!(open(&mut apic).end_of_interrupt_exits, None);
    let _ = vm.around().post_level(port, 0x52, Sender { processor: 1 });
    let _ = apic.receive(port);
    let state = open(&mut apic);
    assert_eq!(state.end_of_interrupt_exits, Some([0, 1 << 0x12, 0, 0]));
    assert_eq!(state.interrupt_status, Some(0x0052));
    // Delivered, ended in hardware: VISR is clear already, the exit says which.
    let effect = apic.exit(ApicExit::VirtualizedEoi { vector: 0x52 }, 0);
    assert_eq!(
        follow(&mut apic, &vm, effect).0.end_of_interrupt,
        Some(0x52)
    );
    let _ = vm.around().post_vector(port, 0x52, Sender { processor: 1 });
    let _ = apic.receive(port);
    assert_eq!(open(&mut apic).end_of_interrupt_exits, Some([0; 4]));
    assert!(!test_vector(
        apic.apic.page(),
        VectorBank::TriggerMode,
        0x52
    ));
    let effect = apic.exit(ApicExit::VirtualizedEoi { vector: 0x52 }, 0);
    assert_eq!(follow(&mut apic, &vm, effect).0, FollowUp::NONE);
}

/// What a write of SVR, or what else `effect` is of, entails with nobody else about.
fn take_effect(apic: &mut Apic, vm: &VmInterrupts, effect: Effect) -> Withdrawal {
    let (publication, arrivals) = follow(apic, vm, effect).0.published.unwrap();
    if publication.withdrawal == Withdrawal::Vectors {
        apic.settle(vm.port(0).unwrap(), arrivals);
    }
    let _ = apic.reconfigure();
    publication.withdrawal
}

/// SDM 10.4.7.2: what was posted before, by whatever way, is received; the rest of the port is left alone.
#[test]
fn vectors_posted_before_a_transient_disable_are_held() {
    for (features, mode) in [
        (ApicFeatures::ALL, ApicMode::X2apic),
        (ApicFeatures::ALL, ApicMode::Xapic),
        (SOFTWARE, ApicMode::X2apic),
    ] {
        let vm = vm(2, mode);
        let port = vm.port(0).unwrap();
        let mut apic = apic(mode, features);
        let _ = apic.publish(&vm);
        let from = Sender { processor: 1 };
        // By the processor of another vCPU, and by software.
        let _ = port.view().post(0x41);
        let _ = vm.around().post_level(port, 0x52, from);
        let _ = vm.around().post_illegal_vector(port, 3, from);
        let _ = vm.around().post_non_maskable(port, from);
        let mut write = |svr| match mode {
            ApicMode::X2apic => apic.write_msr(0x80f, svr, 0).unwrap(),
            _ => apic.write_register(offset::SPURIOUS_VECTOR, svr as u32, 0),
        };
        let off = write(0xff);
        assert_eq!(
            take_effect(&mut apic, &vm, off),
            Withdrawal::Vectors,
            "{mode:?}"
        );
        assert!(!port.view().has_requests());
        assert_eq!(apic.requested().collect::<Vec<_>>(), [0x41, 0x52]);
        assert!(test_vector(apic.apic.page(), VectorBank::TriggerMode, 0x52));
        assert_eq!(apic.receive(port).non_maskable, 1);
        // Pending interrupts are for the processor to handle: software delivers them.
        assert!(!apic.controls().virtual_interrupt_delivery);
        assert_eq!(open(&mut apic).injection, Injection::Vector(0x52));
        // From here on it takes nothing: not from others, not from itself.
        assert_eq!(vm.ipi_virtualization().taker(0), None);
        for (shorthand, vector) in [(0, 0x61), (0x4_0000, 0x62), (0x8_0000, 0x63)] {
            let command = InterruptCommand::decode(0x4000 | shorthand | vector, 0);
            let (todo, _) = follow(&mut apic, &vm, Effect::SendInterrupt(command));
            assert_eq!(todo, FollowUp::NONE);
        }
        let _ = apic.receive(port);
        assert_eq!(apic.requested().collect::<Vec<_>>(), [0x41]);
        let on = match mode {
            ApicMode::X2apic => apic.write_msr(0x80f, 0x1ff, 0).unwrap(),
            _ => apic.write_register(offset::SPURIOUS_VECTOR, 0x1ff, 0),
        };
        assert_eq!(take_effect(&mut apic, &vm, on), Withdrawal::None);
        assert_eq!(
            apic.controls().virtual_interrupt_delivery,
            features.virtual_interrupt_delivery
        );
        let _ = vm.around().post_vector(port, 0x42, from);
        let _ = apic.receive(port);
        assert_eq!(apic.requested().collect::<Vec<_>>(), [0x41, 0x42]);
        let _ = vm.port(1).unwrap().receive();
    }
}

/// SDM 10.4.3: the registers are as after reset, and what was on its way is lost.
#[test]
fn vectors_posted_before_a_global_disable_are_lost() {
    let vm = vm(2, ApicMode::X2apic);
    let port = vm.port(0).unwrap();
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    let _ = port.view().post(0x41);
    let off = apic.write_base(0xfee0_0000).unwrap();
    assert_eq!(take_effect(&mut apic, &vm, off), Withdrawal::Vectors);
    let _ = apic.receive(port);
    assert!(!port.view().has_requests());
    assert_eq!(apic.requested().count(), 0);
}

/// SDM 30.4.3.3, A4: the value is on the page when the exit comes.
#[test]
fn apic_write_exits_find_the_value_on_the_page() {
    let vm = vm(4, ApicMode::Xapic);
    let mut apic = apic(ApicMode::Xapic, ApicFeatures::ALL);
    let page = apic.apic.page_mut();
    page.write(offset::INTERRUPT_COMMAND_HIGH, 0x0200_0000);
    page.write(offset::INTERRUPT_COMMAND, 0x0000_4400);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x300 }, 0);
    let (todo, signals) = follow(&mut apic, &vm, effect);
    assert_eq!(todo, FollowUp::NONE);
    assert_eq!(signals, [Signal::Send(vm.around().host.kick(2))]);
    assert_eq!(
        vm.port(2).unwrap().receive().events.unwrap().non_maskable,
        1
    );

    // A rewritten xAPIC ID, as the processor left it on the page.
    apic.apic.page_mut().write(offset::ID, 0x07ff_ffff);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x20 }, 0);
    let (todo, _) = follow(&mut apic, &vm, effect);
    let (publication, arrivals) = todo.published.unwrap();
    assert_eq!(
        (publication.withdrawal, arrivals),
        (Withdrawal::Vectors, Arrivals::Completed)
    );
    assert_eq!(apic.apic.page().read(offset::ID), 0x0700_0000);

    // A timer register.
    apic.apic.page_mut().write(offset::LVT_TIMER, 0x40);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x320 }, 0);
    assert!(follow(&mut apic, &vm, effect).0.timer);

    // EOI without virtual-interrupt delivery.
    set_vector(apic.apic.page_mut(), VectorBank::InService, 0x41);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0xb0 }, 0);
    assert!(matches!(
        effect,
        Effect::EndOfInterrupt { vector: 0x41, .. }
    ));

    // Into the middle of a register.
    let before = apic.apic.page().read(offset::INTERRUPT_COMMAND);
    assert_eq!(
        apic.exit(ApicExit::ApicWrite { offset: 0x301 }, 0),
        Effect::None
    );
    assert_eq!(apic.apic.page().read(offset::INTERRUPT_COMMAND), before);
}

/// B1 v6, B2: the ICR of x2APIC mode is one 64-bit register at 300H; 310H is no part of it.
#[test]
fn an_x2apic_command_is_64_bits_at_300h() {
    let vm = vm(4, ApicMode::X2apic);
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    let page = apic.apic.page_mut();
    page.write(0x300, 0x0000_4400);
    page.write(0x304, 3);
    page.write(0x310, 0x0100_0000);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x300 }, 0);
    let (_, signals) = follow(&mut apic, &vm, effect);
    assert_eq!(signals, [Signal::Send(vm.around().host.kick(3))]);
    assert_eq!(apic.read_msr(0x830, 0), Ok(0x3_0000_4400));
}

/// B5 number 1, through the exit: the processor left bit 12 set.
#[test]
fn b5_01_an_apic_write_exit_with_the_busy_bit_sends_and_reads_back_without() {
    let vm = vm(2, ApicMode::X2apic);
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    apic.apic.page_mut().write(0x300, 0x10f1);
    apic.apic.page_mut().write(0x304, 1);
    assert_eq!(apic.written_command(), 0x1_0000_00f1);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x300 }, 0);
    let (_, signals) = follow(&mut apic, &vm, effect);
    assert_eq!(signals, [Signal::Send(vm.around().host.active(1))]);
    assert_eq!(apic.apic.page().read(0x300), 0xf1);
}

/// B5 number 2: intercepted and virtualized writes fault alike.
#[test]
fn b5_02_an_intercepted_command_faults_on_reserved_bits_and_changes_nothing() {
    let mut apic = apic(ApicMode::X2apic, SOFTWARE);
    let _ = apic.write_msr(0x830, 0x1_0000_00f1, 0).unwrap();
    for bit in [13, 16, 17, 20, 31] {
        assert_eq!(
            apic.write_msr(0x830, 0xf2 | 1 << bit, 0),
            Err(GeneralProtection),
            "bit {bit}"
        );
    }
    assert_eq!(apic.read_msr(0x830, 0), Ok(0x1_0000_00f1));
    assert!(
        apic.write_msr(0x830, 0x10f1, 0).is_ok(),
        "bit 12 does not fault"
    );
}

/// B5 number 4: a write that the processor trapped on a write-only register is legitimate, and its
/// handler reads the page, not the register.
#[test]
fn b5_04_a_trapped_write_of_a_write_only_register_is_read_from_the_page() {
    let vm = vm(2, ApicMode::X2apic);
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    // 83FH with a vector below 16 exits (A5).
    apic.apic.page_mut().write(offset::SELF_IPI, 0x0f);
    let effect = apic.exit(ApicExit::ApicWrite { offset: 0x3f0 }, 0);
    let (_, signals) = follow(&mut apic, &vm, effect);
    assert!(signals.is_empty());
    assert_eq!(apic.requested().count(), 0, "no interrupt");
    let _ = apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(
        apic.read_msr(0x828, 0),
        Ok(0x60),
        "send and receive illegal vector"
    );
}

#[test]
fn the_short_way_sends_stores_and_leaves_the_rest_alone() {
    let vm = vm(2, ApicMode::X2apic);
    let mut x2 = apic(ApicMode::X2apic, SOFTWARE);
    let sent = x2.send_unicast(0x1_0000_40f1, &vm, SENDER);
    assert_eq!(sent, Some(Signal::Send(vm.around().host.active(1))));
    assert_eq!(x2.read_msr(0x830, 0), Ok(0x1_0000_40f1));
    for command in [0x1_0000_08f1, 0x1_0000_000f, 0x9_0000_00f1, 0x1_0000_20f1] {
        assert_eq!(x2.send_unicast(command, &vm, SENDER), None, "{command:#x}");
    }
    assert_eq!(x2.read_msr(0x830, 0), Ok(0x1_0000_40f1), "nothing was done");
    let mut other = apic(ApicMode::Xapic, SOFTWARE);
    assert_eq!(other.send_unicast(0x1_0000_40f1, &vm, SENDER), None);
}

#[test]
fn self_ipis_do_not_leave_the_vcpu() {
    let vm = vm(2, ApicMode::X2apic);
    let mut apic = apic(ApicMode::X2apic, SOFTWARE);
    for (msr, value, vector) in [(0x83f, 0x61, 0x61), (0x830, 0x4_0062, 0x62)] {
        let effect = apic.write_msr(msr, value, 0).unwrap();
        let (_, signals) = follow(&mut apic, &vm, effect);
        assert!(signals.is_empty());
        assert!(test_vector(
            apic.apic.page(),
            VectorBank::InterruptRequest,
            vector
        ));
    }
    assert!(!vm.port(0).unwrap().view().has_requests());
}

#[test]
fn the_mode_decides_the_controls() {
    let vm = vm(1, ApicMode::Xapic);
    let mut apic = apic(ApicMode::Xapic, ApicFeatures::ALL);
    assert!(apic.controls().apic_accesses && apic.controls().ipi_virtualization);
    let effect = apic.write_base(apic.base().value() | 1 << 10).unwrap();
    let (todo, _) = follow(&mut apic, &vm, effect);
    let (publication, _) = todo.published.unwrap();
    assert!(publication.withdrawal == Withdrawal::None && todo.timer);
    let controls = apic.reconfigure().unwrap();
    assert!(controls.x2apic_mode && !controls.apic_accesses);
    let effect = apic.write_base(0xfee0_0000).unwrap();
    let (todo, _) = follow(&mut apic, &vm, effect);
    let (publication, arrivals) = todo.published.unwrap();
    assert_eq!(
        (publication.withdrawal, arrivals),
        (Withdrawal::Vectors, Arrivals::Lost)
    );
    let controls = apic.reconfigure().unwrap();
    assert!(!controls.virtual_interrupt_delivery && !controls.posted_interrupts);
    assert!(apic.write_base(0xfee0_0400).is_err(), "EXTD without EN");
}

#[test]
fn init_forgets_what_was_requested() {
    let vm = vm(2, ApicMode::X2apic);
    let port = vm.port(0).unwrap();
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    apic.accept(0x41);
    let _ = port.view().post(0x42);
    let _ = vm.around().post_level(port, 0x52, SENDER);
    let _ = vm.around().post_start_up(port, 0x9a, SENDER);
    assert_eq!(apic.init(&vm).withdrawal, Withdrawal::Vectors);
    apic.settle(port, Arrivals::Lost);
    let events = apic.receive(port);
    assert_eq!(events.start_up, Some(0x9a), "what came after it stays");
    assert_eq!(apic.requested().count(), 0);
    assert!(apic.reconfigure().is_some());
    assert_eq!(open(&mut apic).injection, Injection::None);
    assert_eq!(
        vm.ipi_virtualization().taker(0),
        None,
        "software-disabled until it enables itself"
    );
}

#[test]
fn the_timer_fires_into_the_requests() {
    let vm = vm(1, ApicMode::X2apic);
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    let effect = apic.write_msr(0x832, 0x4_00ec, 0).unwrap();
    assert!(follow(&mut apic, &vm, effect).0.timer);
    let effect = apic.write_tsc_deadline(5000);
    assert!(follow(&mut apic, &vm, effect).0.timer);
    assert_eq!(apic.expire(4999), Some(5000));
    assert_eq!(apic.requested().count(), 0);
    assert_eq!(apic.expire(5000), None);
    assert_eq!(open(&mut apic).interrupt_status, Some(0x00ec));
}

#[test]
fn the_8259_gets_in_by_lint0() {
    for features in [SOFTWARE, ApicFeatures::ALL] {
        let mut apic = apic(ApicMode::X2apic, features);
        let entry = |apic: &mut Apic, how| apic.prepare_entry(how, LINE).injection;
        assert_eq!(
            entry(&mut apic, GuestInterruptibility::Open),
            Injection::None,
            "masked"
        );
        let _ = apic.write_msr(0x835, 0x700, 0).unwrap();
        assert_eq!(
            entry(&mut apic, GuestInterruptibility::Blocked),
            Injection::OpenWindow
        );
        assert_eq!(
            entry(&mut apic, GuestInterruptibility::Open),
            Injection::ExternalInterrupt
        );
    }
    // A disabled local APIC leaves its pin to the processor (SDM 10.4.3).
    let mut off = apic(ApicMode::Disabled, SOFTWARE);
    let state = off.prepare_entry(GuestInterruptibility::Open, LINE);
    assert_eq!(state.injection, Injection::ExternalInterrupt);
}

#[test]
fn events_are_handed_on() {
    let vm = vm(2, ApicMode::X2apic);
    let port = vm.port(0).unwrap();
    let mut apic = apic(ApicMode::X2apic, ApicFeatures::ALL);
    let from = Sender { processor: 1 };
    let _ = vm.around().post_non_maskable(port, from);
    let _ = vm.around().post_init(port, from);
    let _ = vm.around().post_start_up(port, 0x9a, from);
    let expected = ReceivedEvents {
        non_maskable: 1,
        init: true,
        start_up: Some(0x9a),
    };
    assert_eq!(apic.receive(port), expected);
    assert_eq!(apic.receive(port), ReceivedEvents::default());
}
