//! An operand in guest-physical memory, and what reading and writing it does: RAM is copied, anything
//! else is a device's.

use super::device::{self, Devices};
use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use crate::vmx::vmcs::VmxError;

/// Bytes of the largest operand.
pub const LARGEST: usize = 16;

/// Where an operand's bytes are: in one page or in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    first: u64,
    second: Option<u64>,
    size: u8,
}

/// The bytes of an operand that lie in one page.
struct Part {
    physical: u64,
    /// The first byte, counted in the operand.
    from: usize,
    /// The first byte that is not part of it.
    to: usize,
}

impl Operand {
    /// `size` (at most 16) bytes at guest-physical address `first`; those behind the end of its page are
    /// at `second`.
    pub fn new(first: u64, second: Option<u64>, size: u8) -> Self {
        Self {
            first,
            second,
            size: size.min(LARGEST as u8),
        }
    }

    /// The guest-physical address of its first byte.
    pub const fn first(&self) -> u64 {
        self.first
    }

    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let size = usize::from(self.size);
        let in_page = (4096 - (self.first & 0xfff)) as usize;
        let split = match self.second {
            Some(_) => in_page.min(size),
            None => size,
        };
        let first = Part {
            physical: self.first,
            from: 0,
            to: split,
        };
        let second = self.second.map(|physical| Part {
            physical,
            from: split,
            to: size,
        });
        core::iter::once(first).chain(second)
    }

    /// Reads it, little-endian.
    pub fn read<V, F: FrameAccess, D: Devices<V>>(
        &self,
        memory: &GuestMemory<F>,
        devices: &mut D,
    ) -> u128 {
        let mut bytes = [0; LARGEST];
        for part in self.parts() {
            let Some(bytes) = bytes.get_mut(part.from..part.to) else {
                continue;
            };
            if memory.read(GuestPhysical(part.physical), bytes).is_err() {
                device::read(devices, part.physical, bytes);
            }
        }
        u128::from_le_bytes(bytes)
    }

    /// Writes it, little-endian.
    pub fn write<V, F: FrameAccess, D: Devices<V>>(
        &self,
        value: u128,
        memory: &GuestMemory<F>,
        devices: &mut D,
        vmcs: &mut V,
    ) -> Result<(), VmxError> {
        let bytes = value.to_le_bytes();
        for part in self.parts() {
            let Some(bytes) = bytes.get(part.from..part.to) else {
                continue;
            };
            if memory.write(GuestPhysical(part.physical), bytes).is_err() {
                device::write(devices, part.physical, bytes, vmcs)?;
            }
        }
        Ok(())
    }
}

impl Operand {
    /// Replaces it by `new` if it is `old`, in one atomic step; whether it was. `None` where that is not
    /// for RAM to do: it is a device's, or in two pages, or larger than 8 bytes.
    pub fn compare_exchange<F: FrameAccess>(
        &self,
        memory: &GuestMemory<F>,
        old: u64,
        new: u64,
    ) -> Option<bool> {
        if self.second.is_some() || self.size > 8 {
            return None;
        }
        let place = GuestPhysical(self.first);
        memory.compare_exchange(place, self.size, old, new).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulation::device::tests::Recorder;
    use crate::emulation::paging::tests::memory;

    #[test]
    fn an_operand_may_lie_in_memory_and_in_a_device() {
        let memory = memory(&[]);
        let mut devices = Recorder::default();
        let operand = Operand::new(0x8ffd, Some(0xfec0_0000), 8);
        let value = 0x8877_6655_4433_2211;
        operand
            .write(value, &memory, &mut devices, &mut ())
            .unwrap();
        assert_eq!(memory.read_u32(GuestPhysical(0x8ffd)).unwrap(), 0x33_2211);
        assert_eq!(
            devices.writes,
            [(0xfec0_0000, 0x7766_5544), (0xfec0_0004, 0xffff_ff88)]
        );
        assert_eq!(operand.read::<(), _, _>(&memory, &mut devices), value);
    }

    #[test]
    fn an_operand_in_one_page_is_whole() {
        let memory = memory(&[(0x8010, 0x1122_3344_5566_7788)]);
        let mut devices = Recorder::default();
        let operand = Operand::new(0x8010, None, 2);
        assert_eq!(operand.read::<(), _, _>(&memory, &mut devices), 0x7788);
        operand
            .write(0xabcd_0001, &memory, &mut devices, &mut ())
            .unwrap();
        assert_eq!(
            memory.read_u64(GuestPhysical(0x8010)).unwrap(),
            0x1122_3344_5566_0001
        );
    }
}
