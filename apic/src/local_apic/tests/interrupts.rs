use super::*;
use arch::apic_register::{
    ARBITRATION_PRIORITY, END_OF_INTERRUPT, PROCESSOR_PRIORITY, TASK_PRIORITY,
};
use arch::interrupt_command::TriggerMode::{Edge, Level};

use crate::register_page::{VectorBank, set_vector};

fn end(apic: &mut LocalApic<OwnedPage>) -> Effect {
    write(apic, END_OF_INTERRUPT, 0)
}

#[test]
fn every_vector_passes_and_those_below_16_do_not() {
    let mut apic = xapic();
    for vector in 0..=255 {
        if vector < 16 {
            assert_eq!(apic.accept(vector, Edge), Acceptance::IllegalVector);
            assert_eq!(apic.deliverable(), None);
            continue;
        }
        assert_eq!(apic.accept(vector, Edge), Acceptance::Accepted);
        assert_eq!(apic.accept(vector, Edge), Acceptance::Coalesced);
        assert_eq!(apic.deliverable(), Some(vector));
        assert_eq!(apic.acknowledge(), Some(vector));
        assert_eq!(apic.in_service(), Some(vector));
        assert_eq!(apic.deliverable(), None);
        assert_eq!(apic.acknowledge(), None);
        let expected = Effect::EndOfInterrupt {
            vector,
            trigger_mode: Edge,
            broadcast: EndOfInterruptBroadcast::Withheld,
        };
        assert_eq!(end(&mut apic), expected);
        assert_eq!(apic.in_service(), None);
    }
    assert_eq!(end(&mut apic), Effect::None, "nothing in service");
}

