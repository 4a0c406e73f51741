//! The life of a vCPU: loaded, preempted, blocked, woken, migrated, waiting for a start-up IPI.
//!
//! Only these functions change a vCPU's state, and only they touch NV, SN and NDST of its descriptor
//! (prior-art B7; ipi-virtualization A8).
//!
//! | state | NV | SN | NDST | list |
//! |---|---|---|---|---|
//! | Running | active | 0 | its processor | - |
//! | Ready | active | 1 | stale | - |
//! | Blocked | wakeup | 0, or 1 if interrupts cannot wake it | the processor it blocked on | that processor's |
//! | WaitForSipi, Stopped | any | 1 | stale | - |
//!
//! Two rules lose nothing. Who blocks publishes the state first and looks for work after; who sends
//! publishes the work first and looks at the state after: of the two at least one sees the other.
//! And Blocked or WaitForSipi is left by compare-exchange, so exactly one party, the waker or the
//! vCPU's own processor, takes the vCPU on.

use apic::{
    posted_interrupt::PendingWork,
    sync::{Ordering, fence},
};

use super::{
    physical_interrupts::PhysicalInterrupts,
    vcpu_port::{NO_DEADLINE, VcpuPort, VcpuState},
    wakeup_list::WakeupLists,
};

/// What can end a vCPU's sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeOn {
    /// Interrupts and events: HLT with RFLAGS.IF = 1.
    Interrupts,
    /// NMI, INIT and the like only: HLT with RFLAGS.IF = 0. Posted vectors accumulate.
    EventsOnly,
}

/// How a vCPU's attempt to sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SleepOutcome {
    /// It sleeps, or somebody woke it already and queued it: its processor lets go of it and asks the
    /// scheduler. It must not be touched any more.
    Asleep,
    /// There is something to do: it is still loaded here. Receive, then enter or try again.
    Resume,
}

/// What a wakeup did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a woken vcpu must be queued"]
pub enum WakeOutcome {
    /// The vCPU was asleep and is the caller's to queue: `Scheduler::make_ready`.
    Queue,
    /// Somebody else has it.
    NotAsleep,
}

