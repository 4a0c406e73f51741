//! Posting into a posted-interrupt descriptor, receiving from it, and the hypervisor's changes of
//! its control word (SDM 30.6 Posted-interrupt processing, 30.1.6 IPI virtualization).
//!
//! Senders are the processor (IPI virtualization), and software on any processor; the receiver is
//! the processor that runs the virtual CPU, or the hypervisor for it. All of them agree on two
//! rules: the request is set *before* the control word is looked at, and the control word is
//! changed *before* the requests are looked at. So of a sender and a receiver that race, at least
//! one sees the other.

use arch::posted_interrupt_descriptor::Control;

use crate::sync::{AtomicU64, Ordering, fence};

/// A descriptor in memory that the processor may also access.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PostedInterruptDescriptor {
    requests: [AtomicU64; 4],
    control: AtomicU64,
    reserved: [AtomicU64; 3],
}

#[cfg(not(loom))]
const _: () = {
    use arch::posted_interrupt_descriptor::{CONTROL, REQUESTS, SIZE};
    assert!(size_of::<PostedInterruptDescriptor>() == SIZE);
    assert!(align_of::<PostedInterruptDescriptor>() == SIZE);
    assert!(core::mem::offset_of!(PostedInterruptDescriptor, requests) == REQUESTS);
    assert!(core::mem::offset_of!(PostedInterruptDescriptor, control) == CONTROL);
};

impl PostedInterruptDescriptor {
    /// A descriptor with nothing requested whose notifications are suppressed: that of a virtual
    /// CPU that no processor has loaded yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            control: AtomicU64::new(Control::SUPPRESS_NOTIFICATION),
            reserved: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// A descriptor with nothing requested whose notifications are suppressed.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            requests: core::array::from_fn(|_| AtomicU64::new(0)),
            control: AtomicU64::new(Control::SUPPRESS_NOTIFICATION),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Everything one can do with it.
    pub fn view(&self) -> DescriptorView<'_> {
        DescriptorView {
            requests: self.requests.each_ref(),
            control: &self.control,
        }
    }
}

impl Default for PostedInterruptDescriptor {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a notification goes: NV and NDST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// NV: the physical vector.
    pub vector: u8,
    /// NDST, raw: an xAPIC ID in bits 15:8, or an x2APIC ID, by the mode of the *physical* local
    /// APIC of the sender.
    pub destination: u32,
}

impl Notification {
    const fn of(control: Control) -> Self {
        Self {
            vector: control.notification_vector(),
            destination: control.notification_destination(),
        }
    }

    const fn put_into(self, control: Control) -> Control {
        control
            .with_notification_vector(self.vector)
            .with_notification_destination(self.destination)
    }
}

/// What a change of the control word found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum PendingWork {
    /// Nothing requested: the next post will notify by the new word.
    None,
    /// ON is set: no further post will notify until it is cleared, and the notification that set
    /// it may have gone by the old word. The caller has to act as if it had received it.
    Outstanding,
}

/// A descriptor by its words, wherever they are.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorView<'a> {
    /// PIR: bit `v % 64` of element `v / 64` requests vector `v`.
    pub requests: [&'a AtomicU64; 4],
    /// ON, SN, NV, NDST.
    pub control: &'a AtomicU64,
}

