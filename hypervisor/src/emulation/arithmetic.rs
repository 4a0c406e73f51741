//! Arithmetic and logic (SDM volume 1, 7.3.2 Binary arithmetic, 7.3.5 Logical, 7.3.6 Shift and rotate).

use super::Emulator;
use super::device::Devices;
use super::fault::Stop;
use super::native::{Binary, DoubleShift, Multiplication, Shift, Unary, mask};
use super::paging::Access;
use super::registers::Registers;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use iced_x86::{Instruction, Register};

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    pub(super) fn binary(
        &mut self,
        instruction: &Instruction,
        operation: Binary,
    ) -> Result<Progress, Stop> {
        // The target is read and written: one that is memory must be writable before anything is read.
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let b = self.source(instruction, 1)? & mask(size);
        let before = self.space.flags;
        let mut after = before;
        self.update(target, |a| {
            let result = operation.apply(size, a, b, before);
            after = result.flags;
            result.value
        })?;
        self.space.flags = after;
        Ok(Progress::Complete)
    }

    /// CMP and TEST.
    pub(super) fn compare(
        &mut self,
        instruction: &Instruction,
        operation: Binary,
    ) -> Result<Progress, Stop> {
        let (first, size) = self.place(instruction, 0, Access::Read)?;
        let a = self.get(first);
        let b = self.source(instruction, 1)? & mask(size);
        self.space.flags = operation.apply(size, a, b, self.space.flags).flags;
        Ok(Progress::Complete)
    }

    pub(super) fn unary(
        &mut self,
        instruction: &Instruction,
        operation: Unary,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let before = self.space.flags;
        let mut after = before;
        self.update(target, |a| {
            let result = operation.apply(size, a, before);
            after = result.flags;
            result.value
        })?;
        self.space.flags = after;
        Ok(Progress::Complete)
    }

    pub(super) fn shift(
        &mut self,
        instruction: &Instruction,
        operation: Shift,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let count = self.source(instruction, 1)? as u8;
        let before = self.space.flags;
        let mut after = before;
        self.update(target, |a| {
            let result = operation.apply(size, a, count, before);
            after = result.flags;
            result.value
        })?;
        self.space.flags = after;
        Ok(Progress::Complete)
    }

    pub(super) fn double_shift(
        &mut self,
        instruction: &Instruction,
        operation: DoubleShift,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let b = self.source(instruction, 1)?;
        let count = self.source(instruction, 2)? as u8;
        let before = self.space.flags;
        let mut after = before;
        self.update(target, |a| {
            let result = operation.apply(size, a, b, count, before);
            after = result.flags;
            result.value
        })?;
        self.space.flags = after;
        Ok(Progress::Complete)
    }

    /// MUL and IMUL of the accumulator.
    pub(super) fn multiply(
        &mut self,
        instruction: &Instruction,
        operation: Multiplication,
    ) -> Result<Progress, Stop> {
        let (source, size) = self.place(instruction, 0, Access::Read)?;
        let b = self.get(source);
        let a = self.registers.get(Registers::accumulator(size));
        let (low, high, flags) = operation.apply(size, a, b, self.space.flags);
        self.set_pair(size, low, high);
        self.space.flags = flags;
        Ok(Progress::Complete)
    }

    /// The accumulator and what goes above it: AX alone for bytes.
    pub(super) fn set_pair(&mut self, size: u8, low: u64, high: u64) {
        let upper = match size {
            1 => {
                self.registers.set(Register::AX, low);
                return;
            }
            2 => Register::DX,
            4 => Register::EDX,
            _ => Register::RDX,
        };
        self.registers.set(Registers::accumulator(size), low);
        self.registers.set(upper, high);
    }

    /// IMUL of two or three operands.
    pub(super) fn multiply_into_register(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Read)?;
        let b = self.source(instruction, 1)?;
        let a = if instruction.op_count() == 3 {
            self.source(instruction, 2)? & mask(size)
        } else {
            self.get(target)
        };
        let result = Binary::Imul.apply(size, a, b, self.space.flags);
        self.set(target, result.value)?;
        self.space.flags = result.flags;
        Ok(Progress::Complete)
    }

    /// BSF and BSR: the target stays where the source is 0, its upper half included.
    pub(super) fn scan(
        &mut self,
        instruction: &Instruction,
        operation: Binary,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Read)?;
        let b = self.source(instruction, 1)?;
        let a = self.get(target);
        let result = operation.apply(size, a, b, self.space.flags);
        if b != 0 {
            self.set(target, result.value)?;
        }
        self.space.flags = result.flags;
        Ok(Progress::Complete)
    }
}
