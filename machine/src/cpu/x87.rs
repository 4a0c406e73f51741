//! State of the x87 FPU and of the MMX registers that alias it (SDM 8.1, 9.2).

use super::extended::Extended;
use super::float::{self, Control, Format, Rounding, flag};

/// The x87 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// R0 to R7 (physical, not relative to TOP), 80 bits each, little-endian.
    pub registers: [[u8; 10]; 8],
    /// Control word.
    pub control: u16,
    /// Status word, with TOP in bits 13:11.
    pub status: u16,
    /// Full tag word, two bits a register; 11b is empty.
    pub tag: u16,
    /// Opcode of the last instruction that raised an unmasked exception, 11 bits (SDM volume 1, 8.1.9.1
    /// Fopcode compatibility sub-mode; processors of family 6 do not have it).
    pub opcode: u16,
    /// Opcode of the last instruction but control instructions.
    pub executed_opcode: u16,
    /// Last instruction pointer.
    pub instruction_pointer: u64,
    /// Last data pointer.
    pub data_pointer: u64,
}

impl Default for X87 {
    /// The state after FNINIT, which is also close enough to power-up (SDM table 9-1).
    fn default() -> Self {
        Self {
            registers: [[0; 10]; 8],
            control: 0x37f,
            status: 0,
            tag: 0xffff,
            opcode: 0,
            executed_opcode: 0,
            instruction_pointer: 0,
            data_pointer: 0,
        }
    }
}

/// Low 64 bits of a word of 16 bytes.
const LOW: u128 = u64::MAX as u128;

impl X87 {
    /// Physical number of the register at the top of the stack.
    #[inline(always)]
    pub fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }

    /// Sets the top of the stack.
    #[inline(always)]
    pub fn set_top(&mut self, top: u8) {
        self.status = self.status & !(7 << 11) | u16::from(top & 7) << 11;
    }

    /// MMX register `number`: the significand of R`number`.
    #[inline(always)]
    pub fn mmx(&self, number: u8) -> u64 {
        let [a, b, c, d, e, f, g, h, _, _] = self.registers[(number & 7) as usize];
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Writes MMX register `number`; sign and exponent become ones (SDM volume 1, 9.6.2).
    #[inline(always)]
    pub fn set_mmx(&mut self, number: u8, value: u64) {
        let register = &mut self.registers[(number & 7) as usize];
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        *register = [a, b, c, d, e, f, g, h, 0xff, 0xff];
    }

    /// What every MMX instruction does to the x87 state: TOP is 0, all tags are valid (SDM volume
    /// 1, 9.5.1).
    #[inline(always)]
    pub fn begin_mmx(&mut self) {
        self.set_top(0);
        self.tag = 0;
    }

    /// EMMS: all registers are empty.
    pub fn empty(&mut self) {
        self.set_top(0);
        self.tag = 0xffff;
    }

    /// Recomputes status bits 7 and 15 from the flags and the masks (SDM volume 1, 8.1.3.3).
    pub fn update_summary(&mut self) {
        let summary = self.status & !self.control & 0x3f != 0;
        self.status = self.status & 0x7f7f | if summary { 0x8080 } else { 0 };
    }

    /// Puts the x87 part into an image of FXSAVE (SDM volume 1, 10.5.1, table 10-2), in units of 16
    /// bytes; `wide` with 64-bit pointers.
    pub fn save(&self, image: &mut [u128], wide: bool) {
        let abridged = (0..8).fold(0u128, |tag, i| {
            tag | u128::from(self.tag >> (2 * i) & 3 != 3) << i
        });
        let pointer = |address: u64| {
            u128::from(if wide {
                address
            } else {
                u64::from(address as u32)
            })
        };
        if let [first, second, ..] = image {
            *first = u128::from(self.control)
                | u128::from(self.status) << 16
                | abridged << 32
                | u128::from(self.opcode) << 48
                | pointer(self.instruction_pointer) << 64;
            *second = pointer(self.data_pointer);
        }
        for (i, slot) in image.iter_mut().skip(2).take(8).enumerate() {
            let physical = (i + usize::from(self.top())) & 7;
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&self.registers[physical]);
            *slot = u128::from_le_bytes(bytes);
        }
    }

    /// Takes the x87 part from an image of FXSAVE.
    pub fn restore(&mut self, image: &[u128], wide: bool) {
        let [first, second, ..] = image else {
            return;
        };
        let pointer = |value: u128| {
            let value = (value & LOW) as u64;
            if wide { value } else { u64::from(value as u32) }
        };
        self.control = *first as u16 & 0x1f7f | 0x40;
        self.status = (*first >> 16) as u16;
        self.opcode = (*first >> 48) as u16 & 0x7ff;
        self.instruction_pointer = pointer(*first >> 64);
        self.data_pointer = pointer(*second);
        for (i, slot) in image.iter().skip(2).take(8).enumerate() {
            let physical = (i + usize::from(self.top())) & 7;
            self.registers[physical].copy_from_slice(&slot.to_le_bytes()[..10]);
        }
        let abridged = (*first >> 32) as u8;
        self.tag = (0..8).fold(0, |tag, i| {
            let field = if abridged >> i & 1 == 0 {
                3
            } else {
                tag_of(&self.registers[i])
            };
            tag | field << (2 * i)
        });
        self.update_summary();
    }
}

