//! Reading of physical memory that firmware or a loader filled in.

/// Physical memory, read a byte at a time. What is read was written by someone else, so every
/// read may miss.
pub trait PhysicalMemory {
    /// The byte at `address`, or `None` where nothing can be read.
    fn byte(&self, address: u64) -> Option<u8>;

    /// The little-endian 16-bit word at `address`.
    fn word(&self, address: u64) -> Option<u16> {
        Some(u16::from(self.byte(address)?) | u16::from(self.byte(address.checked_add(1)?)?) << 8)
    }

    /// The little-endian 32-bit doubleword at `address`.
    fn doubleword(&self, address: u64) -> Option<u32> {
        Some(u32::from(self.word(address)?) | u32::from(self.word(address.checked_add(2)?)?) << 16)
    }

    /// The little-endian 64-bit quadword at `address`.
    fn quadword(&self, address: u64) -> Option<u64> {
        Some(
            u64::from(self.doubleword(address)?)
                | u64::from(self.doubleword(address.checked_add(4)?)?) << 32,
        )
    }

    /// The sum, modulo 256, of `length` bytes: 0 in a sound ACPI structure.
    fn sum(&self, address: u64, length: u32) -> Option<u8> {
        let mut sum = 0u8;
        for offset in 0..u64::from(length) {
            sum = sum.wrapping_add(self.byte(address.checked_add(offset)?)?);
        }
        Some(sum)
    }

    /// Whether the bytes at `address` are `expected`.
    fn matches(&self, address: u64, expected: &[u8]) -> bool {
        (address..)
            .zip(expected)
            .all(|(at, byte)| self.byte(at) == Some(*byte))
    }
}

#[cfg(test)]
pub(crate) mod sparse {
    //! A memory for tests: bytes at addresses, nothing elsewhere.
    use super::PhysicalMemory;
    use std::collections::BTreeMap;

    #[derive(Default)]
    pub(crate) struct Sparse(BTreeMap<u64, u8>);

    impl Sparse {
        pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) -> &mut Self {
            for (at, byte) in (address..).zip(bytes) {
                self.0.insert(at, *byte);
            }
            self
        }
    }

    impl PhysicalMemory for Sparse {
        fn byte(&self, address: u64) -> Option<u8> {
            self.0.get(&address).copied()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PhysicalMemory, sparse::Sparse};

    #[test]
    fn words_are_little_endian_and_may_miss() {
        let mut memory = Sparse::default();
        memory.put(0x10, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(memory.word(0x10), Some(0x0201));
        assert_eq!(memory.doubleword(0x10), Some(0x0403_0201));
        assert_eq!(memory.quadword(0x10), Some(0x0807_0605_0403_0201));
        assert_eq!(memory.quadword(0x11), None);
        assert_eq!(memory.sum(0x10, 8), Some(36));
        assert_eq!(memory.sum(0x10, 9), None);
        assert_eq!(memory.quadword(u64::MAX), None);
        assert!(memory.matches(0x11, &[2, 3]));
        assert!(!memory.matches(0x11, &[2, 4]));
        assert!(!memory.matches(0x17, &[8, 9]));
    }
}
