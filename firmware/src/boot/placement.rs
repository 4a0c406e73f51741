//! Finds free RAM below 4 GiB.

use super::BootError;
use alloc::vec::Vec;
use arch::pvh::{MEMORY_RAM, MemoryRegion};
use core::ops::Range;

const FOUR_GIB: u64 = 1 << 32;

/// The RAM of a memory map and what is taken of it.
pub(super) struct Placement {
    /// Disjoint, ascending, not adjacent.
    ram: Vec<Range<u64>>,
    occupied: Vec<Range<u64>>,
}

impl Placement {
    pub(super) fn new(map: &[MemoryRegion]) -> Self {
        let range =
            |region: &MemoryRegion| region.address..region.address.saturating_add(region.size);
        let mut pieces: Vec<Range<u64>> = map
            .iter()
            .filter(|region| region.kind == MEMORY_RAM)
            .map(range)
            .collect();
        for taken in map
            .iter()
            .filter(|region| region.kind != MEMORY_RAM)
            .map(range)
        {
            pieces = pieces
                .into_iter()
                .flat_map(|piece| {
                    [
                        piece.start..piece.end.min(taken.start),
                        piece.start.max(taken.end)..piece.end,
                    ]
                })
                .filter(|piece| !piece.is_empty())
                .collect();
        }
        pieces.sort_by_key(|piece| piece.start);
        let mut ram: Vec<Range<u64>> = Vec::new();
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            match ram.last_mut() {
                Some(last) if piece.start <= last.end => last.end = last.end.max(piece.end),
                _ => ram.push(piece),
            }
        }
        Self {
            ram,
            occupied: Vec::new(),
        }
    }

    pub(super) fn ram_size(&self) -> u64 {
        self.ram.iter().map(|range| range.end - range.start).sum()
    }

    pub(super) fn is_ram(&self, range: &Range<u64>) -> bool {
        self.ram
            .iter()
            .any(|ram| ram.start <= range.start && range.end <= ram.end)
    }

    /// Bytes of RAM from `start` to the first hole.
    pub(super) fn contiguous_from(&self, start: u64) -> u64 {
        self.ram
            .iter()
            .find(|ram| ram.contains(&start))
            .map_or(0, |ram| ram.end - start)
    }

    pub(super) fn occupy(&mut self, range: Range<u64>) {
        self.occupied.push(range);
    }

    /// Takes the lowest free range at or above `above` and below 4 GiB; `alignment` is a power of
    /// two. An empty range is given an address too.
    pub(super) fn place(
        &mut self,
        what: &'static str,
        size: u64,
        alignment: u64,
        above: u64,
    ) -> Result<Range<u64>, BootError> {
        let error = BootError::NoRoom { what, size };
        for ram in &self.ram {
            let mut start = ram.start.max(above);
            loop {
                start = start.checked_next_multiple_of(alignment).ok_or(error)?;
                let end = start.checked_add(size).ok_or(error)?;
                if end > ram.end.min(FOUR_GIB) || start >= ram.end {
                    break;
                }
                match self
                    .occupied
                    .iter()
                    .find(|taken| taken.start < end && start < taken.end)
                {
                    // Beyond what is in the way; that ends later than `start`, so this advances.
                    Some(taken) => start = taken.end,
                    None => {
                        self.occupied.push(start..end);
                        return Ok(start..end);
                    }
                }
            }
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn region(address: u64, size: u64, kind: u32) -> MemoryRegion {
        MemoryRegion {
            address,
            size,
            kind,
            reserved: 0,
        }
    }

    #[test]
    fn reserved_regions_cut_ram_and_neighbours_join() {
        let placement = Placement::new(&[
            region(0x10_0000, 0x10_0000, 1),
            region(0, 0xa_0000, 1),
            region(0x20_0000, 0x10_0000, 1),
            region(0x18_0000, 0x1000, 3),
            region(u64::MAX - 5, 100, 1),
            region(0x5000, 0, 1),
        ]);
        assert_eq!(
            placement.ram,
            vec![
                0..0xa_0000,
                0x10_0000..0x18_0000,
                0x18_1000..0x30_0000,
                u64::MAX - 5..u64::MAX
            ]
        );
        assert!(placement.is_ram(&(0x1f_0000..0x21_0000)));
        assert!(!placement.is_ram(&(0x17_0000..0x18_0001)));
    }

    #[test]
    fn places_do_not_overlap() {
        let mut placement = Placement::new(&[region(0, 0xa_0000, 1), region(0x10_0000, 0x5000, 1)]);
        placement.occupy(0x1_2000..0x1_2001);
        assert_eq!(
            placement.place("a", 0x2000, 16, 0x1_0000),
            Ok(0x1_0000..0x1_2000)
        );
        assert_eq!(
            placement.place("b", 0x2000, 0x1000, 0x1_0000),
            Ok(0x1_3000..0x1_5000)
        );
        assert_eq!(
            placement.place("c", 0x5000, 0x1000, 0x10_0000),
            Ok(0x10_0000..0x10_5000)
        );
        assert_eq!(
            placement.place("d", 1, 1, 0x10_0000),
            Err(BootError::NoRoom { what: "d", size: 1 })
        );
        assert!(placement.place("e", u64::MAX, 1, 0).is_err());
    }

    #[test]
    fn nothing_is_placed_above_4_gib() {
        let mut placement = Placement::new(&[region(FOUR_GIB - 0x1000, 0x10_0000, 1)]);
        assert!(placement.place("a", 0x1001, 1, 0).is_err());
        assert!(placement.place("a", 0x1000, 1, 0).is_ok());
    }
}
