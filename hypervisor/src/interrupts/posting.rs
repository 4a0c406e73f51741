//! How something reaches a vCPU: an edge-triggered vector by its posted-interrupt descriptor,
//! everything else by its mailbox and a kick; and how the vCPU's processor receives before entry.
//!
//! The descriptor serves with and without posted-interrupt processing. With it the notification is
//! consumed by the processor in guest mode; without it the same physical vector is an ordinary
//! external-interrupt exit whose handler does nothing, and the requests are received before the next
//! entry. The protocol, and what it proves, is the same.

use apic::{
    mailbox::Taken,
    posted_interrupt::{Notification, PendingWork},
    sync::{Ordering, fence},
};
use arch::interrupt_command::TriggerMode;

use super::{
    blocking::WakeOutcome,
    physical_interrupts::PhysicalInterrupts,
    vcpu_port::{VcpuPort, VcpuState},
    wakeup_list::WakeupLists,
};

/// What the sender has to do after it delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the target may wait for this"]
pub enum Signal {
    /// Nothing.
    None,
    /// Send this physical interrupt: fixed, physical, edge, no shorthand.
    Send(Notification),
    /// The vCPU of this slot was asleep: queue it with `Scheduler::make_ready`.
    Queue(u32),
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The processor that executes this, in root mode.
    pub processor: u32,
}

/// The shared surroundings of all vCPUs.
#[derive(Debug)]
pub struct Surroundings {
    /// Vectors and destinations.
    pub host: PhysicalInterrupts,
    /// The wakeup lists.
    pub lists: WakeupLists,
}

impl Surroundings {
    /// Requests an edge-triggered vector of a vCPU: fixed and lowest-priority IPIs, MSIs, the I/O
    /// APIC's edge-triggered pins, the vCPU's own timer.
    #[inline]
    pub fn post_vector(&self, target: &VcpuPort, vector: u8, sender: Sender) -> Signal {
        match target.view().post(vector) {
            // The sender's own vCPU: it receives before its next entry.
            Some(to) if to == self.host.active(sender.processor) => Signal::None,
            Some(to) => Signal::Send(to),
            None => Signal::None,
        }
    }

    /// Requests a level-triggered vector: TMR has to be set on the virtual-APIC page with it, which
    /// posted-interrupt processing does not do, so its owner must.
    pub fn post_level(&self, target: &VcpuPort, vector: u8, sender: Sender) -> Signal {
        target.mailbox().post_vector(vector, TriggerMode::Level);
        self.attract(target, sender)
    }

    /// Hands over a vector below 16: it becomes an error of the receiver's local APIC.
    pub fn post_illegal_vector(&self, target: &VcpuPort, vector: u8, sender: Sender) -> Signal {
        target.mailbox().post_vector(vector, TriggerMode::Edge);
        self.attract(target, sender)
    }

    /// Requests an NMI.
    pub fn post_non_maskable(&self, target: &VcpuPort, sender: Sender) -> Signal {
        target.mailbox().post_non_maskable();
        self.attract(target, sender)
    }

    /// Requests an INIT.
    pub fn post_init(&self, target: &VcpuPort, sender: Sender) -> Signal {
        target.mailbox().post_init();
        self.attract(target, sender)
    }

    /// Requests a start-up. A vCPU that does not wait for one, with no INIT on its way, ignores it.
    pub fn post_start_up(&self, target: &VcpuPort, vector: u8, sender: Sender) -> Signal {
        target.mailbox().post_start_up(vector);
        self.attract(target, sender)
    }

    /// Sets the 8259's line to a vCPU.
    pub fn set_external_line(&self, target: &VcpuPort, asserted: bool, sender: Sender) -> Signal {
        if target.mailbox().external_interrupt().line == asserted {
            return Signal::None;
        }
        target.mailbox().set_external_line(asserted);
        if asserted {
            self.attract(target, sender)
        } else {
            Signal::None
        }
    }

    /// Requests an acknowledge cycle of the 8259.
    pub fn post_external_message(&self, target: &VcpuPort, sender: Sender) -> Signal {
        target.mailbox().post_external_message();
        self.attract(target, sender)
    }

