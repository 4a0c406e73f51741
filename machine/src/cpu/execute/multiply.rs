//! Multiplication and division (SDM volume 1, 7.3.2).

use iced_x86::{Instruction, Mnemonic};

use super::place::{Imm, Integer, Mem, Reg, Rm, Source, one_operand, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
};
use crate::memory::Word;

const LOW: u8 = 0;

/// The register above the accumulator: AH for bytes, else (E/R)DX.
const fn high<T: Word>() -> u8 {
    if T::SIZE == 1 { 16 } else { 2 }
}

/// Flags after a multiplication: CF and OF say that the upper half is significant; SF, ZF, AF and
/// PF are undefined and follow the lower half here.
#[inline(always)]
fn product_flags<T: Word>(low: T, significant: bool) -> Flags {
    Flags::logic(low).with_cf_of(significant, significant)
}

#[inline(always)]
fn signed_product<T: Word>(a: T, b: T) -> (T, i128, bool) {
    let product = i128::from(a.to_i64()) * i128::from(b.to_i64());
    let low = T::from_u64(product as u64);
    (low, product, i128::from(low.to_i64()) != product)
}

fn multiply<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let b: T = S::get(cpu, op)?;
    let product = u128::from(T::register(cpu, LOW).to_u64()) * u128::from(b.to_u64());
    let low = T::from_u64(product as u64);
    let upper = T::from_u64((product >> T::BITS) as u64);
    T::set_register(cpu, LOW, low);
    T::set_register(cpu, high::<T>(), upper);
    cpu.flags = product_flags(low, upper != T::default());
    Ok(())
}

fn multiply_signed<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let b: T = S::get(cpu, op)?;
    let (low, product, significant) = signed_product(T::register(cpu, LOW), b);
    T::set_register(cpu, LOW, low);
    T::set_register(cpu, high::<T>(), T::from_u64((product >> T::BITS) as u64));
    cpu.flags = product_flags(low, significant);
    Ok(())
}

/// IMUL with a target register that keeps the lower half.
fn multiply_to<T: Integer, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let a: T = A::get(cpu, op)?;
    let b: T = B::get(cpu, op)?;
    let (low, _, significant) = signed_product(a, b);
    T::set_register(cpu, op.reg, low);
    cpu.flags = product_flags(low, significant);
    Ok(())
}

// DIV and IDIV leave all flags undefined; here they stay.
fn divide<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let divisor = S::get::<T>(cpu, op)?.to_u64();
    let low = T::register(cpu, LOW).to_u64();
    let upper = T::register(cpu, high::<T>()).to_u64();
    // SDM volume 2, DIV: a quotient that does not fit is #DE, and so is 0 as the divisor.
    if divisor <= upper {
        return Err(cpu.fault(arch::exception::DIVIDE_ERROR, None));
    }
    let (quotient, remainder) = if T::SIZE < 8 {
        let dividend = upper << (T::BITS % 64) | low;
        (dividend / divisor, dividend % divisor)
    } else if upper == 0 {
        (low / divisor, low % divisor)
    } else {
        let dividend = u128::from(upper) << 64 | u128::from(low);
        let divisor = u128::from(divisor);
        ((dividend / divisor) as u64, (dividend % divisor) as u64)
    };
    T::set_register(cpu, LOW, T::from_u64(quotient));
    T::set_register(cpu, high::<T>(), T::from_u64(remainder));
    Ok(())
}

fn divide_signed<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let divisor = S::get::<T>(cpu, op)?.to_i64();
    let low = T::register(cpu, LOW).to_u64();
    let upper = T::register(cpu, high::<T>()).to_i64();
    let divided = if T::SIZE < 8 {
        let dividend = upper << (T::BITS % 64) | low as i64;
        dividend
            .checked_div(divisor)
            .zip(dividend.checked_rem(divisor))
    } else {
        let dividend = i128::from(upper) << 64 | i128::from(low);
        let divisor = i128::from(divisor);
        dividend
            .checked_div(divisor)
            .and_then(|quotient| i64::try_from(quotient).ok())
            .zip(dividend.checked_rem(divisor).map(|rest| rest as i64))
    };
    match divided {
        Some((quotient, remainder)) if T::from_u64(quotient as u64).to_i64() == quotient => {
            T::set_register(cpu, LOW, T::from_u64(quotient as u64));
            T::set_register(cpu, high::<T>(), T::from_u64(remainder as u64));
            Ok(())
        }
        _ => Err(cpu.fault(arch::exception::DIVIDE_ERROR, None)),
    }
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let bits = operand_bits(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Mul => one_operand!(form, bits, multiply[]),
        Mnemonic::Div => one_operand!(form, bits, divide[]),
        Mnemonic::Idiv => one_operand!(form, bits, divide_signed[]),
        Mnemonic::Imul => match form {
            Form::Reg | Form::Mem => one_operand!(form, bits, multiply_signed[]),
            Form::RegReg => width!(bits, multiply_to[Reg, Rm]),
            Form::RegMem => width!(bits, multiply_to[Reg, Mem]),
            Form::RegRegImm => width!(bits, multiply_to[Rm, Imm]),
            Form::RegMemImm => width!(bits, multiply_to[Mem, Imm]),
            _ => None,
        },
        _ => None,
    }
}
