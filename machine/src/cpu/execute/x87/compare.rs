//! FCOM, FUCOM, FICOM, FCOMI, FTST and FXAM (SDM volume 1, 8.3.6).

use std::cmp::Ordering;

use arch::control_register::rflags;
use iced_x86::{Instruction, MemorySize, Mnemonic};

use super::{Double, Doubleword, Rm, Single, Source, Word};
use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, Extended},
    flags::Flags,
    float::{Number, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{
        StackFault, X87,
        condition::{C0, C1, C2, C3},
    },
};

/// The order and the exceptions of a comparison. With `UNORDERED`, quiet NaNs are no invalid
/// operation.
fn order<const UNORDERED: bool>(a: Class, b: Class) -> (Option<Ordering>, u32) {
    match (a, b) {
        (Class::Number(x, tiny_x), Class::Number(y, tiny_y)) => {
            let flags = if tiny_x || tiny_y { flag::DENORMAL } else { 0 };
            (Some(x.order(y)), flags)
        }
        _ => {
            let invalid = |class| matches!(class, Class::Unsupported | Class::Nan(_, true));
            let flags = if !UNORDERED || invalid(a) || invalid(b) {
                flag::INVALID
            } else {
                0
            };
            (None, flags)
        }
    }
}

/// Compares ST(0) with `other`. The order is written in any case; whether the stack is popped is
/// said too, which an unmasked exception prevents.
fn compare<const UNORDERED: bool>(x87: &mut X87, other: Option<Class>) -> (Option<Ordering>, bool) {
    match (x87.st(0), other) {
        (Some(value), Some(other)) => {
            let (order, flags) = order::<UNORDERED>(value.class(), other);
            (order, x87.signal(flags))
        }
        _ => (None, x87.stack_fault(StackFault::Underflow)),
    }
}

fn to_conditions<const UNORDERED: bool, const POPS: u8, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let other = S::get(cpu, op)?;
    cpu.note_x87(op, S::MEMORY);
    let x87 = &mut cpu.x87;
    let (order, pops) = compare::<UNORDERED>(x87, other);
    set_order(x87, order);
    if pops {
        for _ in 0..POPS {
            x87.pop();
        }
    }
    Ok(())
}

fn set_order(x87: &mut X87, order: Option<Ordering>) {
    let codes = match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        None => C3 | C2 | C0,
    };
    x87.set_conditions(C3 | C2 | C1 | C0, codes);
}

/// ST(1), for FCOMPP and FUCOMPP.
struct Second;

impl Source for Second {
    const MEMORY: bool = false;
    fn get(cpu: &mut Cpu, _op: &Op) -> Result<Option<Class>, Raised> {
        Ok(cpu.x87.st(1).map(Extended::class))
    }
}

/// Zero, for FTST.
struct Zero;

impl Source for Zero {
    const MEMORY: bool = false;
    fn get(_cpu: &mut Cpu, _op: &Op) -> Result<Option<Class>, Raised> {
        Ok(Some(Class::Number(Number::zero(false), false)))
    }
}

fn to_flags<const UNORDERED: bool, const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let other = Rm::get(cpu, op)?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    let (order, pops) = compare::<UNORDERED>(x87, other);
    if POP && pops {
        x87.pop();
    }
    cpu.flags = Flags::from_rflags(match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => rflags::CF,
        Some(Ordering::Equal) => rflags::ZF,
        None => rflags::ZF | rflags::PF | rflags::CF,
    });
    Ok(())
}

/// FXAM.
fn examine(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    let value = x87.raw(0);
    let class = if x87.is_empty(0) {
        C3 | C0
    } else {
        match value.class() {
            Class::Unsupported => 0,
            Class::Nan(..) => C0,
            Class::Number(_, true) => C3 | C2,
            Class::Number(number, _) if number.is_zero() => C3,
            Class::Number(number, _) if number.is_infinite() => C2 | C0,
            Class::Number(..) => C2,
        }
    };
    let sign = if value.negative() { C1 } else { 0 };
    x87.set_conditions(C3 | C2 | C1 | C0, class | sign);
    Ok(())
}

fn shapes<const UNORDERED: bool, const POPS: u8>(
    instruction: &Instruction,
    form: Form,
) -> Option<Execute> {
    match (form, instruction.memory_size()) {
        (Form::RegReg, _) => Some(to_conditions::<UNORDERED, POPS, Rm>),
        (Form::Mem, MemorySize::Float32) => Some(to_conditions::<UNORDERED, POPS, Single>),
        (Form::Mem, MemorySize::Float64) => Some(to_conditions::<UNORDERED, POPS, Double>),
        (Form::Mem, MemorySize::Int16) => Some(to_conditions::<UNORDERED, POPS, Word>),
        (Form::Mem, MemorySize::Int32) => Some(to_conditions::<UNORDERED, POPS, Doubleword>),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Fcom | Mnemonic::Ficom => shapes::<false, 0>(instruction, form),
        Mnemonic::Fcomp | Mnemonic::Ficomp => shapes::<false, 1>(instruction, form),
        Mnemonic::Fucom => shapes::<true, 0>(instruction, form),
        Mnemonic::Fucomp => shapes::<true, 1>(instruction, form),
        Mnemonic::Fcompp => Some(to_conditions::<false, 2, Second>),
        Mnemonic::Fucompp => Some(to_conditions::<true, 2, Second>),
        Mnemonic::Ftst => Some(to_conditions::<false, 0, Zero>),
        Mnemonic::Fcomi => Some(to_flags::<false, false>),
        Mnemonic::Fcomip => Some(to_flags::<false, true>),
        Mnemonic::Fucomi => Some(to_flags::<true, false>),
        Mnemonic::Fucomip => Some(to_flags::<true, true>),
        Mnemonic::Fxam => Some(examine),
        _ => None,
    }
}