#[test]
fn interrupts_nest_by_class() {
    let mut apic = xapic();
    apic.accept(0x41, Edge);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(read(&mut apic, PROCESSOR_PRIORITY), 0x40);
    apic.accept(0x4f, Edge);
    assert_eq!(apic.deliverable(), None, "the same class waits");
    apic.accept(0x50, Edge);
    assert_eq!(apic.acknowledge(), Some(0x50));
    assert_eq!(
        apic.page().read(PROCESSOR_PRIORITY),
        0x50,
        "kept in the page"
    );
    let _ = end(&mut apic);
    assert_eq!(apic.in_service(), Some(0x41), "the higher one ended");
    assert_eq!(apic.deliverable(), None);
    let _ = end(&mut apic);
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn task_priority_holds_back_its_class_and_below() {
    let mut apic = xapic();
    apic.accept(0x50, Edge);
    for (priority, expected) in [
        (0x00, Some(0x50)),
        (0x4f, Some(0x50)),
        (0x50, None),
        (0x51, None),
        (0xff, None),
    ] {
        assert_eq!(
            write(&mut apic, TASK_PRIORITY, priority),
            Effect::PriorityChanged
        );
        assert_eq!(apic.deliverable(), expected, "{priority:#x}");
        assert_eq!(apic.page().read(PROCESSOR_PRIORITY), priority);
    }
    assert_eq!(apic.write_cr8(4), Ok(Effect::PriorityChanged));
    assert_eq!((apic.cr8(), apic.task_priority()), (4, 0x40));
    assert_eq!(apic.deliverable(), Some(0x50));
    assert_eq!(apic.write_cr8(5), Ok(Effect::PriorityChanged));
    assert_eq!(apic.deliverable(), None);
    assert_eq!(apic.write_cr8(16), Err(GeneralProtection));
    assert_eq!(apic.spurious_vector(), 0xff);
}

#[test]
fn arbitration_priority_follows_the_formula() {
    for (task, in_service, requested, expected) in [
        (0x53, None, None, 0x53),
        (0x53, None, Some(0x41), 0x53),
        (0x53, None, Some(0x61), 0x60),
        (0x30, Some(0x61), Some(0x41), 0x40),
        (0x60, Some(0x61), Some(0x41), 0x60),
    ] {
        let mut apic = xapic();
        if let Some(vector) = in_service {
            apic.accept(vector, Edge);
            assert_eq!(apic.acknowledge(), Some(vector));
        }
        if let Some(vector) = requested {
            apic.accept(vector, Edge);
        }
        let _ = write(&mut apic, TASK_PRIORITY, task);
        assert_eq!(read(&mut apic, ARBITRATION_PRIORITY), expected);
    }
}

#[test]
fn level_triggered_ends_are_broadcast_unless_suppressed() {
    for (spurious, broadcast) in [
        (0x1ff, EndOfInterruptBroadcast::Sent),
        (0x11ff, EndOfInterruptBroadcast::Withheld),
    ] {
        let mut apic = xapic();
        let _ = write(&mut apic, SPURIOUS_VECTOR, spurious);
        apic.accept(0x61, Level);
        assert_eq!(apic.acknowledge(), Some(0x61));
        let expected = Effect::EndOfInterrupt {
            vector: 0x61,
            trigger_mode: Level,
            broadcast,
        };
        assert_eq!(apic.ended(0x61), expected, "as for a virtualized EOI");
        assert_eq!(end(&mut apic), expected);
        // The same vector again, edge-triggered: TMR follows.
        apic.accept(0x61, Edge);
        assert_eq!(apic.acknowledge(), Some(0x61));
        assert!(matches!(
            end(&mut apic),
            Effect::EndOfInterrupt {
                trigger_mode: Edge,
                broadcast: EndOfInterruptBroadcast::Withheld,
                ..
            }
        ));
    }
}

#[test]
fn software_disabled_takes_nothing_new_and_masks_its_table() {
    let mut apic = reset(3);
    assert_eq!(apic.accept(0x61, Edge), Acceptance::Ignored);
    assert_eq!(
        write(&mut apic, LVT_LINT1, 0x400),
        Effect::LocalVectorTableChanged
    );
    assert_eq!(
        read(&mut apic, LVT_LINT1),
        0x1_0400,
        "the mask cannot be cleared"
    );
    let mut apic = xapic();
    apic.accept(0x61, Edge);
    let _ = write(&mut apic, LVT_LINT1, 0x400);
    assert_eq!(apic.signal(LocalVector::Lint1), LocalInterrupt::NonMaskable);
    let _ = write(&mut apic, SPURIOUS_VECTOR, 0xff);
    assert_eq!(apic.signal(LocalVector::Lint1), LocalInterrupt::Masked);
    assert_eq!(apic.deliverable(), Some(0x61), "what is pending stays");
    let _ = write(&mut apic, SPURIOUS_VECTOR, 0x1ff);
    assert_eq!(read(&mut apic, LVT_LINT1), 0x1_0400, "still masked");
}

#[test]
fn local_sources_deliver_by_their_entries() {
    for (mode, expected) in [
        (0, LocalInterrupt::Fixed(Acceptance::Accepted)),
        (1, LocalInterrupt::Masked),
        (2, LocalInterrupt::SystemManagement),
        (3, LocalInterrupt::Masked),
        (4, LocalInterrupt::NonMaskable),
        (5, LocalInterrupt::Init),
        (6, LocalInterrupt::Masked),
        (7, LocalInterrupt::ExternalInterrupt),
    ] {
        for source in [LocalVector::Thermal, LocalVector::Lint1] {
            let mut apic = xapic();
            let _ = write(&mut apic, source.offset(), 0x41 | mode << 8);
            assert_eq!(apic.signal(source), expected, "mode {mode}");
            let _ = write(&mut apic, source.offset(), 0x1_0041 | mode << 8);
            assert_eq!(apic.signal(source), LocalInterrupt::Masked);
        }
    }
    let mut apic = xapic();
    let _ = write(&mut apic, LVT_PERFORMANCE, 0x400);
    assert_eq!(
        apic.signal(LocalVector::Performance),
        LocalInterrupt::NonMaskable
    );
    assert_eq!(read(&mut apic, LVT_PERFORMANCE), 0x1_0400, "masks itself");
    let _ = write(&mut apic, LVT_THERMAL, 0x0f);
    let illegal = LocalInterrupt::Fixed(Acceptance::IllegalVector);
    assert_eq!(apic.signal(LocalVector::Thermal), illegal);
}

#[test]
fn level_triggered_lint0_holds_remote_request_until_its_end() {
    let mut apic = xapic();
    let _ = write(&mut apic, LVT_LINT0, 0x8041);
    let accepted = LocalInterrupt::Fixed(Acceptance::Accepted);
    assert_eq!(apic.signal(LocalVector::Lint0), accepted);
    assert_eq!(read(&mut apic, LVT_LINT0), 0xc041);
    // A write with the bit clear does not clear it.
    let _ = write(&mut apic, LVT_LINT0, 0x8041);
    assert_eq!(read(&mut apic, LVT_LINT0), 0xc041);
    assert_eq!(apic.acknowledge(), Some(0x41));
    let coalesced = LocalInterrupt::Fixed(Acceptance::Coalesced);
    assert_eq!(apic.signal(LocalVector::Lint0), coalesced);
    assert_eq!(apic.acknowledge(), None);
    assert!(matches!(
        end(&mut apic),
        Effect::EndOfInterrupt {
            trigger_mode: Level,
            ..
        }
    ));
    assert_eq!(read(&mut apic, LVT_LINT0), 0x8041);
    assert_eq!(apic.signal(LocalVector::Lint0), accepted);
}

#[test]
fn the_8259_passes_lint0_or_a_disabled_apic() {
    let mut apic = xapic();
    assert!(!apic.passes_external_interrupts());
    let _ = write(&mut apic, LVT_LINT0, 0x700);
    assert!(apic.passes_external_interrupts());
    let _ = write(&mut apic, LVT_LINT0, 0x1_0700);
    assert!(!apic.passes_external_interrupts());
    let _ = write(&mut apic, LVT_LINT0, 0x41);
    assert!(!apic.passes_external_interrupts());
    assert!(apic.write_base(PAGE).is_ok());
    assert!(apic.passes_external_interrupts());
}

/// A page that the processor changes too.
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

#[test]
fn requests_put_into_the_page_by_others_are_seen() {
    let mut shared = LocalApic::with_page(SharedPage::default(), configuration(0));
    set_vector(&mut shared.page, VectorBank::InterruptRequest, 0x41);
    assert_eq!(shared.deliverable(), Some(0x41));
    let mut own = xapic();
    set_vector(own.page_mut(), VectorBank::InterruptRequest, 0x41);
    assert_eq!(own.deliverable(), Some(0x41));
}

/// On an APIC-write VM exit the page holds the new value before the write is made.
#[test]
fn writes_already_on_the_page_act_the_same() {
    for (offset, value) in [
        (LVT_TIMER, 0x2_0041),
        (LVT_TIMER, 0x4_0041),
        (0x3e0, 0xb),
        (0x380, 7),
        (LVT_LINT0, 0x8041),
        (SPURIOUS_VECTOR, 0xff),
        (ID, 0x0500_0000),
        (0x280, 0xffff_ffff),
    ] {
        let mut fresh = xapic();
        let _ = write(&mut fresh, LVT_LINT0, 0x8041);
        let _ = fresh.signal(LocalVector::Lint0);
        let _ = write(&mut fresh, 0x380, 1000);
        let mut early = fresh.clone();
        early.page_mut().write(offset, value);
        let effects = [&mut fresh, &mut early].map(|apic| apic.write_register(offset, value, 50));
        assert_eq!(effects[0], effects[1], "{offset:#x}");
        for register in (0..0x400).step_by(4) {
            let values = [&fresh, &early].map(|apic| apic.page().read(register));
            assert_eq!(values[0], values[1], "{offset:#x}: register {register:#x}");
        }
        assert_eq!(
            fresh.timer_deadline(),
            early.timer_deadline(),
            "{offset:#x}"
        );
    }
}
