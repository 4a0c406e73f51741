//! Every interleaving of each step of the lock-free protocols.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p posthaste-apic --release --test loom`
#![cfg(loom)]

use arch::interrupt_command::TriggerMode;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use posthaste_apic::mailbox::{InterruptMailbox, Taken};
use posthaste_apic::pid_pointer_table::{ApicIdSpace, PidPointerTable, Refusal};
use posthaste_apic::posted_interrupt::{Notification, PendingWork, PostedInterruptDescriptor};

const ACTIVE: Notification = Notification {
    vector: 0xf2,
    destination: 0x0100,
};
const ELSEWHERE: Notification = Notification {
    vector: 0xf2,
    destination: 0x0200,
};
const WAKEUP: Notification = Notification {
    vector: 0xf1,
    destination: 0x0100,
};
/// Two vectors in different words of PIR.
const LOW: u8 = 0x31;
const HIGH: u8 = 0xe1;

fn has(bits: [u64; 4], vector: u8) -> bool {
    bits[usize::from(vector / 64)] >> (vector % 64) & 1 != 0
}

fn union(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|index| a[index] | b[index])
}

fn loaded() -> Arc<PostedInterruptDescriptor> {
    let descriptor = Arc::new(PostedInterruptDescriptor::new());
    assert_eq!(descriptor.view().load(ACTIVE), PendingWork::None);
    descriptor
}

fn poster(
    descriptor: &Arc<PostedInterruptDescriptor>,
    vector: u8,
) -> thread::JoinHandle<Option<Notification>> {
    let descriptor = Arc::clone(descriptor);
    thread::spawn(move || descriptor.view().post(vector))
}

/// Two senders and a receiver that receives for some other reason meanwhile: after the
/// notifications that were sent have been taken, both requests have arrived.
#[test]
fn posts_against_receive() {
    loom::model(|| {
        let descriptor = loaded();
        let senders = [poster(&descriptor, LOW), poster(&descriptor, HIGH)];
        let mut received = descriptor.view().receive();
        let notified = senders.map(|sender| sender.join().unwrap());
        assert!(
            notified.iter().any(Option::is_some),
            "ON was clear: someone notifies"
        );
        assert!(notified.iter().flatten().all(|sent| *sent == ACTIVE));
        // The last notification is taken after every post.
        received = union(received, descriptor.view().receive());
        assert!(has(received, LOW) && has(received, HIGH));
        assert!(!descriptor.view().is_pending());
    });
}

/// A request that is left behind when the receiver is done has a notification of its own: the
/// receiver need not look again unasked.
#[test]
fn what_is_not_received_notifies() {
    loom::model(|| {
        let descriptor = loaded();
        assert_eq!(descriptor.view().post(LOW), Some(ACTIVE));
        let sender = poster(&descriptor, HIGH);
        let received = descriptor.view().receive();
        let notified = sender.join().unwrap();
        assert!(has(received, LOW));
        assert!(has(received, HIGH) || notified == Some(ACTIVE));
        if !has(received, HIGH) {
            assert!(descriptor.view().is_pending());
        }
    });
}

/// The virtual CPU is preempted and loaded elsewhere: a notification to the old processor does not
/// count, and still nothing is lost.
#[test]
fn post_against_preempt_and_load() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        let view = descriptor.view();
        view.preempt();
        let mut received = [0; 4];
        if view.load(ELSEWHERE) == PendingWork::Outstanding {
            received = view.receive();
        }
        let notified = sender.join().unwrap();
        if notified == Some(ELSEWHERE) {
            received = union(received, view.receive());
        }
        assert!(has(received, LOW), "{notified:?}");
    });
}

/// While it is preempted the scheduler sees that there is work as soon as the post is complete.
#[test]
fn post_against_preempt_is_pending() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        descriptor.view().preempt();
        let _ = sender.join().unwrap();
        assert!(descriptor.view().is_pending());
    });
}

/// The virtual CPU goes to sleep: either it is told, or the sender sends the wakeup vector.
#[test]
fn post_against_block() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        let view = descriptor.view();
        // HLT exit: synchronize, find nothing, sleep.
        if has(view.receive(), LOW) {
            let _ = sender.join().unwrap();
            return;
        }
        let told = view.block(WAKEUP) == PendingWork::Outstanding;
        let notified = sender.join().unwrap();
        assert!(told || notified == Some(WAKEUP), "{notified:?}");
    });
}

/// A notification whose request was received before it is stale, and would keep the next post from
/// notifying: blocking reports it.
#[test]
fn stale_notification_against_block() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = {
            let descriptor = Arc::clone(&descriptor);
            thread::spawn(move || [LOW, HIGH].map(|vector| descriptor.view().post(vector)))
        };
        let view = descriptor.view();
        let received = view.receive();
        let told = view.block(WAKEUP) == PendingWork::Outstanding;
        let notified = sender.join().unwrap();
        assert!(
            has(received, HIGH) || told || notified.contains(&Some(WAKEUP)),
            "{notified:?}"
        );
    });
}

/// The same with a preemption between the decision to sleep and sleeping (prior-art B6 d).
#[test]
fn post_against_preempt_and_block() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        let view = descriptor.view();
        view.preempt();
        let told = view.block(WAKEUP) == PendingWork::Outstanding;
        let notified = sender.join().unwrap();
        assert!(told || notified == Some(WAKEUP), "{notified:?}");
    });
}

