//! Where operands are: the types by which handlers are compiled for each form of an instruction.

use crate::cpu::{Cpu, op::Op, raise::Raised, register::Operand};
use crate::memory::Atomic;

/// A width of integer operand in registers and memory.
pub trait Integer: Operand + Atomic {}

impl<T: Operand + Atomic> Integer for T {}

/// A place that is read.
pub trait Source {
    /// Reads it.
    fn get<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised>;
}

/// A place that is read and written.
pub trait Target: Source {
    /// Writes it.
    fn set<T: Integer>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Raised>;

    /// Reads it, changes it and writes it, atomically with LOCK; gives the old value. `change` may
    /// run more than once; its last run counts.
    fn update<T: Integer>(cpu: &mut Cpu, op: &Op, change: impl FnMut(T) -> T) -> Result<T, Raised>;
}

/// The first register operand.
pub struct Reg;
/// The second register operand.
pub struct Rm;
/// The memory operand.
pub struct Mem;
/// The immediate.
pub struct Imm;
/// The third register operand.
pub struct Extra;

macro_rules! register {
    ($($place:ty: $field:ident;)*) => {$(
        impl Source for $place {
            #[inline(always)]
            fn get<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
                Ok(T::register(cpu, op.$field))
            }
        }

        impl Target for $place {
            #[inline(always)]
            fn set<T: Integer>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Raised> {
                T::set_register(cpu, op.$field, value);
                Ok(())
            }

            #[inline(always)]
            fn update<T: Integer>(
                cpu: &mut Cpu,
                op: &Op,
                mut change: impl FnMut(T) -> T,
            ) -> Result<T, Raised> {
                let old = T::register(cpu, op.$field);
                T::set_register(cpu, op.$field, change(old));
                Ok(old)
            }
        }
    )*};
}

register! {
    Reg: reg;
    Rm: rm;
}

impl Source for Extra {
    #[inline(always)]
    fn get<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        Ok(T::register(cpu, op.extra))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn get<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        cpu.read(op)
    }
}

impl Target for Mem {
    #[inline(always)]
    fn set<T: Integer>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Raised> {
        cpu.write(op, value)
    }

    #[inline(always)]
    fn update<T: Integer>(cpu: &mut Cpu, op: &Op, change: impl FnMut(T) -> T) -> Result<T, Raised> {
        cpu.read_modify_write(op, change)
    }
}

impl Source for Imm {
    #[inline(always)]
    fn get<T: Integer>(_cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        Ok(T::from_u64(op.immediate))
    }
}

/// The handler of a width: `width!(bits, name[A, B])` is `name::<u8 to u64, A, B>`.
macro_rules! width {
    ($bits:expr, $name:ident [$($generic:ty),*]) => {
        match $bits {
            8 => Some($name::<u8 $(, $generic)*> as $crate::cpu::op::Execute),
            16 => Some($name::<u16 $(, $generic)*> as $crate::cpu::op::Execute),
            32 => Some($name::<u32 $(, $generic)*> as $crate::cpu::op::Execute),
            64 => Some($name::<u64 $(, $generic)*> as $crate::cpu::op::Execute),
            _ => None,
        }
    };
}

/// The handler of a width and of a form with two operands: target, then source.
macro_rules! two_operands {
    ($form:expr, $bits:expr, $name:ident [$($generic:ty),*]) => {{
        use $crate::cpu::{decode::Form, execute::place::{Imm, Mem, Reg, Rm, width}};
        match $form {
            Form::RegReg => width!($bits, $name[$($generic,)* Reg, Rm]),
            Form::RegMem => width!($bits, $name[$($generic,)* Reg, Mem]),
            Form::MemReg => width!($bits, $name[$($generic,)* Mem, Reg]),
            Form::RegImm => width!($bits, $name[$($generic,)* Reg, Imm]),
            Form::MemImm => width!($bits, $name[$($generic,)* Mem, Imm]),
            _ => None,
        }
    }};
}

/// The handler of a width and of a form with one operand in a register or memory.
macro_rules! one_operand {
    ($form:expr, $bits:expr, $name:ident [$($generic:ty),*]) => {{
        use $crate::cpu::{decode::Form, execute::place::{Mem, Reg, width}};
        match $form {
            Form::Reg => width!($bits, $name[$($generic,)* Reg]),
            Form::Mem => width!($bits, $name[$($generic,)* Mem]),
            _ => None,
        }
    }};
}

/// The handler of a condition code, compiled for each of the sixteen.
macro_rules! condition {
    ($code:expr, $name:ident [$($generic:ty),*]) => {{
        const TABLE: [$crate::cpu::op::Execute; 16] = [
            $name::<0 $(, $generic)*>, $name::<1 $(, $generic)*>,
            $name::<2 $(, $generic)*>, $name::<3 $(, $generic)*>,
            $name::<4 $(, $generic)*>, $name::<5 $(, $generic)*>,
            $name::<6 $(, $generic)*>, $name::<7 $(, $generic)*>,
            $name::<8 $(, $generic)*>, $name::<9 $(, $generic)*>,
            $name::<10 $(, $generic)*>, $name::<11 $(, $generic)*>,
            $name::<12 $(, $generic)*>, $name::<13 $(, $generic)*>,
            $name::<14 $(, $generic)*>, $name::<15 $(, $generic)*>,
        ];
        TABLE[($code & 15) as usize]
    }};
}

pub(crate) use {condition, one_operand, two_operands, width};