impl VcpuPort {
    fn store(&self, state: VcpuState) {
        // A swap, so that it is ordered with the loads that follow on every architecture.
        self.state.swap(state.encode(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn exchange(&self, from: VcpuState, to: VcpuState) -> bool {
        let exchanged = self.state.compare_exchange(
            from.encode(),
            to.encode(),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        exchanged.is_ok()
    }

    /// The scheduler gave the vCPU to `processor`, which loads it: Ready to Running. Notifications go
    /// there from now on. On [`PendingWork::Outstanding`] there are requests to receive, which the run
    /// loop does before every entry anyway.
    pub fn load(&self, processor: u32, host: &PhysicalInterrupts) -> PendingWork {
        self.store(VcpuState::Running { processor });
        self.view().load(host.active(processor))
    }

    /// The processor lets go of a vCPU that could run on: Running to Ready. Nobody is notified about
    /// what is posted meanwhile; [`Self::load`] finds it (prior-art B5 number 8).
    pub fn preempt(&self) {
        self.view().preempt();
        self.store(VcpuState::Ready);
    }

    /// The vCPU of `processor` executed HLT and has nothing deliverable: Running to Blocked. The
    /// deadline must be set before ([`VcpuPort::set_deadline`]).
    pub fn block(
        &self,
        processor: u32,
        wake_on: WakeOn,
        lists: &WakeupLists,
        host: &PhysicalInterrupts,
    ) -> SleepOutcome {
        let blocked = VcpuState::Blocked { processor };
        // On the list first: a wakeup that comes at once must find it.
        lists.add(processor, self.slot());
        self.store(blocked);
        let work = match wake_on {
            WakeOn::Interrupts => self.view().block(host.wakeup(processor)),
            WakeOn::EventsOnly => {
                self.view().preempt();
                PendingWork::None
            }
        };
        // ON set before the change means that the notification went by the old word or that none will
        // come: no wakeup may follow, so it is this processor's business (prior-art B7).
        if work == PendingWork::None && !self.mailbox().attention() {
            return SleepOutcome::Asleep;
        }
        if !self.exchange(blocked, VcpuState::Running { processor }) {
            return SleepOutcome::Asleep;
        }
        lists.remove(processor, self.slot());
        let _ = self.view().load(host.active(processor));
        SleepOutcome::Resume
    }

    /// The vCPU of `processor` took an INIT, or is new: Running to WaitForSipi.
    pub fn wait_for_sipi(&self, processor: u32, host: &PhysicalInterrupts) -> SleepOutcome {
        self.view().preempt();
        self.store(VcpuState::WaitForSipi);
        if !self.mailbox().attention()
            || !self.exchange(VcpuState::WaitForSipi, VcpuState::Running { processor })
        {
            return SleepOutcome::Asleep;
        }
        let _ = self.view().load(host.active(processor));
        SleepOutcome::Resume
    }

    /// The bootstrap vCPU of a new virtual machine needs no start-up IPI: WaitForSipi to Ready.
    pub fn start(&self) -> WakeOutcome {
        if self.exchange(VcpuState::WaitForSipi, VcpuState::Ready) {
            WakeOutcome::Queue
        } else {
            WakeOutcome::NotAsleep
        }
    }

    /// The vCPU runs no more, whatever it was doing.
    pub fn stop(&self, lists: &WakeupLists) {
        let before = VcpuState::decode(
            self.state
                .swap(VcpuState::Stopped.encode(), Ordering::SeqCst),
        );
        if let VcpuState::Blocked { processor } = before {
            lists.remove(processor, self.slot());
        }
        self.view().preempt();
        self.set_deadline(NO_DEADLINE);
    }

    /// Wakes the vCPU if it is blocked on `processor`: Blocked to Ready. Also off the *old* processor's
    /// list, and suppressed until it is loaded again.
    pub fn wake(
        &self,
        processor: u32,
        lists: &WakeupLists,
        host: &PhysicalInterrupts,
    ) -> WakeOutcome {
        if !self.exchange(VcpuState::Blocked { processor }, VcpuState::Ready) {
            return WakeOutcome::NotAsleep;
        }
        lists.remove(processor, self.slot());
        self.view().wake(host.vectors().active);
        WakeOutcome::Queue
    }
}

/// The wakeup vector arrived at `processor`: wakes every vCPU on its list that has an outstanding
/// notification or an event, and gives each to `queue`. `port_of` maps a slot to its port.
pub fn handle_wakeup_vector<'a>(
    processor: u32,
    lists: &WakeupLists,
    host: &PhysicalInterrupts,
    port_of: impl Fn(u32) -> Option<&'a VcpuPort>,
    mut queue: impl FnMut(u32),
) {
    for slot in lists.slots(processor) {
        let Some(port) = port_of(slot) else { continue };
        // With SN set (it waits for events only) no sender sets ON (prior-art B6 c).
        if !port.view().control().outstanding_notification() && !port.mailbox().attention() {
            continue;
        }
        if port.wake(processor, lists, host) == WakeOutcome::Queue {
            queue(slot);
        }
    }
}

/// A timer of `processor` went off at `now`: wakes every vCPU on its list whose deadline has passed.
pub fn handle_deadlines<'a>(
    processor: u32,
    now: u64,
    lists: &WakeupLists,
    host: &PhysicalInterrupts,
    port_of: impl Fn(u32) -> Option<&'a VcpuPort>,
    mut queue: impl FnMut(u32),
) {
    for slot in lists.slots(processor) {
        let Some(port) = port_of(slot) else { continue };
        if port.deadline() <= now && port.wake(processor, lists, host) == WakeOutcome::Queue {
            queue(slot);
        }
    }
}

/// When the next vCPU on the processor's list wants to be woken; [`NO_DEADLINE`] for never.
pub fn next_deadline<'a>(
    processor: u32,
    lists: &WakeupLists,
    port_of: impl Fn(u32) -> Option<&'a VcpuPort>,
) -> u64 {
    lists
        .slots(processor)
        .filter_map(|slot| port_of(slot).map(VcpuPort::deadline))
        .min()
        .unwrap_or(NO_DEADLINE)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::physical_interrupts::VECTORS;
    use super::*;
    use apic::posted_interrupt::Notification;

    struct Bench {
        lists: WakeupLists,
        host: PhysicalInterrupts,
        ports: Vec<VcpuPort>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                lists: WakeupLists::new(3, 2),
                host: PhysicalInterrupts::new(VECTORS, Box::new([0x000, 0x100, 0x200])),
                ports: (0..2).map(VcpuPort::new).collect(),
            }
        }

        fn running(&self, slot: usize, processor: u32) -> &VcpuPort {
            let port = &self.ports[slot];
            assert_eq!(port.start(), WakeOutcome::Queue);
            assert_eq!(port.load(processor, &self.host), PendingWork::None);
            port
        }

