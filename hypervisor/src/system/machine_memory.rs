//! A virtual machine's RAM in host memory, and the EPT that maps it.
#![allow(
    unsafe_code,
    reason = "reads and writes guest memory and tables by physical address"
)]

use crate::host::aligned_page::AlignedPage;
use crate::host::frame_allocator::{FRAME, FrameAllocator, Range};
use crate::vm::memory::{FrameAccess, GuestMemory, MemoryLayout};
use crate::vmx::ept::{Ept, EptError, Permission, TableMemory};
use alloc::boxed::Box;
use arch::msr::apic_base::DEFAULT_ADDRESS;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The host frames behind a guest's RAM: pieces, one behind the other in the backing store.
#[derive(Clone, Debug)]
pub struct HostFrames {
    pieces: Box<[Piece]>,
}

/// A piece of host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Where it begins in the backing store, in bytes.
    backing: u64,
    /// Its host-physical address.
    host: u64,
    /// Its length in bytes.
    length: u64,
}

impl HostFrames {
    /// Whole frames that are identity-mapped and belong to nobody else.
    fn new(ranges: &[Range]) -> Self {
        let mut backing = 0;
        let pieces = ranges
            .iter()
            .map(|range| {
                let piece = Piece {
                    backing,
                    host: range.start,
                    length: range.size(),
                };
                backing += piece.length;
                piece
            })
            .collect();
        Self { pieces }
    }

    /// The parts of host memory behind `length` bytes of the backing store, lowest offset first: each its
    /// distance from `offset`, its address and its length.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let end = offset.saturating_add(length);
        self.pieces.iter().filter_map(move |piece| {
            let start = offset.max(piece.backing);
            let end = end.min(piece.backing + piece.length);
            (start < end).then(|| {
                (
                    start - offset,
                    piece.host + (start - piece.backing),
                    end - start,
                )
            })
        })
    }
}

impl FrameAccess for HostFrames {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (at, host, length) in self.parts(offset, bytes.len() as u64) {
            let Some(part) = bytes.get_mut(at as usize..(at + length) as usize) else {
                return;
            };
            // SAFETY: `length` bytes at `host` are in a piece, which is mapped for as long as the hypervisor
            // runs. A running guest may write at the same time: a torn copy is the guest's own doing.
            unsafe {
                core::ptr::copy_nonoverlapping(host as *const u8, part.as_mut_ptr(), part.len());
            }
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        for (at, host, length) in self.parts(offset, bytes.len() as u64) {
            let Some(part) = bytes.get(at as usize..(at + length) as usize) else {
                return;
            };
            // SAFETY: as `read`; nothing of the hypervisor's own lies in a piece.
            unsafe {
                core::ptr::copy_nonoverlapping(part.as_ptr(), host as *mut u8, part.len());
            }
        }
    }

    fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> bool {
        // Pieces are whole frames, so that an aligned word is in one of them.
        let Some((_, host, _)) = self.parts(offset, size.into()).next() else {
            return false;
        };
        macro_rules! exchange {
            ($atomic:ty, $word:ty) => {{
                // SAFETY: as `read`: bytes of the guest's RAM, aligned because a piece begins with a frame
                // and `offset` is a multiple of their number.
                let word = unsafe { <$atomic>::from_ptr(host as *mut $word) };
                let (old, new) = (old as $word, new as $word);
                word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            }};
        }
        match size {
            1 => exchange!(AtomicU8, u8),
            2 => exchange!(AtomicU16, u16),
            4 => exchange!(AtomicU32, u32),
            _ => exchange!(AtomicU64, u64),
        }
    }
}

/// Page tables in frames of the hypervisor's.
struct Tables<'a>(&'a mut FrameAllocator);

impl TableMemory for Tables<'_> {
    fn allocate_table(&mut self) -> Option<u64> {
        let address = self.0.allocate(FRAME, FRAME)?;
        // SAFETY: fresh from the allocator and identity-mapped.
        unsafe { core::ptr::write_bytes(address as *mut u8, 0, FRAME as usize) };
        Some(address)
    }

    fn read(&self, address: u64) -> u64 {
        // SAFETY: an entry of a table that `allocate_table` gave.
        unsafe { (address as *const u64).read_volatile() }
    }

    fn write(&mut self, address: u64, entry: u64) {
        // SAFETY: as `read`.
        unsafe { (address as *mut u64).write_volatile(entry) }
    }
}