impl DescriptorView<'_> {
    /// Requests `vector` as the processor's IPI virtualization does; the notification to send, if
    /// one is due.
    // SDM 30.1.6 IPI Virtualization: a locked update of PIR, then a *separate* locked update of
    // the control word. PIR is not tested first, and a notification goes out only if neither ON
    // nor SN was set.
    #[must_use]
    pub fn post(&self, vector: u8) -> Option<Notification> {
        let [a, b, c, d] = self.requests;
        let word = match vector >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word.fetch_or(1 << (vector & 63), Ordering::SeqCst);
        let held = Control::OUTSTANDING_NOTIFICATION | Control::SUPPRESS_NOTIFICATION;
        let (old, _) = self.update(|control| {
            if control.0 & held == 0 {
                control.with_outstanding_notification(true)
            } else {
                control
            }
        });
        (old.0 & held == 0).then(|| Notification::of(old))
    }

    /// Clears ON; the word before.
    // SDM 30.6 Posted-Interrupt Processing, step 3: locked, the rest of the word preserved.
    pub fn clear_outstanding_notification(&self) -> Control {
        Control(
            self.control
                .fetch_and(!Control::OUTSTANDING_NOTIFICATION, Ordering::SeqCst),
        )
    }

    /// Takes all requests out of PIR. To receive, clear ON first: see [`Self::receive`].
    #[must_use]
    pub fn take_requests(&self) -> [u64; 4] {
        self.requests.map(|word| {
            // Spares the bus four locked operations in the common case; a request that appears
            // after the load has its notification still to come.
            if word.load(Ordering::SeqCst) == 0 {
                0
            } else {
                word.swap(0, Ordering::SeqCst)
            }
        })
    }

    /// Clears ON, then takes all requests: posted-interrupt processing, or the hypervisor's
    /// synchronization before VM entry.
    // SDM 30.6 Posted-Interrupt Processing, steps 3 and 5.
    #[must_use]
    pub fn receive(&self) -> [u64; 4] {
        self.clear_outstanding_notification();
        fence(Ordering::SeqCst);
        self.take_requests()
    }

    /// The control word now.
    pub fn control(&self) -> Control {
        Control(self.control.load(Ordering::SeqCst))
    }

    /// Whether any vector is requested.
    pub fn has_requests(&self) -> bool {
        self.requests
            .iter()
            .any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Whether the virtual CPU has something to receive. With SN set no sender sets ON, so there
    /// the requests themselves count (prior-art B6 a, c).
    pub fn is_pending(&self) -> bool {
        let control = self.control();
        control.outstanding_notification() || control.suppress_notification() && self.has_requests()
    }

    /// The virtual CPU is loaded on the processor that `active` reaches: notifications go there,
    /// unsuppressed. On [`PendingWork::Outstanding`] receive before VM entry. Also wakes up a
    /// blocked virtual CPU where it is loaded at once.
    pub fn load(&self, active: Notification) -> PendingWork {
        self.redirect(active)
    }

    /// The virtual CPU left its processor and could run (preempted, or in other work of the
    /// host): requests accumulate and nobody is notified. Test with [`Self::is_pending`].
    pub fn preempt(&self) {
        self.control
            .fetch_or(Control::SUPPRESS_NOTIFICATION, Ordering::SeqCst);
    }

    /// The virtual CPU sleeps until `wakeup` arrives. The caller has put it on the wakeup list of
    /// the processor that `wakeup` reaches *before*. On [`PendingWork::Outstanding`] no wakeup may
    /// come: the caller wakes it by itself (prior-art B7).
    pub fn block(&self, wakeup: Notification) -> PendingWork {
        self.redirect(wakeup)
    }

    /// The blocked virtual CPU is runnable again, but not loaded: back to the active vector,
    /// suppressed until [`Self::load`].
    pub fn wake(&self, active_vector: u8) {
        self.update(|control| {
            control
                .with_notification_vector(active_vector)
                .with_suppress_notification(true)
        });
    }

    /// The processor that takes the notifications is now another; vector and suppression stay. On
    /// [`PendingWork::Outstanding`] the notification went to the old one: the caller repeats it.
    pub fn migrate(&self, destination: u32) -> PendingWork {
        let (old, _) = self.update(|control| control.with_notification_destination(destination));
        if old.outstanding_notification() {
            PendingWork::Outstanding
        } else {
            PendingWork::None
        }
    }

    /// New NV and NDST with SN clear, and ON set if requests were posted while it was not.
    fn redirect(&self, to: Notification) -> PendingWork {
        let (old, _) =
            self.update(|control| to.put_into(control).with_suppress_notification(false));
        if old.outstanding_notification() {
            return PendingWork::Outstanding;
        }
        // A post that saw SN before this point left a request without ON; the barrier makes it
        // visible here. A post after it sees SN clear (prior-art B6 b).
        fence(Ordering::SeqCst);
        if !self.has_requests() {
            return PendingWork::None;
        }
        self.control
            .fetch_or(Control::OUTSTANDING_NOTIFICATION, Ordering::SeqCst);
        PendingWork::Outstanding
    }

    /// Compare-exchange until it holds; the words before and after.
    fn update(&self, change: impl Fn(Control) -> Control) -> (Control, Control) {
        let mut old = self.control();
        loop {
            let new = change(old);
            match self.control.compare_exchange_weak(
                old.0,
                new.0,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => return (old, new),
                Err(now) => old = Control(now),
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ACTIVE: Notification = Notification {
        vector: 0xf2,
        destination: 0x0300,
    };
    const WAKEUP: Notification = Notification {
        vector: 0xf1,
        destination: 0x0300,
    };

    fn bit(vector: u8) -> [u64; 4] {
        let mut bits = [0; 4];
        bits[usize::from(vector / 64)] = 1 << (vector % 64);
        bits
    }

    #[test]
    fn a_post_notifies_once_until_received() {
        let descriptor = PostedInterruptDescriptor::new();
        let view = descriptor.view();
        assert_eq!(view.load(ACTIVE), PendingWork::None);
        for vector in 0..=255 {
            assert_eq!(view.post(vector), Some(ACTIVE), "{vector}");
            assert!(view.is_pending());
            assert_eq!(view.post(vector), None, "ON is set");
            assert_eq!(view.receive(), bit(vector));
            assert!(!view.is_pending());
        }
        assert_eq!(view.control(), ACTIVE.put_into(Control(0)));
    }

    #[test]
    fn the_requests_are_not_an_early_out() {
        // The manual's algorithm looks at ON and SN only, so a request that is already set
        // notifies if ON is clear.
        let descriptor = PostedInterruptDescriptor::new();
        let view = descriptor.view();
        assert_eq!(view.load(ACTIVE), PendingWork::None);
        assert_eq!(view.post(0x41), Some(ACTIVE));
        view.clear_outstanding_notification();
        assert_eq!(view.post(0x41), Some(ACTIVE));
        assert_eq!(view.take_requests(), bit(0x41));
        assert!(
            view.control().outstanding_notification(),
            "a notification with an empty PIR"
        );
    }

    #[test]
    fn suppressed_posts_leave_on_clear_and_count_as_pending() {
        let descriptor = PostedInterruptDescriptor::new();
        let view = descriptor.view();
        assert_eq!(view.load(ACTIVE), PendingWork::None);
        view.preempt();
        assert!(!view.is_pending());
        assert_eq!(view.post(0xf1), None);
        assert!(!view.control().outstanding_notification());
        assert!(view.is_pending(), "SN and a request");
        assert_eq!(view.load(ACTIVE), PendingWork::Outstanding);
        assert!(view.control().outstanding_notification(), "set on load");
        assert_eq!(view.receive(), bit(0xf1));
        assert_eq!(view.post(0xf1), Some(ACTIVE));
    }

    #[test]
    fn the_transitions_keep_what_they_do_not_name() {
        let other_bits = 0x0000_0000_ff00_fffc;
        let descriptor = PostedInterruptDescriptor::new();
        let view = descriptor.view();
        view.control.fetch_or(other_bits, Ordering::SeqCst);
        let expect = |word: Control| assert_eq!(view.control().0, word.0 | other_bits);

        assert_eq!(view.load(ACTIVE), PendingWork::None);
        expect(ACTIVE.put_into(Control(0)));
        view.preempt();
        expect(ACTIVE.put_into(Control(2)));
        assert_eq!(view.block(WAKEUP), PendingWork::None);
        expect(WAKEUP.put_into(Control(0)));
        assert_eq!(view.migrate(0x0500), PendingWork::None);
        let moved = Notification {
            vector: 0xf1,
            destination: 0x0500,
        };
        expect(moved.put_into(Control(0)));
        assert_eq!(view.post(0x55), Some(moved));
        assert_eq!(view.migrate(0x0300), PendingWork::Outstanding);
        view.wake(0xf2);
        expect(ACTIVE.put_into(Control(3)));
        assert_eq!(view.load(ACTIVE), PendingWork::Outstanding);
        expect(ACTIVE.put_into(Control(1)));
    }

    #[test]
    fn blocking_reports_what_came_before() {
        let descriptor = PostedInterruptDescriptor::new();
        let view = descriptor.view();
        assert_eq!(view.load(ACTIVE), PendingWork::None);
        assert_eq!(view.post(0x41), Some(ACTIVE));
        assert_eq!(view.block(WAKEUP), PendingWork::Outstanding, "ON was set");
        assert_eq!(view.receive(), bit(0x41));
        view.preempt();
        assert_eq!(view.post(0x41), None);
        assert_eq!(
            view.block(WAKEUP),
            PendingWork::Outstanding,
            "preempted first, B6 d"
        );
        assert_eq!(view.receive(), bit(0x41));
        assert_eq!(view.block(WAKEUP), PendingWork::None);
        assert_eq!(view.post(0x41), Some(WAKEUP));
    }
}
