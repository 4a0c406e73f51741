//! What a processor may do with each RAM frame by itself: write to it, or keep decoded instructions of it.
//!
//! Both at once would let it execute what has been overwritten, and so would one processor's doing the one
//! and another the other. This is the protocol that prevents it; docs/decisions/stale-code.md has the
//! proof, and `tests/stale_code_model.rs` goes through its interleavings.
//!
//! A processor has the *right to write* to a frame, or *keeps code* of it, or neither. While it has the right,
//! it writes without telling anybody. One without it tells after the write, if there is code. Who begins to keep
//! code takes the right from all: its own at once, others' by a notice. They give it up when they read that
//! notice, and as nobody knows whether they wrote after the code was decoded, the code is dropped then.
//! A right ends in no other way; that the translation cache drops a translation says nothing.

use super::code_map::{CodeMap, SharedBits};
use super::{FRAME_SIZE, Writable};

/// What processors tell each other about a RAM frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CodeNotice {
    /// It was written: decoded instructions of it are stale.
    Stale(u64),
    /// Decoded instructions of it are kept from now on: the right to write to it ends.
    Kept(u64),
}

/// What the processor has to do because of a step of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Consequences {
    /// Its translation cache no longer permits writes to the frame. This comes first.
    pub forbid_writes: bool,
    /// It drops its decoded instructions of the frame before it executes the next instruction, and says so
    /// by [`Frames::dropped`].
    pub drop_code: bool,
    /// Every other processor is told.
    pub tell: Option<CodeNotice>,
}

impl Consequences {
    /// Nothing.
    pub const NONE: Self = Self {
        forbid_writes: false,
        drop_code: false,
        tell: None,
    };
}

/// Proof that the processor had the right to write to a frame when it was asked for; the translation cache
/// may permit writes until it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct WriteRight(());

/// A bit for each frame.
#[derive(Debug)]
struct FrameSet(Box<[u64]>);

impl FrameSet {
    fn new(size: u64) -> Self {
        // Zeros from the allocator: the host commits what is touched.
        Self(vec![0; (size / FRAME_SIZE).div_ceil(64) as usize].into_boxed_slice())
    }

    #[inline(always)]
    fn contains(&self, frame: u64) -> bool {
        let number = frame / FRAME_SIZE;
        self.0
            .get((number / 64) as usize)
            .is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// False if there is no such frame.
    fn insert(&mut self, frame: u64) -> bool {
        let number = frame / FRAME_SIZE;
        let word = self.0.get_mut((number / 64) as usize);
        word.map(|word| *word |= 1 << (number % 64)).is_some()
    }

    /// Whether it was there.
    fn remove(&mut self, frame: u64) -> bool {
        let number = frame / FRAME_SIZE;
        let Some(word) = self.0.get_mut((number / 64) as usize) else {
            return false;
        };
        let bit = 1 << (number % 64);
        let found = *word & bit != 0;
        *word &= !bit;
        found
    }
}

/// What one processor may do with each frame. No frame is in both sets.
#[derive(Debug)]
pub struct Frames {
    writable: FrameSet,
    kept: FrameSet,
}

impl Frames {
    /// None of the frames of `size` bytes of RAM.
    pub fn new(size: u64) -> Self {
        Self {
            writable: FrameSet::new(size),
            kept: FrameSet::new(size),
        }
    }

    /// The right to write to a frame, if the processor has it or can have it: if nobody keeps code of it.
    pub fn right<B: SharedBits>(&mut self, frame: u64, map: &CodeMap<B>) -> Option<WriteRight> {
        // The map alone does not say it: others may have cleared this processor's mark by a write of which it
        // has not read yet.
        let given = self.writable.contains(frame)
            || !self.kept.contains(frame) && !map.contains(frame) && self.writable.insert(frame);
        given.then_some(WriteRight(()))
    }

    /// Writes one `T` at a RAM offset, where it must not span two frames, by `write`.
    #[inline]
    pub fn write<B: SharedBits, T, R>(
        &mut self,
        offset: u64,
        map: &CodeMap<B>,
        write: impl FnOnce(Writable<T>) -> R,
    ) -> (R, Consequences) {
        let frame = offset & !(FRAME_SIZE - 1);
        let right = self.right(frame, map);
        let result = write(Writable::at(offset));
        let consequences = match right {
            Some(_) => Consequences::NONE,
            None => self.wrote(frame, map),
        };
        (result, consequences)
    }

    /// The processor has written to a frame without the right to.
    #[cold]
    fn wrote<B: SharedBits>(&self, frame: u64, map: &CodeMap<B>) -> Consequences {
        Consequences {
            forbid_writes: false,
            drop_code: self.kept.contains(frame),
            tell: map.clear(frame).then_some(CodeNotice::Stale(frame)),
        }
    }

    /// The processor is about to decode instructions of a frame and to keep them: it has to follow the
    /// consequences before it reads the frame.
    pub fn keep<B: SharedBits>(&mut self, frame: u64, map: &CodeMap<B>) -> Consequences {
        if self.kept.contains(frame) {
            return Consequences::NONE;
        }
        let had_right = self.writable.remove(frame);
        self.kept.insert(frame);
        let tell = if map.set(frame) {
            Some(CodeNotice::Kept(frame))
        } else if had_right {
            // Others keep code that may be older than what this processor wrote.
            Some(CodeNotice::Stale(frame))
        } else {
            None
        };
        Consequences {
            forbid_writes: had_right,
            drop_code: false,
            tell,
        }
    }

    /// The processor has dropped its decoded instructions of a frame.
    pub fn dropped(&mut self, frame: u64) {
        self.kept.remove(frame);
    }

    /// Another processor tells.
    pub fn told<B: SharedBits>(&mut self, notice: CodeNotice, map: &CodeMap<B>) -> Consequences {
        match notice {
            CodeNotice::Stale(frame) => Consequences {
                drop_code: self.kept.contains(frame),
                ..Consequences::NONE
            },
            CodeNotice::Kept(frame) if self.writable.remove(frame) => Consequences {
                forbid_writes: true,
                drop_code: false,
                tell: map.clear(frame).then_some(CodeNotice::Stale(frame)),
            },
            CodeNotice::Kept(_) => Consequences::NONE,
        }
    }
}
