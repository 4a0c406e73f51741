//! Every interleaving of a vCPU's life with those who send to it.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p posthaste-hypervisor --release --lib model_checked`
//!
//! The descriptor's own steps are checked in `apic`; here is what is built on them: the vCPU's state,
//! the wakeup lists and the rendezvous. A physical interrupt is a flag that its processor looks at when it
//! unmasks interrupts, that is, after it has let go of a vCPU or before it would enter.

use apic::{
    apic_base::ApicMode, pid_pointer_table::ApicIdSpace, posted_interrupt::Notification,
    routing::Identity,
};
use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    blocking::{SleepOutcome, WakeOn, WakeOutcome, handle_wakeup_vector},
    ipi_dispatch::dispatch_unicast,
    physical_interrupts::{PhysicalInterrupts, VECTORS},
    posting::{Sender, Signal, Surroundings},
    rendezvous::Rendezvous,
    vcpu_port::{VcpuPort, VcpuState},
    vm_interrupts::{VmInterrupts, Withdrawal},
    wakeup_list::WakeupLists,
};

const VECTOR: u8 = 0x41;
const HOME: u32 = 0;
const SENDER: Sender = Sender { processor: 1 };

/// One vCPU, its surroundings, and the processors' pending interrupts.
struct World {
    around: Surroundings,
    port: VcpuPort,
    /// The wakeup vector is pending at processor 0.
    wakeup: AtomicBool,
    /// Any other interrupt is pending at processor 0.
    other: AtomicBool,
    /// How often somebody was told to queue the vCPU.
    queued: AtomicUsize,
}

impl World {
    /// The vCPU runs on processor 0.
    fn new() -> Arc<Self> {
        let world = Self {
            around: Surroundings {
                host: PhysicalInterrupts::new(VECTORS, Box::new([0x000, 0x100])),
                lists: WakeupLists::new(2, 1),
            },
            port: VcpuPort::new(0),
            wakeup: AtomicBool::new(false),
            other: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
        };
        assert_eq!(world.port.start(), WakeOutcome::Queue);
        let _ = world.port.load(HOME, &world.around.host);
        Arc::new(world)
    }

    fn act(&self, signal: Signal) {
        match signal {
            Signal::None => {}
            Signal::Send(Notification { vector, .. }) => {
                let flag = if vector == VECTORS.wakeup {
                    &self.wakeup
                } else {
                    &self.other
                };
                flag.store(true, Ordering::SeqCst);
            }
            Signal::Queue(0) => {
                self.queued.fetch_add(1, Ordering::SeqCst);
            }
            Signal::Queue(slot) => panic!("no such vcpu {slot}"),
        }
    }

    fn block(&self, wake_on: WakeOn) -> SleepOutcome {
        self.port
            .block(HOME, wake_on, &self.around.lists, &self.around.host)
    }

    /// Processor 0 is idle with interrupts unmasked, everything sent has arrived.
    fn idle(&self) {
        if self.wakeup.load(Ordering::SeqCst) {
            let port_of = |slot| (slot == 0).then_some(&self.port);
            handle_wakeup_vector(HOME, &self.around.lists, &self.around.host, port_of, |_| {
                self.queued.fetch_add(1, Ordering::SeqCst);
            });
        }
    }

    fn queued(&self) -> usize {
        self.queued.load(Ordering::SeqCst)
    }

    /// The vCPU was queued once and is loaded on another processor; it receives there.
    fn load_elsewhere(&self) -> super::posting::Received {
        assert_eq!(self.queued(), 1, "queued exactly once");
        assert_eq!(self.port.state(), VcpuState::Ready);
        assert_eq!(self.around.lists.slots(HOME).count(), 0, "off the list");
        let _ = self.port.load(1, &self.around.host);
        self.port.receive()
    }
}

fn has(requests: [u64; 4]) -> bool {
    requests[1] & 1 << 1 != 0
}