/// Why a virtual machine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// Not so much memory.
    NoMemory {
        /// Wanted, in MiB.
        mib: u64,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// EPT.
    Ept(EptError),
}

impl From<EptError> for MachineError {
    fn from(error: EptError) -> Self {
        Self::Ept(error)
    }
}

impl core::fmt::Display for MachineError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
            Self::NoMemory { mib, free_mib } => write!(
                formatter,
                "the guest's {mib} MiB of memory do not fit into the {free_mib} MiB that are free; boot option memory=N"
            ),
            Self::Ept(error) => error.fmt(formatter),
        }
    }
}

/// The guest's RAM and the tables that map it.
#[derive(Debug)]
pub struct MachineMemory {
    /// The RAM.
    pub memory: GuestMemory<HostFrames>,
    /// The EPT pointer.
    pub ept_pointer: u64,
    /// The APIC-access page, if the processor is to watch it.
    pub apic_access_page: Option<AlignedPage>,
}

impl MachineMemory {
    /// Takes `mib` MiB, zeroes them and maps them.
    pub fn new(
        frames: &mut FrameAllocator,
        mib: u64,
        ept_vpid: u64,
        apic_access_page: Option<AlignedPage>,
    ) -> Result<Self, MachineError> {
        let size = mib << 20;
        let pieces = frames
            .allocate_pieces(size, 2 << 20)
            .ok_or(MachineError::NoMemory {
                mib,
                free_mib: frames.free_bytes() >> 20,
            })?;
        for piece in &pieces {
            // SAFETY: fresh from the allocator and identity-mapped. A guest must not see what was there.
            unsafe { core::ptr::write_bytes(piece.start as *mut u8, 0, piece.size() as usize) };
        }
        let frames_behind = HostFrames::new(&pieces);
        let layout = MemoryLayout::new(size);
        let mut tables = Tables(frames);
        let ept = Ept::new(&mut tables, ept_vpid)?;
        for range in layout.ranges() {
            for (at, host, length) in frames_behind.parts(range.backing, range.length) {
                ept.map(&mut tables, range.guest + at, host, length, Permission::All)?;
            }
        }
        if let Some(page) = &apic_access_page {
            ept.map(
                &mut tables,
                DEFAULT_ADDRESS,
                page.address(),
                FRAME,
                Permission::All,
            )?;
        }
        Ok(Self {
            memory: GuestMemory::new(layout, frames_behind),
            ept_pointer: ept.pointer(),
            apic_access_page,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn bytes_are_found_across_pieces() {
        let frames = HostFrames::new(&[
            Range::new(0x40_0000, 0x20_0000),
            Range::new(0x10_0000, 0x10_0000),
        ]);
        let parts = |offset, length| frames.parts(offset, length).collect::<Vec<_>>();
        assert_eq!(parts(0, 8), [(0, 0x40_0000, 8)]);
        assert_eq!(parts(0x1f_fffc, 8), [(0, 0x5f_fffc, 4), (4, 0x10_0000, 4)]);
        assert_eq!(parts(0x20_0000, 1), [(0, 0x10_0000, 1)]);
        assert_eq!(parts(0x30_0000, 1), []);
        assert_eq!(
            parts(0, u64::MAX),
            [(0, 0x40_0000, 0x20_0000), (0x20_0000, 0x10_0000, 0x10_0000)]
        );
        // What is read and written is memory of this test.
        let first = [1u8, 2, 3, 4];
        let second = [5u8, 6, 7, 8];
        let address = |bytes: &[u8; 4]| bytes.as_ptr() as u64;
        let frames = HostFrames::new(&[
            Range::new(address(&first), 4),
            Range::new(address(&second), 4),
        ]);
        let mut bytes = [0; 6];
        frames.read(1, &mut bytes);
        assert_eq!(bytes, [2, 3, 4, 5, 6, 7]);
    }
}
