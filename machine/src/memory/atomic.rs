//! Words that can be updated as one atomic operation.

use super::{Ram, Word, Writable};

/// A word that can be updated atomically in RAM.
pub trait Atomic: Word {
    /// Replaces the word at a RAM offset by `change` of it as one atomic step where it is naturally
    /// aligned, and gives the old value. A misaligned word (a split lock inside a page) is updated
    /// in two steps.
    fn update(ram: &Ram, place: Writable<Self>, change: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! atomic {
    ($($word:ty)*) => {$(
        impl Atomic for $word {
            #[inline]
            fn update(
                ram: &Ram,
                place: Writable<Self>,
                mut change: impl FnMut(Self) -> Self,
            ) -> Self {
                let mut old: $word = ram.load(place.offset());
                loop {
                    let new = change(old);
                    match ram.compare_exchange(place, old, new) {
                        Some(found) if found == old => return old,
                        Some(found) => old = found,
                        None => {
                            ram.store(place, new);
                            return old;
                        }
                    }
                }
            }
        }
    )*};
}

atomic! { u8 u16 u32 u64 }

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
