//! The heap: one piece of memory, taken at boot.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use spin::Mutex;

struct LockedHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

// SAFETY: `Heap` hands out disjoint pieces of the memory it was given; the lock serializes it.
// Interrupt handlers do not allocate, so it cannot be held by interrupted code.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .allocate_first_fit(layout)
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else {
            return;
        };
        let mut heap = self.0.lock();
        // What came from the boot heap is not worth having back.
        if (heap.bottom()..heap.top()).contains(&pointer.as_ptr()) {
            // SAFETY: the caller got `pointer` from `alloc` with this layout, and from this piece.
            unsafe { heap.deallocate(pointer, layout) }
        }
    }
}

/// A second heap for when the boot heap has done its work: the allocator holds one contiguous piece,
/// so what the boot heap handed out stays there and everything new comes from the new piece.
///
/// # Safety
/// As [`initialize`].
pub(super) unsafe fn extend(address: u64, size: usize) {
    let mut heap = Heap::empty();
    // SAFETY: the caller's promise.
    unsafe { heap.init(address as *mut u8, size) };
    *HEAP.0.lock() = heap;
}

/// Gives the heap its memory.
///
/// # Safety
/// `size` bytes at `address` must belong to nobody else, for ever. Called once.
pub(super) unsafe fn initialize(address: u64, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(address as *mut u8, size) }
}
