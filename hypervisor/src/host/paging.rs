//! What the processor's paging-structure entries may hold, and the identity map: linear address =
//! physical address, for all of RAM and the devices below 4 GiB (SDM 4.5 4-level paging).
#![allow(
    unsafe_code,
    reason = "writes page tables in frames that are the hypervisor's own"
)]

use super::frame_allocator::{FRAME, FrameAllocator};
use super::instructions::cpuid;
use crate::system::report::physical_address_width;
use spin::Once;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;

/// What entries may hold, by the processor's CPUID (SDM 4.1.4 Enumeration of paging features by CPUID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLimits {
    /// Bits of a physical address.
    pub physical_address_width: u32,
    /// Whether there are 1-GByte pages.
    pub gigabyte_pages: bool,
}

impl EntryLimits {
    /// Those of this computer's processors, which it asks once.
    pub fn of_processor() -> Self {
        static LIMITS: Once<EntryLimits> = Once::new();
        *LIMITS.call_once(|| Self {
            physical_address_width: physical_address_width(),
            gigabyte_pages: cpuid(0x8000_0000, 0).eax >= 0x8000_0001
                && cpuid(0x8000_0001, 0).edx & 1 << 26 != 0,
        })
    }
}

/// Builds an identity map of `0..end` (at least 4 GiB) and returns its top table's address, or
/// `None` when memory for tables ran out. The tables lie below 4 GiB, where the processors' start
/// can load CR3 from 32-bit code.
pub fn identity_map(frames: &mut FrameAllocator, end: u64) -> Option<u64> {
    let gibibytes = end.div_ceil(GIB).clamp(4, 512 * 512);
    let has_1g_pages = EntryLimits::of_processor().gigabyte_pages;
    let mut table = || {
        let address = frames.allocate_below(FRAME, FRAME, 1 << 32)?;
        // SAFETY: a frame fresh from the allocator, covered by the boot map of the low 4 GiB,
        // belongs to nobody else.
        unsafe { core::ptr::write_bytes(address as *mut u8, 0, FRAME as usize) };
        Some(address)
    };
    let write = |table: u64, index: u64, entry: u64| {
        // SAFETY: `table` came from the closure above and `index` is below 512 at every call.
        unsafe { (table as *mut u64).add(index as usize).write(entry) };
    };
    let top = table()?;
    let mut pointers = 0;
    for gibibyte in 0..gibibytes {
        if gibibyte % 512 == 0 {
            pointers = table()?;
            write(top, gibibyte / 512, pointers | PRESENT_WRITABLE);
        }
        let entry = if has_1g_pages {
            gibibyte << 30 | LARGE | PRESENT_WRITABLE
        } else {
            let directory = table()?;
            for index in 0..512 {
                write(
                    directory,
                    index,
                    gibibyte << 30 | index << 21 | LARGE | PRESENT_WRITABLE,
                );
            }
            directory | PRESENT_WRITABLE
        };
        write(pointers, gibibyte % 512, entry);
    }
    Some(top)
}
