//! The non-maskable interrupts that wait for a processor.

/// Whether a processor is handling a non-maskable interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It is, until IRET.
    Yes,
    /// The next one is delivered at once.
    No,
}

/// Non-maskable interrupts that arrived and were not delivered yet. A processor that handles one keeps
/// one more (SDM 6.7.1 Handling multiple NMIs). So of two that come while nobody looks both count if the
/// first would have been delivered, and one if it would not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingNonMaskable(u8);

impl PendingNonMaskable {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds those that arrived.
    pub fn accept(&mut self, arrived: u8, handling: Handling) {
        let most = match handling {
            Handling::Yes => 1,
            Handling::No => 2,
        };
        // What had been accepted before it began to handle one stays.
        self.0 = self.0.max(self.0.saturating_add(arrived).min(most));
    }

    /// Whether one waits.
    #[inline(always)]
    pub const fn is_pending(self) -> bool {
        self.0 != 0
    }

    /// Takes one for delivery; whether there was one.
    pub const fn take(&mut self) -> bool {
        let pending = self.is_pending();
        self.0 = self.0.saturating_sub(1);
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_delivered_and_one_kept() {
        let mut waiting = PendingNonMaskable::NONE;
        waiting.accept(2, Handling::No);
        assert!(waiting.take() && waiting.take() && !waiting.take());
        waiting.accept(2, Handling::Yes);
        assert!(waiting.take() && !waiting.take());
        waiting.accept(1, Handling::No);
        waiting.accept(2, Handling::No);
        assert_eq!(waiting, PendingNonMaskable(2));
        waiting.accept(1, Handling::Yes);
        assert_eq!(waiting, PendingNonMaskable(2));
    }
}
