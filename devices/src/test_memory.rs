//! The memory of the device for test programs: it behaves as RAM, but every access to it is a device's.

use alloc::vec::Vec;

use crate::test_device::{MEMORY, MEMORY_SIZE};

/// 32-bit words; empty until something is written.
#[derive(Clone, Debug, Default)]
pub struct TestMemory(Vec<u32>);

fn place(physical: u64) -> Option<usize> {
    let distance = usize::try_from(physical.checked_sub(MEMORY)?).ok()?;
    (distance < MEMORY_SIZE).then_some(distance / 4)
}

impl TestMemory {
    /// The memory after reset.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether a physical address lies here.
    pub fn claims(physical: u64) -> bool {
        place(physical).is_some()
    }

    /// The word at a physical address, if it lies here.
    pub fn read(&self, physical: u64) -> Option<u32> {
        let place = place(physical)?;
        Some(self.0.get(place).copied().unwrap_or(0))
    }

    /// Writes the word at a physical address, if it lies here.
    pub fn write(&mut self, physical: u64, value: u32) {
        if let Some(place) = place(physical) {
            self.0.resize(MEMORY_SIZE / 4, 0);
            if let Some(word) = self.0.get_mut(place) {
                *word = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_words_and_ends() {
        let mut memory = TestMemory::new();
        assert_eq!(memory.read(MEMORY), Some(0));
        memory.write(MEMORY + 0xfffc, 5);
        assert_eq!(memory.read(MEMORY + 0xfffc), Some(5));
        assert_eq!(memory.read(MEMORY + 0x1_0000), None);
        assert_eq!(memory.read(MEMORY - 4), None);
        assert!(TestMemory::claims(MEMORY + 0xffff) && !TestMemory::claims(MEMORY + 0x1_0000));
        memory.write(MEMORY - 4, 1);
        assert_eq!(memory.read(MEMORY), Some(0));
    }
}
