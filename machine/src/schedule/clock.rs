//! Virtual time, in ticks of the time-stamp counter: one nanosecond each.

use std::time::Instant;

/// What turns a processor's progress into time.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// Time follows the instructions that were retired.
    Deterministic {
        /// Time at the start of the slice.
        start: u64,
        /// The processor's instruction count at the start of the slice.
        instructions: u64,
        /// Processors that share the time: each instruction moves it by one part of so many.
        share: u64,
    },
    /// Time is the host's.
    Host {
        /// When the machine started.
        start: Instant,
    },
}

impl Clock {
    /// The time, for a processor that has retired `instructions`.
    #[inline]
    pub fn now(&self, instructions: u64) -> u64 {
        match *self {
            Self::Deterministic {
                start,
                instructions: at_start,
                share,
            } => start + instructions.wrapping_sub(at_start) / share.max(1),
            Self::Host { start } => start.elapsed().as_nanos() as u64,
        }
    }

    /// The instruction count at which `deadline` is reached, for a processor that has retired
    /// `instructions`; `None` when time is the host's.
    pub fn instructions_until(&self, deadline: u64, instructions: u64) -> Option<u64> {
        match *self {
            Self::Deterministic { share, .. } => {
                let now = self.now(instructions);
                Some(
                    instructions
                        .saturating_add(deadline.saturating_sub(now).saturating_mul(share.max(1))),
                )
            }
            Self::Host { .. } => None,
        }
    }
}
