//! Memory as firmware and the boot loader left it: the low 4 GiB, which the boot map covers.
#![allow(unsafe_code, reason = "reads memory by physical address")]

use firmware::memory::{MemoryError, PhysicalMemory};

/// The low 4 GiB, identity-mapped since the first instructions of the image.
#[derive(Clone, Copy, Debug)]
pub struct LowMemory;

impl PhysicalMemory for LowMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len() as u64;
        let error = MemoryError { address, length };
        let end = address.checked_add(length).ok_or(error)?;
        if address == 0 || end > 1 << 32 {
            return Err(error);
        }
        // SAFETY: mapped, and nobody else runs yet. Where there is no RAM, reads give ones.
        unsafe {
            core::ptr::copy_nonoverlapping(address as *const u8, buffer.as_mut_ptr(), buffer.len());
        }
        Ok(())
    }
}
