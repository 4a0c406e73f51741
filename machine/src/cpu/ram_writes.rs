//! What the processor writes to RAM by itself, and what it and others must do after a write.
//!
//! Accesses of instructions come here where the translation cache does not permit the write; and so does
//! whatever the processor writes by RAM offset: flags in paging structures, the areas that a VMCS points to,
//! the VMCS.

use super::Cpu;
use crate::memory::{Atomic, CodeNotice, Consequences, FRAME_SIZE, Ram, Word, Writable, WriteRam};
use crate::platform::Notice;

impl Cpu {
    /// Writes one `T` at a RAM offset, where it must not span two frames, by `write`.
    #[inline]
    pub(crate) fn writing<T, R>(
        &mut self,
        offset: u64,
        write: impl FnOnce(&Ram, Writable<T>) -> R,
    ) -> R {
        let ram = &self.ram;
        let (result, consequences) = self
            .frames
            .write(offset, &self.platform.code_map, |place| write(ram, place));
        if consequences != Consequences::NONE {
            self.follow(offset & !(FRAME_SIZE - 1), consequences);
        }
        result
    }

    /// Writes a word at a RAM offset; beyond the end of RAM it is dropped.
    #[inline]
    pub fn store<T: Word>(&mut self, offset: u64, value: T) {
        if offset % FRAME_SIZE <= FRAME_SIZE - T::SIZE as u64 {
            self.writing(offset, |ram, place| ram.store(place, value));
        } else {
            for (i, byte) in (0..).zip(&value.to_bytes()[..T::SIZE]) {
                self.store(offset.wrapping_add(i), *byte);
            }
        }
    }

    /// Replaces the word at a RAM offset, where it must not span two frames, by `change` of it as
    /// [`Atomic::update`] does.
    pub(crate) fn update<T: Atomic>(&mut self, offset: u64, change: impl FnMut(T) -> T) -> T {
        self.writing(offset, |ram, place| T::update(ram, place, change))
    }

    /// Does what follows from a write to a frame, or from keeping code of it.
    #[cold]
    fn follow(&mut self, frame: u64, consequences: Consequences) {
        let Consequences {
            forbid_writes,
            drop_code,
            tell,
        } = consequences;
        if forbid_writes {
            self.tlb.forbid_writes(frame);
        }
        if drop_code {
            self.stale_code.push(frame);
            self.look_at_events();
        }
        if let Some(notice) = tell {
            self.platform.tell_others(self.index, Notice::Code(notice));
        }
    }

    /// Instructions of a frame are about to be decoded and kept.
    pub(super) fn keep_code_of(&mut self, frame: u64) {
        let consequences = self.frames.keep(frame, &self.platform.code_map);
        self.follow(frame, consequences);
    }

    /// Another processor, or a bus agent, has told.
    pub(super) fn told(&mut self, notice: CodeNotice) {
        let consequences = self.frames.told(notice, &self.platform.code_map);
        let (CodeNotice::Stale(frame) | CodeNotice::Kept(frame)) = notice;
        self.follow(frame, consequences);
    }
}

impl WriteRam for Cpu {
    fn store<T: Word>(&mut self, offset: u64, value: T) {
        Self::store(self, offset, value);
    }
}
