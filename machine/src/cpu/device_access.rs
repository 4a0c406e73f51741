//! Accesses to physical addresses where there is no RAM.

use super::{Cpu, raise::Raised};
use crate::memory::Word;

/// What an access to a port or a memory-mapped device takes, in nanoseconds: about as much as on a PC,
/// whose software counts on that where it polls a bounded number of times.
pub const DEVICE_ACCESS: u64 = 1000;

impl Cpu {
    /// The current instruction accessed a device: it ends so much later, and the slice with it, as others
    /// go on meanwhile.
    pub fn take_device_time(&mut self) {
        let began = self.now().max(self.busy_until);
        self.busy_until = began.saturating_add(DEVICE_ACCESS);
        self.end_slice_at(self.instructions);
        self.leave_block = true;
    }

    /// The local APIC's page is inside the processor; everything else is a device.
    fn take_time_at(&mut self, physical: u64) {
        if self.apic_page_at(physical).is_none() {
            self.take_device_time();
        }
    }

    /// Reads a device; where nothing answers the bus reads as ones.
    pub fn device_read<T: Word>(&mut self, physical: u64) -> Result<T, Raised> {
        self.take_time_at(physical);
        self.device_fetch(physical)
    }

    /// Reads part of an instruction from a device.
    pub fn device_fetch<T: Word>(&mut self, physical: u64) -> Result<T, Raised> {
        let mut bytes = [0; 16];
        let mut done = 0;
        while done < T::SIZE {
            let address = physical.wrapping_add(done as u64);
            let word = self.device_read_word(address & !3);
            let skip = (address & 3) as usize;
            for byte in word.to_le_bytes().into_iter().skip(skip) {
                if let Some(place) = bytes.get_mut(done).filter(|_| done < T::SIZE) {
                    *place = byte;
                    done += 1;
                }
            }
        }
        Ok(T::from_bytes(bytes))
    }

    /// Writes a device; where nothing answers the write is lost, as on the bus. A write that does
    /// not cover an aligned 32-bit register changes that part of it.
    pub fn device_write<T: Word>(&mut self, physical: u64, value: T) -> Result<(), Raised> {
        self.take_time_at(physical);
        let bytes = value.to_bytes();
        let mut done = 0;
        while done < T::SIZE {
            let address = physical.wrapping_add(done as u64);
            let skip = (address & 3) as usize;
            let count = (4 - skip).min(T::SIZE - done);
            let mut word = if count == 4 {
                [0; 4]
            } else {
                self.device_read_word(address & !3).to_le_bytes()
            };
            for (place, byte) in word
                .iter_mut()
                .skip(skip)
                .zip(bytes.iter().skip(done).take(count))
            {
                *place = *byte;
            }
            self.device_write_word(address & !3, u32::from_le_bytes(word));
            done += count;
        }
        Ok(())
    }

    fn device_read_word(&mut self, physical: u64) -> u32 {
        match self.apic_page_at(physical) {
            Some(offset) => self.apic_page_read(offset),
            None => self.platform.device_read(physical),
        }
    }

    fn device_write_word(&mut self, physical: u64, value: u32) {
        match self.apic_page_at(physical) {
            Some(offset) => self.apic_page_write(offset, value),
            None => {
                let now = self.now();
                self.platform.device_write(self.index, physical, value, now);
                self.heed_platform();
            }
        }
    }
}
