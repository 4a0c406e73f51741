//! Turns: one processor at a time.

use apic::sync::{AtomicU32, Ordering, spin};

/// A lock without contents. It is held for a few hundred instructions with interrupts masked, and
/// nothing waits while it holds one.
#[derive(Debug, Default)]
pub(super) struct Turn {
    taken: AtomicU32,
}

/// It is this processor's turn until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct TurnGuard<'a>(&'a Turn);

impl Turn {
    /// Waits for it.
    pub(super) fn take(&self) -> TurnGuard<'_> {
        while self
            .taken
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spin();
        }
        TurnGuard(self)
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.taken.store(0, Ordering::Release);
    }
}
