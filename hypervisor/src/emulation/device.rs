//! Accesses to guest-physical addresses where there is no RAM.

use crate::vmx::vmcs::VmxError;

/// What answers where there is no RAM: 32-bit words at multiples of 4.
pub trait Devices<V> {
    /// Reads a word; where nothing answers all bits are 1.
    fn read(&mut self, address: u64) -> u32;
    /// Writes a word; where nothing answers it goes nowhere.
    fn write(&mut self, address: u64, value: u32, vmcs: &mut V) -> Result<(), VmxError>;
}

/// The word that holds a byte, and the byte's place in it.
const fn word_of(address: u64) -> (u64, usize) {
    (address & !3, (address & 3) as usize)
}

/// Reads bytes, word by word.
pub(super) fn read<V>(devices: &mut impl Devices<V>, address: u64, mut bytes: &mut [u8]) {
    let mut address = address;
    while !bytes.is_empty() {
        let (place, skip) = word_of(address);
        let word = devices.read(place).to_le_bytes();
        let count = (4 - skip).min(bytes.len());
        let (now, later) = bytes.split_at_mut(count);
        for (byte, from) in now.iter_mut().zip(word.into_iter().skip(skip)) {
            *byte = from;
        }
        bytes = later;
        address = address.wrapping_add(count as u64);
    }
}

/// Writes bytes, word by word; of a word that is written in part the rest stays what it reads as.
pub(super) fn write<V>(
    devices: &mut impl Devices<V>,
    address: u64,
    mut bytes: &[u8],
    vmcs: &mut V,
) -> Result<(), VmxError> {
    let mut address = address;
    while !bytes.is_empty() {
        let (place, skip) = word_of(address);
        let count = (4 - skip).min(bytes.len());
        let mut word = if count == 4 {
            [0; 4]
        } else {
            devices.read(place).to_le_bytes()
        };
        let (now, later) = bytes.split_at(count);
        for (byte, from) in word.iter_mut().skip(skip).zip(now) {
            *byte = *from;
        }
        devices.write(place, u32::from_le_bytes(word), vmcs)?;
        bytes = later;
        address = address.wrapping_add(count as u64);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device that keeps what is written, and notes each access.
    #[derive(Default)]
    pub(crate) struct Recorder {
        pub(crate) words: std::collections::BTreeMap<u64, u32>,
        pub(crate) reads: Vec<u64>,
        pub(crate) writes: Vec<(u64, u32)>,
    }

    impl<V> Devices<V> for Recorder {
        fn read(&mut self, address: u64) -> u32 {
            self.reads.push(address);
            self.words.get(&address).copied().unwrap_or(u32::MAX)
        }

        fn write(&mut self, address: u64, value: u32, _: &mut V) -> Result<(), VmxError> {
            self.writes.push((address, value));
            self.words.insert(address, value);
            Ok(())
        }
    }

    #[test]
    fn reads_take_the_words_that_hold_their_bytes() {
        let mut recorder = Recorder::default();
        recorder.words.insert(0x1000, 0x4433_2211);
        recorder.words.insert(0x1004, 0x8877_6655);
        for (address, length, bytes, reads) in [
            (0x1000, 4, &[0x11, 0x22, 0x33, 0x44][..], &[0x1000][..]),
            (0x1001, 2, &[0x22, 0x33], &[0x1000]),
            (0x1003, 2, &[0x44, 0x55], &[0x1000, 0x1004]),
            (0x1006, 4, &[0x77, 0x88, 0xff, 0xff], &[0x1004, 0x1008]),
        ] {
            recorder.reads.clear();
            let mut found = vec![0; length];
            read::<()>(&mut recorder, address, &mut found);
            assert_eq!((&found[..], &recorder.reads[..]), (bytes, reads));
        }
    }

    #[test]
    fn writes_keep_the_rest_of_a_word() {
        let mut recorder = Recorder::default();
        recorder.words.insert(0x1000, 0x4433_2211);
        recorder.words.insert(0x1004, 0x8877_6655);
        write(&mut recorder, 0x1003, &[1, 2, 3, 4, 5, 6], &mut ()).unwrap();
        assert_eq!(
            recorder.writes,
            [
                (0x1000, 0x0133_2211),
                (0x1004, 0x0504_0302),
                (0x1008, 0xffff_ff06)
            ]
        );
        assert_eq!(recorder.reads, [0x1000, 0x1008]);
    }
}
