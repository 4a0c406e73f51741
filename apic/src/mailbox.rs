//! The part of a processor's interrupt state that other processors and devices may touch.
//!
//! Senders post, then raise attention; the owner lowers attention, then takes. So what is posted
//! after a take raises attention again, and nothing is lost. A raised attention with nothing to
//! take is possible and harmless.

use arch::interrupt_command::TriggerMode;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

const NON_MASKABLE: u32 = 1 << 0;
/// A second one came before the first was taken.
const NON_MASKABLE_AGAIN: u32 = 1 << 5;
const SYSTEM_MANAGEMENT: u32 = 1 << 1;
const INIT: u32 = 1 << 2;
const START_UP: u32 = 1 << 3;
const EXTERNAL_LINE: u32 = 1 << 4;
const EXTERNAL_MESSAGE: u32 = 1 << 6;
const START_UP_VECTOR: u32 = 0xff << 16;

/// Interrupt messages on their way to one processor.
#[derive(Debug)]
pub struct InterruptMailbox {
    attention: AtomicU32,
    events: AtomicU32,
    edge: [AtomicU64; 4],
    level: [AtomicU64; 4],
}

/// What the owner took out of its mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Taken {
    /// Edge-triggered vectors: bit `v % 64` of element `v / 64`. Vectors below 16 too: accepting
    /// them is what makes the receiver's error.
    pub edge: [u64; 4],
    /// Level-triggered vectors.
    pub level: [u64; 4],
    /// Non-maskable interrupts: 0, 1, or 2 for two and more. How many of them count depends on the
    /// receiver ([`PendingNonMaskable`](crate::non_maskable::PendingNonMaskable)).
    pub non_maskable: u8,
    /// A system-management interrupt.
    pub system_management: bool,
    /// INIT; comes before `start_up`.
    pub init: bool,
    /// A start-up IPI with its vector.
    pub start_up: Option<u8>,
}

/// The 8259's interrupt, as one processor sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExternalInterrupt {
    /// The level of its INTR line, which is wired to LINT0.
    pub line: bool,
    /// An I/O APIC sent an ExtINT message that was not acknowledged yet.
    pub message: bool,
}

impl ExternalInterrupt {
    /// Neither.
    pub const NONE: Self = Self {
        line: false,
        message: false,
    };
}

impl Taken {
    /// All vectors with their trigger modes, edge-triggered first, ascending.
    pub fn vectors(&self) -> impl Iterator<Item = (u8, TriggerMode)> {
        let edge = vectors_of(self.edge).map(|vector| (vector, TriggerMode::Edge));
        edge.chain(vectors_of(self.level).map(|vector| (vector, TriggerMode::Level)))
    }
}

/// The vectors set in four words, ascending.
pub fn vectors_of(words: [u64; 4]) -> impl Iterator<Item = u8> {
    (0u32..).zip(words).flat_map(|(index, mut bits)| {
        core::iter::from_fn(move || {
            let bit = (bits != 0).then(|| bits.trailing_zeros())?;
            bits &= bits - 1;
            Some((index * 64 + bit) as u8)
        })
    })
}

impl InterruptMailbox {
    /// An empty mailbox.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            attention: AtomicU32::new(0),
            events: AtomicU32::new(0),
            edge: [const { AtomicU64::new(0) }; 4],
            level: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// An empty mailbox.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            attention: AtomicU32::new(0),
            events: AtomicU32::new(0),
            edge: core::array::from_fn(|_| AtomicU64::new(0)),
            level: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Requests a vector. True if attention was low: the caller may have to wake the owner's
    /// thread.
    pub fn post_vector(&self, vector: u8, trigger_mode: TriggerMode) -> bool {
        let [a, b, c, d] = match trigger_mode {
            TriggerMode::Edge => &self.edge,
            TriggerMode::Level => &self.level,
        };
        let word = match vector >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word.fetch_or(1 << (vector & 63), Ordering::Release);
        self.raise_attention()
    }

    /// Requests an NMI. Returns as [`Self::post_vector`].
    pub fn post_non_maskable(&self) -> bool {
        self.update_events(|events| {
            if events & NON_MASKABLE == 0 {
                events | NON_MASKABLE
            } else {
                events | NON_MASKABLE_AGAIN
            }
        });
        self.raise_attention()
    }

