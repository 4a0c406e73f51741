//! Accesses to physical addresses where there is no RAM.

use super::{Cpu, raise::Raised};
use crate::memory::Word;

impl Cpu {
    /// The offset in the local APIC's page, if `physical` lies there.
    pub fn apic_page_at(&self, _physical: u64) -> Option<u32> {
        None
    }

    /// Reads a device; where nothing answers the bus reads as ones.
    pub fn device_read<T: Word>(&mut self, _physical: u64) -> Result<T, Raised> {
        Ok(T::from_bytes([0xff; 16]))
    }

    /// Writes a device; where nothing answers the write is lost, as on the bus.
    pub fn device_write<T: Word>(&mut self, _physical: u64, _value: T) -> Result<(), Raised> {
        Ok(())
    }
}
