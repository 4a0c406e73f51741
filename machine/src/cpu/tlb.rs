//! The translation cache: linear page to RAM frame.
//!
//! Direct-mapped, an array for each kind of supervisor accesses and one for user accesses. A tag is the linear page
//! address with the current *context* in its low 12 bits; invalidating everything that the
//! processor may still use is taking a fresh context number.

use crate::memory::{Word, Writable, WriteRight};

const ENTRIES: usize = 4096;
/// Bits that remember from which pages code was fetched.
const FETCHED: usize = 1 << 12;
/// Never equal to a page address with a context in its low bits, because context FFFH is not used.
const INVALID: u64 = u64::MAX;
const LAST_CONTEXT: u64 = 0xffe;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads data.
    Read,
    /// Writes data, or reads to write.
    Write,
    /// Fetches an instruction.
    Execute,
}

/// On whose behalf an access is made (SDM 4.6.1 Determination of access rights).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// CPL below 3, or an implicit access to a system structure.
    Supervisor,
    /// CPL 3.
    User,
    /// CPL below 3 with CR4.SMAP and RFLAGS.AC: explicit accesses reach user pages.
    SupervisorReachingUser,
}

/// One translation.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    read: u64,
    write: u64,
    execute: u64,
    /// What is added to a linear address to give the RAM offset.
    distance: u64,
}

/// The translation cache of one processor.
pub struct Tlb {
    entries: [Box<[Entry; ENTRIES]>; 3],
    context: u64,
    last_context: u64,
    /// Number of times that context numbers began anew.
    epoch: u64,
    /// Number of invalidations other than by a fresh context.
    invalidations: u64,
    /// The linear addresses of the large pages of which the current context has pieces.
    large_pages: LargePages,
    /// A bit for each page number modulo [`FETCHED`]: whether code was fetched from such a page since
    /// the last invalidation of fetches.
    fetched: Box<[u64; FETCHED / 64]>,
    /// Translated code relies on this: every cached frame lies below it.
    ram_size: u64,
}

/// What translated code looks translations up by.
pub(super) mod layout {
    use super::{ENTRIES, Entry};
    use std::mem::{offset_of, size_of};

    /// Shift that turns a linear address into the distance of its entry, to be masked.
    pub(in crate::cpu) const INDEX_SHIFT: u8 = 12 - size_of::<Entry>().trailing_zeros() as u8;
    /// Mask of the distance.
    pub(in crate::cpu) const INDEX_MASK: u32 = ((ENTRIES - 1) * size_of::<Entry>()) as u32;
    pub(in crate::cpu) const READ: i32 = offset_of!(Entry, read) as i32;
    pub(in crate::cpu) const WRITE: i32 = offset_of!(Entry, write) as i32;
    pub(in crate::cpu) const DISTANCE: i32 = offset_of!(Entry, distance) as i32;
    const _: () = assert!(size_of::<Entry>() == 32);
}

/// A range that covers every large page cached in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LargePages {
    first: u64,
    last: u64,
}

impl LargePages {
    const NONE: Self = Self { first: 1, last: 0 };

    fn contains(self, linear: u64) -> bool {
        self.first <= linear && linear <= self.last
    }

    fn cover(&mut self, first: u64, last: u64) {
        if *self == Self::NONE {
            *self = Self { first, last };
        } else {
            self.first = self.first.min(first);
            self.last = self.last.max(last);
        }
    }
}

impl Default for LargePages {
    fn default() -> Self {
        Self::NONE
    }
}

/// A context of the cache, to come back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    number: u64,
    epoch: u64,
    large_pages: LargePages,
}

impl Context {
    /// Whether a piece of a large page at `linear` may be cached in it.
    pub fn may_have_large_page(&self, linear: u64) -> bool {
        self.large_pages.contains(linear)
    }
}

impl Tlb {
    /// An empty cache of translations to the frames of `ram_size` bytes of RAM.
    pub fn new(ram_size: u64) -> Self {
        let array = || {
            Box::new(
                [Entry {
                    read: INVALID,
                    write: INVALID,
                    execute: INVALID,
                    distance: 0,
                }; ENTRIES],
            )
        };
        Self {
            entries: [array(), array(), array()],
            context: 0,
            last_context: 0,
            epoch: 1,
            invalidations: 0,
            large_pages: LargePages::NONE,
            fetched: Box::new([0; FETCHED / 64]),
            ram_size,
        }
    }

