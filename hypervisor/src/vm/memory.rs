//! Guest-physical memory: where RAM lies, and checked access to it.
//!
//! Guest memory is never a Rust reference: other vCPUs write it while the hypervisor reads. The host
//! copies bytes in and out through [`FrameAccess`]; everything above it only sees copies.

use core::fmt;

/// RAM below this address, the rest above [`HIGH_RAM_START`]: the hole between holds the PCI window,
/// the I/O APIC and the local APIC page, as on a PC.
pub const LOW_RAM_END: u64 = 3 << 30;
/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// A guest-physical address. It has no `+`: a caller chooses checked or wrapping arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPhysical(pub u64);

/// A run of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub guest: u64,
    /// Where the run begins in the host's backing store, in bytes.
    pub backing: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Where a virtual machine's RAM lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    size: u64,
}

impl MemoryLayout {
    /// A layout of `size` bytes of RAM.
    pub const fn new(size: u64) -> Self {
        Self { size }
    }

    /// Bytes of RAM in all.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The RAM below the hole; begins at address 0.
    pub const fn low(self) -> RamRange {
        RamRange {
            guest: 0,
            backing: 0,
            length: if self.size < LOW_RAM_END {
                self.size
            } else {
                LOW_RAM_END
            },
        }
    }

    /// The RAM above 4 GiB, if there is any.
    pub const fn high(self) -> Option<RamRange> {
        if self.size > LOW_RAM_END {
            Some(RamRange {
                guest: HIGH_RAM_START,
                backing: LOW_RAM_END,
                length: self.size - LOW_RAM_END,
            })
        } else {
            None
        }
    }

    /// Both runs, lowest first.
    pub fn ranges(self) -> impl Iterator<Item = RamRange> {
        core::iter::once(self.low()).chain(self.high())
    }

    /// The backing offset of `length` bytes at `address`, if all of them are RAM. The runs never
    /// touch in guest-physical space, so no access spans both.
    pub fn backing(self, address: GuestPhysical, length: u64) -> Option<u64> {
        self.ranges().find_map(|range| {
            let offset = address.0.checked_sub(range.guest)?;
            let end = offset.checked_add(length)?;
            (end <= range.length).then(|| range.backing + offset)
        })
    }
}

/// The host's access to the frames behind a virtual machine's RAM.
pub trait FrameAccess {
    /// Copies `bytes.len()` bytes at backing offset `offset` out. The range was checked.
    fn read(&self, offset: u64, bytes: &mut [u8]);
    /// Copies `bytes` in at backing offset `offset`. The range was checked.
    fn write(&self, offset: u64, bytes: &[u8]);
    /// Replaces the `size` (1, 2, 4 or 8) bytes at backing offset `offset`, a multiple of `size`, by `new`
    /// in one atomic step if they are `old`; whether they were. The range was checked.
    fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> bool;
}

impl<T: FrameAccess + ?Sized> FrameAccess for &T {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        (**self).read(offset, bytes);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        (**self).write(offset, bytes);
    }

    fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> bool {
        (**self).compare_exchange(offset, size, old, new)
    }
}

/// Bytes that are not all RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// First guest-physical address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at guest-physical address {:#x} are not all in the guest's memory",
            self.length, self.address
        )
    }
}

impl core::error::Error for NotRam {}

/// A virtual machine's RAM.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory<F> {
    layout: MemoryLayout,
    frames: F,
}

impl<F: FrameAccess> GuestMemory<F> {
    /// The RAM that `layout` describes; `frames` must back `layout.size()` bytes.
    pub const fn new(layout: MemoryLayout, frames: F) -> Self {
        Self { layout, frames }
    }

    /// Where the RAM lies.
    pub const fn layout(&self) -> MemoryLayout {
        self.layout
    }

    fn locate(&self, address: GuestPhysical, length: usize) -> Result<u64, NotRam> {
        let refused = NotRam {
            address: address.0,
            length: length as u64,
        };
        self.layout.backing(address, length as u64).ok_or(refused)
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`NotRam`] when a byte of the range is not RAM; nothing is copied.
    pub fn read(&self, address: GuestPhysical, bytes: &mut [u8]) -> Result<(), NotRam> {
        let offset = self.locate(address, bytes.len())?;
        self.frames.read(offset, bytes);
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`NotRam`] when a byte of the range is not RAM; nothing is written.
    pub fn write(&self, address: GuestPhysical, bytes: &[u8]) -> Result<(), NotRam> {
        let offset = self.locate(address, bytes.len())?;
        self.frames.write(offset, bytes);
        Ok(())
    }

    /// Replaces `size` (1, 2, 4 or 8) bytes, which other processors may change at the same time, by `new`
    /// if they are `old`; whether they were. One atomic step where `address` is a multiple of `size`;
    /// elsewhere, as a processor without split locks does it, in two.
    ///
    /// # Errors
    /// [`NotRam`]; nothing is written.
    pub fn compare_exchange(
        &self,
        address: GuestPhysical,
        size: u8,
        old: u64,
        new: u64,
    ) -> Result<bool, NotRam> {
        let length = usize::from(size).min(8);
        let offset = self.locate(address, length)?;
        if address.0.is_multiple_of(size.into()) {
            return Ok(self.frames.compare_exchange(offset, size, old, new));
        }
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        let mut found = [0; 8];
        self.frames.read(offset, &mut found[..length]);
        let same = found[..length] == old[..length];
        if same {
            self.frames.write(offset, &new[..length]);
        }
        Ok(same)
    }

