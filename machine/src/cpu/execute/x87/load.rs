//! Pushes: FLD, FILD, FBLD and the constants; FXCH and FCMOVcc.

use iced_x86::{Instruction, MemorySize, Mnemonic};

use super::{
    Double, Doubleword, Quadword, Single, Source, Word,
    result::{Outcome, of_nan},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, Extended},
    float::{self, Exact, Magnitude, Number, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{StackFault, X87, condition::C1},
};

impl X87 {
    /// Pushes the outcome of an instruction, or the indefinite if there is no room.
    pub(super) fn push_outcome(&mut self, outcome: Outcome) {
        self.set_conditions(C1, 0);
        if !self.is_empty(7) {
            if self.stack_fault(StackFault::Overflow) {
                self.push(Extended::INDEFINITE);
            }
        } else {
            // SDM volume 1, 8.5.1.2: only an unmasked invalid operation keeps the stack as it is.
            let invalid = outcome.flags & !u32::from(self.control) & flag::INVALID != 0;
            self.settle(outcome);
            if !invalid {
                self.push(outcome.value);
            }
        }
    }
}

/// FLD m32 and m64, FILD.
fn load<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let source = S::get(cpu, op)?;
    cpu.note_x87(op, true);
    let outcome = match source {
        Some(Class::Number(number, denormal)) => Outcome {
            flags: if denormal { flag::DENORMAL } else { 0 },
            ..Outcome::plain(Extended::from_number(number))
        },
        Some(other) => of_nan(other),
        None => Outcome::invalid(),
    };
    cpu.x87.push_outcome(outcome);
    Ok(())
}

/// FLD m80, which looks at nothing.
fn load_extended(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let offset = cpu.effective_offset(op);
    let significand = cpu.read_at::<u64>(op.segment, offset)?;
    let head = cpu.read_at::<u16>(op.segment, offset.wrapping_add(8))?;
    cpu.note_x87(op, true);
    cpu.x87
        .push_outcome(Outcome::plain(Extended { head, significand }));
    Ok(())
}

/// FLD ST(i).
fn load_register(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    match x87.st(op.reg) {
        Some(value) => x87.push_outcome(Outcome::plain(value)),
        None => {
            if x87.stack_fault(StackFault::Underflow) {
                x87.push(Extended::INDEFINITE);
            }
        }
    }
    Ok(())
}

/// FBLD: 18 decimal digits and a sign (SDM volume 1, 4.7).
fn load_decimal(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let offset = cpu.effective_offset(op);
    let digits = cpu.read_at::<u64>(op.segment, offset)?;
    let head = cpu.read_at::<u16>(op.segment, offset.wrapping_add(8))?;
    cpu.note_x87(op, true);
    let digits = u128::from(head & 0xff) << 64 | u128::from(digits);
    let value = (0..18).rev().fold(0u64, |value, i| {
        value
            .wrapping_mul(10)
            .wrapping_add((digits >> (4 * i) & 15) as u64)
    });
    let number = Number::scaled(head >> 15 != 0, value, 0);
    cpu.x87
        .push_outcome(Outcome::plain(Extended::from_number(number)));
    Ok(())
}

/// The constants' exponents and 128 bits of significand, enough to round them in any mode.
const CONSTANTS: [(i32, u128); 5] = [
    // log2(10), log2(e), pi, log10(2), ln(2).
    (1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4d),
    (0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89),
    (1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
    (-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178),
    (-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af),
];

/// A constant, rounded by the control word without an exception.
fn constant<const WHICH: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let (exponent, significand) = CONSTANTS[WHICH];
    let exact = Exact {
        negative: false,
        magnitude: Magnitude::Finite {
            exponent,
            significand,
        },
    };
    let rounded = float::round(exact, float::EXTENDED, cpu.x87.rounding_control());
    load_constant(cpu, op, rounded.number)
}

fn one(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    load_constant(cpu, op, Number::from_integer(1))
}

fn zero(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    load_constant(cpu, op, Number::zero(false))
}

fn load_constant(cpu: &mut Cpu, op: &Op, number: Number) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    cpu.x87
        .push_outcome(Outcome::plain(Extended::from_number(number)));
    Ok(())
}

/// FXCH. Its operands are ST(0) and ST(i).
fn exchange(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
    let (top, other) = (x87.st(0), x87.st(op.rm));
    if (top.is_none() || other.is_none()) && !x87.stack_fault(StackFault::Underflow) {
        return Ok(());
    }
    x87.set_st(0, other.unwrap_or(Extended::INDEFINITE));
    x87.set_st(op.rm, top.unwrap_or(Extended::INDEFINITE));
    Ok(())
}

/// FCMOVcc; `CONDITION` as in Jcc.
fn conditional_move<const CONDITION: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let met = cpu.flags.condition(CONDITION);
    let x87 = &mut cpu.x87;
    match (x87.st(0), x87.st(op.rm)) {
        (Some(_), Some(value)) => {
            if met {
                x87.set_st(0, value);
            }
        }
        _ => {
            if x87.stack_fault(StackFault::Underflow) {
                x87.set_st(0, Extended::INDEFINITE);
            }
        }
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    Some(
        match (instruction.mnemonic(), form, instruction.memory_size()) {
            (Mnemonic::Fld, Form::Mem, MemorySize::Float32) => load::<Single>,
            (Mnemonic::Fld, Form::Mem, MemorySize::Float64) => load::<Double>,
            (Mnemonic::Fld, Form::Mem, MemorySize::Float80) => load_extended,
            (Mnemonic::Fld, Form::Reg, _) => load_register,
            (Mnemonic::Fild, Form::Mem, MemorySize::Int16) => load::<Word>,
            (Mnemonic::Fild, Form::Mem, MemorySize::Int32) => load::<Doubleword>,
            (Mnemonic::Fild, Form::Mem, MemorySize::Int64) => load::<Quadword>,
            (Mnemonic::Fbld, Form::Mem, _) => load_decimal,
            (Mnemonic::Fldl2t, ..) => constant::<0>,
            (Mnemonic::Fldl2e, ..) => constant::<1>,
            (Mnemonic::Fldpi, ..) => constant::<2>,
            (Mnemonic::Fldlg2, ..) => constant::<3>,
            (Mnemonic::Fldln2, ..) => constant::<4>,
            (Mnemonic::Fld1, ..) => one,
            (Mnemonic::Fldz, ..) => zero,
            (Mnemonic::Fxch, Form::RegReg, _) => exchange,
            (Mnemonic::Fcmovb, ..) => conditional_move::<2>,
            (Mnemonic::Fcmovnb, ..) => conditional_move::<3>,
            (Mnemonic::Fcmove, ..) => conditional_move::<4>,
            (Mnemonic::Fcmovne, ..) => conditional_move::<5>,
            (Mnemonic::Fcmovbe, ..) => conditional_move::<6>,
            (Mnemonic::Fcmovnbe, ..) => conditional_move::<7>,
            (Mnemonic::Fcmovu, ..) => conditional_move::<10>,
            (Mnemonic::Fcmovnu, ..) => conditional_move::<11>,
            _ => return None,
        },
    )
}