    /// Requests an SMI. Returns as [`Self::post_vector`].
    pub fn post_system_management(&self) -> bool {
        self.events.fetch_or(SYSTEM_MANAGEMENT, Ordering::Release);
        self.raise_attention()
    }

    /// Requests INIT. A start-up IPI not yet taken is void, as INIT leaves the processor waiting for
    /// one anyway, and so is an ExtINT message. Returns as [`Self::post_vector`].
    pub fn post_init(&self) -> bool {
        const VOID: u32 = START_UP | START_UP_VECTOR | EXTERNAL_MESSAGE;
        self.update_events(|events| events & !VOID | INIT);
        self.raise_attention()
    }

    /// Requests start-up at `vector`. Of two not yet taken the first counts: it starts the
    /// processor, which then ignores the second. Returns as [`Self::post_vector`].
    pub fn post_start_up(&self, vector: u8) -> bool {
        self.update_events(|events| {
            if events & START_UP != 0 {
                events
            } else {
                events | START_UP | u32::from(vector) << 16
            }
        });
        self.raise_attention()
    }

    /// Sets the level of the external-interrupt line (8259 INTR). Returns as
    /// [`Self::post_vector`].
    pub fn set_external_line(&self, asserted: bool) -> bool {
        if asserted {
            self.events.fetch_or(EXTERNAL_LINE, Ordering::Release);
        } else {
            self.events.fetch_and(!EXTERNAL_LINE, Ordering::Release);
        }
        self.raise_attention()
    }

    /// Requests an acknowledge cycle of the 8259, by a message that passes LINT0 by. Returns as
    /// [`Self::post_vector`].
    pub fn post_external_message(&self) -> bool {
        self.events.fetch_or(EXTERNAL_MESSAGE, Ordering::Release);
        self.raise_attention()
    }

    /// The 8259's interrupt; taking does not change it.
    #[inline]
    pub fn external_interrupt(&self) -> ExternalInterrupt {
        let events = self.events.load(Ordering::Acquire);
        ExternalInterrupt {
            line: events & EXTERNAL_LINE != 0,
            message: events & EXTERNAL_MESSAGE != 0,
        }
    }

    /// The owner begins an acknowledge cycle of the 8259: a message that asked for it is served. Another
    /// one may follow from the cycle itself, so this comes first.
    pub fn acknowledge_external_interrupt(&self) {
        self.events.fetch_and(!EXTERNAL_MESSAGE, Ordering::AcqRel);
    }

    /// Makes the owner look, without a message. Returns as [`Self::post_vector`].
    pub fn raise_attention(&self) -> bool {
        self.attention.swap(1, Ordering::AcqRel) == 0
    }

    /// Whether there may be something to take: one relaxed load.
    #[inline]
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) != 0
    }

    /// The word that is not 0 while there may be something to take, for an owner that looks at it
    /// by its address.
    pub fn attention_word(&self) -> &AtomicU32 {
        &self.attention
    }

    /// Takes everything. For the owner alone.
    pub fn take(&self) -> Taken {
        // A read-modify-write, to synchronize with every post that raised attention before.
        if self.attention.swap(0, Ordering::AcqRel) == 0 {
            return Taken::default();
        }
        let kept = EXTERNAL_LINE | EXTERNAL_MESSAGE;
        let events = self.events.fetch_and(kept, Ordering::AcqRel);
        Taken {
            edge: take_words(&self.edge),
            level: take_words(&self.level),
            non_maskable: u8::from(events & NON_MASKABLE != 0)
                + u8::from(events & NON_MASKABLE_AGAIN != 0),
            system_management: events & SYSTEM_MANAGEMENT != 0,
            init: events & INIT != 0,
            start_up: (events & START_UP != 0).then_some((events >> 16) as u8),
        }
    }

    /// Takes the vectors alone, the edge-triggered and the level-triggered: the owner's local APIC stops
    /// taking them. Everything else stays for [`Self::take`]. For the owner alone.
    pub fn take_vectors(&self) -> ([u64; 4], [u64; 4]) {
        (take_words(&self.edge), take_words(&self.level))
    }

    fn update_events(&self, change: impl Fn(u32) -> u32) {
        let mut old = self.events.load(Ordering::Relaxed);
        while let Err(now) =
            self.events
                .compare_exchange_weak(old, change(old), Ordering::AcqRel, Ordering::Relaxed)
        {
            old = now;
        }
    }
}

