//! The loader's memory map, as far as this guest needs it: a page for the processors' start-up
//! code and room for their state.

/// A region of usable RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

const MAXIMUM_REGIONS: usize = 64;
const PAGE: u64 = 4096;

/// The regions of usable RAM.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    regions: [Region; MAXIMUM_REGIONS],
    length: usize,
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self {
            regions: [Region::default(); MAXIMUM_REGIONS],
            length: 0,
        }
    }
}

impl MemoryMap {
    /// Adds a region of RAM, trimmed to whole pages. Regions beyond the capacity are ignored: less
    /// memory is used than there is.
    pub fn add(&mut self, address: u64, size: u64) {
        let start = address.saturating_add(PAGE - 1) & !(PAGE - 1);
        let end = address.saturating_add(size) & !(PAGE - 1);
        if start < end
            && let Some(slot) = self.regions.get_mut(self.length)
        {
            *slot = Region { start, end };
            self.length += 1;
        }
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.length]
    }

    /// A page that a start-up IPI can name: below 1 MiB, not page 0 (SDM 10.6.1 Interrupt command
    /// register, "Start Up").
    pub fn start_up_page(&self) -> Option<u64> {
        self.regions()
            .iter()
            .map(|region| (region.start.max(PAGE), region.end.min(0xa_0000)))
            .filter(|(start, end)| start < end)
            .map(|(_, end)| end - PAGE)
            .max()
    }

    /// RAM from `from` on, as far as it reaches without a gap, below 4 GiB.
    pub fn room_from(&self, from: u64) -> Option<Region> {
        let from = from.saturating_add(PAGE - 1) & !(PAGE - 1);
        self.regions()
            .iter()
            .find(|region| region.start <= from && from < region.end)
            .map(|region| Region {
                start: from,
                end: region.end.min(1 << 32),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_page_is_the_highest_conventional_one() {
        let mut map = MemoryMap::default();
        assert_eq!(map.start_up_page(), None);
        map.add(0x10_0000, 0x700_0000);
        assert_eq!(map.start_up_page(), None);
        map.add(0, 0x1000);
        assert_eq!(map.start_up_page(), None, "page 0 is not used");
        map.add(0, 0x9_fc00);
        assert_eq!(map.start_up_page(), Some(0x9_e000));
    }

    #[test]
    fn room_is_what_follows_in_the_same_region() {
        let mut map = MemoryMap::default();
        map.add(0, 0x9_fc00);
        map.add(0x10_0000, 0x700_0000);
        map.add(0xffff_0000, 0x1_0000_0000);
        assert_eq!(
            map.room_from(0x20_0001),
            Some(Region {
                start: 0x20_1000,
                end: 0x710_0000
            })
        );
        assert_eq!(map.room_from(0x710_0000), None);
        assert_eq!(map.room_from(0xffff_1000).map(|r| r.end), Some(1 << 32));
        for _ in 0..100 {
            map.add(0x8000_0000, u64::MAX);
        }
        assert_eq!(map.regions().len(), MAXIMUM_REGIONS);
    }
}