        fn wakeup_vector(&self, processor: u32) -> Vec<u32> {
            let mut woken = Vec::new();
            let port_of = |slot: u32| self.ports.get(slot as usize);
            handle_wakeup_vector(processor, &self.lists, &self.host, port_of, |slot| {
                woken.push(slot)
            });
            woken
        }

        /// NV, SN, NDST.
        fn word(&self, slot: usize) -> (u8, bool, u32) {
            let control = self.ports[slot].view().control();
            (
                control.notification_vector(),
                control.suppress_notification(),
                control.notification_destination(),
            )
        }
    }

    const ACTIVE: u8 = VECTORS.active;
    const WAKEUP: u8 = VECTORS.wakeup;

    /// Prior-art B7, line by line.
    #[test]
    fn each_state_has_its_descriptor_word() {
        let bench = Bench::new();
        assert!(bench.word(0).1, "new: suppressed");
        let port = bench.running(0, 1);
        assert_eq!(port.state(), VcpuState::Running { processor: 1 });
        assert_eq!(bench.word(0), (ACTIVE, false, 0x100));
        port.preempt();
        assert_eq!(port.state(), VcpuState::Ready);
        assert_eq!(bench.word(0), (ACTIVE, true, 0x100));
        let _ = port.load(2, &bench.host);
        assert_eq!(bench.word(0), (ACTIVE, false, 0x200), "migrated");
        let outcome = port.block(2, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Asleep);
        assert_eq!(bench.word(0), (WAKEUP, false, 0x200));
        assert_eq!(bench.lists.slots(2).collect::<Vec<_>>(), [0]);
        assert_eq!(port.wake(2, &bench.lists, &bench.host), WakeOutcome::Queue);
        assert_eq!(port.state(), VcpuState::Ready);
        assert_eq!(bench.word(0), (ACTIVE, true, 0x200));
        assert_eq!(
            bench.lists.slots(2).count(),
            0,
            "off the old processor's list"
        );
        let _ = port.load(0, &bench.host);
        assert_eq!(bench.word(0), (ACTIVE, false, 0x000));
        assert_eq!(port.wait_for_sipi(0, &bench.host), SleepOutcome::Asleep);
        assert_eq!(port.state(), VcpuState::WaitForSipi);
        assert!(bench.word(0).1);
        port.stop(&bench.lists);
        assert_eq!(port.state(), VcpuState::Stopped);
        assert_eq!(port.start(), WakeOutcome::NotAsleep);
    }

    #[test]
    fn a_blocked_vcpu_is_woken_by_the_wakeup_vector_of_its_processor() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        let outcome = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Asleep);
        assert!(bench.wakeup_vector(1).is_empty(), "ON is 0");
        let expected = Notification {
            vector: WAKEUP,
            destination: 0x100,
        };
        assert_eq!(port.view().post(0x41), Some(expected));
        assert!(
            bench.wakeup_vector(0).is_empty(),
            "another processor's list"
        );
        assert_eq!(bench.wakeup_vector(1), [0]);
        assert!(bench.wakeup_vector(1).is_empty(), "once");
        assert_eq!(port.load(2, &bench.host), PendingWork::Outstanding);
        assert_eq!(port.view().receive()[1], 1 << 1);
    }

    /// The notification that set ON went by the active vector, so no wakeup will come.
    #[test]
    fn a_post_before_blocking_keeps_the_vcpu_awake() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        assert!(port.view().post(0x41).is_some());
        let outcome = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Resume);
        assert_eq!(port.state(), VcpuState::Running { processor: 1 });
        assert_eq!(bench.word(0), (ACTIVE, false, 0x100));
        assert_eq!(bench.lists.slots(1).count(), 0);
        assert!(port.view().is_pending());
    }

    /// B6 d: preempted after it decided to sleep, then it sleeps after all.
    #[test]
    fn a_post_while_preempted_is_found_when_blocking() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        port.preempt();
        assert_eq!(port.view().post(0x41), None);
        assert_eq!(port.load(1, &bench.host), PendingWork::Outstanding);
        let outcome = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Resume);
    }

    #[test]
    fn hlt_with_interrupts_disabled_sleeps_through_vectors_but_not_events() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        let outcome = port.block(1, WakeOn::EventsOnly, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Asleep);
        assert_eq!(port.view().post(0x41), None, "suppressed");
        assert!(bench.wakeup_vector(1).is_empty());
        port.mailbox().post_non_maskable();
        assert_eq!(bench.wakeup_vector(1), [0]);
        assert_eq!(
            port.load(1, &bench.host),
            PendingWork::Outstanding,
            "0x41 is not lost"
        );
    }

    #[test]
    fn an_event_before_blocking_keeps_the_vcpu_awake() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        port.mailbox().post_non_maskable();
        let outcome = port.block(1, WakeOn::EventsOnly, &bench.lists, &bench.host);
        assert_eq!(outcome, SleepOutcome::Resume);
        let _ = port.mailbox().take();
        port.mailbox().post_start_up(0x10);
        assert_eq!(port.wait_for_sipi(1, &bench.host), SleepOutcome::Resume);
    }

    #[test]
    fn deadlines_wake_the_due_and_only_them() {
        let bench = Bench::new();
        for (slot, deadline) in [(0, 1000), (1, 2000)] {
            let port = bench.running(slot, 1);
            port.set_deadline(deadline);
            let outcome = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
            assert_eq!(outcome, SleepOutcome::Asleep);
        }
        let port_of = |slot: u32| bench.ports.get(slot as usize);
        let due = |now| {
            let mut woken = Vec::new();
            handle_deadlines(1, now, &bench.lists, &bench.host, port_of, |slot| {
                woken.push(slot)
            });
            woken
        };
        assert_eq!(next_deadline(1, &bench.lists, port_of), 1000);
        assert_eq!(next_deadline(0, &bench.lists, port_of), NO_DEADLINE);
        assert!(due(999).is_empty());
        assert_eq!(due(1000), [0]);
        assert_eq!(next_deadline(1, &bench.lists, port_of), 2000);
        assert_eq!(due(5000), [1]);
        assert_eq!(next_deadline(1, &bench.lists, port_of), NO_DEADLINE);
    }

    /// B5 number 8: another vCPU runs where the notification was sent. The requests stay in the
    /// preempted vCPU's own descriptor and nobody is notified about it any more.
    #[test]
    fn b5_08_a_preempted_vcpu_gets_no_notification() {
        let bench = Bench::new();
        let first = bench.running(0, 1);
        // In flight: the sender saw SN = 0.
        assert!(first.view().post(0x41).is_some());
        first.preempt();
        let second = bench.running(1, 1);
        // It arrives and is processed for the second: nothing there, nothing taken from the first.
        assert_eq!(second.view().receive(), [0; 4]);
        assert_eq!(first.view().post(0x42), None, "suppressed from now on");
        second.preempt();
        assert_eq!(first.load(1, &bench.host), PendingWork::Outstanding);
        assert_eq!(first.view().receive(), [0, 0b110, 0, 0]);
    }

    /// B5 number 7: waking from the handler while the list is walked takes no lock; a vCPU that
    /// another processor woke in the meantime is woken once.
    #[test]
    fn b5_07_the_wakeup_list_has_no_lock_to_take_twice() {
        let bench = Bench::new();
        for slot in 0..2 {
            let port = bench.running(slot, 1);
            let outcome = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
            assert_eq!(outcome, SleepOutcome::Asleep);
            assert!(port.view().post(0x41).is_some());
        }
        let mut woken = Vec::new();
        let port_of = |slot: u32| bench.ports.get(slot as usize);
        handle_wakeup_vector(1, &bench.lists, &bench.host, port_of, |slot| {
            woken.push(slot);
            // Re-entrant on purpose: a sender wakes the other from inside.
            let other = &bench.ports[1 - slot as usize];
            if other.wake(1, &bench.lists, &bench.host) == WakeOutcome::Queue {
                woken.push(1 - slot);
            }
        });
        woken.sort_unstable();
        assert_eq!(woken, [0, 1]);
    }

    /// A wakeup meant for an earlier sleep does not take a vCPU that sleeps elsewhere now.
    #[test]
    fn a_stale_wakeup_is_ignored() {
        let bench = Bench::new();
        let port = bench.running(0, 1);
        let _ = port.block(1, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(port.wake(1, &bench.lists, &bench.host), WakeOutcome::Queue);
        let _ = port.load(2, &bench.host);
        let _ = port.block(2, WakeOn::Interrupts, &bench.lists, &bench.host);
        assert_eq!(
            port.wake(1, &bench.lists, &bench.host),
            WakeOutcome::NotAsleep
        );
        assert_eq!(port.state(), VcpuState::Blocked { processor: 2 });
    }
}
