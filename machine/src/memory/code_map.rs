//! Which RAM frames have decoded instructions kept of them, one bit a frame, for all processors.
//!
//! Its users are [`Frames`](super::Frames), which has the protocol, and whoever writes to RAM without
//! being a processor.

use std::sync::atomic::{AtomicU64, Ordering};

use super::FRAME_SIZE;

/// 64 bits that threads share. The machine's are [`AtomicU64`]; the model of the protocol has others.
pub trait SharedBits {
    /// All clear.
    fn clear() -> Self;
    /// The bits; what was written before one of them was set or cleared is seen by whoever sees that.
    fn load(&self) -> u64;
    /// Sets bits in one step; what they were. Whoever is later in the order of these steps sees what was
    /// written before.
    fn set(&self, bits: u64) -> u64;
    /// Clears bits in one step, in the same order; what they were.
    fn reset(&self, bits: u64) -> u64;
}

impl SharedBits for AtomicU64 {
    fn clear() -> Self {
        Self::new(0)
    }

    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn set(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::AcqRel)
    }

    fn reset(&self, bits: u64) -> u64 {
        self.fetch_and(!bits, Ordering::AcqRel)
    }
}

/// A bit for each RAM frame: whether some processor keeps decoded instructions of it.
#[derive(Debug)]
pub struct CodeMap<Bits = AtomicU64> {
    words: Box<[Bits]>,
}

impl<Bits: SharedBits> CodeMap<Bits> {
    /// A map for `size` bytes of RAM, all clear.
    pub fn new(size: u64) -> Self {
        let words = (size / FRAME_SIZE).div_ceil(64);
        Self {
            words: (0..words).map(|_| Bits::clear()).collect(),
        }
    }

    fn place(&self, frame: u64) -> Option<(&Bits, u64)> {
        let number = frame / FRAME_SIZE;
        Some((self.words.get((number / 64) as usize)?, 1 << (number % 64)))
    }

    /// Whether the frame at RAM offset `frame` is marked.
    #[inline]
    pub(super) fn contains(&self, frame: u64) -> bool {
        self.place(frame)
            .is_some_and(|(word, bit)| word.load() & bit != 0)
    }

    /// Marks the frame; true if it was not marked. What was written before it was last cleared is seen
    /// from now on.
    pub(super) fn set(&self, frame: u64) -> bool {
        self.place(frame)
            .is_some_and(|(word, bit)| word.load() & bit == 0 && word.set(bit) & bit == 0)
    }

    /// Clears the mark; true if there was one. Whoever marks the frame later sees what was written before:
    /// so this is always a step in that order, also where there is no mark.
    pub(super) fn clear(&self, frame: u64) -> bool {
        self.place(frame)
            .is_some_and(|(word, bit)| word.reset(bit) & bit != 0)
    }
}
