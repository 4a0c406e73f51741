//! Which events end which activity state of a guest, and how (SDM 25.2 Other causes of VM exits, 25.5.1, 25.5.2,
//! 26.7.2 to 26.7.8, 27.1, 30.2.2): a table with a cell for each.
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

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The guest is left, and its activity state saved as it was.
    Exits(R),
    /// The guest's handler of this vector is entered.
    Delivered(u8),
    /// It waits, or is lost.
    Nothing,
}

use Outcome::{Delivered, Exits, Nothing};

const STATES: [Activity; 4] = [
    Activity::Active,
    Activity::Halted,
    Activity::Shutdown,
    Activity::WaitForStartUp,
];

struct Event {
    name: &'static str,
    prepare: fn(&mut Guest),
    /// What comes from outside once the guest has been entered.
    arrives: fn(&mut Guest),
    /// By state, in the order of [`STATES`].
    outcomes: [Outcome; 4],
}

fn nothing(_: &mut Guest) {}

fn nmi(guest: &mut Guest) {
    guest.cpu().platform.inboxes[0].mailbox.post_non_maskable();
}

fn interrupt(guest: &mut Guest) {
    let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
    mailbox.post_vector(0x51, arch::interrupt_command::TriggerMode::Edge);
}

fn init(guest: &mut Guest) {
    guest.cpu().platform.inboxes[0].mailbox.post_init();
}

fn start_up(guest: &mut Guest) {
    guest.cpu().platform.inboxes[0].mailbox.post_start_up(8);
}

fn without_nmi_exiting(guest: &mut Guest) {
    let controls = guest.get(vmcs::PIN_BASED_CONTROLS);
    guest.set(vmcs::PIN_BASED_CONTROLS, controls & !pin::NMI_EXITING);
}

fn threshold(guest: &mut Guest) {
    guest.add_primary(primary::USE_TPR_SHADOW);
    guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
    guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    guest.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
    guest.set(vmcs::TPR_THRESHOLD, 4);
    guest.set_virtual_apic(0x80, 0x30);
}

fn virtual_interrupt(guest: &mut Guest) {
    guest.with_apic_virtualization();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x61);
    guest.set_virtual_apic(0x230, 2);
}

fn events() -> Vec<Event> {
    let everywhere_but = |outcome| [outcome, outcome, outcome, Nothing];
    let active_and_halted = |outcome| [outcome, outcome, Nothing, Nothing];
    vec![
        Event {
            name: "INIT",
            prepare: nothing,
            arrives: init,
            outcomes: everywhere_but(Exits(R::InitSignal)),
        },
        Event {
            name: "start-up IPI",
            prepare: nothing,
            arrives: start_up,
            outcomes: [Nothing, Nothing, Nothing, Exits(R::StartUpIpi)],
        },
        Event {
            name: "NMI with NMI exiting",
            prepare: nothing,
            arrives: nmi,
            outcomes: everywhere_but(Exits(R::ExceptionOrNmi)),
        },
        Event {
            name: "NMI",
            prepare: without_nmi_exiting,
            arrives: nmi,
            outcomes: everywhere_but(Delivered(2)),
        },
        Event {
            name: "external interrupt with external-interrupt exiting",
            prepare: |guest| {
                guest.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
            },
            arrives: interrupt,
            outcomes: active_and_halted(Exits(R::ExternalInterrupt)),
        },
        Event {
            name: "external interrupt",
            prepare: nothing,
            arrives: interrupt,
            outcomes: active_and_halted(Delivered(0x51)),
        },
        Event {
            name: "posted interrupt",
            prepare: |guest| {
                guest.with_apic_virtualization().with_posted_interrupts();
                guest.ram().store(DESCRIPTORS + 12, 2_u8);
            },
            arrives: |guest| {
                let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
                mailbox.post_vector(0xe0, arch::interrupt_command::TriggerMode::Edge);
            },
            outcomes: active_and_halted(Delivered(0x61)),
        },
        Event {
            name: "virtual interrupt",
            prepare: virtual_interrupt,
            arrives: nothing,
            outcomes: active_and_halted(Delivered(0x61)),
        },
        Event {
            name: "interrupt window",
            prepare: |guest| {
                guest.add_primary(primary::INTERRUPT_WINDOW_EXITING);
            },
            arrives: nothing,
            outcomes: active_and_halted(Exits(R::InterruptWindow)),
        },
        Event {
            name: "NMI window",
            prepare: |guest| {
                guest.add_pin(pin::VIRTUAL_NMIS);
                guest.add_primary(primary::NMI_WINDOW_EXITING);
            },
            arrives: nothing,
            outcomes: everywhere_but(Exits(R::NmiWindow)),
        },
        Event {
            name: "preemption timer",
            prepare: |guest| {
                guest.add_pin(pin::PREEMPTION_TIMER);
            },
            arrives: nothing,
            outcomes: everywhere_but(Exits(R::PreemptionTimer)),
        },
        Event {
            name: "TPR threshold",
            prepare: threshold,
            arrives: nothing,
            outcomes: active_and_halted(Exits(R::TprBelowThreshold)),
        },
        Event {
            name: "pending debug exception",
            prepare: |guest| {
                // Without the enabled-breakpoint bit it is none; BS would need TF in the HLT state.
                guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 12 | 1);
            },
            arrives: nothing,
            outcomes: active_and_halted(Delivered(1)),
        },
    ]
}

