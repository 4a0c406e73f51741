//! The wakeup lists: which vCPUs a processor's wakeup vector may concern.
//!
//! One bit per vCPU and processor, set and cleared by atomic operations. There is no lock, so none can
//! be taken in the wrong order or inside itself (prior-art B5 number 7).

use alloc::{boxed::Box, vec::Vec};

use apic::sync::{AtomicU64, Ordering};

/// The lists of all processors.
#[derive(Debug)]
pub struct WakeupLists {
    words_per_processor: usize,
    words: Box<[AtomicU64]>,
}

impl WakeupLists {
    /// Empty lists for `vcpus` slots on `processors` processors.
    pub fn new(processors: u32, vcpus: u32) -> Self {
        let words_per_processor = (vcpus as usize).div_ceil(64).max(1);
        let words: Vec<AtomicU64> = (0..words_per_processor * processors as usize)
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            words_per_processor,
            words: words.into_boxed_slice(),
        }
    }

    fn words(&self, processor: u32) -> &[AtomicU64] {
        let first = (processor as usize).saturating_mul(self.words_per_processor);
        self.words
            .get(first..)
            .and_then(|rest| rest.get(..self.words_per_processor))
            .unwrap_or(&[])
    }

    fn word(&self, processor: u32, slot: u32) -> Option<&AtomicU64> {
        self.words(processor).get(slot as usize / 64)
    }

    /// Puts a vCPU on a processor's list, before its descriptor carries the wakeup vector.
    pub fn add(&self, processor: u32, slot: u32) {
        if let Some(word) = self.word(processor, slot) {
            word.fetch_or(1 << (slot % 64), Ordering::SeqCst);
        }
    }

    /// Takes a vCPU off a processor's list.
    pub fn remove(&self, processor: u32, slot: u32) {
        if let Some(word) = self.word(processor, slot) {
            word.fetch_and(!(1 << (slot % 64)), Ordering::SeqCst);
        }
    }

    /// The slots on a processor's list, ascending, as they are while one looks.
    pub fn slots(&self, processor: u32) -> impl Iterator<Item = u32> {
        (0u32..)
            .zip(self.words(processor))
            .flat_map(|(index, word)| {
                let mut bits = word.load(Ordering::SeqCst);
                core::iter::from_fn(move || {
                    let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                    bits &= bits - 1;
                    Some(index * 64 + bit)
                })
            })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lists_are_separate_and_ordered() {
        let lists = WakeupLists::new(2, 130);
        for slot in [129, 0, 64, 63] {
            lists.add(1, slot);
        }
        lists.add(0, 5);
        assert_eq!(lists.slots(1).collect::<Vec<_>>(), [0, 63, 64, 129]);
        lists.remove(1, 64);
        lists.remove(1, 64);
        assert_eq!(lists.slots(1).collect::<Vec<_>>(), [0, 63, 129]);
        assert_eq!(lists.slots(0).collect::<Vec<_>>(), [5]);
        assert_eq!(lists.slots(2).count(), 0, "no such processor");
        lists.add(7, 0);
        lists.add(0, 100_000);
        assert_eq!(lists.slots(0).collect::<Vec<_>>(), [5]);
    }
}
