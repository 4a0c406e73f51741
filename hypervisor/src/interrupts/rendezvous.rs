//! A rendezvous of the processors: whoever changed what senders look at waits until nobody is still
//! sending by what it saw before.
//!
//! A processor looks and sends between two of its *passes*: in root mode, or in guest mode, where IPI
//! virtualization reads the PID-pointer table and then posts (SDM 30.1.6 IPI Virtualization). It passes at
//! the top of its loops, before each entry, with nothing half sent; and it is *away* while it sleeps or
//! waits in a rendezvous of its own, so that two of them at once do not wait for each other.
//!
//! The one who waits changes first, then begins a new generation, and interrupts whoever has not passed
//! since: a processor in guest mode exits for it, one in root mode finds it pending at its next entry. A
//! vCPU that no processor runs needs nothing: it is entered by a processor that has passed. Who waits must
//! hold no lock that another processor may want on its way to its next pass.

use alloc::{boxed::Box, vec::Vec};

use apic::sync::{AtomicU64, Ordering, fence, spin};

/// A processor that sends nothing until it comes back.
const AWAY: u64 = u64::MAX;

/// What a processor has seen, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Seen(AtomicU64);

/// The meeting place of the processors of one virtual machine.
#[derive(Debug)]
pub struct Rendezvous {
    generation: AtomicU64,
    seen: Box<[Seen]>,
}

/// A rendezvous that has begun.
#[derive(Debug)]
#[must_use = "whoever looked before may still be sending"]
pub struct Round {
    generation: u64,
    by: u32,
}

impl Rendezvous {
    /// For `processors` processors, all away.
    pub fn new(processors: usize) -> Self {
        let seen: Vec<Seen> = (0..processors)
            .map(|_| Seen(AtomicU64::new(AWAY)))
            .collect();
        Self {
            generation: AtomicU64::new(0),
            seen: seen.into_boxed_slice(),
        }
    }

    fn seen(&self, processor: u32) -> Option<&AtomicU64> {
        self.seen.get(processor as usize).map(|seen| &seen.0)
    }

    /// The processor, which is not away, has sent whatever it decided to send, and looks anew from here
    /// on. Two loads in the common case.
    #[inline(always)]
    pub fn pass(&self, processor: u32) {
        let generation = self.generation.load(Ordering::Acquire);
        if let Some(seen) = self.seen(processor)
            && seen.load(Ordering::Relaxed) != generation
        {
            // Release: what was sent before is there for whoever sees this.
            seen.store(generation, Ordering::Release);
        }
    }

    /// The processor sends nothing until [`Self::come_back`].
    pub fn leave(&self, processor: u32) {
        if let Some(seen) = self.seen(processor) {
            seen.store(AWAY, Ordering::Release);
        }
    }

    /// The processor may look and send from here on.
    pub fn come_back(&self, processor: u32) {
        let Some(seen) = self.seen(processor) else {
            return;
        };
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            seen.store(generation, Ordering::SeqCst);
            // Here first, then a look: who began meanwhile took this processor for away, or is seen now.
            fence(Ordering::SeqCst);
            if self.generation.load(Ordering::SeqCst) == generation {
                return;
            }
        }
    }

    /// Begins a rendezvous, after the change is made: `processor` is away until it calls
    /// [`Self::come_back`].
    pub fn begin(&self, processor: u32) -> Round {
        self.leave(processor);
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        // The new generation first, then a look at who is here: see `come_back`.
        fence(Ordering::SeqCst);
        Round {
            generation,
            by: processor,
        }
    }

    /// Who has to pass yet: each must be interrupted once.
    pub fn missing(&self, round: &Round) -> impl Iterator<Item = u32> {
        (0u32..)
            .zip(&self.seen)
            // AWAY is above every generation.
            .filter(|(number, seen)| {
                *number != round.by && seen.0.load(Ordering::SeqCst) < round.generation
            })
            .map(|(number, _)| number)
    }

    /// Waits until everybody who was here has passed, and comes back. With interrupts masked: those that
    /// come are taken after.
    pub fn wait(&self, round: Round) {
        while self.missing(&round).next().is_some() {
            spin();
        }
        self.come_back(round.by);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_those_who_are_here() {
        let rendezvous = Rendezvous::new(4);
        for processor in 0..3 {
            rendezvous.come_back(processor);
        }
        let round = rendezvous.begin(0);
        assert_eq!(rendezvous.missing(&round).collect::<Vec<_>>(), [1, 2]);
        rendezvous.pass(1);
        assert_eq!(rendezvous.missing(&round).collect::<Vec<_>>(), [2]);
        rendezvous.leave(2);
        assert_eq!(rendezvous.missing(&round).count(), 0);
        rendezvous.wait(round);
        // Who comes later has seen the change.
        rendezvous.come_back(3);
        let round = rendezvous.begin(1);
        assert_eq!(rendezvous.missing(&round).collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn two_at_once_do_not_wait_for_each_other() {
        let rendezvous = Rendezvous::new(2);
        rendezvous.come_back(0);
        rendezvous.come_back(1);
        let first = rendezvous.begin(0);
        let second = rendezvous.begin(1);
        rendezvous.wait(second);
        rendezvous.wait(first);
        let round = rendezvous.begin(0);
        assert_eq!(rendezvous.missing(&round).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_processor_that_does_not_exist_is_not_waited_for() {
        let rendezvous = Rendezvous::new(1);
        rendezvous.come_back(7);
        rendezvous.pass(7);
        let round = rendezvous.begin(7);
        rendezvous.wait(round);
    }
}
