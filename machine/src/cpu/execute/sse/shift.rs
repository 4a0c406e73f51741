//! Packed shifts: all lanes by one count.

use iced_x86::{Instruction, Mnemonic};

use super::{File, Kind, Mem, Mmx, Rm, Source, Xmm, operand};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
};

/// A shift of a register.
trait Shift {
    /// Shifts.
    fn apply(value: u128, count: u64) -> u128;
}

fn by_operand<F: File, S: Source, O: Shift>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let count = S::get::<F>(cpu, op)? as u64;
    F::commit(cpu);
    let value = F::load(cpu, op.reg);
    F::store(cpu, op.reg, O::apply(value, count));
    Ok(())
}

fn by_immediate<F: File, O: Shift>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let value = F::load(cpu, op.reg);
    F::store(cpu, op.reg, O::apply(value, op.immediate & 0xff));
    Ok(())
}

fn by_form<O: Shift>(instruction: &Instruction, form: Form) -> Option<Execute> {
    match (operand(instruction, 0), form) {
        (Kind::Xmm, Form::RegReg) => Some(by_operand::<Xmm, Rm, O>),
        (Kind::Xmm, Form::RegMem) => Some(by_operand::<Xmm, Mem, O>),
        (Kind::Xmm, Form::RegImm) => Some(by_immediate::<Xmm, O>),
        (Kind::Mmx, Form::RegReg) => Some(by_operand::<Mmx, Rm, O>),
        (Kind::Mmx, Form::RegMem) => Some(by_operand::<Mmx, Mem, O>),
        (Kind::Mmx, Form::RegImm) => Some(by_immediate::<Mmx, O>),
        _ => None,
    }
}

/// A mask with `lane` in each lane of `bits` bits.
const fn every(bits: u32, lane: u128) -> u128 {
    let mut value = 0;
    let mut at = 0;
    while at < 128 {
        value |= lane << at;
        at += bits;
    }
    value
}

#[inline(always)]
fn left(value: u128, count: u64, bits: u32) -> u128 {
    if count >= u64::from(bits) {
        return 0;
    }
    let lane = (1 << bits) - 1;
    let lost = every(bits, lane >> count << count & lane);
    value << count & lost
}

#[inline(always)]
fn right(value: u128, count: u64, bits: u32) -> u128 {
    if count >= u64::from(bits) {
        return 0;
    }
    value >> count & every(bits, ((1 << bits) - 1) >> count)
}

#[inline(always)]
fn arithmetic(value: u128, count: u64, bits: u32) -> u128 {
    let count = count.min(u64::from(bits) - 1);
    let shifted = right(value, count, bits);
    // The sign bit in its new place, extended upward inside the lane.
    let sign = shifted & every(bits, 1 << (u64::from(bits) - 1 - count));
    let filled = (sign << count).wrapping_sub(sign) << 1 & every(bits, (1 << bits) - 1);
    if count == 0 { value } else { shifted | filled }
}

macro_rules! shifts {
    ($($name:ident: |$value:ident, $count:ident| $body:expr;)*) => {
        $(
            struct $name;
            impl Shift for $name {
                #[inline(always)]
                fn apply($value: u128, $count: u64) -> u128 {
                    $body
                }
            }
        )*

        pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
            match instruction.mnemonic() {
                $(Mnemonic::$name => by_form::<$name>(instruction, form),)*
                _ => None,
            }
        }
    };
}

shifts! {
    Psllw: |value, count| left(value, count, 16);
    Pslld: |value, count| left(value, count, 32);
    Psllq: |value, count| left(value, count, 64);
    Psrlw: |value, count| right(value, count, 16);
    Psrld: |value, count| right(value, count, 32);
    Psrlq: |value, count| right(value, count, 64);
    Psraw: |value, count| arithmetic(value, count, 16);
    Psrad: |value, count| arithmetic(value, count, 32);
    Pslldq: |value, count| if count > 15 { 0 } else { value << (8 * count) };
    Psrldq: |value, count| if count > 15 { 0 } else { value >> (8 * count) };
}
