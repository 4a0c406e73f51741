//! How a run ends.

use std::fmt;

/// Why the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Software switched the machine off.
    PowerOff,
    /// Software wrote this status to the debug-exit port.
    Exit(u32),
    /// Software reset the machine.
    Reset,
    /// A processor met a triple fault.
    TripleFault {
        /// Which processor.
        processor: usize,
        /// RIP of the instruction that could not be handled.
        rip: u64,
    },
    /// Every processor waits and nothing can wake one.
    Deadlock,
    /// The limit of instructions was reached.
    Limit {
        /// Instructions executed by all processors.
        instructions: u64,
    },
    /// The console could not be written.
    ConsoleFailed,
    /// Whoever runs the machine stopped it.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PowerOff => write!(f, "powered off"),
            Self::Exit(status) => write!(f, "debug exit with value {status:#x}"),
            Self::Reset => write!(f, "reset by software"),
            Self::TripleFault { processor, rip } => {
                write!(f, "triple fault on processor {processor} at {rip:#x}")
            }
            Self::Deadlock => write!(f, "every processor is halted and nothing can wake one"),
            Self::Limit { instructions } => {
                write!(f, "the limit was reached after {instructions} instructions")
            }
            Self::ConsoleFailed => write!(f, "the console could not be written"),
            Self::Stopped => write!(f, "stopped from outside"),
        }
    }
}