    /// Size of the RAM whose frames are cached.
    pub(super) fn ram_size(&self) -> u64 {
        self.ram_size
    }

    /// Where the entries for `privilege` lie, and the low bits of every tag of the current context.
    pub(super) fn place(&self, privilege: Privilege) -> (usize, u64) {
        let entries = &self.entries[privilege as usize];
        (std::ptr::from_ref(&**entries).addr(), self.context)
    }

    /// The RAM offset of `T` at `linear`, if that access is cached and stays inside the page.
    #[inline(always)]
    pub fn lookup<T: Word>(
        &self,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Option<u64> {
        let entry = &self.entries[privilege as usize][(linear >> 12) as usize % ENTRIES];
        let tag = match access {
            Access::Read => entry.read,
            Access::Write => entry.write,
            Access::Execute => entry.execute,
        };
        let offset = linear & 0xfff;
        if tag == (linear & !0xfff | self.context) && offset <= 4096 - T::SIZE as u64 {
            Some(linear.wrapping_add(entry.distance))
        } else {
            None
        }
    }

    /// Where `T` at `linear` may be written, if a write is cached and stays inside the page.
    #[inline(always)]
    pub fn lookup_write<T: Word>(&self, linear: u64, privilege: Privilege) -> Option<Writable<T>> {
        self.lookup::<T>(linear, Access::Write, privilege)
            .map(Writable::cached)
    }

    /// Caches that `linear`'s page is the RAM frame at `frame` for the accesses in `permitted`.
    pub fn insert(&mut self, linear: u64, frame: u64, permitted: Cached, privilege: Privilege) {
        if frame >= self.ram_size {
            return;
        }
        let tag = linear & !0xfff | self.context;
        let entry = &mut self.entries[privilege as usize][(linear >> 12) as usize % ENTRIES];
        let distance = frame.wrapping_sub(linear & !0xfff);
        let keep = |old: u64| {
            if entry.distance == distance && old == tag {
                tag
            } else {
                INVALID
            }
        };
        *entry = Entry {
            read: if permitted.read {
                tag
            } else {
                keep(entry.read)
            },
            write: if permitted.write.is_some() {
                tag
            } else {
                keep(entry.write)
            },
            execute: if permitted.execute {
                tag
            } else {
                keep(entry.execute)
            },
            distance,
        };
    }

    /// A number that stays the same for as long as every translation that was cached for
    /// instruction fetches may still be used: a change of context changes it, and so does any
    /// invalidation.
    #[inline(always)]
    pub fn fetch_key(&self, privilege: Privilege) -> u64 {
        let user = privilege == Privilege::User;
        self.invalidations << 13 | self.context << 1 | u64::from(user)
    }

    /// Makes every [fetch key](Self::fetch_key) handed out before worthless.
    pub fn invalidate_fetches(&mut self) {
        self.invalidations += 1;
        self.fetched.fill(0);
    }

    /// Says that code was fetched from the page of `linear` and that somebody remembers where it is,
    /// under the fetch key.
    pub(super) fn note_fetch(&mut self, linear: u64) {
        let number = (linear >> 12) as usize % FETCHED;
        self.fetched[number / 64] |= 1 << (number % 64);
    }

    fn may_be_fetched(&self, linear: u64) -> bool {
        let number = (linear >> 12) as usize % FETCHED;
        self.fetched[number / 64] >> (number % 64) & 1 != 0
    }

    /// Says that the page of `linear`, about to be inserted in pieces of 4 KBytes, leaves the bits of
    /// `offset` untranslated.
    pub fn note_page_size(&mut self, linear: u64, offset: u64) {
        if offset > 0xfff {
            self.large_pages.cover(linear & !offset, linear | offset);
        }
    }

    /// Drops the translations of the page at `linear`, in the current context (SDM 4.10.4.1). If it
    /// may be part of a large page, of which there are pieces elsewhere, everything goes.
    pub fn flush_page(&mut self, linear: u64) {
        if self.large_pages.contains(linear) {
            return self.flush();
        }
        if self.may_be_fetched(linear) {
            self.invalidate_fetches();
        }
        for array in &mut self.entries {
            let entry = &mut array[(linear >> 12) as usize % ENTRIES];
            entry.read = INVALID;
            entry.write = INVALID;
            entry.execute = INVALID;
        }
    }

    /// Drops every translation of the current context.
    pub fn flush(&mut self) {
        if self.last_context == LAST_CONTEXT {
            self.flush_all();
        } else {
            self.last_context += 1;
            self.context = self.last_context;
            self.large_pages = LargePages::NONE;
        }
    }

    /// Drops every translation of every context; contexts handed out before mean nothing any more.
    pub fn flush_all(&mut self) {
        for array in &mut self.entries {
            for entry in array.iter_mut() {
                entry.read = INVALID;
                entry.write = INVALID;
                entry.execute = INVALID;
            }
        }
        self.last_context = 0;
        self.context = 0;
        self.large_pages = LargePages::NONE;
        self.epoch += 1;
        self.invalidate_fetches();
    }

    /// Permits no write to the RAM frame at `frame` any more, in any context.
    pub fn forbid_writes(&mut self, frame: u64) {
        for array in &mut self.entries {
            for entry in array.iter_mut() {
                if entry.write != INVALID
                    && (entry.write & !0xfff).wrapping_add(entry.distance) == frame
                {
                    entry.write = INVALID;
                }
            }
        }
    }

    /// The current context, to come back to with [`resume`](Self::resume).
    pub fn context(&self) -> Context {
        Context {
            number: self.context,
            epoch: self.epoch,
            large_pages: self.large_pages,
        }
    }

    /// Makes `context` current if nothing has dropped it since; otherwise takes a fresh one.
    pub fn resume(&mut self, context: Context) {
        if context.epoch == self.epoch {
            self.context = context.number;
            self.large_pages = context.large_pages;
        } else {
            self.flush();
        }
    }
}

/// The accesses that a cached translation serves.
#[derive(Clone, Copy, Debug)]
pub struct Cached {
    /// Reads.
    pub read: bool,
    /// Writes: the processor has the right to write to the frame.
    pub write: Option<WriteRight>,
    /// Instruction fetches.
    pub execute: bool,
}

/// The accesses that the paging structures permit.
#[derive(Clone, Copy, Debug)]
pub struct Permitted {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Cached = Cached {
        read: true,
        write: None,
        execute: true,
    };

