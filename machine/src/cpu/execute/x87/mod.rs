//! The x87 FPU (SDM volume 1, chapter 8).

mod arithmetic;
mod compare;
mod control;
mod load;
mod remainder;
mod result;
mod store;
mod transcendental;
mod wide;

use arch::control_register::cr0;
use arch::exception as vector;
use iced_x86::Instruction;

use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, class_of_narrow},
    float::Number,
    op::{Execute, Op},
    raise::Raised,
};

impl Cpu {
    /// Checks before an x87 instruction that waits for pending exceptions.
    #[inline(always)]
    fn enter_x87(&mut self) -> Result<(), Raised> {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 && self.x87.status & 0x80 == 0 {
            Ok(())
        } else {
            self.enter_x87_slow()
        }
    }

    #[cold]
    fn enter_x87_slow(&mut self) -> Result<(), Raised> {
        self.enter_x87_no_wait()?;
        self.raise_pending_x87()
    }

    /// Checks before an x87 instruction that does not wait (SDM volume 1, 8.3.11).
    #[inline(always)]
    fn enter_x87_no_wait(&mut self) -> Result<(), Raised> {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 {
            Ok(())
        } else {
            Err(self.fault(vector::DEVICE_NOT_AVAILABLE, None))
        }
    }

    /// Remembers where the instruction and its operand were (SDM volume 1, 8.1.8).
    #[inline(always)]
    fn note_x87(&mut self, op: &Op, memory: bool) {
        self.x87.instruction_pointer = self.instruction_start;
        self.x87.executed_opcode = op.immediate as u16;
        if memory {
            self.x87.data_pointer = self.effective_offset(op);
        }
    }
}

/// Where an operand is, and what it is there.
trait Source {
    /// It is in memory, and ST(0) the other operand.
    const MEMORY: bool;
    /// Reads it; `None` if its register is empty.
    fn get(cpu: &mut Cpu, op: &Op) -> Result<Option<Class>, Raised>;
}

/// The second register operand.
struct Rm;
/// A single-precision number in memory.
struct Single;
/// A double-precision number in memory.
struct Double;
/// A 16-bit integer in memory.
struct Word;
/// A 32-bit integer in memory.
struct Doubleword;
/// A 64-bit integer in memory.
struct Quadword;

impl Source for Rm {
    const MEMORY: bool = false;
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<Option<Class>, Raised> {
        Ok(cpu.x87.st(op.rm).map(|value| value.class()))
    }
}

impl Source for Single {
    const MEMORY: bool = true;
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<Option<Class>, Raised> {
        let value = cpu.read::<u32>(op)?;
        Ok(Some(class_of_narrow(value.into(), 32, 23)))
    }
}

impl Source for Double {
    const MEMORY: bool = true;
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<Option<Class>, Raised> {
        let value = cpu.read::<u64>(op)?;
        Ok(Some(class_of_narrow(value, 64, 52)))
    }
}

macro_rules! integers {
    ($($name:ident, $word:ty, $signed:ty;)*) => {$(
        impl Source for $name {
            const MEMORY: bool = true;
            #[inline(always)]
            fn get(cpu: &mut Cpu, op: &Op) -> Result<Option<Class>, Raised> {
                let value = cpu.read::<$word>(op)? as $signed;
                Ok(Some(Class::Number(Number::from_integer(value.into()), false)))
            }
        }
    )*};
}

integers! {
    Word, u16, i16;
    Doubleword, u32, i32;
    Quadword, u64, i64;
}

/// The function that carries out an instruction of this family.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    arithmetic::select(instruction, form)
        .or_else(|| compare::select(instruction, form))
        .or_else(|| load::select(instruction, form))
        .or_else(|| store::select(instruction, form))
        .or_else(|| control::select(instruction, form))
        .or_else(|| remainder::select(instruction, form))
        .or_else(|| transcendental::select(instruction))
}
