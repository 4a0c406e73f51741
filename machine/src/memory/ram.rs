//! Guest RAM: the one home of raw pointers to it.
//!
//! RAM is one host mapping; a *RAM offset* is a position in it. The rest of the machine keeps
//! offsets, never pointers, and every access is checked against the size of the mapping; translated code adds
//! offsets from the translation cache, which holds none beyond RAM, to the mapping's address.
//!
//! # Soundness
//!
//! The guest's processors race on RAM, with accesses of any size and alignment. Rust's memory model has no
//! such accesses: races of ordinary or volatile accesses to memory *inside* a Rust allocation are undefined behaviour, and so are
//! those of atomic ones of different sizes. So RAM is no Rust allocation. It is mapped by the host's system call, no
//! reference to it is made but the one below, and Rust code never reads or writes it as memory of its own:
//! - Words are loaded and stored by volatile accesses, which the documentation of [`std::ptr::read_volatile`] allows outside of any
//!   Rust allocation; there they do what the host's instructions do.
//! - Atomic updates and bulk moves are inline assembly on x86-64 ([`host`]), and translated code is the host's
//!   instructions anyway. None of them touches Rust's memory.
//!
//! What races give is then the host architecture's matter: some value of bits, torn or not, all of which are valid words.
//! Nothing of the machine depends on it; order between processors' threads comes from
//! [`CodeMap`](super::CodeMap), mailboxes and locks, which are ordinary Rust.
//!
//! Two things rest on less. The words of a posted-interrupt descriptor are shown to the code of `apic` as `&AtomicU64`, aligned,
//! because that code serves the hypervisor as well. And on hosts other than x86-64 atomic updates are Rust's atomics. A guest that races on those bytes
//! with accesses of another size makes accesses that Rust's model does not define; the compilers in use emit for an atomic access
//! its one instruction, with the meaning that the host gives it.
#![allow(
    unsafe_code,
    reason = "guest memory is shared with other processors' threads and cannot be a Rust reference"
)]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;

use super::{HOLE_END, HOLE_START, Word, Writable, WritableBytes, host};

/// The most bytes that a machine can have, the width of its physical addresses.
const LARGEST: u64 = 1 << 46;

/// Why RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is no multiple of 4 KiB, or under 1 MiB.
    #[error("{0} bytes of RAM: give at least 1 MiB, in multiples of 4 KiB")]
    BadSize(u64),
    /// The size is more than any processor could address.
    #[error("{0} bytes of RAM: more than there are physical addresses; give 2^46 bytes at most")]
    TooLarge(u64),
    /// The host refused the mapping.
    #[error("the host has no room for {size} bytes of RAM: {source}")]
    Refused {
        /// Bytes that were asked for.
        size: u64,
        /// What the host said.
        source: std::io::Error,
    },
}

/// Guest RAM; clones share it.
#[derive(Clone, Debug)]
pub struct Ram {
    base: *mut u8,
    size: u64,
    // Keeps `base` mapped for as long as any clone lives.
    _mapping: Arc<MmapRaw>,
}

// SAFETY: `base` points into the mapping that `_mapping` keeps alive, which is not Rust's memory: see the
// module's documentation on why threads may race on it.
unsafe impl Send for Ram {}
// SAFETY: as for `Send`; no method hands out a reference to plain bytes.
unsafe impl Sync for Ram {}

/// An unaligned word, so that one volatile access moves it whole where the host can.
#[repr(C, packed)]
struct Unaligned<T>(T);

impl Ram {
    /// Maps `size` bytes of zeroed RAM; the host commits pages as they are touched.
    pub fn new(size: u64) -> Result<Self, RamError> {
        if size > LARGEST || usize::try_from(size).is_err() {
            return Err(RamError::TooLarge(size));
        }
        if size < 1 << 20 || !size.is_multiple_of(4096) {
            return Err(RamError::BadSize(size));
        }
        let mapping = memmap2::MmapOptions::new()
            .len(size as usize)
            .no_reserve_swap()
            .map_anon()
            .map(MmapRaw::from)
            .map_err(|source| RamError::Refused { size, source })?;
        Ok(Self {
            base: mapping.as_mut_ptr(),
            size,
            _mapping: Arc::new(mapping),
        })
    }

    /// Size in bytes.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The host's address of the first byte, for translated code.
    pub(crate) fn address(&self) -> usize {
        self.base.expose_provenance()
    }

    /// Bytes of RAM below the device hole.
    pub fn low_size(&self) -> u64 {
        self.size.min(HOLE_START)
    }

    /// The RAM offset of a physical address, if RAM is there.
    #[inline(always)]
    pub fn offset(&self, physical: u64) -> Option<u64> {
        let offset = if physical < HOLE_START {
            physical
        } else if physical >= HOLE_END {
            physical - (HOLE_END - HOLE_START)
        } else {
            return None;
        };
        (offset < self.size).then_some(offset)
    }

