//! Decimal arithmetic and SALC, absent from 64-bit mode (SDM volume 1, 7.3.3).

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{
    Cpu,
    decode::Form,
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};

const AL: u8 = 0;
const AH: u8 = 16;

/// Addition or subtraction.
trait Direction {
    fn apply<T: Operand>(a: T, b: u64) -> T;
}

struct Up;
struct Down;

impl Direction for Up {
    fn apply<T: Operand>(a: T, b: u64) -> T {
        T::from_u64(a.to_u64().wrapping_add(b))
    }
}

impl Direction for Down {
    fn apply<T: Operand>(a: T, b: u64) -> T {
        T::from_u64(a.to_u64().wrapping_sub(b))
    }
}

/// DAA and DAS. DAS also takes the borrow of its first step as CF; in DAA that carry implies the
/// second step.
fn adjust_packed<K: Direction>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let old = u8::register(cpu, AL);
    let before = cpu.flags;
    let mut value = old;
    let af = old & 15 > 9 || before.af();
    let mut cf = false;
    if af {
        value = K::apply(value, 6);
        let wrapped = if K::apply(0_u8, 1) == 1 {
            value < old
        } else {
            value > old
        };
        cf = before.cf() || wrapped;
    }
    if old > 0x99 || before.cf() {
        value = K::apply(value, 0x60);
        cf = true;
    }
    u8::set_register(cpu, AL, value);
    cpu.flags = Flags::logic(value).with_cf(cf).with_af(af);
    Ok(())
}

/// AAA and AAS. Only AF and CF are defined.
fn adjust_unpacked<K: Direction>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let adjust = u8::register(cpu, AL) & 15 > 9 || cpu.flags.af();
    if adjust {
        let value = K::apply(u16::register(cpu, AL), 0x106);
        u16::set_register(cpu, AL, value);
    }
    let value = u8::register(cpu, AL) & 15;
    u8::set_register(cpu, AL, value);
    cpu.flags = cpu.flags.with_cf(adjust).with_af(adjust);
    Ok(())
}

fn adjust_after_multiply(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let base = op.immediate as u8;
    let value = u8::register(cpu, AL);
    let (Some(quotient), Some(remainder)) = (value.checked_div(base), value.checked_rem(base))
    else {
        return Err(cpu.fault(arch::exception::DIVIDE_ERROR, None));
    };
    u8::set_register(cpu, AH, quotient);
    u8::set_register(cpu, AL, remainder);
    cpu.flags = Flags::logic(remainder);
    Ok(())
}

fn adjust_before_divide(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let high = u8::register(cpu, AH).wrapping_mul(op.immediate as u8);
    let value = u8::register(cpu, AL).wrapping_add(high);
    u16::set_register(cpu, AL, u16::from(value));
    cpu.flags = Flags::logic(value);
    Ok(())
}

/// D6H, which the manual reserves without an exception (SDM 22.15): AL becomes CF in every bit.
fn set_from_carry(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let value = if cpu.flags.cf() { 0xff } else { 0 };
    u8::set_register(cpu, AL, value);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Daa => Some(adjust_packed::<Up>),
        Mnemonic::Das => Some(adjust_packed::<Down>),
        Mnemonic::Aaa => Some(adjust_unpacked::<Up>),
        Mnemonic::Aas => Some(adjust_unpacked::<Down>),
        Mnemonic::Aam => Some(adjust_after_multiply),
        Mnemonic::Aad => Some(adjust_before_divide),
        Mnemonic::Salc => Some(set_from_carry),
        _ => None,
    }
}