    fn cached(tlb: &Tlb, linear: u64) -> bool {
        tlb.lookup::<u8>(linear, Access::Read, Privilege::Supervisor)
            .is_some()
    }

    #[test]
    fn invalidating_a_page_drops_every_piece_of_a_large_page_and_no_more() {
        let mut tlb = Tlb::new(1 << 20);
        tlb.note_page_size(0x40_1000, 0x1f_ffff);
        tlb.insert(0x40_1000, 0x1000, ALL, Privilege::Supervisor);
        tlb.insert(0x90_0000, 0x2000, ALL, Privilege::Supervisor);
        tlb.insert(0x90_1000, 0x3000, ALL, Privilege::Supervisor);
        tlb.flush_page(0x90_0000);
        assert!(!cached(&tlb, 0x90_0000));
        assert!(cached(&tlb, 0x90_1000) && cached(&tlb, 0x40_1000));
        tlb.flush_page(0x5f_f000);
        assert!(!cached(&tlb, 0x40_1000));
    }

    #[test]
    fn a_context_comes_back_with_its_translations_and_its_large_pages() {
        let mut tlb = Tlb::new(1 << 20);
        tlb.note_page_size(0x20_0000, 0x1f_ffff);
        tlb.insert(0x20_0000, 0, ALL, Privilege::Supervisor);
        let first = tlb.context();
        tlb.flush();
        assert!(!cached(&tlb, 0x20_0000));
        tlb.resume(first);
        assert!(cached(&tlb, 0x20_0000));
        tlb.flush_page(0x20_3000);
        assert!(!cached(&tlb, 0x20_0000));
        tlb.flush_all();
        tlb.resume(first);
        assert!(!cached(&tlb, 0x20_0000));
    }
}
