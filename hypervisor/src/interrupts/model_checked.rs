//! Every interleaving of a vCPU's life with those who send to it.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p posthaste-hypervisor --release --lib model_checked`
//!
//! The descriptor's own steps are checked in `apic`; here is what is built on them: the vCPU's state,
//! the wakeup lists and the plan. A physical interrupt is a flag that its processor looks at when it
//! unmasks interrupts, that is, after it has let go of a vCPU or before it would enter.

use apic::{
    apic_base::ApicMode, pid_pointer_table::ApicIdSpace, posted_interrupt::Notification,
    routing::Identity,
};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    blocking::{SleepOutcome, WakeOn, WakeOutcome, handle_wakeup_vector},
    identity_board::ApicPage,
    ipi_virtualization::{AppliedPlan, Inhibition, IpiPlan, IpiVirtualization},
    physical_interrupts::{PhysicalInterrupts, VECTORS},
    posting::{Sender, Signal, Surroundings},
    vcpu_port::{VcpuPort, VcpuState},
    vm_interrupts::VmInterrupts,
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

/// A change of plan against a vCPU that refreshes before each entry: it enters by the new plan, or the
/// attention that was demanded of it makes it look again.
#[test]
fn inhibition_against_refresh() {
    loom::model(|| {
        let world = World::new();
        let plan = Arc::new(IpiVirtualization::new(0, ApicIdSpace::Xapic, 39, &[]).unwrap());
        let other = {
            let (world, plan) = (Arc::clone(&world), Arc::clone(&plan));
            thread::spawn(move || {
                let _ = plan.inhibit(Inhibition::Requested);
                world.act(world.around.demand_attention(&world.port, SENDER));
            })
        };
        let mut applied = AppliedPlan::default();
        let mut in_force = applied.refresh(&plan).unwrap();
        let _ = world.port.receive();
        other.join().unwrap();
        if world.port.receive().events.is_some() || world.other.load(Ordering::SeqCst) {
            in_force = applied.refresh(&plan).unwrap_or(in_force);
        }
        assert_eq!(in_force, IpiPlan::Software);
    });
}

/// Two vCPUs publish at once, one giving a reason and one taking its own back: the reason that holds
/// in the end is in force.
#[test]
fn publishers_agree() {
    loom::model(|| {
        let host = PhysicalInterrupts::new(VECTORS, Box::new([0]));
        let vm = VmInterrupts::new(2, host, ApicIdSpace::Xapic, 39, &[]).unwrap();
        let identity = |id: u32, xapic_id: u8| Identity {
            x2apic_id: id,
            xapic_id,
            mode: ApicMode::Xapic,
            logical_destination: 0,
            destination_format: 0xffff_ffff,
            software_enabled: true,
            priority: 0,
        };
        let _ = vm.publish(1, &identity(1, 9), ApicPage::InPlace);
        let vm = Arc::new(vm);
        let other = {
            let vm = Arc::clone(&vm);
            thread::spawn(move || {
                let _ = vm.publish(1, &identity(1, 1), ApicPage::InPlace);
            })
        };
        let _ = vm.publish(0, &identity(0, 8), ApicPage::InPlace);
        other.join().unwrap();
        assert_eq!(vm.ipi_virtualization().plan().plan, IpiPlan::Software);
    });
}
