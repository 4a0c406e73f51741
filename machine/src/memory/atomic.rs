//! Words that can be updated as one atomic operation.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{Ram, Word, Writable};

/// A word that can be updated atomically in RAM.
pub trait Atomic: Word {
    /// Replaces the word at a RAM offset by `change` of it as one atomic step where it is naturally
    /// aligned, and gives the old value. A misaligned word (a split lock inside a page) is updated
    /// in two steps.
    fn update(ram: &Ram, place: Writable<Self>, change: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! atomic {
    ($($word:ty, $atomic:ty, $get:ident;)*) => {$(
        impl Atomic for $word {
            #[inline]
            fn update(
                ram: &Ram,
                place: Writable<Self>,
                mut change: impl FnMut(Self) -> Self,
            ) -> Self {
                let Some(cell): Option<&$atomic> = ram.$get(place) else {
                    let old = ram.load::<$word>(place.offset());
                    ram.store(place, change(old));
                    return old;
                };
                let mut old = cell.load(Ordering::Relaxed);
                loop {
                    match cell.compare_exchange_weak(
                        old,
                        change(old),
                        Ordering::SeqCst,
                        Ordering::Relaxed,
                    ) {
                        Ok(found) => return found,
                        Err(found) => old = found,
                    }
                }
            }
        }
    )*};
}

atomic! {
    u8, AtomicU8, atomic_u8;
    u16, AtomicU16, atomic_u16;
    u32, AtomicU32, atomic_u32;
    u64, AtomicU64, atomic_u64;
}

impl Atomic for u128 {
    /// The host's own 16-byte compare-exchange where it has one.
    #[inline]
    fn update(ram: &Ram, place: Writable<Self>, mut change: impl FnMut(Self) -> Self) -> Self {
        let mut old = ram.load::<u128>(place.offset());
        loop {
            // `old` may be torn; then the exchange fails and says what is there.
            let found = ram.compare_exchange_16(place, old, change(old));
            if found == old {
                return old;
            }
            old = found;
        }
    }
}