/// A post, by hardware or software, against HLT: the vCPU stays awake or is woken, and receives.
#[test]
fn post_against_block() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.act(world.around.post_vector(&world.port, VECTOR, SENDER)))
        };
        match world.block(WakeOn::Interrupts) {
            SleepOutcome::Resume => {
                let received = world.port.receive();
                sender.join().unwrap();
                // Not yet, then the notification is there and the entry ends at once.
                let notified = world.other.load(Ordering::SeqCst);
                assert!(has(received.requests) || notified && has(world.port.receive().requests));
                assert_eq!(world.queued(), 0);
            }
            SleepOutcome::Asleep => {
                sender.join().unwrap();
                world.idle();
                assert!(has(world.load_elsewhere().requests));
            }
        }
    });
}

/// The same with the receive that precedes every HLT, so that ON goes up and down.
#[test]
fn two_posts_against_receive_and_block() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.act(world.around.post_vector(&world.port, VECTOR, SENDER));
                world.act(world.around.post_vector(&world.port, 0x81, SENDER));
            })
        };
        let mut all = world.port.receive().requests;
        let outcome = world.block(WakeOn::Interrupts);
        sender.join().unwrap();
        world.idle();
        let rest = match outcome {
            SleepOutcome::Resume => {
                assert_eq!(world.queued(), 0);
                world.port.receive().requests
            }
            SleepOutcome::Asleep if world.queued() == 0 => {
                // Only if both had come before: then nothing is outstanding.
                assert!(!world.port.view().has_requests());
                [0; 4]
            }
            SleepOutcome::Asleep => world.load_elsewhere().requests,
        };
        for (word, more) in all.iter_mut().zip(rest) {
            *word |= more;
        }
        assert!(has(all) && all[2] & 1 << 1 != 0, "{all:x?}");
    });
}

/// An event against HLT with interrupts disabled.
#[test]
fn event_against_block() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.act(world.around.post_non_maskable(&world.port, SENDER));
            })
        };
        let outcome = world.block(WakeOn::EventsOnly);
        sender.join().unwrap();
        let received = match outcome {
            SleepOutcome::Resume => {
                assert_eq!(world.queued(), 0);
                world.port.receive()
            }
            SleepOutcome::Asleep => world.load_elsewhere(),
        };
        assert!(
            received
                .events
                .is_some_and(|events| events.non_maskable == 1)
        );
    });
}

/// INIT's aftermath: the start-up IPI against the vCPU that begins to wait for it.
#[test]
fn start_up_against_wait_for_it() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.act(world.around.post_start_up(&world.port, 0x9a, SENDER));
            })
        };
        let outcome = world.port.wait_for_sipi(HOME, &world.around.host);
        sender.join().unwrap();
        let received = match outcome {
            SleepOutcome::Resume => {
                assert_eq!(world.queued(), 0);
                world.port.receive()
            }
            SleepOutcome::Asleep => world.load_elsewhere(),
        };
        assert_eq!(
            received.events.and_then(|events| events.start_up),
            Some(0x9a)
        );
    });
}

/// Two wakers of a sleeping vCPU: one queues it, neither event is lost.
#[test]
fn two_wakers() {
    loom::model(|| {
        let world = World::new();
        assert_eq!(world.block(WakeOn::Interrupts), SleepOutcome::Asleep);
        let wakers: Vec<_> = [true, false]
            .into_iter()
            .map(|non_maskable| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    let signal = if non_maskable {
                        world.around.post_non_maskable(&world.port, SENDER)
                    } else {
                        world.around.post_init(&world.port, SENDER)
                    };
                    world.act(signal);
                })
            })
            .collect();
        for waker in wakers {
            waker.join().unwrap();
        }
        let events = world.load_elsewhere().events.unwrap();
        assert!(events.non_maskable == 1 && events.init);
    });
}

/// The wakeup handler and an event wake the same vCPU; it is loaded elsewhere by whoever may.
#[test]
fn wakeup_vector_against_event() {
    loom::model(|| {
        let world = World::new();
        assert_eq!(world.block(WakeOn::Interrupts), SleepOutcome::Asleep);
        world.act(world.around.post_vector(&world.port, VECTOR, SENDER));
        assert!(world.wakeup.load(Ordering::SeqCst));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.act(world.around.post_non_maskable(&world.port, SENDER));
            })
        };
        world.idle();
        other.join().unwrap();
        let received = world.load_elsewhere();
        assert!(has(received.requests));
        assert!(
            received
                .events
                .is_some_and(|events| events.non_maskable == 1)
        );
    });
}

