//! From where instructions are fetched.

use super::{Cpu, paging::Place, raise::Raised, segment::register, tlb::Access};

impl Cpu {
    /// The RAM offset of the byte at RIP; `None` if a device is there.
    #[inline(always)]
    pub(super) fn fetch_place(&mut self) -> Result<Option<u64>, Raised> {
        let linear = if self.mode_64 {
            self.rip()
        } else {
            self.fetch_linear(0)?
        };
        self.fetch_place_at(linear)
    }

    /// The same of a linear address that is inside the segment.
    #[inline(always)]
    pub(super) fn fetch_place_at(&mut self, linear: u64) -> Result<Option<u64>, Raised> {
        match self
            .tlb
            .lookup::<u8>(linear, Access::Execute, self.privilege())
        {
            Some(offset) => Ok(Some(offset)),
            None => self.fetch_place_slow(linear),
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch_place_slow(&mut self, linear: u64) -> Result<Option<u64>, Raised> {
        self.fetch_canonical(linear)?;
        match self.translate(linear, Access::Execute, self.privilege())? {
            Place::Ram(offset) => Ok(Some(offset)),
            Place::Device(_) | Place::ApicAccess(_) => Ok(None),
        }
    }

    /// The linear address of the byte that far from RIP, inside the segment.
    pub(super) fn fetch_linear(&mut self, distance: u64) -> Result<u64, Raised> {
        if self.mode_64 {
            return Ok(self.rip().wrapping_add(distance));
        }
        let offset = self.rip().wrapping_add(distance) as u32 as u64;
        self.linear(register::CS, offset, 1, Access::Execute)
    }

    fn fetch_canonical(&mut self, linear: u64) -> Result<(), Raised> {
        if self.mode_64 && !Self::is_canonical(linear) {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    /// The byte that far from RIP, wherever it is.
    pub(super) fn fetch_byte(&mut self, distance: u64) -> Result<u8, Raised> {
        let linear = self.fetch_linear(distance)?;
        self.fetch_canonical(linear)?;
        match self.translate(linear, Access::Execute, self.privilege())? {
            Place::Ram(offset) => Ok(self.ram.load(offset)),
            Place::Device(physical) => self.device_fetch(physical),
            Place::ApicAccess(offset) => crate::vtx::apic_access_fetch(self, offset, linear),
        }
    }
}