    #[inline(always)]
    fn pointer<T>(&self, offset: u64) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>() as u64)?;
        if end > self.size {
            return None;
        }
        // In the mapping, as was just checked.
        Some(self.base.wrapping_add(offset as usize).cast())
    }

    /// Reads a word at a RAM offset; reads beyond the end give 0.
    #[inline(always)]
    pub fn load<T: Word>(&self, offset: u64) -> T {
        match self.pointer::<Unaligned<T>>(offset) {
            // SAFETY: `pointer` checked that the word lies in the live mapping, outside of Rust's memory;
            // `Unaligned` has alignment 1 and every bit pattern is a valid word.
            Some(pointer) => unsafe { pointer.read_volatile() }.0,
            None => T::default(),
        }
    }

    /// Writes a word; beyond the end of RAM it is dropped.
    #[inline(always)]
    pub fn store<T: Word>(&self, place: Writable<T>, value: T) {
        if let Some(pointer) = self.pointer::<Unaligned<T>>(place.offset()) {
            // SAFETY: as in `load`; the mapping is writable.
            unsafe { pointer.write_volatile(Unaligned(value)) }
        }
    }

    /// Copies RAM into `buffer`; bytes beyond the end of RAM are 0.
    pub fn read_bytes(&self, offset: u64, buffer: &mut [u8]) {
        let mut position = offset;
        let mut chunks = buffer.chunks_exact_mut(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            if position.checked_add(8).is_some_and(|end| end <= self.size) {
                word = self.load::<u64>(position).to_le_bytes();
            } else {
                for (i, byte) in (0..).zip(&mut word) {
                    *byte = self.load(position.wrapping_add(i));
                }
            }
            chunk.copy_from_slice(&word);
            position = position.wrapping_add(8);
        }
        for byte in chunks.into_remainder() {
            *byte = self.load(position);
            position = position.wrapping_add(1);
        }
    }

    /// Copies as many of `bytes` as fit; bytes beyond the end of RAM are dropped.
    pub fn write_bytes(&self, to: WritableBytes, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(to.length() as usize)];
        let mut position = to.offset();
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.store(Writable::at(position), u64::from_le_bytes(word));
            position = position.wrapping_add(8);
        }
        for byte in chunks.remainder() {
            self.store(Writable::at(position), *byte);
            position = position.wrapping_add(1);
        }
    }

    /// Writes `value` again and again, as often as it fits.
    pub fn repeat<T: Word>(&self, to: WritableBytes, value: T) {
        for i in 0..to.length() / T::SIZE as u64 {
            self.store(Writable::at(to.offset() + i * T::SIZE as u64), value);
        }
    }

    /// Moves the bytes from one RAM offset to another as if by ascending byte moves of a forward string
    /// instruction. Overlap in which the source is below the destination is left to the caller, who must
    /// move it bytewise.
    pub fn copy(&self, from: u64, to: WritableBytes) {
        let (to, length) = (to.offset(), to.length());
        if from.checked_add(length).is_none_or(|end| end > self.size)
            || to.checked_add(length).is_none_or(|end| end > self.size)
        {
            return;
        }
        let at = |offset: u64| self.base.wrapping_add(offset as usize);
        // SAFETY: both ranges lie in the live mapping, outside of Rust's memory.
        unsafe { host::copy(at(from), at(to), length as usize) }
    }

    /// Replaces 16 bytes by `new` if they are `current`; gives what was there.
    /// It is one atomic step if its offset is a multiple of 16 and the host has CMPXCHG16B; where
    /// it has not, only with respect to itself, under a lock. Beyond the end of RAM it gives
    /// `current` and does nothing.
    pub fn compare_exchange_16(&self, place: Writable<u128>, current: u128, new: u128) -> u128 {
        static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let offset = place.offset();
        let Some(pointer) = self.pointer::<u128>(offset) else {
            return current;
        };
        #[cfg(target_arch = "x86_64")]
        if offset.is_multiple_of(16) && std::arch::is_x86_feature_detected!("cmpxchg16b") {
            let (mut low, mut high) = (current as u64, (current >> 64) as u64);
            // Not the intrinsic: where the compiler does not inline its generic inner function,
            // that is compiled without the feature and calls libatomic.
            // SAFETY: the processor has the instruction; `pointer` is in bounds and aligned, since
            // the mapping starts on a page; the bytes are
            // outside of Rust's memory. RBX, which
            // the compiler reserves, is put back.
            unsafe {
                std::arch::asm!(
                    "xchg rbx, {new_low}",
                    "lock cmpxchg16b [rdi]",
                    "mov rbx, {new_low}",
                    in("rdi") pointer,
                    new_low = inout(reg) new as u64 => _,
                    in("rcx") (new >> 64) as u64,
                    inout("rax") low,
                    inout("rdx") high,
                    options(nostack),
                );
            }
            return u128::from(low) | u128::from(high) << 64;
        }
        let _ = pointer;
        // The lock guards no data that a panic could leave half done.
        let _held = LOCK
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = self.load::<u128>(offset);
        if found == current {
            self.store(place, new);
        }
        found
    }

    /// Sets the bytes to `value`.
    pub fn fill(&self, to: WritableBytes, value: u8) {
        let (to, length) = (to.offset(), to.length());
        if to.checked_add(length).is_none_or(|end| end > self.size) {
            return;
        }
        // SAFETY: the range lies in the live mapping, outside of Rust's memory.
        unsafe { host::fill(self.base.wrapping_add(to as usize), value, length as usize) }
    }
}

