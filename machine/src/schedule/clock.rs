//! Virtual time, in ticks of the time-stamp counter: one nanosecond each.

use std::sync::Arc;

use super::SharedClock;

/// What turns a processor's progress into time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Time follows the instructions that were retired.
    Deterministic(Share),
    /// Time is the host's, as far as the host runs the processors.
    Shared(Arc<SharedClock>),
}

/// A processor's share of the time while it has its slice.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Time at the start of the slice.
    pub start: u64,
    /// Parts of a tick that had passed beyond `start`, below `parts`.
    pub fraction: u64,
    /// The processor's instruction count at the start of the slice.
    pub instructions: u64,
    /// Each instruction moves time by one part; so many are a tick. It is the number of processors
    /// that take turns, so that each of them executes about one instruction a tick.
    pub parts: u64,
}

impl Share {
    /// A processor that has the time to itself, from time 0.
    pub const ALONE: Self = Self {
        start: 0,
        fraction: 0,
        instructions: 0,
        parts: 1,
    };

    fn passed(&self, instructions: u64) -> u64 {
        self.fraction
            .wrapping_add(instructions.wrapping_sub(self.instructions))
    }

    /// Time and fraction when the processor has retired `instructions`.
    pub fn time(&self, instructions: u64) -> (u64, u64) {
        let passed = self.passed(instructions);
        let parts = self.parts.max(1);
        (self.start.wrapping_add(passed / parts), passed % parts)
    }
}

impl Clock {
    /// The time, for a processor that has retired `instructions`.
    #[inline]
    pub fn now(&self, instructions: u64) -> u64 {
        match self {
            Self::Deterministic(share) => share.time(instructions).0,
            Self::Shared(clock) => clock.now(),
        }
    }

    /// The instruction count at which a processor that has retired `instructions` must look at a
    /// deadline. With the host's time that is soon, because nobody knows.
    pub fn instructions_until(&self, deadline: u64, instructions: u64) -> u64 {
        /// About ten microseconds of instructions.
        const SOON: u64 = 2000;
        match self {
            Self::Deterministic(share) => {
                let (now, fraction) = share.time(instructions);
                let parts = deadline
                    .saturating_sub(now)
                    .saturating_mul(share.parts.max(1))
                    .saturating_sub(fraction);
                instructions.saturating_add(parts)
            }
            Self::Shared(_) => instructions.saturating_add(SOON),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_one_instruction_a_tick_each() {
        let share = Share {
            start: 100,
            fraction: 3,
            instructions: 1000,
            parts: 4,
        };
        assert_eq!(share.time(1000), (100, 3));
        assert_eq!(share.time(1001), (101, 0));
        let clock = Clock::Deterministic(share);
        assert_eq!(clock.instructions_until(102, 1000), 1005);
        assert_eq!(share.time(1005), (102, 0));
        assert_eq!(clock.instructions_until(50, 1000), 1000);
    }
}