    /// The mailbox holds something new. Attention that was up before does not help here: its owner may
    /// have looked before and be asleep by now, so the state decides.
    fn attract(&self, target: &VcpuPort, sender: Sender) -> Signal {
        // After the mailbox, before the state: see `blocking`.
        fence(Ordering::SeqCst);
        match target.state() {
            VcpuState::Running { processor } if processor != sender.processor => {
                Signal::Send(self.host.kick(processor))
            }
            VcpuState::Blocked { processor } => {
                match target.wake(processor, &self.lists, &self.host) {
                    WakeOutcome::Queue => Signal::Queue(target.slot()),
                    // Another sender, or it resumed by itself and will look.
                    WakeOutcome::NotAsleep => Signal::None,
                }
            }
            // Everything but a start-up is left for when it starts. Waking it for an NMI costs one
            // look; it goes back to waiting.
            VcpuState::WaitForSipi => match target.start() {
                WakeOutcome::Queue => Signal::Queue(target.slot()),
                WakeOutcome::NotAsleep => Signal::None,
            },
            VcpuState::Running { .. } | VcpuState::Ready | VcpuState::Stopped => Signal::None,
        }
    }
}

/// What a vCPU's processor found for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// The requests taken out of PIR: bit `v % 64` of element `v / 64`. To be merged into VIRR, and
    /// their highest into RVI.
    pub requests: [u64; 4],
    /// Everything else; `None` if nobody asked for attention.
    pub events: Option<Taken>,
}

/// Vectors on their way to a vCPU: bit `v % 64` of element `v / 64` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Vectors {
    /// Out of PIR.
    pub requests: [u64; 4],
    /// Out of the mailbox, edge-triggered: illegal ones.
    pub edge: [u64; 4],
    /// Out of the mailbox, level-triggered.
    pub level: [u64; 4],
}

impl VcpuPort {
    /// Takes what was sent, for the processor that runs the vCPU: with interrupts masked, before every
    /// entry and before it decides to sleep. Whoever posts after this notifies the processor, whose
    /// pending interrupt then ends the guest's first instruction boundary.
    #[inline]
    pub fn receive(&self) -> Received {
        let requests = if self.view().is_pending() {
            self.view().receive()
        } else {
            [0; 4]
        };
        let events = self.mailbox().attention().then(|| self.mailbox().take());
        Received { requests, events }
    }

    /// Notifications are useless while its processor is in root mode: called after each exit if so
    /// configured (prior-art B6).
    pub fn suppress_in_root(&self) {
        self.view().preempt();
    }

    /// Undoes [`Self::suppress_in_root`] before entry, then the caller receives. An entry that is
    /// abandoned after this has to suppress again (prior-art B6 b, e).
    pub fn expect_notifications(&self, processor: u32, host: &PhysicalInterrupts) -> PendingWork {
        self.view().load(host.active(processor))
    }

    /// Takes the vectors that were sent, and leaves the events: the vCPU's local APIC takes none from now
    /// on, and nobody is sending any more.
    pub fn take_vectors(&self) -> Vectors {
        let requests = self.view().receive();
        let (edge, level) = self.mailbox().take_vectors();
        Vectors {
            requests,
            edge,
            level,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{
        blocking::{SleepOutcome, WakeOn},
        physical_interrupts::VECTORS,
    };
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            host: PhysicalInterrupts::new(VECTORS, Box::new([0x000, 0x100])),
            lists: WakeupLists::new(2, 2),
        }
    }

    fn running(around: &Surroundings, slot: u32, processor: u32) -> VcpuPort {
        let port = VcpuPort::new(slot);
        assert_eq!(port.start(), WakeOutcome::Queue);
        let _ = port.load(processor, &around.host);
        port
    }

    const SENDER: Sender = Sender { processor: 0 };

    #[test]
    fn a_vector_notifies_by_the_targets_state() {
        let around = surroundings();
        let other = running(&around, 1, 1);
        assert_eq!(
            around.post_vector(&other, 0x41, SENDER),
            Signal::Send(around.host.active(1))
        );
        assert_eq!(
            around.post_vector(&other, 0x42, SENDER),
            Signal::None,
            "ON is set"
        );
        assert_eq!(other.receive().requests, [0, 0b110, 0, 0]);
        other.preempt();
        assert_eq!(
            around.post_vector(&other, 0x41, SENDER),
            Signal::None,
            "suppressed"
        );
        let _ = other.load(1, &around.host);
        assert_eq!(other.receive().requests, [0, 0b10, 0, 0]);
        let _ = other.block(1, WakeOn::Interrupts, &around.lists, &around.host);
        assert_eq!(
            around.post_vector(&other, 0x41, SENDER),
            Signal::Send(around.host.wakeup(1))
        );
    }