/// A sleeper is woken and loaded elsewhere while a second sender posts.
#[test]
fn post_against_wake_and_load() {
    loom::model(|| {
        let descriptor = loaded();
        let view = descriptor.view();
        assert_eq!(view.block(WAKEUP), PendingWork::None);
        let sender = poster(&descriptor, LOW);
        view.wake(ELSEWHERE.vector);
        let mut received = [0; 4];
        if view.load(ELSEWHERE) == PendingWork::Outstanding {
            received = view.receive();
        }
        let notified = sender.join().unwrap();
        if notified == Some(ELSEWHERE) {
            received = union(received, view.receive());
        }
        assert!(has(received, LOW), "{notified:?}");
    });
}

/// The destination changes under a sender: one of the two notifies the new processor.
#[test]
fn post_against_migrate() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        let repeated = descriptor.view().migrate(ELSEWHERE.destination) == PendingWork::Outstanding;
        let notified = sender.join().unwrap();
        assert!(repeated || notified == Some(ELSEWHERE), "{notified:?}");
        assert!(notified == Some(ACTIVE) || notified == Some(ELSEWHERE));
    });
}

/// Two senders and a change of the control word: no update is lost.
#[test]
fn control_word_updates_do_not_overwrite_each_other() {
    loom::model(|| {
        let descriptor = loaded();
        let sender = poster(&descriptor, LOW);
        let mover = {
            let descriptor = Arc::clone(&descriptor);
            thread::spawn(move || descriptor.view().migrate(ELSEWHERE.destination))
        };
        descriptor.view().preempt();
        let _ = mover.join().unwrap();
        let notified = sender.join().unwrap();
        let control = descriptor.view().control();
        assert!(control.suppress_notification());
        assert_eq!(control.notification_destination(), ELSEWHERE.destination);
        assert_eq!(control.notification_vector(), ACTIVE.vector);
        assert_eq!(control.outstanding_notification(), notified.is_some());
    });
}

/// An entry is published, replaced and withdrawn while a sender looks it up: it sees a whole entry
/// or none, and with it the descriptor that was initialized before.
#[test]
fn table_entry_against_look_up() {
    loom::model(|| {
        let memory = Arc::new(([AtomicU64::new(0), AtomicU64::new(0)], AtomicU64::new(0)));
        let owner = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let (entries, initialized) = &*memory;
                let table = PidPointerTable::new(entries, ApicIdSpace::X2apic, 39).unwrap();
                initialized.store(1, Ordering::Relaxed);
                table.set(1, 0x1_2345_6740).unwrap();
                initialized.store(2, Ordering::Relaxed);
                table.set(1, 0x2_0000_0080).unwrap();
                table.invalidate(1).unwrap();
            })
        };
        let (entries, initialized) = &*memory;
        let table = PidPointerTable::new(entries, ApicIdSpace::X2apic, 39).unwrap();
        match table.look_up(0x41, 1) {
            Ok(0x1_2345_6740) => assert!(initialized.load(Ordering::Relaxed) >= 1),
            Ok(0x2_0000_0080) => assert_eq!(initialized.load(Ordering::Relaxed), 2),
            other => assert_eq!(other, Err(Refusal::UnusableEntry { entry: 0 })),
        }
        owner.join().unwrap();
    });
}

/// Two senders and the owner: everything is taken exactly once, and whatever the first take missed
/// has raised attention.
#[test]
fn mailbox_posts_against_take() {
    loom::model(|| {
        let mailbox = Arc::new(InterruptMailbox::new());
        let first = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.post_vector(LOW, TriggerMode::Edge))
        };
        let second = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                mailbox.post_non_maskable();
            })
        };
        let early = mailbox.take();
        let _ = first.join().unwrap();
        second.join().unwrap();
        let late = if mailbox.attention() {
            mailbox.take()
        } else {
            Taken::default()
        };
        assert!(has(early.edge, LOW) ^ has(late.edge, LOW));
        assert_eq!(early.non_maskable + late.non_maskable, 1);
        assert_eq!(mailbox.take(), Taken::default());
    });
}

/// A sender's INIT is never taken after its start-up IPI, and neither is lost.
#[test]
fn mailbox_keeps_init_before_start_up() {
    loom::model(|| {
        let mailbox = Arc::new(InterruptMailbox::new());
        let sender = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                mailbox.post_init();
                mailbox.post_start_up(0x9a);
            })
        };
        let early = mailbox.take();
        sender.join().unwrap();
        let late = mailbox.take();
        assert!(early.init ^ late.init);
        assert!(early.start_up.is_some() ^ late.start_up.is_some());
        assert!(early.start_up.is_none() || early.init);
    });
}

/// The level of the external-interrupt line survives a take that races with it.
#[test]
fn mailbox_line_against_take() {
    loom::model(|| {
        let mailbox = Arc::new(InterruptMailbox::new());
        let device = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                mailbox.set_external_line(true);
            })
        };
        mailbox.post_system_management();
        let early = mailbox.take();
        device.join().unwrap();
        assert!(early.system_management);
        assert!(mailbox.external_interrupt().line);
    });
}
