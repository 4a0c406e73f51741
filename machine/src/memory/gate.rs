//! The gate through which every write to RAM goes, whoever makes it.
//!
//! A write to a frame of which some processor keeps decoded instructions makes it drop them. So nobody writes
//! to RAM by its offset alone: [`Ram`](super::Ram)'s writes ask for a [`Writable`], and there are three ways to one.
//! - A processor's translation cache has it where the processor has the [right](super::Frames) to write.
//! - [`Frames::write`](super::Frames::write) lends one, and says what follows from the write:
//!   `Cpu::store` and its like, for whatever the processor itself writes.
//! - [`CodeMap::write`] does the same for everybody else: [`BusAgent`](crate::platform::BusAgent).
//!
//! Whatever else must know of writes (what changed since a snapshot, for one) finds them here: a right is
//! given once per frame and processor, and each write without one passes.

use std::marker::PhantomData;

use super::{CodeMap, CodeNotice, FRAME_SIZE, SharedBits, Word};

/// The RAM offset of a `T` that may be written now. It does not span two frames.
#[derive(Debug)]
pub struct Writable<T> {
    offset: u64,
    what: PhantomData<T>,
}

impl<T> Clone for Writable<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Writable<T> {}

impl<T> Writable<T> {
    #[inline(always)]
    pub(super) fn at(offset: u64) -> Self {
        Self {
            offset,
            what: PhantomData,
        }
    }

    /// For the translation cache alone: an entry that a [`WriteRight`](super::WriteRight) was shown for
    /// leads there.
    #[inline(always)]
    pub(crate) fn cached(offset: u64) -> Self {
        Self::at(offset)
    }

    /// The RAM offset.
    #[inline(always)]
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// `length` bytes from here, or as many as the frame has.
    #[inline]
    pub(crate) fn bytes(self, length: u64) -> WritableBytes {
        WritableBytes {
            offset: self.offset,
            length: length.min(FRAME_SIZE - self.offset % FRAME_SIZE),
        }
    }
}

impl<T, const COUNT: usize> Writable<[T; COUNT]> {
    /// Its elements.
    pub(crate) fn words(self) -> [Writable<T>; COUNT] {
        std::array::from_fn(|i| Writable::at(self.offset + (i * size_of::<T>()) as u64))
    }
}

/// Bytes of one frame that may be written now.
#[derive(Clone, Copy, Debug)]
pub struct WritableBytes {
    offset: u64,
    length: u64,
}

impl WritableBytes {
    /// The RAM offset of the first.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// How many they are.
    pub fn length(self) -> u64 {
        self.length
    }
}

/// Whoever can be told to write a word to RAM.
pub trait WriteRam {
    /// Writes a word at a RAM offset; beyond the end of RAM it is dropped.
    fn store<T: Word>(&mut self, offset: u64, value: T);
}

impl<Bits: SharedBits> CodeMap<Bits> {
    /// Writes one `T` at a RAM offset, where it must not span two frames, by `write`, on behalf of somebody
    /// who is no processor. Every processor has to be told the notice.
    #[must_use]
    pub fn write<T>(&self, offset: u64, write: impl FnOnce(Writable<T>)) -> Option<CodeNotice> {
        let frame = offset & !(FRAME_SIZE - 1);
        write(Writable::at(offset));
        self.clear(frame).then_some(CodeNotice::Stale(frame))
    }
}
