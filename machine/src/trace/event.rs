//! The typed trace of one processor: a hash of everything that matters, and on request the events as they happen.

use std::fmt;

use arch::exit::ExitReason;

use super::EventSink;

/// Something that another run must repeat to be the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A VM entry at this guest RIP.
    Entry {
        /// Guest RIP.
        rip: u64,
    },
    /// A VM exit.
    Exit {
        /// Basic reason.
        reason: ExitReason,
        /// Exit qualification.
        qualification: u64,
        /// Guest RIP.
        rip: u64,
    },
    /// IPI virtualization posted a vector (SDM 30.1.6).
    IpiVirtualized {
        /// The vector.
        vector: u8,
        /// The target's virtual APIC ID.
        target: u32,
        /// Whether a notification was sent.
        notified: bool,
    },
    /// Posted-interrupt processing merged requests (SDM 30.6).
    PostedInterrupts {
        /// The highest vector merged, if there was any.
        highest: Option<u8>,
    },
    /// A virtual interrupt was delivered (SDM 30.2.2).
    VirtualInterrupt {
        /// The vector.
        vector: u8,
    },
    /// The local APIC executed an interrupt command.
    InterruptCommand {
        /// Low word.
        low: u32,
        /// Destination.
        destination: u32,
    },
    /// An interrupt from outside was acknowledged.
    Interrupt {
        /// The vector.
        vector: u8,
    },
    /// An exception was delivered.
    Exception {
        /// The vector.
        vector: u8,
        /// RIP.
        rip: u64,
    },
    /// A port was read or written.
    Port {
        /// The port.
        port: u16,
        /// The value.
        value: u32,
    },
}

impl Event {
    /// Kind, then three words of detail.
    fn words(&self) -> [u64; 4] {
        match *self {
            Self::Entry { rip } => [1, rip, 0, 0],
            Self::Exit {
                reason,
                qualification,
                rip,
            } => [2, reason as u64, qualification, rip],
            Self::IpiVirtualized {
                vector,
                target,
                notified,
            } => [3, u64::from(vector), u64::from(target), u64::from(notified)],
            Self::PostedInterrupts { highest } => [4, highest.map_or(256, u64::from), 0, 0],
            Self::VirtualInterrupt { vector } => [5, u64::from(vector), 0, 0],
            Self::InterruptCommand { low, destination } => {
                [6, u64::from(low), u64::from(destination), 0]
            }
            Self::Interrupt { vector } => [7, u64::from(vector), 0, 0],
            Self::Exception { vector, rip } => [8, u64::from(vector), rip, 0],
            Self::Port { port, value } => [9, u64::from(port), u64::from(value), 0],
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Entry { rip } => write!(f, "entry rip={rip:#x}"),
            Self::Exit {
                reason,
                qualification,
                rip,
            } => write!(
                f,
                "exit reason={} qualification={qualification:#x} rip={rip:#x}",
                reason.name()
            ),
            Self::IpiVirtualized {
                vector,
                target,
                notified,
            } => write!(
                f,
                "ipi-virtualized vector={vector:#04x} target={target} notified={notified}"
            ),
            Self::PostedInterrupts { highest: None } => write!(f, "posted-interrupts highest=none"),
            Self::PostedInterrupts {
                highest: Some(vector),
            } => write!(f, "posted-interrupts highest={vector:#04x}"),
            Self::VirtualInterrupt { vector } => {
                write!(f, "virtual-interrupt vector={vector:#04x}")
            }
            Self::InterruptCommand { low, destination } => write!(
                f,
                "interrupt-command low={low:#010x} destination={destination:#x}"
            ),
            Self::Interrupt { vector } => write!(f, "interrupt vector={vector:#04x}"),
            Self::Exception { vector, rip } => write!(f, "exception vector={vector} rip={rip:#x}"),
            Self::Port { port, value } => write!(f, "port {port:#06x} value={value:#x}"),
        }
    }
}

/// The trace of one processor.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    /// Where the events go, and the number of the processor; `None` if nobody wants them.
    sink: Option<(EventSink, usize)>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            sink: None,
        }
    }
}

impl Trace {
    /// The trace of a processor whose events go to `sink` as well.
    pub fn with_sink(sink: EventSink, processor: usize) -> Self {
        Self {
            sink: Some((sink, processor)),
            ..Self::default()
        }
    }

    /// Adds an event at virtual time `time`.
    #[inline]
    pub fn add(&mut self, time: u64, event: Event) {
        let words = event.words();
        let mut hash = mix(self.hash, time);
        for word in words {
            hash = mix(hash, word);
        }
        self.hash = hash;
        if let Some((sink, processor)) = &self.sink {
            sink.take(time, *processor, event);
        }
    }

    /// The hash of all events so far, with their times.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Combines two words so that order and every bit matter (a 64x64 multiplication folded).
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (product as u64 ^ (product >> 64) as u64)
        .rotate_left(23)
        .wrapping_add(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_and_content_matter() {
        let a = Event::Interrupt { vector: 0x40 };
        let b = Event::VirtualInterrupt { vector: 0x40 };
        let hash = |events: &[(u64, Event)]| {
            let mut trace = Trace::default();
            for (time, event) in events {
                trace.add(*time, *event);
            }
            trace.hash()
        };
        let reference = hash(&[(1, a), (2, b)]);
        assert_eq!(reference, hash(&[(1, a), (2, b)]));
        for other in [&[(2, b), (1, a)], &[(1, a), (3, b)], &[(1, b), (2, b)]] {
            assert_ne!(reference, hash(other));
        }
    }
}
