//! A stack that is pushed to or popped from before the stack pointer changes, so that a fault on the
//! way leaves the processor and memory as they were.

use arch::exception as vector;

use super::{
    Cpu,
    op::{self},
    raise::Raised,
    register::number::RSP,
    segment::{Segment, register, rights},
    tlb::Privilege,
};

/// How wide the stack pointer is (SDM 6.2.3 Address-size attributes for stack accesses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerWidth {
    /// SP.
    Word,
    /// ESP.
    Doubleword,
    /// RSP, in 64-bit mode: no segmentation.
    Quadword,
}

/// A stack with its pointer.
#[derive(Clone, Copy, Debug)]
pub struct StackFrame {
    /// The stack segment.
    pub segment: Segment,
    /// The stack pointer as it is now.
    pub pointer: u64,
    width: PointerWidth,
    privilege: Privilege,
    /// Error code of a stack fault: that of the selector for a stack that is being switched to.
    error_code: u32,
}

/// Size of one item on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Doubleword,
    /// 8 bytes.
    Quadword,
}

impl Item {
    /// By operand size in bits.
    pub const fn from_bits(bits: u32) -> Self {
        match bits {
            16 => Self::Word,
            32 => Self::Doubleword,
            _ => Self::Quadword,
        }
    }

    /// Size in bytes.
    pub const fn size(self) -> u64 {
        match self {
            Self::Word => 2,
            Self::Doubleword => 4,
            Self::Quadword => 8,
        }
    }

    /// The bits of a value that such an item holds.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Word => 0xffff,
            Self::Doubleword => 0xffff_ffff,
            Self::Quadword => u64::MAX,
        }
    }
}

impl StackFrame {
    /// The stack in use.
    pub fn current(cpu: &Cpu) -> Self {
        let segment = cpu.segments[register::SS as usize];
        let width = if cpu.mode_64 {
            PointerWidth::Quadword
        } else {
            Self::width_of(&segment)
        };
        Self {
            segment,
            pointer: Self::wrap(width, cpu.registers[RSP]),
            width,
            privilege: cpu.privilege(),
            error_code: 0,
        }
    }

    /// A stack of a more privileged level outside 64-bit mode.
    pub fn inner(segment: Segment, pointer: u64, privilege: Privilege, error_code: u32) -> Self {
        let width = Self::width_of(&segment);
        Self {
            segment,
            pointer: Self::wrap(width, pointer),
            width,
            privilege,
            error_code,
        }
    }

    /// A stack of 64-bit mode.
    pub fn long(pointer: u64, privilege: Privilege) -> Self {
        Self {
            segment: Segment::unusable(0),
            pointer,
            width: PointerWidth::Quadword,
            privilege,
            error_code: 0,
        }
    }

    fn width_of(segment: &Segment) -> PointerWidth {
        if segment.has(rights::BIG) {
            PointerWidth::Doubleword
        } else {
            PointerWidth::Word
        }
    }

    fn wrap(width: PointerWidth, pointer: u64) -> u64 {
        match width {
            PointerWidth::Word => pointer & 0xffff,
            PointerWidth::Doubleword => pointer & 0xffff_ffff,
            PointerWidth::Quadword => pointer,
        }
    }

    /// Moves the pointer without an access.
    pub fn skip(&mut self, bytes: u64) {
        self.pointer = Self::wrap(self.width, self.pointer.wrapping_add(bytes));
    }

    /// The linear address of an item at the pointer, or #SS.
    fn linear(&self, cpu: &mut Cpu, size: u64) -> Result<u64, Raised> {
        if self.width == PointerWidth::Quadword {
            let last = self.pointer.wrapping_add(size - 1);
            if Cpu::is_canonical(self.pointer) && Cpu::is_canonical(last) {
                return Ok(self.pointer);
            }
        } else if self.segment.covers(self.pointer, size) && !self.segment.has(rights::UNUSABLE) {
            return Ok(self.segment.base.wrapping_add(self.pointer) as u32 as u64);
        }
        Err(cpu.fault(vector::STACK_FAULT, Some(self.error_code)))
    }

    /// Pushes the low bits of each of `values`, or nothing if one of the pushes raises something.
    pub fn push(&mut self, cpu: &mut Cpu, item: Item, values: &[u64]) -> Result<(), Raised> {
        let mut probe = *self;
        for _ in values {
            probe.skip(item.size().wrapping_neg());
            let linear = probe.linear(cpu, item.size())?;
            match item {
                Item::Word => cpu.probe_linear::<u16>(linear, op::FLAT_STACK, self.privilege),
                Item::Doubleword => cpu.probe_linear::<u32>(linear, op::FLAT_STACK, self.privilege),
                Item::Quadword => cpu.probe_linear::<u64>(linear, op::FLAT_STACK, self.privilege),
            }?;
        }
        for value in values {
            self.skip(item.size().wrapping_neg());
            let linear = self.linear(cpu, item.size())?;
            match item {
                Item::Word => cpu.write_linear(linear, self.privilege, *value as u16),
                Item::Doubleword => cpu.write_linear(linear, self.privilege, *value as u32),
                Item::Quadword => cpu.write_linear(linear, self.privilege, *value),
            }?;
        }
        Ok(())
    }

    /// Pops an item, zero-extended.
    pub fn pop(&mut self, cpu: &mut Cpu, item: Item) -> Result<u64, Raised> {
        let linear = self.linear(cpu, item.size())?;
        let value = match item {
            Item::Word => cpu.read_linear::<u16>(linear, self.privilege)?.into(),
            Item::Doubleword => cpu.read_linear::<u32>(linear, self.privilege)?.into(),
            Item::Quadword => cpu.read_linear::<u64>(linear, self.privilege)?,
        };
        self.skip(item.size());
        Ok(value)
    }

    /// Makes the pointer the processor's; SS is the caller's business.
    pub fn commit(&self, cpu: &mut Cpu) {
        let old = cpu.registers[RSP];
        cpu.registers[RSP] = match self.width {
            PointerWidth::Word => old & !0xffff | self.pointer & 0xffff,
            PointerWidth::Doubleword => self.pointer & 0xffff_ffff,
            PointerWidth::Quadword => self.pointer,
        };
    }
}

impl Cpu {
    /// Sets RSP after a return to an outer stack whose segment is in SS already.
    pub fn set_outer_stack_pointer(&mut self, pointer: u64) {
        let mut frame = StackFrame::current(self);
        frame.pointer = pointer;
        frame.commit(self);
    }

    /// Reads at a linear address on behalf of `privilege`; the address is a stack's.
    pub fn read_linear<T: crate::memory::Word>(
        &mut self,
        linear: u64,
        privilege: Privilege,
    ) -> Result<T, Raised> {
        self.read_on_behalf(linear, op::FLAT_STACK, privilege)
    }

    /// Writes at a linear address on behalf of `privilege`; the address is a stack's.
    pub fn write_linear<T: crate::memory::Word>(
        &mut self,
        linear: u64,
        privilege: Privilege,
        value: T,
    ) -> Result<(), Raised> {
        self.write_on_behalf(linear, op::FLAT_STACK, privilege, value)
    }
}