fn entered(event: &Event, state: usize) -> Guest {
    let mut guest = Guest::new(&[0x90; 16]);
    guest.with_interrupts_enabled();
    guest.set(vmcs::GUEST_ACTIVITY_STATE, state as u32);
    (event.prepare)(&mut guest);
    guest.launch(1);
    (event.arrives)(&mut guest);
    guest.cpu().look_at_events();
    // No further instruction: whatever is due comes before it.
    guest.run(0);
    guest.cpu().process_events();
    guest
}

#[test]
fn each_event_in_each_activity_state() {
    let mut wrong = Vec::new();
    for event in events() {
        for (state, outcome) in event.outcomes.into_iter().enumerate() {
            let mut guest = entered(&event, state);
            let inside = guest.cpu().vmx.non_root;
            let activity = guest.cpu().activity;
            let found = match outcome {
                Exits(reason) => {
                    !inside
                        && guest.get(vmcs::EXIT_REASON) == reason as u32
                        && guest.get(vmcs::GUEST_ACTIVITY_STATE) == state as u32
                        && activity == Activity::Active
                }
                Delivered(vector) => {
                    inside && guest.handler() == Some(vector) && activity == Activity::Active
                }
                Nothing => inside && guest.handler().is_none() && activity == STATES[state],
            };
            if !found {
                let reason = R::from_number(guest.get(vmcs::EXIT_REASON) as u16);
                wrong.push((event.name, STATES[state], outcome, inside, activity, reason));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// SDM 26.7.2: a start-up IPI is discarded, not kept, in the other states; what the wait-for-SIPI state and the
// shutdown state block is kept until they end.
#[test]
fn what_is_blocked_stays_pending_and_what_is_discarded_does_not() {
    let mut guest = Guest::new(&[0x90; 16]);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 1);
    guest.launch(1);
    start_up(&mut guest);
    guest.go_on(1);
    guest.expect_no_exit();
    assert_eq!(guest.cpu().start_up_pending, None);
    let mut guest = Guest::new(&[0x90; 16]);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 3);
    guest.launch(1);
    nmi(&mut guest);
    init(&mut guest);
    guest.go_on(1);
    guest.expect_no_exit();
    assert!(guest.cpu().init_pending && guest.cpu().nmi_pending.is_pending());
    start_up(&mut guest);
    guest.go_on(1);
    assert_eq!(guest.expect_exit(R::StartUpIpi), 8);
    assert!(guest.cpu().init_pending);
}

// SDM 26.7.2: an injected vectored event ends the state that the field says, whatever becomes of it; a pending
// MTF VM exit does not.
#[test]
fn an_injected_event_makes_the_guest_active() {
    for (information, state) in [(0x8000_0050_u32, 1), (0x8000_0202, 1), (0x8000_0202, 2)] {
        let mut guest = Guest::new(&[0x90; 4]);
        guest.with_interrupts_enabled();
        guest.set(vmcs::GUEST_ACTIVITY_STATE, state);
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.launch(1);
        guest.expect_no_exit();
        assert_eq!(guest.handler(), Some(information as u8));
        assert_eq!(guest.cpu().activity, Activity::Active);
        // Its delivery fails, and an exit follows.
        let mut guest = Guest::new(&[0x90; 4]);
        guest.with_interrupts_enabled();
        guest.set(vmcs::GUEST_ACTIVITY_STATE, state);
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.set(vmcs::GUEST_IDTR_LIMIT, 0);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.launch(1);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0);
    }
    let mut guest = Guest::new(&[0x90; 4]);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 1);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
    guest.launch(1);
    guest.go_on(1);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 1);
}

// SDM 26.7.7: a threshold exit follows an injected event, whose delivery has ended the shutdown state.
#[test]
fn a_threshold_exit_follows_an_injected_event() {
    let mut guest = Guest::new(&[0x90; 4]);
    threshold(&mut guest);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 2);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202);
    guest.launch(2);
    guest.expect_exit(R::TprBelowThreshold);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_HANDLERS + 0x20);
}