impl Default for InterruptMailbox {
    fn default() -> Self {
        Self::new()
    }
}

fn take_words(words: &[AtomicU64; 4]) -> [u64; 4] {
    words.each_ref().map(|word| {
        if word.load(Ordering::Relaxed) == 0 {
            0
        } else {
            word.swap(0, Ordering::AcqRel)
        }
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_vector_arrives_once_with_its_trigger_mode() {
        let mailbox = InterruptMailbox::new();
        for vector in 0..=255 {
            for mode in [TriggerMode::Edge, TriggerMode::Level] {
                assert!(!mailbox.attention());
                assert!(mailbox.post_vector(vector, mode));
                assert!(!mailbox.post_vector(vector, mode));
                assert!(mailbox.attention());
                let taken: Vec<_> = mailbox.take().vectors().collect();
                assert_eq!(taken, [(vector, mode)]);
                assert_eq!(mailbox.take(), Taken::default());
            }
        }
    }

    #[test]
    fn vectors_are_taken_without_the_events() {
        let mailbox = InterruptMailbox::new();
        mailbox.post_vector(0x31, TriggerMode::Level);
        mailbox.post_vector(0x0f, TriggerMode::Edge);
        mailbox.post_non_maskable();
        let (edge, level) = mailbox.take_vectors();
        assert_eq!(vectors_of(edge).collect::<Vec<_>>(), [0x0f]);
        assert_eq!(vectors_of(level).collect::<Vec<_>>(), [0x31]);
        assert!(mailbox.attention());
        let taken = mailbox.take();
        assert_eq!((taken.vectors().count(), taken.non_maskable), (0, 1));
    }

    #[test]
    fn init_and_start_up_keep_their_order() {
        let mailbox = InterruptMailbox::new();
        mailbox.post_init();
        mailbox.post_start_up(0x9a);
        mailbox.post_start_up(0x11);
        let taken = mailbox.take();
        assert_eq!((taken.init, taken.start_up), (true, Some(0x9a)));
        mailbox.post_start_up(0x9a);
        mailbox.post_init();
        let taken = mailbox.take();
        assert_eq!((taken.init, taken.start_up), (true, None));
        mailbox.post_start_up(0);
        assert_eq!(mailbox.take().start_up, Some(0));
    }

    #[test]
    fn events_are_separate_and_the_line_is_a_level() {
        let mailbox = InterruptMailbox::new();
        let line = ExternalInterrupt {
            line: true,
            message: false,
        };
        mailbox.set_external_line(true);
        mailbox.post_non_maskable();
        let taken = mailbox.take();
        assert_eq!(taken.non_maskable, 1);
        assert!(!taken.system_management && !taken.init);
        assert_eq!(mailbox.external_interrupt(), line, "taking leaves it");
        mailbox.post_system_management();
        let taken = mailbox.take();
        assert!(taken.system_management && taken.non_maskable == 0);
        assert!(mailbox.set_external_line(false));
        assert_eq!(mailbox.external_interrupt(), ExternalInterrupt::NONE);
        assert_eq!(mailbox.take(), Taken::default());
    }

    #[test]
    fn an_external_message_stays_until_it_is_acknowledged() {
        let mailbox = InterruptMailbox::new();
        let message = ExternalInterrupt {
            line: false,
            message: true,
        };
        assert!(mailbox.post_external_message());
        assert_eq!(mailbox.take(), Taken::default());
        assert_eq!(mailbox.external_interrupt(), message);
        mailbox.acknowledge_external_interrupt();
        assert_eq!(mailbox.external_interrupt(), ExternalInterrupt::NONE);
        mailbox.post_external_message();
        mailbox.post_init();
        assert_eq!(mailbox.external_interrupt(), ExternalInterrupt::NONE);
    }
}