    /// ACRN PR 4978: a self-notification processed in root mode must not be lost.
    #[test]
    fn a_self_ipi_in_root_mode_is_received_before_entry() {
        let around = surroundings();
        let own = running(&around, 0, 0);
        assert_eq!(around.post_vector(&own, 0x41, SENDER), Signal::None);
        assert_eq!(own.receive().requests, [0, 0b10, 0, 0]);
        assert_eq!(own.receive().requests, [0; 4]);
    }

    /// B6 a: with SN set no sender sets ON, so ON alone says nothing.
    #[test]
    fn suppression_in_root_mode_loses_nothing() {
        let around = surroundings();
        let port = running(&around, 1, 1);
        port.suppress_in_root();
        assert_eq!(around.post_vector(&port, 0x41, SENDER), Signal::None);
        assert!(port.view().is_pending());
        assert_eq!(
            port.expect_notifications(1, &around.host),
            PendingWork::Outstanding
        );
        assert_eq!(port.receive().requests, [0, 0b10, 0, 0]);
        assert_eq!(
            around.post_vector(&port, 0x41, SENDER),
            Signal::Send(around.host.active(1))
        );
        assert_eq!(port.receive().requests, [0, 0b10, 0, 0]);
    }

    #[test]
    fn events_kick_the_running_wake_the_sleeping_and_leave_the_others() {
        let around = surroundings();
        let port = running(&around, 1, 1);
        assert_eq!(
            around.post_non_maskable(&port, SENDER),
            Signal::Send(around.host.kick(1))
        );
        assert_eq!(
            around.post_non_maskable(&port, Sender { processor: 1 }),
            Signal::None,
            "its own processor looks anyway"
        );
        let events = port.receive().events.unwrap();
        assert_eq!(events.non_maskable, 2);
        assert_eq!(port.receive().events, None);
        let _ = port.block(1, WakeOn::EventsOnly, &around.lists, &around.host);
        assert_eq!(around.post_init(&port, SENDER), Signal::Queue(1));
        assert_eq!(port.state(), VcpuState::Ready);
        assert_eq!(
            around.post_start_up(&port, 0x9a, SENDER),
            Signal::None,
            "ready: it will look"
        );
        let _ = port.load(0, &around.host);
        let events = port.receive().events.unwrap();
        assert_eq!((events.init, events.start_up), (true, Some(0x9a)));
        port.stop(&around.lists);
        assert_eq!(around.post_non_maskable(&port, SENDER), Signal::None);
    }

    #[test]
    fn a_start_up_ends_the_wait_for_it() {
        let around = surroundings();
        let port = VcpuPort::new(0);
        assert_eq!(around.post_start_up(&port, 0x10, SENDER), Signal::Queue(0));
        let _ = port.load(1, &around.host);
        assert_eq!(port.receive().events.unwrap().start_up, Some(0x10));
        assert_eq!(port.wait_for_sipi(1, &around.host), SleepOutcome::Asleep);
        assert_eq!(
            around.post_level(&port, 0x31, SENDER),
            Signal::Queue(0),
            "one look"
        );
    }

    #[test]
    fn the_8259s_line_signals_when_it_rises() {
        let around = surroundings();
        let port = running(&around, 0, 1);
        assert_eq!(
            around.set_external_line(&port, true, SENDER),
            Signal::Send(around.host.kick(1))
        );
        assert_eq!(around.set_external_line(&port, true, SENDER), Signal::None);
        let _ = port.receive();
        assert!(port.mailbox().external_interrupt().line, "a level");
        assert_eq!(around.set_external_line(&port, false, SENDER), Signal::None);
        assert!(!port.mailbox().external_interrupt().line);
    }

    #[test]
    fn a_level_triggered_vector_takes_the_mailbox() {
        let around = surroundings();
        let port = running(&around, 0, 1);
        assert_eq!(
            around.post_level(&port, 0x31, SENDER),
            Signal::Send(around.host.kick(1))
        );
        let received = port.receive();
        assert_eq!(received.requests, [0; 4]);
        let vectors: Vec<_> = received.events.unwrap().vectors().collect();
        assert_eq!(vectors, [(0x31, TriggerMode::Level)]);
    }
}
