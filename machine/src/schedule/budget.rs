//! The instructions that processors on several threads may execute together.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number of instructions, of which each processor takes a portion before it executes and gives back
/// what it did not use. So the sum is exact, and the processors meet here only once a slice.
#[derive(Debug)]
pub(super) struct Budget {
    /// Not handed out.
    left: AtomicU64,
    /// Not executed: what is left and what is handed out.
    unused: AtomicU64,
}

impl Budget {
    /// So many instructions.
    pub(super) fn new(instructions: u64) -> Self {
        Self {
            left: AtomicU64::new(instructions),
            unused: AtomicU64::new(instructions),
        }
    }

    /// Takes up to `most` instructions; 0 if others have the rest, or if it is used up.
    pub(super) fn take(&self, most: u64) -> u64 {
        let take = |left: u64| Some(left.saturating_sub(most));
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or_else(|left| left).min(most)
    }

    /// Of so many instructions that were taken so many were executed; the others go back.
    pub(super) fn settle(&self, taken: u64, executed: u64) {
        self.left
            .fetch_add(taken.saturating_sub(executed), Ordering::Relaxed);
        self.unused
            .fetch_sub(executed.min(taken), Ordering::Relaxed);
    }

    /// How many have not been executed.
    pub(super) fn unused(&self) -> u64 {
        self.unused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_is_there_for_others() {
        let budget = Budget::new(100);
        assert_eq!(budget.take(60), 60);
        assert_eq!(budget.take(60), 40);
        assert_eq!(budget.take(60), 0);
        assert_eq!(budget.unused(), 100);
        budget.settle(60, 50);
        budget.settle(40, 40);
        assert_eq!(budget.take(60), 10);
        budget.settle(10, 9);
        assert_eq!(budget.take(60), 1);
        assert_eq!(budget.unused(), 1);
        budget.settle(1, 1);
        assert_eq!(budget.unused(), 0);
        assert_eq!(budget.take(60), 0);
    }
}
