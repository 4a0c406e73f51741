//! Which RAM frames have decoded instructions kept of them, one bit a frame.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bit for each RAM frame.
#[derive(Debug)]
pub struct CodeMap {
    words: Box<[AtomicU64]>,
}

impl CodeMap {
    /// A map for `size` bytes of RAM, all clear.
    pub fn new(size: u64) -> Self {
        let words = (size / 4096).div_ceil(64);
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn place(&self, frame: u64) -> Option<(&AtomicU64, u64)> {
        let number = frame / 4096;
        Some((self.words.get((number / 64) as usize)?, 1 << (number % 64)))
    }

    /// Whether the frame at RAM offset `frame` is marked.
    #[inline]
    pub fn contains(&self, frame: u64) -> bool {
        self.place(frame)
            .is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
    }

    /// Marks the frame; true if it was not marked.
    #[inline]
    pub fn set(&self, frame: u64) -> bool {
        self.place(frame).is_some_and(|(word, bit)| {
            word.load(Ordering::SeqCst) & bit == 0
                && word.fetch_or(bit, Ordering::SeqCst) & bit == 0
        })
    }

    /// Clears the mark; true if it was marked.
    #[inline]
    pub fn clear(&self, frame: u64) -> bool {
        self.place(frame).is_some_and(|(word, bit)| {
            word.load(Ordering::SeqCst) & bit != 0
                && word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
        })
    }
}
