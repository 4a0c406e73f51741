//! FADD, FSUB, FMUL, FDIV and their reversed, integer and popping forms; FSQRT, FABS, FCHS.

use iced_x86::{Instruction, MemorySize, Mnemonic};

use super::{
    Double, Doubleword, Rm, Single, Source, Word,
    result::{Outcome, of_nan, of_nans},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, Extended},
    float::{self, Number, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{StackFault, X87},
};

const ADD: u8 = 0;
const SUBTRACT: u8 = 1;
const MULTIPLY: u8 = 2;
const DIVIDE: u8 = 3;

fn combine<const OPERATOR: u8>(x87: &X87, a: Class, b: Class) -> Outcome {
    let (Class::Number(x, tiny_x), Class::Number(y, tiny_y)) = (a, b) else {
        return of_nans(a, b);
    };
    let rounding = x87.rounding_control().rounding;
    let exact = match OPERATOR {
        ADD => float::add(x, y, rounding),
        SUBTRACT => float::add(x, y.negated(), rounding),
        MULTIPLY => float::multiply(x, y),
        _ => {
            if y.is_zero() && !x.is_zero() && !x.is_infinite() {
                return Outcome {
                    value: Extended::from_number(Number::infinity(x.negative != y.negative)),
                    flags: flag::DIVIDE_BY_ZERO,
                    up: false,
                };
            }
            float::divide(x, y)
        }
    };
    match exact {
        Some(exact) => Outcome::rounded(x87, exact, x87.precision(), tiny_x || tiny_y),
        None => Outcome::invalid(),
    }
}

fn arithmetic<const OPERATOR: u8, const REVERSED: bool, const POP: bool, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let source = S::get(cpu, op)?;
    cpu.note_x87(op, S::MEMORY);
    let x87 = &mut cpu.x87;
    let target = if S::MEMORY { 0 } else { op.reg };
    let written = match (x87.st(target), source) {
        (Some(value), Some(source)) => {
            let outcome = if REVERSED {
                combine::<OPERATOR>(x87, source, value.class())
            } else {
                combine::<OPERATOR>(x87, value.class(), source)
            };
            let written = x87.settle(outcome);
            if written {
                x87.set_st(target, outcome.value);
            }
            written
        }
        _ => {
            let masked = x87.stack_fault(StackFault::Underflow);
            if masked {
                x87.set_st(target, Extended::INDEFINITE);
            }
            masked
        }
    };
    if POP && written {
        x87.pop();
    }
    Ok(())
}

/// An instruction that replaces ST(0) by a function of it.
pub(super) fn unary(
    cpu: &mut Cpu,
    op: &Op,
    function: impl Fn(&X87, Extended) -> Outcome,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    match x87.st(0) {
        Some(value) => {
            let outcome = function(x87, value);
            if x87.settle(outcome) {
                x87.set_st(0, outcome.value);
            }
        }
        None => {
            if x87.stack_fault(StackFault::Underflow) {
                x87.set_st(0, Extended::INDEFINITE);
            }
        }
    }
    Ok(())
}

fn square_root(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    unary(cpu, op, |x87, value| match value.class() {
        Class::Number(number, denormal) => match float::square_root(number) {
            Some(exact) => Outcome::rounded(x87, exact, x87.precision(), denormal),
            None => Outcome::invalid(),
        },
        other => of_nan(other),
    })
}

fn absolute(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    unary(cpu, op, |_, value| {
        Outcome::plain(Extended {
            head: value.head & 0x7fff,
            ..value
        })
    })
}

fn change_sign(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    unary(cpu, op, |_, value| {
        Outcome::plain(Extended {
            head: value.head ^ 0x8000,
            ..value
        })
    })
}

/// FRNDINT.
fn round_to_integer(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    unary(cpu, op, |x87, value| match value.class() {
        Class::Number(number, denormal) => {
            let flags = if denormal { flag::DENORMAL } else { 0 };
            let rounding = x87.rounding_control().rounding;
            match float::to_integer(number, rounding) {
                // Too large for a fraction.
                None => Outcome {
                    flags,
                    ..Outcome::plain(value)
                },
                Some(integral) => {
                    let number = Number::scaled(number.negative, integral.magnitude, 0);
                    Outcome {
                        value: Extended::from_number(number),
                        flags: flags | if integral.inexact { flag::PRECISION } else { 0 },
                        up: integral.up,
                    }
                }
            }
        }
        other => of_nan(other),
    })
}

fn shapes<const OPERATOR: u8, const REVERSED: bool>(
    instruction: &Instruction,
    form: Form,
) -> Option<Execute> {
    match (form, instruction.memory_size()) {
        (Form::RegReg, _) => Some(arithmetic::<OPERATOR, REVERSED, false, Rm>),
        (Form::Mem, MemorySize::Float32) => Some(arithmetic::<OPERATOR, REVERSED, false, Single>),
        (Form::Mem, MemorySize::Float64) => Some(arithmetic::<OPERATOR, REVERSED, false, Double>),
        (Form::Mem, MemorySize::Int16) => Some(arithmetic::<OPERATOR, REVERSED, false, Word>),
        (Form::Mem, MemorySize::Int32) => Some(arithmetic::<OPERATOR, REVERSED, false, Doubleword>),
        _ => None,
    }
}

fn popping<const OPERATOR: u8, const REVERSED: bool>(form: Form) -> Option<Execute> {
    (form == Form::RegReg).then_some(arithmetic::<OPERATOR, REVERSED, true, Rm> as Execute)
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Fadd | Mnemonic::Fiadd => shapes::<ADD, false>(instruction, form),
        Mnemonic::Fsub | Mnemonic::Fisub => shapes::<SUBTRACT, false>(instruction, form),
        Mnemonic::Fsubr | Mnemonic::Fisubr => shapes::<SUBTRACT, true>(instruction, form),
        Mnemonic::Fmul | Mnemonic::Fimul => shapes::<MULTIPLY, false>(instruction, form),
        Mnemonic::Fdiv | Mnemonic::Fidiv => shapes::<DIVIDE, false>(instruction, form),
        Mnemonic::Fdivr | Mnemonic::Fidivr => shapes::<DIVIDE, true>(instruction, form),
        Mnemonic::Faddp => popping::<ADD, false>(form),
        Mnemonic::Fsubp => popping::<SUBTRACT, false>(form),
        Mnemonic::Fsubrp => popping::<SUBTRACT, true>(form),
        Mnemonic::Fmulp => popping::<MULTIPLY, false>(form),
        Mnemonic::Fdivp => popping::<DIVIDE, false>(form),
        Mnemonic::Fdivrp => popping::<DIVIDE, true>(form),
        Mnemonic::Fsqrt => Some(square_root),
        Mnemonic::Fabs => Some(absolute),
        Mnemonic::Fchs => Some(change_sign),
        Mnemonic::Frndint => Some(round_to_integer),
        _ => None,
    }
}
