//! The stack (SDM volume 1, 6.2 Stacks).

use super::{
    Cpu,
    op::FLAT_STACK,
    raise::Raised,
    register::{Operand, number::RSP},
    segment::{register, rights},
};

impl Cpu {
    /// The segment number of stack accesses.
    #[inline(always)]
    pub fn stack_segment(&self) -> u8 {
        if self.mode_64 {
            FLAT_STACK
        } else {
            register::SS
        }
    }

    /// Truncates a stack offset to the stack's address size: 64 bits in 64-bit mode, else by SS.B.
    #[inline(always)]
    pub fn truncate_stack(&self, offset: u64) -> u64 {
        if self.mode_64 {
            offset
        } else if self.segments[register::SS as usize].has(rights::BIG) {
            u64::from(offset as u32)
        } else {
            u64::from(offset as u16)
        }
    }

    /// The offset of the top of the stack.
    #[inline(always)]
    pub fn stack_top(&self) -> u64 {
        self.truncate_stack(self.registers[RSP])
    }

    /// Sets (R/E)SP, as wide as the stack's address size.
    #[inline(always)]
    pub fn set_stack_top(&mut self, offset: u64) {
        let offset = self.truncate_stack(offset);
        self.set_stack_register(RSP, offset);
    }

    /// Sets the stack-address-size part of a register: SP and BP with a 16-bit stack, else all.
    #[inline(always)]
    pub fn set_stack_register(&mut self, number: usize, value: u64) {
        let small = !self.mode_64 && !self.segments[register::SS as usize].has(rights::BIG);
        let slot = &mut self.registers[number & 15];
        *slot = if small {
            *slot & !0xffff | value & 0xffff
        } else {
            value
        };
    }

    /// Pushes a word of 16, 32 or 64 bits. Nothing has changed if it raises.
    #[inline(always)]
    pub fn push<T: Operand>(&mut self, value: T) -> Result<(), Raised> {
        let top = self.truncate_stack(self.stack_top().wrapping_sub(T::SIZE as u64));
        self.write_at(self.stack_segment(), top, value)?;
        self.set_stack_top(top);
        Ok(())
    }

    /// Pops a word of 16, 32 or 64 bits. Nothing has changed if it raises.
    #[inline(always)]
    pub fn pop<T: Operand>(&mut self) -> Result<T, Raised> {
        let top = self.stack_top();
        let value = self.read_at(self.stack_segment(), top)?;
        self.set_stack_top(top.wrapping_add(T::SIZE as u64));
        Ok(value)
    }

    /// Reads the word `distance` bytes above the top of the stack.
    #[inline(always)]
    pub fn peek<T: Operand>(&mut self, distance: u64) -> Result<T, Raised> {
        let offset = self.truncate_stack(self.stack_top().wrapping_add(distance));
        self.read_at(self.stack_segment(), offset)
    }
}
