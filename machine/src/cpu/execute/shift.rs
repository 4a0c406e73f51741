//! Shifts and rotates (SDM volume 1, 7.3.6 Shift and rotate).

use iced_x86::{Instruction, Mnemonic};

use super::place::{Extra, Imm, Integer, Mem, Reg, Rm, Source, Target, two_operands, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
};
use crate::memory::Word;

/// A shift of one operand by a count that is not 0.
trait Shift {
    fn apply<T: Word>(a: T, count: u32, before: Flags) -> (T, Flags);
}

struct Shl;
struct Shr;
struct Sar;
struct Rol;
struct Ror;
struct Rcl;
struct Rcr;

/// Bit `number` of a value; beyond its width, 0.
#[inline(always)]
fn bit(value: u64, number: u32) -> bool {
    value.checked_shr(number).unwrap_or(0) & 1 != 0
}

#[inline(always)]
fn top<T: Word>(value: T) -> bool {
    bit(value.to_u64(), T::BITS - 1)
}

#[inline(always)]
fn mask<T: Word>(count: u8) -> u32 {
    u32::from(count) & if T::SIZE == 8 { 63 } else { 31 }
}

impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, _before: Flags) -> (T, Flags) {
        let value = a.to_u64();
        let result = T::from_u64(value << count);
        let cf = T::BITS
            .checked_sub(count)
            .is_some_and(|number| bit(value, number));
        let flags = Flags::logic(result).with_cf_of(cf, cf != top(result));
        (result, flags)
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, _before: Flags) -> (T, Flags) {
        let value = a.to_u64();
        let result = T::from_u64(value >> count);
        let flags = Flags::logic(result).with_cf_of(bit(value, count - 1), top(a));
        (result, flags)
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, _before: Flags) -> (T, Flags) {
        let value = a.to_i64();
        let result = T::from_u64((value >> count) as u64);
        let flags = Flags::logic(result).with_cf_of(bit(value as u64, count - 1), false);
        (result, flags)
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, before: Flags) -> (T, Flags) {
        let value = a.to_u64();
        let count = count % T::BITS;
        let result = if count == 0 {
            a
        } else {
            T::from_u64(value << count | value >> (T::BITS - count))
        };
        let cf = bit(result.to_u64(), 0);
        (result, before.with_cf_of(cf, cf != top(result)))
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, before: Flags) -> (T, Flags) {
        let value = a.to_u64();
        let count = count % T::BITS;
        let result = if count == 0 {
            a
        } else {
            T::from_u64(value >> count | value << (T::BITS - count))
        };
        let cf = top(result);
        let of = cf != bit(result.to_u64(), T::BITS - 2);
        (result, before.with_cf_of(cf, of))
    }
}

impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, before: Flags) -> (T, Flags) {
        let (result, cf) = rotate_through_carry(a, count % (T::BITS + 1), before.cf());
        (result, before.with_cf_of(cf, cf != top(result)))
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Word>(a: T, count: u32, before: Flags) -> (T, Flags) {
        let length = T::BITS + 1;
        let left = (length - count % length) % length;
        let (result, cf) = rotate_through_carry(a, left, before.cf());
        let of = top(result) != bit(result.to_u64(), T::BITS - 2);
        (result, before.with_cf_of(cf, of))
    }
}

/// Rotates the operand with CF above it to the left by `count`, at most its width.
#[inline(always)]
fn rotate_through_carry<T: Word>(a: T, count: u32, cf: bool) -> (T, bool) {
    let length = T::BITS + 1;
    let all = u128::from(a.to_u64()) | u128::from(cf) << T::BITS;
    let rotated = all << count | all >> (length - count);
    (T::from_u64(rotated as u64), rotated >> T::BITS & 1 != 0)
}

fn shift<T: Integer, K: Shift, D: Target, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let count = mask::<T>(S::get(cpu, op)?);
    let before = cpu.flags;
    let mut flags = before;
    D::update(cpu, op, |a: T| {
        if count == 0 {
            return a;
        }
        let (result, after) = K::apply(a, count, before);
        flags = after;
        result
    })?;
    cpu.flags = flags;
    Ok(())
}

/// SHLD and SHRD: a shift that fills with bits of another register.
trait DoubleShift {
    fn apply<T: Word>(a: T, fill: T, count: u32) -> (T, bool);
}

struct Shld;
struct Shrd;

// With 16-bit operands a count above 16 gives an undefined result (SDM volume 2, SHLD); here the
// other operand and then the first again follow, as if the three were one long value.
impl DoubleShift for Shld {
    #[inline(always)]
    fn apply<T: Word>(a: T, fill: T, count: u32) -> (T, bool) {
        let (a, fill) = (u128::from(a.to_u64()), u128::from(fill.to_u64()));
        let (long, bits) = if T::SIZE == 2 {
            (a << 32 | fill << 16 | a, 48)
        } else {
            (a << T::BITS | fill, 2 * T::BITS)
        };
        let shifted = long << count;
        let result = (shifted >> (bits - T::BITS)) as u64;
        (T::from_u64(result), long >> (bits - count) & 1 != 0)
    }
}

impl DoubleShift for Shrd {
    #[inline(always)]
    fn apply<T: Word>(a: T, fill: T, count: u32) -> (T, bool) {
        let (a, fill) = (u128::from(a.to_u64()), u128::from(fill.to_u64()));
        let long = if T::SIZE == 2 {
            a << 32 | fill << 16 | a
        } else {
            fill << T::BITS | a
        };
        let result = (long >> count) as u64;
        (T::from_u64(result), long >> (count - 1) & 1 != 0)
    }
}

fn double_shift<T: Integer, K: DoubleShift, D: Target, F: Source, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let count = mask::<T>(S::get(cpu, op)?);
    let fill: T = F::get(cpu, op)?;
    let mut flags = cpu.flags;
    D::update(cpu, op, |a: T| {
        if count == 0 {
            return a;
        }
        let (result, cf) = K::apply(a, fill, count);
        flags = Flags::logic(result).with_cf_of(cf, top(a) != top(result));
        result
    })?;
    cpu.flags = flags;
    Ok(())
}

fn select_double<K: DoubleShift>(form: Form, bits: u32) -> Option<Execute> {
    match form {
        Form::RegRegImm => width!(bits, double_shift[K, Reg, Rm, Imm]),
        Form::MemRegImm => width!(bits, double_shift[K, Mem, Reg, Imm]),
        Form::RegRegReg => width!(bits, double_shift[K, Reg, Rm, Extra]),
        Form::MemRegReg => width!(bits, double_shift[K, Mem, Reg, Rm]),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let width = || operand_bits(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => two_operands!(form, width(), shift[Shl]),
        Mnemonic::Shr => two_operands!(form, width(), shift[Shr]),
        Mnemonic::Sar => two_operands!(form, width(), shift[Sar]),
        Mnemonic::Rol => two_operands!(form, width(), shift[Rol]),
        Mnemonic::Ror => two_operands!(form, width(), shift[Ror]),
        Mnemonic::Rcl => two_operands!(form, width(), shift[Rcl]),
        Mnemonic::Rcr => two_operands!(form, width(), shift[Rcr]),
        Mnemonic::Shld => select_double::<Shld>(form, width()),
        Mnemonic::Shrd => select_double::<Shrd>(form, width()),
        _ => None,
    }
}