impl Ram {
    /// A word as an atomic, if it is naturally aligned and inside RAM.
    pub fn atomic_u64(&self, place: Writable<u64>) -> Option<&AtomicU64> {
        if !place.offset().is_multiple_of(8) {
            return None;
        }
        let pointer = self.pointer::<AtomicU64>(place.offset())?;
        // SAFETY: in bounds and aligned (the mapping starts on a page); the mapping outlives the borrow of
        // `self`; for races with other accesses see the module's documentation.
        Some(unsafe { &*pointer })
    }

    /// Replaces a word by `new` if it is `current`, as one atomic step; gives what was there. `None` where it is
    /// misaligned or beyond the end of RAM.
    #[inline]
    pub(super) fn compare_exchange<T: host::CompareExchange>(
        &self,
        place: Writable<T>,
        current: T,
        new: T,
    ) -> Option<T> {
        if !place.offset().is_multiple_of(T::SIZE as u64) {
            return None;
        }
        let pointer = self.pointer::<T>(place.offset())?;
        // SAFETY: in the live mapping, outside of Rust's memory, and aligned, as the mapping starts on a page.
        Some(unsafe { T::compare_exchange(pointer, current, new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_little_endian_and_unaligned() {
        let ram = Ram::new(1 << 20).unwrap();
        ram.store(Writable::at(3), 0x1122_3344_5566_7788_u64);
        assert_eq!(ram.load::<u8>(3), 0x88);
        assert_eq!(ram.load::<u32>(5), 0x3344_5566);
    }

    #[test]
    fn nothing_is_reached_beyond_the_end() {
        let ram = Ram::new(1 << 20).unwrap();
        for offset in [(1 << 20) - 7, 1 << 20, u64::MAX] {
            ram.store(Writable::at(offset), u64::MAX);
            assert_eq!(ram.load::<u64>(offset), 0);
        }
        assert!(ram.atomic_u64(Writable::at((1 << 20) - 4)).is_none());
        assert!(ram.atomic_u64(Writable::at(4)).is_none());
    }

    #[test]
    fn words_are_exchanged_if_they_are_what_was_expected() {
        let ram = Ram::new(1 << 20).unwrap();
        ram.store(Writable::at(64), 0x1122_3344_5566_7788_u64);
        let word = |value: u64| Some(value);
        assert_eq!(
            ram.compare_exchange(Writable::at(64), 0x88_u8, 0x99),
            Some(0x88)
        );
        assert_eq!(ram.compare_exchange(Writable::at(65), 0_u8, 1), Some(0x77));
        assert_eq!(
            ram.compare_exchange(Writable::at(66), 0x5566_u16, 0xaaaa),
            Some(0x5566)
        );
        assert_eq!(
            ram.compare_exchange(Writable::at(68), 0x1122_3344_u32, 1),
            Some(0x1122_3344)
        );
        let found = ram.compare_exchange(Writable::at(64), 0x1_aaaa_7799_u64, 5);
        assert_eq!(found, word(0x1_aaaa_7799));
        assert_eq!(ram.load::<u64>(64), 5);
        assert_eq!(ram.compare_exchange(Writable::at(65), 0_u16, 1), None);
        assert_eq!(
            ram.compare_exchange(Writable::at((1 << 20) - 4), 0_u64, 1),
            None
        );
    }

    #[test]
    fn bytes_move_upwards() {
        let ram = Ram::new(1 << 20).unwrap();
        ram.write_bytes(Writable::<u8>::at(16).bytes(5), &[1, 2, 3, 4, 5]);
        ram.copy(16, Writable::<u8>::at(14).bytes(5));
        ram.fill(Writable::<u8>::at(19).bytes(2), 9);
        ram.copy((1 << 20) - 2, Writable::<u8>::at(14).bytes(4));
        let mut bytes = [0; 8];
        ram.read_bytes(14, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 9, 9, 0]);
    }

    #[test]
    fn the_hole_below_4_gib_is_no_ram() {
        let ram = Ram::new(HOLE_START + (1 << 20)).unwrap();
        assert_eq!(ram.offset(HOLE_START - 1), Some(HOLE_START - 1));
        assert_eq!(ram.offset(HOLE_START), None);
        assert_eq!(ram.offset(HOLE_END - 1), None);
        assert_eq!(ram.offset(HOLE_END), Some(HOLE_START));
        assert_eq!(ram.offset(HOLE_END + (1 << 20)), None);
    }
}
