//! Physical memory: which of it is free, and taking pieces of it for good.
//!
//! The hypervisor takes memory at boot and when it makes a VM, and never gives any back, so a list
//! of free ranges is all there is.

/// Size of a page frame in bytes.
pub const FRAME: u64 = 4096;
const MAXIMUM: usize = 128;

/// A range of physical addresses, `start..end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

impl Range {
    /// `size` bytes from `start`, cut off at the top of the address space.
    pub fn new(start: u64, size: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(size),
        }
    }

    /// Bytes.
    pub fn size(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Free physical memory.
#[derive(Debug)]
pub struct FrameAllocator {
    free: [Range; MAXIMUM],
    count: usize,
}

impl Default for FrameAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameAllocator {
    /// Nothing is free.
    pub const fn new() -> Self {
        Self {
            free: [Range { start: 0, end: 0 }; MAXIMUM],
            count: 0,
        }
    }

    /// Adds whole frames inside `range`; what does not fit into the list stays unused.
    pub fn add(&mut self, range: Range) {
        let start = range.start.saturating_add(FRAME - 1) & !(FRAME - 1);
        let end = range.end & !(FRAME - 1);
        if start < end && self.count < MAXIMUM {
            self.free[self.count] = Range { start, end };
            self.count += 1;
        }
    }

    /// Takes every frame that `range` touches out of the free list.
    pub fn reserve(&mut self, range: Range) {
        let start = range.start & !(FRAME - 1);
        let end = range.end.saturating_add(FRAME - 1) & !(FRAME - 1);
        let mut index = 0;
        while index < self.count {
            let free = self.free[index];
            if end <= free.start || free.end <= start {
                index += 1;
                continue;
            }
            self.count -= 1;
            self.free[index] = self.free[self.count];
            let (below, above) = (Range { end: start, ..free }, Range { start: end, ..free });
            for rest in [below, above] {
                if rest.start < rest.end {
                    self.add(rest);
                }
            }
        }
    }

    /// Takes `size` bytes (rounded up to frames) at a multiple of `alignment` (a power of two, at
    /// least a frame) whose end is at most `limit`; the highest place that fits, so that low memory
    /// stays for those who need it.
    pub fn allocate_below(&mut self, size: u64, alignment: u64, limit: u64) -> Option<u64> {
        let size = size.checked_add(FRAME - 1)? & !(FRAME - 1);
        let alignment = alignment.max(FRAME);
        let best = self.free[..self.count]
            .iter()
            .filter_map(|range| {
                let address = range.end.min(limit).checked_sub(size)? & !(alignment - 1);
                (address >= range.start).then_some(address)
            })
            .max()?;
        self.reserve(Range::new(best, size));
        Some(best)
    }

    /// [`allocate_below`](Self::allocate_below) without a limit.
    pub fn allocate(&mut self, size: u64, alignment: u64) -> Option<u64> {
        self.allocate_below(size, alignment, u64::MAX)
    }

    /// The free ranges, in no order.
    pub fn ranges(&self) -> &[Range] {
        &self.free[..self.count]
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> u64 {
        self.ranges().iter().map(|range| range.size()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_regions() -> FrameAllocator {
        let mut allocator = FrameAllocator::new();
        allocator.add(Range::new(0, 0x9fc00));
        allocator.add(Range::new(0x10_0000, 0x70_0000));
        allocator
    }

    #[test]
    fn only_whole_frames_are_free() {
        assert_eq!(two_regions().free_bytes(), 0x9f000 + 0x70_0000);
    }

    #[test]
    fn reserving_the_middle_leaves_both_ends() {
        let mut allocator = two_regions();
        allocator.reserve(Range::new(0x20_0001, 0x1000));
        let mut ranges = allocator.ranges().to_vec();
        ranges.sort_by_key(|range| range.start);
        assert_eq!(
            ranges,
            [
                Range {
                    start: 0,
                    end: 0x9f000
                },
                Range {
                    start: 0x10_0000,
                    end: 0x20_0000
                },
                Range {
                    start: 0x20_2000,
                    end: 0x80_0000
                },
            ]
        );
    }

    #[test]
    fn allocations_do_not_overlap_and_are_aligned() {
        let mut allocator = two_regions();
        let large = allocator.allocate(0x20_0000, 0x20_0000).unwrap();
        assert_eq!(large, 0x60_0000);
        assert_eq!(allocator.allocate(1, FRAME), Some(0x5f_f000));
        assert_eq!(allocator.allocate_below(1, FRAME, 0x10_0000), Some(0x9e000));
        assert_eq!(allocator.allocate(0x80_0000, FRAME), None);
        assert_eq!(allocator.allocate(u64::MAX, FRAME), None);
    }

    #[test]
    fn everything_can_be_reserved() {
        let mut allocator = two_regions();
        allocator.reserve(Range::new(0, u64::MAX));
        assert_eq!(allocator.allocate(1, FRAME), None);
    }
}