/// The tag of a register that is not empty: 0 valid, 1 zero, 2 special (SDM volume 1, 8.1.7).
pub fn tag_of(register: &[u8; 10]) -> u16 {
    let [a, b, c, d, e, f, g, h, i, j] = *register;
    let significand = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let exponent = u16::from_le_bytes([i, j]) & 0x7fff;
    match (exponent, significand) {
        (0, 0) => 1,
        (1..=0x7ffe, _) if significand >> 63 != 0 => 0,
        _ => 2,
    }
}

/// Condition code bits of the status word.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod condition {
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
}

/// Which way the register stack failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackFault {
    /// A register to be written was not empty.
    Overflow,
    /// A register to be read was empty.
    Underflow,
}

impl X87 {
    fn physical(&self, index: u8) -> u8 {
        self.top().wrapping_add(index) & 7
    }

    /// Whether ST(`index`) is empty.
    #[inline]
    pub fn is_empty(&self, index: u8) -> bool {
        self.tag >> (2 * self.physical(index)) & 3 == 3
    }

    /// ST(`index`), whatever its tag.
    #[inline]
    pub fn raw(&self, index: u8) -> Extended {
        Extended::from_bytes(self.registers[self.physical(index) as usize])
    }

    /// ST(`index`) unless it is empty.
    #[inline]
    pub fn st(&self, index: u8) -> Option<Extended> {
        (!self.is_empty(index)).then(|| self.raw(index))
    }

    /// Writes ST(`index`), which is not empty then.
    #[inline]
    pub fn set_st(&mut self, index: u8, value: Extended) {
        let physical = self.physical(index);
        self.registers[physical as usize] = value.to_bytes();
        self.tag &= !(3 << (2 * physical));
    }

    /// Empties ST(`index`).
    #[inline]
    pub fn free(&mut self, index: u8) {
        self.tag |= 3 << (2 * self.physical(index));
    }

    /// Pops the stack.
    #[inline]
    pub fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top().wrapping_add(1));
    }

    /// Pushes a value; that the register is empty was checked.
    #[inline]
    pub fn push(&mut self, value: Extended) {
        self.set_top(self.top().wrapping_sub(1));
        self.set_st(0, value);
    }

    /// Sets the condition codes of `mask` to those of `set`.
    #[inline]
    pub fn set_conditions(&mut self, mask: u16, set: u16) {
        self.status = self.status & !mask | set;
    }

    /// Records exceptions. Says whether the result is written: not after an unmasked exception that
    /// was found before it was computed.
    #[inline]
    pub fn signal(&mut self, flags: u32) -> bool {
        if flags == 0 {
            return true;
        }
        let unmasked = flags & !u32::from(self.control);
        // What the result would have raised is not known then.
        let flags = if unmasked & flag::PRE_COMPUTATION != 0 {
            flags & flag::PRE_COMPUTATION
        } else {
            flags
        };
        self.status |= flags as u16;
        self.summarize();
        unmasked & flag::PRE_COMPUTATION == 0
    }

    /// The instruction that runs raised exceptions: an unmasked one keeps its opcode.
    fn summarize(&mut self) {
        self.update_summary();
        if self.status & 0x80 != 0 {
            self.opcode = self.executed_opcode;
        }
    }

    /// Whether it is the state that XRSTOR initializes to (SDM volume 1, 13.6).
    pub fn is_initial(&self) -> bool {
        let initial = Self {
            executed_opcode: self.executed_opcode,
            ..Self::default()
        };
        *self == initial
    }

    /// Records a stack fault (SDM volume 1, 8.5.1.1). Says whether it is masked.
    pub fn stack_fault(&mut self, fault: StackFault) -> bool {
        let c1 = match fault {
            StackFault::Overflow => condition::C1,
            StackFault::Underflow => 0,
        };
        self.set_conditions(condition::C1, c1);
        self.status |= 0x41;
        self.summarize();
        self.control & 1 != 0
    }

    /// Rounding and masks of the control word.
    pub fn rounding_control(&self) -> Control {
        Control {
            rounding: Rounding::from_control(u32::from(self.control >> 10)),
            flush_to_zero: false,
            overflow_masked: u32::from(self.control) & flag::OVERFLOW != 0,
            underflow_masked: u32::from(self.control) & flag::UNDERFLOW != 0,
            bias_adjustment: 24576,
        }
    }

    /// The format that precision control asks for (SDM volume 1, 8.1.5.2).
    pub fn precision(&self) -> Format {
        let precision = match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Format {
            precision,
            ..float::EXTENDED
        }
    }

    /// The full tag word, from the registers' contents.
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, i| {
            let empty = self.tag >> (2 * i) & 3 == 3;
            let tag = if empty { 3 } else { tag_of(&self.registers[i]) };
            word | tag << (2 * i)
        })
    }
}
