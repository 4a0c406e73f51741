//! Physical memory as firmware tables and loaders see it.

use core::fmt;

/// An access that memory did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// First byte of the access.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "no memory for {} bytes at {:#x}",
            self.length, self.address
        )
    }
}

impl core::error::Error for MemoryError {}

/// Memory to read tables from.
pub trait PhysicalMemory {
    /// Fills `buffer` from `address`; an error leaves its content unspecified. An address range that
    /// wraps or is not backed is an error, never a panic.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;
}

/// Memory to load a kernel into.
pub trait LoadMemory {
    /// Writes `bytes` at `address`. A range that wraps or is not backed is an error.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Fills `length` bytes at `address` with zeroes. `length` comes from the image: check it
    /// against the memory that exists before touching any.
    fn zero(&mut self, address: u64, length: u64) -> Result<(), MemoryError>;
}

/// Memory that is a slice, its first byte at address 0.
impl PhysicalMemory for [u8] {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let error = MemoryError {
            address,
            length: buffer.len() as u64,
        };
        let start = usize::try_from(address).map_err(|_| error)?;
        let end = start.checked_add(buffer.len()).ok_or(error)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(error)?);
        Ok(())
    }
}

/// Memory that is a slice, its first byte at address 0.
impl LoadMemory for [u8] {
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let length = bytes.len() as u64;
        slice(self, address, length)?.copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, address: u64, length: u64) -> Result<(), MemoryError> {
        slice(self, address, length)?.fill(0);
        Ok(())
    }
}

fn slice(memory: &mut [u8], address: u64, length: u64) -> Result<&mut [u8], MemoryError> {
    let error = MemoryError { address, length };
    let end = address.checked_add(length).ok_or(error)?;
    let range =
        usize::try_from(address).map_err(|_| error)?..usize::try_from(end).map_err(|_| error)?;
    memory.get_mut(range).ok_or(error)
}
