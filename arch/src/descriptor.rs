//! Descriptors in the GDT and LDT (SDM 3.4.5 Segment descriptors, 3.5 System descriptor types).

use crate::segment::{Segment, rights};

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
