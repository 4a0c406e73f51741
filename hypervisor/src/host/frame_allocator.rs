//! Physical memory: which of it is free, and taking pieces of it for good.
//!
//! The hypervisor takes memory at boot and when it makes a VM, and never gives any back, so a list
//! of free ranges is all there is.

use alloc::vec::Vec;

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

    /// Takes `size` bytes in as many pieces as it needs, each at a multiple of `alignment` and, but for the last, a
    /// multiple of it long; the highest places first. Takes nothing if there is not so much.
    pub fn allocate_pieces(&mut self, size: u64, alignment: u64) -> Option<Vec<Range>> {
        let alignment = alignment.max(FRAME);
        let mut left = size.checked_add(FRAME - 1)? & !(FRAME - 1);
        let mut ranges = self.free[..self.count].to_vec();
        ranges.sort_unstable_by_key(|range| core::cmp::Reverse(range.start));
        let mut pieces = Vec::new();
        for range in ranges {
            let (Some(first), last) = (
                range.start.checked_next_multiple_of(alignment),
                range.end & !(alignment - 1),
            ) else {
                continue;
            };
            // What is left may end in the middle of an aligned piece.
            let wanted = left.min(range.end.saturating_sub(first));
            let start = if wanted < left {
                first
            } else {
                range.end.saturating_sub(wanted) & !(alignment - 1)
            };
            let length = if wanted < left {
                last.saturating_sub(first)
            } else {
                wanted
            };
            if length == 0 || start < first {
                continue;
            }
            pieces.push(Range::new(start, length));
            left -= length;
            if left == 0 {
                pieces.iter().for_each(|piece| self.reserve(*piece));
                return Some(pieces);
            }
        }
        None
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
    fn pieces_are_aligned_and_cover_what_was_asked_for() {
        const MIB: u64 = 1 << 20;
        // As in a machine with 5 GiB: most of it on the two sides of the hole below 4 GiB.
        let machine = || {
            let mut allocator = FrameAllocator::new();
            allocator.add(Range::new(0x1000, 0x9e000));
            allocator.add(Range::new(17 * MIB + 0x3000, 3055 * MIB));
            allocator.add(Range::new(4096 * MIB, 1928 * MIB));
            allocator
        };
        for (wanted, pieces) in [(1, 1), (1928, 1), (1929, 2), (3125, 2), (4977, 2)] {
            let mut allocator = machine();
            let before = allocator.free_bytes();
            let taken = allocator.allocate_pieces(wanted * MIB, 2 * MIB).unwrap();
            assert_eq!(taken.len(), pieces, "{wanted} {taken:?}");
            let sum: u64 = taken.iter().map(|piece| piece.size()).sum();
            assert_eq!(sum, wanted * MIB);
            assert_eq!(allocator.free_bytes(), before - sum);
            for (index, piece) in taken.iter().enumerate() {
                assert_eq!(piece.start % (2 * MIB), 0);
                assert!(index + 1 == taken.len() || piece.size() % (2 * MIB) == 0);
                let whole = machine();
                let inside = |range: &&Range| range.start <= piece.start && piece.end <= range.end;
                assert!(
                    whole.ranges().iter().any(|range| inside(&range)),
                    "{taken:?}"
                );
            }
        }
        let mut allocator = machine();
        let before = allocator.free_bytes();
        assert_eq!(allocator.allocate_pieces(4990 * MIB, 2 * MIB), None);
        assert_eq!(allocator.allocate_pieces(u64::MAX, 2 * MIB), None);
        assert_eq!(allocator.free_bytes(), before, "nothing was taken");
    }

    #[test]
    fn everything_can_be_reserved() {
        let mut allocator = two_regions();
        allocator.reserve(Range::new(0, u64::MAX));
        assert_eq!(allocator.allocate(1, FRAME), None);
    }
}
