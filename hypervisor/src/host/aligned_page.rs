//! Pages of the hypervisor's own that the processor reads or writes by physical address. The heap
//! is identity-mapped, so a page's address is its physical address.
#![allow(
    unsafe_code,
    reason = "a page that the processor changes behind the compiler's back"
)]

use alloc::boxed::Box;
use core::cell::UnsafeCell;

#[repr(C, align(4096))]
struct Bytes(UnsafeCell<[u8; 4096]>);

/// One zeroed 4-KByte page.
pub struct AlignedPage(Box<Bytes>);

// SAFETY: the page is plain memory; every access is volatile and of at most 8 bytes.
unsafe impl Send for AlignedPage {}
// SAFETY: as above; writing takes `&mut`.
unsafe impl Sync for AlignedPage {}

impl core::fmt::Debug for AlignedPage {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        write!(formatter, "AlignedPage({:#x})", self.address())
    }
}

impl Default for AlignedPage {
    fn default() -> Self {
        Self::new()
    }
}

impl AlignedPage {
    /// A zeroed page.
    pub fn new() -> Self {
        Self(Box::new(Bytes(UnsafeCell::new([0; 4096]))))
    }

    /// Its physical address.
    pub fn address(&self) -> u64 {
        self.0.0.get() as u64
    }

    /// The 32-bit word at byte `offset` (rounded down to a multiple of 4, wrapped to the page).
    #[inline(always)]
    pub fn read_u32(&self, offset: u32) -> u32 {
        let index = offset as usize / 4 % 1024;
        // SAFETY: `index` lies inside the page; the processor may write it at the same time, hence
        // volatile.
        unsafe { self.0.0.get().cast::<u32>().add(index).read_volatile() }
    }

    /// Replaces the 32-bit word at byte `offset` (as [`read_u32`](Self::read_u32)).
    #[inline(always)]
    pub fn write_u32(&mut self, offset: u32, value: u32) {
        let index = offset as usize / 4 % 1024;
        // SAFETY: as above.
        unsafe {
            self.0
                .0
                .get()
                .cast::<u32>()
                .add(index)
                .write_volatile(value)
        }
    }
}

impl apic::register_page::RegisterPage for AlignedPage {
    #[inline(always)]
    fn read(&self, offset: u32) -> u32 {
        self.read_u32(offset)
    }

    #[inline(always)]
    fn write(&mut self, offset: u32, value: u32) {
        self.write_u32(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_aligned_and_zero_and_holds_words() {
        let mut page = AlignedPage::new();
        assert_eq!(page.address() % 4096, 0);
        assert!(
            (0..4096)
                .step_by(4)
                .all(|offset| page.read_u32(offset) == 0)
        );
        page.write_u32(0xffc, 7);
        page.write_u32(0x80, 0x20);
        assert_eq!((page.read_u32(0xffc), page.read_u32(0x80)), (7, 0x20));
    }
}
