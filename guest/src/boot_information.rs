//! What the loader hands over, by PVH or by multiboot2, in one form.

use crate::{memory_map::MemoryMap, physical_memory::PhysicalMemory};
use arch::pvh;
use core::{fmt, str::Utf8Error};

/// What a multiboot2 loader leaves in EAX.
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// The longest command line, in bytes.
const MAXIMUM_COMMAND_LINE: usize = 1024;

/// Why the loader's information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither protocol's magic number.
    UnknownProtocol(u32),
    /// A structure cannot be read or is not what it should be.
    Damaged(u64),
    /// The command line does not end within 1024 bytes.
    LongCommandLine,
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownProtocol(magic) => {
                write!(formatter, "started by an unknown protocol, {magic:#x}")
            }
            Self::Damaged(address) => {
                write!(formatter, "boot information at {address:#x} is damaged")
            }
            Self::LongCommandLine => {
                write!(
                    formatter,
                    "command line longer than {MAXIMUM_COMMAND_LINE} bytes"
                )
            }
        }
    }
}

/// The loader's information.
#[derive(Clone, Debug)]
pub struct BootInformation {
    command_line: [u8; MAXIMUM_COMMAND_LINE],
    command_line_length: usize,
    /// Physical address of the RSDP, if the loader says.
    pub rsdp: Option<u64>,
    /// Usable RAM.
    pub memory_map: MemoryMap,
}

impl BootInformation {
    /// Reads what the loader left at `information`; `protocol` is [`pvh::MAGIC`] or
    /// [`MULTIBOOT2_MAGIC`].
    ///
    /// # Errors
    /// When the protocol is another or its structures are damaged.
    pub fn read(
        memory: &impl PhysicalMemory,
        protocol: u32,
        information: u64,
    ) -> Result<Self, BootError> {
        let mut read = Self {
            command_line: [0; MAXIMUM_COMMAND_LINE],
            command_line_length: 0,
            rsdp: None,
            memory_map: MemoryMap::default(),
        };
        match protocol {
            pvh::MAGIC => read.read_pvh(memory, information)?,
            MULTIBOOT2_MAGIC => read.read_multiboot2(memory, information)?,
            other => return Err(BootError::UnknownProtocol(other)),
        }
        Ok(read)
    }

