//! The memory of the device for test programs: it behaves as RAM, but every access to it is a device's.

use std::sync::Mutex;

use devices::test_device::{MEMORY, MEMORY_SIZE};

use super::lock;

/// 32-bit words; empty until something is written.
#[derive(Debug, Default)]
pub(super) struct TestMemory(Mutex<Vec<u32>>);

fn place(physical: u64) -> Option<usize> {
    let distance = usize::try_from(physical.checked_sub(MEMORY)?).ok()?;
    (distance < MEMORY_SIZE).then_some(distance / 4)
}

impl TestMemory {
    /// The word at a physical address, if it lies here.
    pub(super) fn read(&self, physical: u64) -> Option<u32> {
        let place = place(physical)?;
        Some(lock(&self.0).get(place).copied().unwrap_or(0))
    }

    /// Writes the word at a physical address, if it lies here.
    pub(super) fn write(&self, physical: u64, value: u32) {
        if let Some(place) = place(physical) {
            let mut words = lock(&self.0);
            words.resize(MEMORY_SIZE / 4, 0);
            if let Some(word) = words.get_mut(place) {
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
        let memory = TestMemory::default();
        assert_eq!(memory.read(MEMORY), Some(0));
        memory.write(MEMORY + 0xfffc, 5);
        assert_eq!(memory.read(MEMORY + 0xfffc), Some(5));
        assert_eq!(memory.read(MEMORY + 0x1_0000), None);
        assert_eq!(memory.read(MEMORY - 4), None);
        memory.write(MEMORY - 4, 1);
        assert_eq!(memory.read(MEMORY), Some(0));
    }
}
