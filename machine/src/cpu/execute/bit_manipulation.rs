//! The bit-manipulation instructions: BMI1, BMI2 and LZCNT (SDM volume 1, 5.1.16.1 and 5.1.16.2).
//!
//! Flags that the manual leaves undefined become 0.

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::place::{Extra, Imm, Integer, Mem, Reg, Rm, Source, Target, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
    register::number::RDX,
};

/// What an operation gives: the result, and the status flags if it changes them.
type Outcome = (u64, Option<u64>);

/// An operation of two sources of `bits` bits.
trait Binary {
    fn apply(a: u64, b: u64, bits: u32) -> Outcome;
}

/// An operation of one source.
trait Unary {
    fn apply(a: u64, bits: u32) -> Outcome;
}

/// All ones in the low `bits` bits.
const fn ones(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

const fn flag(set: bool, flag: u64) -> u64 {
    if set { flag } else { 0 }
}

/// ZF and SF of a result of `bits` bits.
const fn sign_and_zero(result: u64, bits: u32) -> u64 {
    flag(result == 0, rflags::ZF) | flag(result >> (bits - 1) & 1 != 0, rflags::SF)
}

struct AndNot;
struct ExtractField;
struct ZeroHigh;
struct Deposit;
struct Extract;
struct ShiftLeft;
struct ShiftRight;
struct ShiftArithmetic;
struct RotateRight;
struct LowestSet;
struct MaskToLowest;
struct ResetLowest;
struct TrailingZeros;
struct LeadingZeros;

impl Binary for AndNot {
    fn apply(a: u64, b: u64, bits: u32) -> Outcome {
        let result = !a & b;
        (result, Some(sign_and_zero(result, bits)))
    }
}

impl Binary for ExtractField {
    fn apply(value: u64, control: u64, _bits: u32) -> Outcome {
        let start = (control & 0xff) as u32;
        let length = (control >> 8 & 0xff) as u32;
        let result = value.checked_shr(start).unwrap_or(0) & ones(length);
        (result, Some(flag(result == 0, rflags::ZF)))
    }
}

impl Binary for ZeroHigh {
    fn apply(value: u64, index: u64, bits: u32) -> Outcome {
        let index = (index & 0xff) as u32;
        let result = value & ones(index);
        let carry = flag(index >= bits, rflags::CF);
        (result, Some(sign_and_zero(result, bits) | carry))
    }
}

impl Binary for Deposit {
    fn apply(value: u64, mask: u64, _bits: u32) -> Outcome {
        let (mut value, mut mask, mut result) = (value, mask, 0);
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            if value & 1 != 0 {
                result |= lowest;
            }
            value >>= 1;
            mask &= mask - 1;
        }
        (result, None)
    }
}

impl Binary for Extract {
    fn apply(value: u64, mask: u64, _bits: u32) -> Outcome {
        let (mut mask, mut result, mut place) = (mask, 0, 0);
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            result |= flag(value & lowest != 0, 1) << place;
            place += 1;
            mask &= mask - 1;
        }
        (result, None)
    }
}

impl Binary for ShiftLeft {
    fn apply(value: u64, count: u64, bits: u32) -> Outcome {
        (value << (count & u64::from(bits - 1)), None)
    }
}

impl Binary for ShiftRight {
    fn apply(value: u64, count: u64, bits: u32) -> Outcome {
        (value >> (count & u64::from(bits - 1)), None)
    }
}

impl Binary for ShiftArithmetic {
    fn apply(value: u64, count: u64, bits: u32) -> Outcome {
        let unused = 64 - bits;
        let signed = (value << unused) as i64 >> unused;
        ((signed >> (count & u64::from(bits - 1))) as u64, None)
    }
}

impl Binary for RotateRight {
    fn apply(value: u64, count: u64, bits: u32) -> Outcome {
        let result = if bits == 64 {
            value.rotate_right((count & 63) as u32)
        } else {
            u64::from((value as u32).rotate_right((count & 31) as u32))
        };
        (result, None)
    }
}

impl Unary for LowestSet {
    fn apply(a: u64, bits: u32) -> Outcome {
        let result = a & a.wrapping_neg();
        (
            result,
            Some(sign_and_zero(result, bits) | flag(a != 0, rflags::CF)),
        )
    }
}

impl Unary for MaskToLowest {
    fn apply(a: u64, bits: u32) -> Outcome {
        let result = (a ^ a.wrapping_sub(1)) & ones(bits);
        (
            result,
            Some(sign_and_zero(result, bits) | flag(a == 0, rflags::CF)),
        )
    }
}

impl Unary for ResetLowest {
    fn apply(a: u64, bits: u32) -> Outcome {
        let result = a & a.wrapping_sub(1);
        (
            result,
            Some(sign_and_zero(result, bits) | flag(a == 0, rflags::CF)),
        )
    }
}

/// What the counts say in flags.
fn counted(count: u32, bits: u32) -> Outcome {
    let flags = flag(count == bits, rflags::CF) | flag(count == 0, rflags::ZF);
    (count.into(), Some(flags))
}