/// Preempted on one processor, loaded on another, while somebody posts: received, or notified where
/// the vCPU is now.
#[test]
fn post_against_migration() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                matches!(
                    world
                        .around
                        .post_vector(&world.port, VECTOR, Sender { processor: 7 }),
                    Signal::Send(_)
                )
            })
        };
        world.port.preempt();
        let _ = world.port.load(1, &world.around.host);
        let received = world.port.receive();
        let notified = sender.join().unwrap();
        if !has(received.requests) {
            // Sent to the new processor, whose next instruction boundary receives.
            assert!(notified);
            let control = world.port.view().control();
            assert!(control.outstanding_notification());
            assert_eq!(control.notification_destination(), 0x100);
            assert!(has(world.port.receive().requests));
        }
    });
}

/// B6: notifications are suppressed while the processor is in root mode; a post that finds them
/// suppressed is received before the entry, a later one notifies.
#[test]
fn post_against_suppression_in_root() {
    loom::model(|| {
        let world = World::new();
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.act(world.around.post_vector(&world.port, VECTOR, SENDER)))
        };
        world.port.suppress_in_root();
        let _ = world.port.expect_notifications(HOME, &world.around.host);
        let received = world.port.receive();
        sender.join().unwrap();
        if !has(received.requests) {
            assert!(
                world.other.load(Ordering::SeqCst),
                "notified: the entry ends at once"
            );
            assert!(has(world.port.receive().requests));
        }
    });
}

/// Two vCPUs, enabled, each on the processor of its number, and the kicks of the two processors.
struct Pair {
    vm: VmInterrupts,
    kicks: [Notify; 2],
    /// Whether one is yet to disable itself.
    disabling: AtomicBool,
}

impl Pair {
    fn new() -> Arc<Self> {
        let host = PhysicalInterrupts::new(VECTORS, Box::new([0x000, 0x100]));
        let vm = VmInterrupts::new(2, host, ApicIdSpace::Xapic, 39).unwrap();
        for number in 0..2 {
            let descriptor = 0x1000 + 64 * u64::from(number);
            vm.ipi_virtualization()
                .add_vcpu(number, descriptor)
                .unwrap();
            let _ = vm.publish(number, &identity(number, number as u8));
            let _ = vm.ports()[number as usize].start();
            let _ = vm.ports()[number as usize].load(number, &vm.around().host);
            vm.rendezvous().come_back(number);
        }
        Arc::new(Self {
            vm,
            kicks: [Notify::new(), Notify::new()],
            disabling: AtomicBool::new(true),
        })
    }

    /// What the owner of vCPU `number` does when its local APIC stops taking vectors: whether `VECTOR` had
    /// come until then.
    fn disable(&self, number: u32) -> bool {
        let published = self.vm.publish(number, &disabled(number));
        assert_eq!(published.withdrawal, Withdrawal::Vectors);
        let rendezvous = self.vm.rendezvous();
        let round = rendezvous.begin(number);
        for missing in rendezvous.missing(&round) {
            self.kicks[missing as usize].notify();
        }
        rendezvous.wait(round);
        self.disabling.store(false, Ordering::SeqCst);
        self.kicks.iter().for_each(Notify::notify);
        has(self.vm.ports()[number as usize].take_vectors().requests)
    }

    /// Guest mode, in which nothing more is sent, until whoever disables is through with it: a kick
    /// makes the processor pass.
    fn stay_in_guest_mode(&self, processor: u32) {
        loop {
            self.vm.rendezvous().pass(processor);
            if !self.disabling.load(Ordering::SeqCst) {
                return;
            }
            self.kicks[processor as usize].wait();
        }
    }

    /// IPI virtualization by the processor: it looks at the table, then posts.
    fn send_by_processor(&self) -> bool {
        let found = self.vm.ipi_virtualization().look_up(VECTOR, 0).is_ok();
        if found {
            let _ = self.vm.ports()[0].view().post(VECTOR);
        }
        found
    }