    /// The command line.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn command_line(&self) -> Result<&str, Utf8Error> {
        core::str::from_utf8(&self.command_line[..self.command_line_length])
    }

    fn read_command_line(
        &mut self,
        memory: &impl PhysicalMemory,
        address: u64,
    ) -> Result<(), BootError> {
        for (length, at) in (address..).enumerate() {
            let byte = memory.byte(at).ok_or(BootError::Damaged(address))?;
            if byte == 0 {
                break;
            }
            *self
                .command_line
                .get_mut(length)
                .ok_or(BootError::LongCommandLine)? = byte;
            self.command_line_length = length + 1;
        }
        Ok(())
    }

    fn read_pvh(
        &mut self,
        memory: &impl PhysicalMemory,
        information: u64,
    ) -> Result<(), BootError> {
        let damaged = BootError::Damaged(information);
        let at = |offset: usize| information.saturating_add(offset as u64);
        let quadword = |offset| memory.quadword(at(offset)).ok_or(damaged);
        let doubleword = |offset| memory.doubleword(at(offset)).ok_or(damaged);

        if doubleword(core::mem::offset_of!(pvh::StartInfo, magic))? != pvh::MAGIC {
            return Err(damaged);
        }
        let command_line = quadword(core::mem::offset_of!(pvh::StartInfo, command_line))?;
        if command_line != 0 {
            self.read_command_line(memory, command_line)?;
        }
        let rsdp = quadword(core::mem::offset_of!(pvh::StartInfo, rsdp))?;
        self.rsdp = (rsdp != 0).then_some(rsdp);
        if doubleword(core::mem::offset_of!(pvh::StartInfo, version))? == 0 {
            return Ok(());
        }
        let map = quadword(core::mem::offset_of!(pvh::StartInfo, memory_map))?;
        let entries = doubleword(core::mem::offset_of!(pvh::StartInfo, memory_map_entries))?;
        for entry in 0..u64::from(entries.min(1024)) {
            let region =
                map.saturating_add(entry * core::mem::size_of::<pvh::MemoryRegion>() as u64);
            let damaged = BootError::Damaged(region);
            let kind = memory
                .doubleword(region.saturating_add(16))
                .ok_or(damaged)?;
            if kind == pvh::MEMORY_RAM {
                self.memory_map.add(
                    memory.quadword(region).ok_or(damaged)?,
                    memory.quadword(region.saturating_add(8)).ok_or(damaged)?,
                );
            }
        }
        Ok(())
    }

    /// Multiboot2 specification 3.6 Boot information.
    fn read_multiboot2(
        &mut self,
        memory: &impl PhysicalMemory,
        information: u64,
    ) -> Result<(), BootError> {
        let damaged = BootError::Damaged(information);
        let total = u64::from(memory.doubleword(information).ok_or(damaged)?);
        let end = information.saturating_add(total);
        let mut tag = information.saturating_add(8);
        while tag + 8 <= end {
            let kind = memory.doubleword(tag).ok_or(damaged)?;
            let size = u64::from(memory.doubleword(tag + 4).ok_or(damaged)?);
            if size < 8 {
                return Err(BootError::Damaged(tag));
            }
            match kind {
                0 => break,
                1 => self.read_command_line(memory, tag + 8)?,
                6 => self.read_multiboot2_memory_map(memory, tag, tag + size)?,
                14 => self.rsdp = self.rsdp.or(Some(tag + 8)),
                15 => self.rsdp = Some(tag + 8),
                _ => {}
            }
            tag = tag.saturating_add(size.saturating_add(7) & !7);
        }
        Ok(())
    }

    fn read_multiboot2_memory_map(
        &mut self,
        memory: &impl PhysicalMemory,
        tag: u64,
        end: u64,
    ) -> Result<(), BootError> {
        let damaged = BootError::Damaged(tag);
        let entry_size = u64::from(memory.doubleword(tag + 8).ok_or(damaged)?);
        if entry_size < 20 {
            return Err(damaged);
        }
        let mut entry = tag + 16;
        while entry + entry_size <= end {
            if memory.doubleword(entry + 16).ok_or(damaged)? == 1 {
                self.memory_map.add(
                    memory.quadword(entry).ok_or(damaged)?,
                    memory.quadword(entry + 8).ok_or(damaged)?,
                );
            }
            entry += entry_size;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory_map::Region, physical_memory::sparse::Sparse};

    fn little(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn pvh() {
        let mut memory = Sparse::default();
        memory.put(
            0x1000,
            &little(&[
                pvh::MAGIC,
                1,
                0,
                0,
                0,
                0,
                0x2000,
                0,
                0xf_0000,
                0,
                0x3000,
                0,
                2,
                0,
            ]),
        );
        memory.put(0x2000, b"seed=7 rounds=2\0");
        memory.put(0x3000, &little(&[0, 0, 0x9_0000, 0, 1, 0]));
        memory.put(0x3018, &little(&[0xf_0000, 0, 0x1_0000, 0, 2, 0]));
        let read = BootInformation::read(&memory, pvh::MAGIC, 0x1000).unwrap();
        assert_eq!(read.command_line(), Ok("seed=7 rounds=2"));
        assert_eq!(read.rsdp, Some(0xf_0000));
        assert_eq!(
            read.memory_map.regions(),
            [Region {
                start: 0,
                end: 0x9_0000
            }]
        );
    }

    #[test]
    fn multiboot2() {
        let mut memory = Sparse::default();
        let mut bytes = little(&[0, 0]);
        bytes.extend(little(&[1, 8 + 7]));
        bytes.extend(b"seed=7\0\0");
        bytes.extend(little(&[14, 8 + 24]));
        let rsdp = 0x1000 + bytes.len() as u64;
        bytes.extend([0; 24]);
        bytes.extend(little(&[6, 16 + 48, 24, 0]));
        bytes.extend(little(&[0x10_0000, 0, 0x10_0000, 0, 1, 0]));
        bytes.extend(little(&[0x20_0000, 0, 0x10_0000, 0, 3, 0]));
        bytes.extend(little(&[0, 8]));
        let total = bytes.len() as u32;
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        memory.put(0x1000, &bytes);
        let read = BootInformation::read(&memory, MULTIBOOT2_MAGIC, 0x1000).unwrap();
        assert_eq!(read.command_line(), Ok("seed=7"));
        assert_eq!(read.rsdp, Some(rsdp));
        assert_eq!(read.memory_map.regions().len(), 1);
    }

    #[test]
    fn damage_is_an_error() {
        let memory = Sparse::default();
        assert_eq!(
            BootInformation::read(&memory, 0x2bad_b002, 0).unwrap_err(),
            BootError::UnknownProtocol(0x2bad_b002)
        );
        for protocol in [pvh::MAGIC, MULTIBOOT2_MAGIC] {
            assert_eq!(
                BootInformation::read(&memory, protocol, 0x1000).unwrap_err(),
                BootError::Damaged(0x1000)
            );
        }
        let mut looping = Sparse::default();
        looping.put(0x1000, &little(&[64, 0, 5, 0]));
        assert_eq!(
            BootInformation::read(&looping, MULTIBOOT2_MAGIC, 0x1000).unwrap_err(),
            BootError::Damaged(0x1008)
        );
        let mut endless = Sparse::default();
        endless.put(0x1000, &little(&[4096, 0, 1, 4000]));
        endless.put(0x1010, &[b'a'; 4000]);
        assert_eq!(
            BootInformation::read(&endless, MULTIBOOT2_MAGIC, 0x1000).unwrap_err(),
            BootError::LongCommandLine
        );
    }
}