impl Unary for TrailingZeros {
    fn apply(a: u64, bits: u32) -> Outcome {
        counted(a.trailing_zeros().min(bits), bits)
    }
}

impl Unary for LeadingZeros {
    fn apply(a: u64, bits: u32) -> Outcome {
        counted(a.leading_zeros() - (64 - bits), bits)
    }
}

/// Instructions with a VEX prefix exist in protected mode alone.
fn require_vex_mode(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.protected_mode() && !cpu.virtual_8086() {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

fn finish<T: Integer>(cpu: &mut Cpu, op: &Op, (result, flags): Outcome) -> Result<(), Raised> {
    Reg::set::<T>(cpu, op, T::from_u64(result))?;
    if let Some(flags) = flags {
        cpu.flags = Flags::from_rflags(flags);
    }
    Ok(())
}

fn binary<T: Integer, K: Binary, A: Source, B: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    require_vex_mode(cpu)?;
    let a = A::get::<T>(cpu, op)?.to_u64();
    let b = B::get::<T>(cpu, op)?.to_u64();
    finish::<T>(cpu, op, K::apply(a, b, T::SIZE as u32 * 8))
}

/// The unary ones of BMI1.
fn unary<T: Integer, K: Unary, A: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    require_vex_mode(cpu)?;
    count::<T, K, A>(cpu, op)
}

/// TZCNT and LZCNT, which have no VEX prefix.
fn count<T: Integer, K: Unary, A: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let a = A::get::<T>(cpu, op)?.to_u64();
    finish::<T>(cpu, op, K::apply(a, T::SIZE as u32 * 8))
}

/// MULX: the product of RDX and the source, the high half in the first register, which counts if both
/// are the same.
fn multiply<T: Integer, A: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    require_vex_mode(cpu)?;
    let a = T::from_u64(cpu.registers[RDX]).to_u64();
    let b = A::get::<T>(cpu, op)?.to_u64();
    let product = u128::from(a) * u128::from(b);
    let high = (product >> (T::SIZE * 8)) as u64;
    Rm::set::<T>(cpu, op, T::from_u64(product as u64))?;
    Reg::set::<T>(cpu, op, T::from_u64(high))
}

/// The handler of an operation whose first source is in the VEX prefix and whose second may be memory.
macro_rules! first_in_prefix {
    ($form:expr, $bits:expr, $kind:ty) => {
        match $form {
            Form::RegRegReg => width!($bits, binary[$kind, Rm, Extra]),
            Form::RegRegMem => width!($bits, binary[$kind, Rm, Mem]),
            _ => None,
        }
    };
}

/// The handler of an operation whose second source is in the VEX prefix and whose first may be memory.
macro_rules! second_in_prefix {
    ($form:expr, $bits:expr, $kind:ty) => {
        match $form {
            Form::RegRegReg => width!($bits, binary[$kind, Rm, Extra]),
            Form::RegMemReg => width!($bits, binary[$kind, Mem, Rm]),
            _ => None,
        }
    };
}

/// The handler of an operation with one source.
macro_rules! one_source {
    ($form:expr, $bits:expr, $name:ident, $kind:ty) => {
        match $form {
            Form::RegReg => width!($bits, $name[$kind, Rm]),
            Form::RegMem => width!($bits, $name[$kind, Mem]),
            _ => None,
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let bits = operand_bits(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Andn => first_in_prefix!(form, bits, AndNot),
        Mnemonic::Pdep => first_in_prefix!(form, bits, Deposit),
        Mnemonic::Pext => first_in_prefix!(form, bits, Extract),
        Mnemonic::Bextr => second_in_prefix!(form, bits, ExtractField),
        Mnemonic::Bzhi => second_in_prefix!(form, bits, ZeroHigh),
        Mnemonic::Shlx => second_in_prefix!(form, bits, ShiftLeft),
        Mnemonic::Shrx => second_in_prefix!(form, bits, ShiftRight),
        Mnemonic::Sarx => second_in_prefix!(form, bits, ShiftArithmetic),
        Mnemonic::Rorx => match form {
            Form::RegRegImm => width!(bits, binary[RotateRight, Rm, Imm]),
            Form::RegMemImm => width!(bits, binary[RotateRight, Mem, Imm]),
            _ => None,
        },
        Mnemonic::Mulx => match form {
            Form::RegRegReg => width!(bits, multiply[Extra]),
            Form::RegRegMem => width!(bits, multiply[Mem]),
            _ => None,
        },
        Mnemonic::Blsi => one_source!(form, bits, unary, LowestSet),
        Mnemonic::Blsmsk => one_source!(form, bits, unary, MaskToLowest),
        Mnemonic::Blsr => one_source!(form, bits, unary, ResetLowest),
        Mnemonic::Tzcnt => one_source!(form, bits, count, TrailingZeros),
        Mnemonic::Lzcnt => one_source!(form, bits, count, LeadingZeros),
        _ => None,
    }
}