    /// Writes `length` zero bytes.
    ///
    /// # Errors
    /// [`NotRam`] when a byte of the range is not RAM; nothing is written.
    pub fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), NotRam> {
        let refused = NotRam {
            address: address.0,
            length,
        };
        let offset = self.layout.backing(address, length).ok_or(refused)?;
        let zeros = [0; 512];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(zeros.len() as u64);
            self.frames.write(offset + done, &zeros[..step as usize]);
            done += step;
        }
        Ok(())
    }

    /// Reads a little-endian 16-bit value; no alignment is needed.
    ///
    /// # Errors
    /// [`NotRam`].
    pub fn read_u16(&self, address: GuestPhysical) -> Result<u16, NotRam> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Reads a little-endian 32-bit value.
    ///
    /// # Errors
    /// [`NotRam`].
    pub fn read_u32(&self, address: GuestPhysical) -> Result<u32, NotRam> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian 64-bit value.
    ///
    /// # Errors
    /// [`NotRam`].
    pub fn read_u64(&self, address: GuestPhysical) -> Result<u64, NotRam> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian 32-bit value.
    ///
    /// # Errors
    /// [`NotRam`].
    pub fn write_u32(&self, address: GuestPhysical, value: u32) -> Result<(), NotRam> {
        self.write(address, &value.to_le_bytes())
    }

    /// Writes a little-endian 64-bit value.
    ///
    /// # Errors
    /// [`NotRam`].
    pub fn write_u64(&self, address: GuestPhysical, value: u64) -> Result<(), NotRam> {
        self.write(address, &value.to_le_bytes())
    }
}

/// Backing store for tests on the host: sparse, so that a layout of 5 GiB costs nothing.
#[cfg(test)]
pub(crate) mod sparse {
    use super::FrameAccess;
    use std::{cell::RefCell, collections::BTreeMap};

    #[derive(Default)]
    pub(crate) struct SparseFrames(RefCell<BTreeMap<u64, Vec<u8>>>);

    impl FrameAccess for SparseFrames {
        fn read(&self, offset: u64, bytes: &mut [u8]) {
            let pages = self.0.borrow();
            for (i, byte) in bytes.iter_mut().enumerate() {
                let at = offset + i as u64;
                *byte = pages
                    .get(&(at >> 12))
                    .map_or(0, |page| page[(at & 0xfff) as usize]);
            }
        }

        fn write(&self, offset: u64, bytes: &[u8]) {
            let mut pages = self.0.borrow_mut();
            for (i, byte) in bytes.iter().enumerate() {
                let at = offset + i as u64;
                pages.entry(at >> 12).or_insert_with(|| vec![0; 4096])[(at & 0xfff) as usize] =
                    *byte;
            }
        }

        fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> bool {
            assert_eq!(offset % u64::from(size), 0);
            let size = usize::from(size);
            let mut found = [0; 8];
            self.read(offset, &mut found[..size]);
            let same = found[..size] == old.to_le_bytes()[..size];
            if same {
                self.write(offset, &new.to_le_bytes()[..size]);
            }
            same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{sparse::SparseFrames, *};

    #[test]
    fn the_layout_leaves_the_hole_below_4_gib() {
        let small = MemoryLayout::new(64 << 20);
        assert_eq!(small.low().length, 64 << 20);
        assert_eq!(small.high(), None);
        let exact = MemoryLayout::new(LOW_RAM_END);
        assert_eq!((exact.low().length, exact.high()), (LOW_RAM_END, None));
        let large = MemoryLayout::new(5 << 30);
        let high = RamRange {
            guest: 4 << 30,
            backing: 3 << 30,
            length: 2 << 30,
        };
        assert_eq!(large.high(), Some(high));
    }

    #[test]
    fn an_access_is_inside_one_run_or_refused() {
        let layout = MemoryLayout::new(5 << 30);
        for (address, length, expected) in [
            (0, 1, Some(0)),
            (LOW_RAM_END - 8, 8, Some(LOW_RAM_END - 8)),
            (LOW_RAM_END - 8, 9, None),
            (LOW_RAM_END, 1, None),
            (HIGH_RAM_START - 1, 2, None),
            (HIGH_RAM_START, 8, Some(LOW_RAM_END)),
            ((6 << 30) - 1, 1, Some((5 << 30) - 1)),
            ((6 << 30) - 1, 2, None),
            (u64::MAX, 1, None),
            (u64::MAX, u64::MAX, None),
            (0, u64::MAX, None),
            (0xfee0_0000, 4, None),
        ] {
            assert_eq!(
                layout.backing(GuestPhysical(address), length),
                expected,
                "{address:#x} {length:#x}"
            );
        }
    }

    #[test]
    fn typed_access_is_little_endian_and_refused_accesses_change_nothing() {
        let memory = GuestMemory::new(MemoryLayout::new(1 << 20), SparseFrames::default());
        memory
            .write_u64(GuestPhysical(0xffd), 0x1122_3344_5566_7788)
            .unwrap();
        assert_eq!(memory.read_u32(GuestPhysical(0xffe)).unwrap(), 0x4455_6677);
        assert_eq!(memory.read_u16(GuestPhysical(0x1003)).unwrap(), 0x1122);
        let refused = memory.write_u64(GuestPhysical((1 << 20) - 4), u64::MAX);
        assert_eq!(
            refused,
            Err(NotRam {
                address: (1 << 20) - 4,
                length: 8
            })
        );
        assert_eq!(memory.read_u32(GuestPhysical((1 << 20) - 4)).unwrap(), 0);
        memory.zero(GuestPhysical(0xf00), 0x200).unwrap();
        assert_eq!(memory.read_u64(GuestPhysical(0xffd)).unwrap(), 0);
        assert!(memory.zero(GuestPhysical(0x10_0000), 1).is_err());
    }
}
