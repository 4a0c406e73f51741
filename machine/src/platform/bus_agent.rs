//! Whoever reads and writes RAM and is no processor.

use std::ops::Deref;

use super::{Notice, Platform};
use crate::memory::{CodeNotice, FRAME_SIZE, Ram, Word, WriteRam};

/// RAM to firmware before the first instruction, to a device, to a debugger.
#[derive(Clone, Copy)]
pub struct BusAgent<'a>(&'a Platform);

impl Platform {
    /// RAM to somebody who is no processor.
    pub fn bus_agent(&self) -> BusAgent<'_> {
        BusAgent(self)
    }
}

impl BusAgent<'_> {
    /// Writes a word at a RAM offset; beyond the end of RAM it is dropped.
    pub fn store<T: Word>(&self, offset: u64, value: T) {
        if offset % FRAME_SIZE > FRAME_SIZE - T::SIZE as u64 {
            return self.write_bytes(offset, &value.to_bytes()[..T::SIZE]);
        }
        let write = |place| self.0.ram.store(place, value);
        if let Some(notice) = self.0.code_map.write::<T>(offset, write) {
            self.0.tell_all(Notice::Code(notice));
        }
    }

    /// Copies `bytes` into RAM; bytes beyond the end of RAM are dropped.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        self.each_frame(offset, bytes.len() as u64, |offset, length| {
            let (now, later) = rest.split_at((length as usize).min(rest.len()));
            rest = later;
            self.0.code_map.write::<u8>(offset, |place| {
                self.0.ram.write_bytes(place.bytes(length), now);
            })
        });
    }

    /// Sets `length` bytes to `value`; bytes beyond the end of RAM are dropped.
    pub fn fill(&self, offset: u64, length: u64, value: u8) {
        self.each_frame(offset, length, |offset, length| {
            self.0.code_map.write::<u8>(offset, |place| {
                self.0.ram.fill(place.bytes(length), value);
            })
        });
    }

    /// Writes the part in each frame, by its offset and length, and tells.
    fn each_frame(
        &self,
        offset: u64,
        length: u64,
        mut write: impl FnMut(u64, u64) -> Option<CodeNotice>,
    ) {
        let (mut offset, mut left) = (offset, length);
        while left != 0 && offset < self.0.ram.size() {
            let part = left.min(FRAME_SIZE - offset % FRAME_SIZE);
            if let Some(notice) = write(offset, part) {
                self.0.tell_all(Notice::Code(notice));
            }
            offset += part;
            left -= part;
        }
    }
}

impl Deref for BusAgent<'_> {
    type Target = Ram;

    fn deref(&self) -> &Ram {
        &self.0.ram
    }
}

impl WriteRam for BusAgent<'_> {
    fn store<T: Word>(&mut self, offset: u64, value: T) {
        BusAgent::store(self, offset, value);
    }
}
