//! The host's instructions on guest RAM that volatile accesses are not: atomic updates, and moves of many bytes.
//! Why they are sound is said in [`ram`](super::ram).
#![allow(unsafe_code, reason = "inline assembly on memory that is not Rust's")]

use super::Word;

/// A word that the host can replace atomically.
pub(super) trait CompareExchange: Word {
    /// Replaces the word by `new` if it is `current`; gives what was there. It orders all accesses before and
    /// after.
    ///
    /// # Safety
    /// `place` is aligned, mapped and writable, and outside of Rust's memory.
    unsafe fn compare_exchange(place: *mut Self, current: Self, new: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
macro_rules! compare_exchange {
    ($($word:ty, $operand:literal, $class:ident, $accumulator:tt;)*) => {$(
        impl CompareExchange for $word {
            #[inline(always)]
            unsafe fn compare_exchange(place: *mut Self, current: Self, new: Self) -> Self {
                let mut found = current;
                // SAFETY: the caller's; the accumulator and flags are all that changes besides.
                unsafe {
                    std::arch::asm!(
                        concat!("lock cmpxchg [{place}], ", $operand),
                        place = in(reg) place,
                        new = in($class) new,
                        inout($accumulator) found,
                        options(nostack),
                    );
                }
                found
            }
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
compare_exchange! {
    u8, "{new}", reg_byte, "al";
    u16, "{new:x}", reg, "ax";
    u32, "{new:e}", reg, "eax";
    u64, "{new}", reg, "rax";
}

/// Moves bytes upwards, one after the other.
///
/// # Safety
/// Both ranges are mapped, the target writable, and outside of Rust's memory.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's; the direction flag is clear.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Sets bytes.
///
/// # Safety
/// The range is mapped and writable, and outside of Rust's memory.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    // SAFETY: the caller's; the direction flag is clear.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") length => _,
            inout("rdi") to => _,
            in("al") value,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use super::CompareExchange;
    use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

    macro_rules! compare_exchange {
        ($($word:ty, $atomic:ty;)*) => {$(
            impl CompareExchange for $word {
                unsafe fn compare_exchange(place: *mut Self, current: Self, new: Self) -> Self {
                    // SAFETY: the caller's.
                    let word = unsafe { <$atomic>::from_ptr(place) };
                    match word.compare_exchange(current, new, SeqCst, SeqCst) {
                        Ok(found) | Err(found) => found,
                    }
                }
            }
        )*};
    }

    compare_exchange! {
        u8, AtomicU8;
        u16, AtomicU16;
        u32, AtomicU32;
        u64, AtomicU64;
    }

    pub(in super::super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
        for i in 0..length {
            // SAFETY: the caller's.
            unsafe {
                to.wrapping_add(i)
                    .write_volatile(from.wrapping_add(i).read_volatile())
            }
        }
    }

    pub(in super::super) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
        for i in 0..length {
            // SAFETY: the caller's.
            unsafe { to.wrapping_add(i).write_volatile(value) }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use elsewhere::{copy, fill};
