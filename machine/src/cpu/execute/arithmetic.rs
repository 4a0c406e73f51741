//! Addition, subtraction, logic and comparison (SDM volume 1, 7.3.2 Binary arithmetic and 7.3.4).

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::place::{Integer, Source, Target, one_operand, two_operands};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
};
use crate::memory::Word;

/// An operation of two operands.
trait Binary {
    fn apply<T: Word>(a: T, b: T, before: Flags) -> (T, Flags);
}

struct Add;
struct Adc;
struct Sub;
struct Sbb;
struct And;
struct Or;
struct Xor;

impl Binary for Add {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, _before: Flags) -> (T, Flags) {
        let sum = T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
        (sum, Flags::add(a, b, sum))
    }
}

impl Binary for Adc {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, before: Flags) -> (T, Flags) {
        let carry = u64::from(before.cf());
        let sum = T::from_u64(a.to_u64().wrapping_add(b.to_u64()).wrapping_add(carry));
        (sum, Flags::add(a, b, sum))
    }
}

impl Binary for Sub {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, _before: Flags) -> (T, Flags) {
        let difference = T::from_u64(a.to_u64().wrapping_sub(b.to_u64()));
        (difference, Flags::sub(a, b, difference))
    }
}

impl Binary for Sbb {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, before: Flags) -> (T, Flags) {
        let borrow = u64::from(before.cf());
        let difference = T::from_u64(a.to_u64().wrapping_sub(b.to_u64()).wrapping_sub(borrow));
        (difference, Flags::sub(a, b, difference))
    }
}

impl Binary for And {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, _before: Flags) -> (T, Flags) {
        let result = T::from_u64(a.to_u64() & b.to_u64());
        (result, Flags::logic(result))
    }
}

impl Binary for Or {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, _before: Flags) -> (T, Flags) {
        let result = T::from_u64(a.to_u64() | b.to_u64());
        (result, Flags::logic(result))
    }
}

impl Binary for Xor {
    #[inline(always)]
    fn apply<T: Word>(a: T, b: T, _before: Flags) -> (T, Flags) {
        let result = T::from_u64(a.to_u64() ^ b.to_u64());
        (result, Flags::logic(result))
    }
}

/// The operation, with its result stored.
fn binary<T: Integer, K: Binary, D: Target, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let b: T = S::get(cpu, op)?;
    let before = cpu.flags;
    let mut flags = before;
    D::update(cpu, op, |a: T| {
        let (result, after) = K::apply(a, b, before);
        flags = after;
        result
    })?;
    cpu.flags = flags;
    Ok(())
}

/// CMP and TEST: only the flags.
fn compare<T: Integer, K: Binary, D: Source, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let b: T = S::get(cpu, op)?;
    let a: T = D::get(cpu, op)?;
    cpu.flags = K::apply(a, b, cpu.flags).1;
    Ok(())
}

/// ADCX and ADOX: an addition with one flag, which alone changes.
fn add_by<T: Integer, F: CarryFlag, D: Target, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let b = u128::from(S::get::<T>(cpu, op)?.to_u64());
    let a = u128::from(D::get::<T>(cpu, op)?.to_u64());
    let flags = cpu.flags.to_rflags();
    let sum = a + b + u128::from(flags & F::FLAG != 0);
    D::set::<T>(cpu, op, T::from_u64(sum as u64))?;
    let carry = if sum >> (T::SIZE * 8) != 0 {
        F::FLAG
    } else {
        0
    };
    cpu.flags = Flags::from_rflags(flags & !F::FLAG | carry);
    Ok(())
}

/// The flag of such an addition.
trait CarryFlag {
    const FLAG: u64;
}

struct Carry;
struct Overflow;

impl CarryFlag for Carry {
    const FLAG: u64 = rflags::CF;
}

impl CarryFlag for Overflow {
    const FLAG: u64 = rflags::OF;
}

/// An operation of one operand.
trait Unary {
    fn apply<T: Word>(a: T, before: Flags) -> (T, Flags);
}

struct Inc;
struct Dec;
struct Neg;
struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Word>(a: T, before: Flags) -> (T, Flags) {
        let (result, flags) = Add::apply(a, T::from_u64(1), before);
        (result, flags.with_cf(before.cf()))
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Word>(a: T, before: Flags) -> (T, Flags) {
        let (result, flags) = Sub::apply(a, T::from_u64(1), before);
        (result, flags.with_cf(before.cf()))
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Word>(a: T, before: Flags) -> (T, Flags) {
        Sub::apply(T::from_u64(0), a, before)
    }
}

impl Unary for Not {
    #[inline(always)]
    fn apply<T: Word>(a: T, before: Flags) -> (T, Flags) {
        (T::from_u64(!a.to_u64()), before)
    }
}

fn unary<T: Integer, K: Unary, D: Target>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let before = cpu.flags;
    let mut flags = before;
    D::update(cpu, op, |a: T| {
        let (result, after) = K::apply(a, before);
        flags = after;
        result
    })?;
    cpu.flags = flags;
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let width = || operand_bits(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Add => two_operands!(form, width(), binary[Add]),
        Mnemonic::Adc => two_operands!(form, width(), binary[Adc]),
        Mnemonic::Adcx => two_operands!(form, width(), add_by[Carry]),
        Mnemonic::Adox => two_operands!(form, width(), add_by[Overflow]),
        Mnemonic::Sub => two_operands!(form, width(), binary[Sub]),
        Mnemonic::Sbb => two_operands!(form, width(), binary[Sbb]),
        Mnemonic::And => two_operands!(form, width(), binary[And]),
        Mnemonic::Or => two_operands!(form, width(), binary[Or]),
        Mnemonic::Xor => two_operands!(form, width(), binary[Xor]),
        Mnemonic::Cmp => two_operands!(form, width(), compare[Sub]),
        Mnemonic::Test => two_operands!(form, width(), compare[And]),
        Mnemonic::Inc => one_operand!(form, width(), unary[Inc]),
        Mnemonic::Dec => one_operand!(form, width(), unary[Dec]),
        Mnemonic::Neg => one_operand!(form, width(), unary[Neg]),
        Mnemonic::Not => one_operand!(form, width(), unary[Not]),
        _ => None,
    }
}
