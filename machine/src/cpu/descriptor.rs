//! Descriptors in the GDT and LDT (SDM 3.4.5 Segment descriptors, 3.5 System descriptor types).

use arch::exception as vector;

use super::{
    Cpu,
    raise::Raised,
    segment::{Segment, rights},
};

/// Bits 1:0 of a selector: requested privilege level.
pub const RPL: u16 = 3;
/// Bit 2 of a selector: the table is the LDT.
pub const LOCAL: u16 = 4;

/// What a selector's bits contribute to an error code (SDM 6.13).
pub const fn error_code(selector: u16) -> u32 {
    (selector & !RPL) as u32
}

/// Whether a selector is null: index 0 of the GDT, with any RPL.
pub const fn is_null(selector: u16) -> bool {
    selector & !RPL == 0
}

/// The type of a system descriptor or gate (SDM table 3-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemType {
    /// 1: 16-bit TSS, available.
    AvailableTss16,
    /// 2: LDT.
    Ldt,
    /// 3: 16-bit TSS, busy.
    BusyTss16,
    /// 4: 16-bit call gate.
    CallGate16,
    /// 5: task gate.
    TaskGate,
    /// 6: 16-bit interrupt gate.
    InterruptGate16,
    /// 7: 16-bit trap gate.
    TrapGate16,
    /// 9: 32- or 64-bit TSS, available.
    AvailableTss,
    /// 11: 32- or 64-bit TSS, busy.
    BusyTss,
    /// 12: 32- or 64-bit call gate.
    CallGate,
    /// 14: 32- or 64-bit interrupt gate.
    InterruptGate,
    /// 15: 32- or 64-bit trap gate.
    TrapGate,
    /// 0, 8, 10, 13.
    Reserved,
}

impl SystemType {
    /// Decodes the four type bits.
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 15 {
            1 => Self::AvailableTss16,
            2 => Self::Ldt,
            3 => Self::BusyTss16,
            4 => Self::CallGate16,
            5 => Self::TaskGate,
            6 => Self::InterruptGate16,
            7 => Self::TrapGate16,
            9 => Self::AvailableTss,
            11 => Self::BusyTss,
            12 => Self::CallGate,
            14 => Self::InterruptGate,
            15 => Self::TrapGate,
            _ => Self::Reserved,
        }
    }
}

/// The low eight bytes of a descriptor, with where they are.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The selector that named it.
    pub selector: u16,
    /// Its linear address.
    pub address: u64,
    /// Its bytes.
    pub low: u64,
}

impl Descriptor {
    /// As the hidden part of a segment register.
    pub const fn segment(&self) -> Segment {
        Segment::from_descriptor(self.selector, self.low)
    }

    /// DPL.
    pub const fn privilege(&self) -> u8 {
        (self.low >> 45 & 3) as u8
    }

    /// P.
    pub const fn is_present(&self) -> bool {
        self.low >> 47 & 1 != 0
    }

    /// The system type; `None` for code and data.
    pub const fn system_type(&self) -> Option<SystemType> {
        if self.segment().has(rights::CODE_OR_DATA) {
            None
        } else {
            Some(SystemType::from_bits(self.low >> 40))
        }
    }

    /// A code segment.
    pub const fn is_code(&self) -> bool {
        self.segment().has(rights::CODE_OR_DATA | rights::CODE)
    }

    /// A data segment.
    pub const fn is_data(&self) -> bool {
        self.segment().has(rights::CODE_OR_DATA) && !self.segment().has(rights::CODE)
    }

    /// A conforming code segment.
    pub const fn is_conforming(&self) -> bool {
        self.is_code() && self.segment().has(rights::CONFORMING_DOWN)
    }

    /// A writable data segment.
    pub const fn is_writable(&self) -> bool {
        self.is_data() && self.segment().has(rights::READ_WRITE)
    }

    /// A data segment or a readable code segment.
    pub const fn is_readable(&self) -> bool {
        self.is_data() || self.is_code() && self.segment().has(rights::READ_WRITE)
    }

    /// L of a code segment, D ignored.
    pub const fn is_64_bit_code(&self) -> bool {
        self.is_code() && self.segment().has(rights::LONG)
    }

    /// Offset in a gate: the low 16 or 32 bits.
    pub const fn gate_offset(&self) -> u32 {
        (self.low & 0xffff | self.low >> 32 & 0xffff_0000) as u32
    }

    /// Selector in a gate.
    pub const fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }
}

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
