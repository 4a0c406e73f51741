//! Descriptors in the GDT and LDT: reading them, and loading segment registers as real mode does.

pub use arch::descriptor::{Descriptor, LOCAL, RPL, SystemType, error_code, is_null};
use arch::exception as vector;

use super::{
    Cpu,
    raise::Raised,
    segment::{Segment, rights},
};

impl Cpu {
    /// Reads the descriptor of `selector`; `None` if it lies outside its table.
    pub fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Raised> {
        let (base, limit) = if selector & LOCAL == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.has(rights::UNUSABLE) {
            return Ok(None);
        } else {
            (self.ldtr.base, self.ldtr.limit)
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = base.wrapping_add(u64::from(offset));
        let low = self.read_system(address)?;
        Ok(Some(Descriptor {
            selector,
            address,
            low,
        }))
    }

    /// Reads the descriptor of `selector`; the exception `vector` with the selector as error code if
    /// it lies outside its table.
    pub fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Raised> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.selector_fault(vector, selector)),
        }
    }

    /// The upper eight bytes of a system descriptor of IA-32e mode (SDM 3.5.2); `None` if they lie
    /// outside the table or their type field is not 0.
    pub fn upper_descriptor(&mut self, descriptor: &Descriptor) -> Result<Option<u64>, Raised> {
        let limit = if descriptor.selector & LOCAL == 0 {
            u32::from(self.gdtr.limit)
        } else {
            self.ldtr.limit
        };
        if u32::from(descriptor.selector & !7) + 15 > limit {
            return Ok(None);
        }
        let high: u64 = self.read_system(descriptor.address.wrapping_add(8))?;
        Ok((high >> 40 & 0x1f == 0).then_some(high))
    }

    /// Sets the accessed flag of a code or data descriptor in memory, and gives the segment with it.
    pub fn mark_accessed(&mut self, descriptor: &Descriptor) -> Result<Segment, Raised> {
        let mut segment = descriptor.segment();
        if !segment.has(rights::ACCESSED) {
            segment.rights |= rights::ACCESSED;
            self.write_system(
                descriptor.address.wrapping_add(5),
                (descriptor.low >> 40) as u8 | 1,
            )?;
        }
        Ok(segment)
    }

    /// The exception `vector` whose error code names `selector`.
    #[cold]
    pub fn selector_fault(&mut self, vector: u8, selector: u16) -> Raised {
        self.fault(vector, Some(error_code(selector)))
    }

    /// #GP(selector).
    #[cold]
    pub fn selector_protection(&mut self, selector: u16) -> Raised {
        self.selector_fault(vector::GENERAL_PROTECTION, selector)
    }

    /// Loads a segment register in real mode, where the limit stays, or in virtual-8086 mode, where
    /// rights and limit are fixed (SDM 20.1.1 Address translation in real-address mode, 20.2.1).
    pub fn load_8086_segment(&mut self, number: u8, selector: u16) {
        let virtual_8086 = self.virtual_8086();
        let segment = &mut self.segments[(number & 7) as usize];
        segment.set_real_mode(selector);
        if segment.has(rights::UNUSABLE) {
            segment.limit = 0xffff;
            segment.rights = rights::ACCESSED;
        }
        if virtual_8086 {
            segment.limit = 0xffff;
            segment.rights = rights::PRESENT
                | 3 << 5
                | rights::CODE_OR_DATA
                | rights::READ_WRITE
                | rights::ACCESSED;
        } else {
            segment.rights |= rights::PRESENT | rights::CODE_OR_DATA | rights::READ_WRITE;
        }
    }
}