    /// The same by software.
    fn send_by_software(&self) -> bool {
        dispatch_unicast(&self.vm, VECTOR.into(), 0, SENDER).is_some()
    }
}

fn identity(id: u32, xapic_id: u8) -> Identity {
    Identity {
        x2apic_id: id,
        xapic_id,
        mode: ApicMode::Xapic,
        logical_destination: 0,
        destination_format: 0xffff_ffff,
        software_enabled: true,
        priority: 0,
    }
}

fn disabled(id: u32) -> Identity {
    Identity {
        software_enabled: false,
        ..identity(id, id as u8)
    }
}

/// A send against a disable: it came before and is taken, or it found nobody; nothing comes after.
fn send_against_disable(send: fn(&Pair) -> bool) {
    loom::model(move || {
        let pair = Pair::new();
        let sender = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                let sent = send(&pair);
                pair.stay_in_guest_mode(1);
                sent
            })
        };
        let came = pair.disable(0);
        assert!(!send(&pair), "nobody finds it any more");
        let sent = sender.join().unwrap();
        assert_eq!(came, sent, "taken exactly if sent");
        assert!(
            !pair.vm.ports()[0].view().has_requests(),
            "nothing comes after"
        );
    });
}

#[test]
fn processor_against_disable() {
    send_against_disable(Pair::send_by_processor);
}

#[test]
fn software_against_disable() {
    send_against_disable(Pair::send_by_software);
}

/// The sender was asleep when the rendezvous began, or comes back in the middle of it.
#[test]
fn who_comes_back_against_disable() {
    loom::model(|| {
        let pair = Pair::new();
        pair.vm.rendezvous().leave(1);
        let sender = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                pair.vm.rendezvous().come_back(1);
                let sent = pair.send_by_processor();
                pair.vm.rendezvous().leave(1);
                sent
            })
        };
        let came = pair.disable(0);
        assert_eq!(came, sender.join().unwrap());
        assert!(!pair.vm.ports()[0].view().has_requests());
    });
}

/// Two rendezvous at once: neither waits for ever, whoever of the two was interrupted when.
#[test]
fn two_rendezvous_at_once() {
    struct Meeting {
        rendezvous: Rendezvous,
        kicks: [Notify; 2],
        waiting: AtomicUsize,
    }

    fn take_part(meeting: &Meeting, processor: u32) {
        let rendezvous = &meeting.rendezvous;
        let round = rendezvous.begin(processor);
        for missing in rendezvous.missing(&round) {
            meeting.kicks[missing as usize].notify();
        }
        rendezvous.wait(round);
        if meeting.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            meeting.kicks.iter().for_each(Notify::notify);
        }
        // Guest mode.
        loop {
            rendezvous.pass(processor);
            if meeting.waiting.load(Ordering::SeqCst) == 0 {
                return;
            }
            meeting.kicks[processor as usize].wait();
        }
    }

    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let meeting = Arc::new(Meeting {
            rendezvous: Rendezvous::new(2),
            kicks: [Notify::new(), Notify::new()],
            waiting: AtomicUsize::new(2),
        });
        meeting.rendezvous.come_back(0);
        meeting.rendezvous.come_back(1);
        let other = {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || take_part(&meeting, 1))
        };
        take_part(&meeting, 0);
        other.join().unwrap();
    });
}

/// Two vCPUs publish at once, one taking on the ID that the other gives up: the table ends with the one
/// that has it.
#[test]
fn publishers_agree() {
    loom::model(|| {
        let pair = Pair::new();
        let other = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                let _ = pair.vm.publish(1, &identity(1, 0));
            })
        };
        let vm = &pair.vm;
        let _ = vm.publish(0, &disabled(0));
        other.join().unwrap();
        assert_eq!(vm.ipi_virtualization().taker(0), Some(1));
        assert_eq!(vm.ipi_virtualization().taker(1), None);
        assert_eq!(vm.ipi_virtualization().look_up(VECTOR, 0), Ok(0x1040));
    });
}
