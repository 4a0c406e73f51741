//! Moves and conversions between general registers and memory (SDM volume 1, 7.3.1).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::place::{Integer, Mem, Rm, Source, Target, two_operands, width};
use crate::cpu::{
    Cpu,
    decode::{Form, is_memory_offset, operand_bits},
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};

fn copy<T: Integer, D: Target, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: T = S::get(cpu, op)?;
    D::set(cpu, op, value)
}

fn load_absolute<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: T = cpu.read_at(op.segment, op.truncate(op.immediate))?;
    T::set_register(cpu, op.reg, value);
    Ok(())
}

fn store_absolute<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = T::register(cpu, op.reg);
    cpu.write_at(op.segment, op.truncate(op.immediate), value)
}

/// MOV from a segment register to a general one: zero-extended.
fn segment_to_register<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = cpu.segments[(op.rm & 7) as usize].selector;
    T::set_register(cpu, op.reg, T::from_u64(u64::from(selector)));
    Ok(())
}

/// MOV from a segment register to memory: always 16 bits.
fn segment_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = cpu.segments[(op.reg & 7) as usize].selector;
    cpu.write(op, selector)
}

fn zero_extend<T: Integer, W: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: W = S::get(cpu, op)?;
    T::set_register(cpu, op.reg, T::from_u64(value.to_u64()));
    Ok(())
}

fn sign_extend<T: Integer, W: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: W = S::get(cpu, op)?;
    T::set_register(cpu, op.reg, T::from_u64(value.to_i64() as u64));
    Ok(())
}

/// CBW, CWDE, CDQE: `W` is the narrower half of the accumulator.
fn extend_accumulator<T: Integer, W: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let value = W::register(cpu, 0).to_i64();
    T::set_register(cpu, 0, T::from_u64(value as u64));
    Ok(())
}

/// CWD, CDQ, CQO.
fn sign_to_data_register<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let sign = T::register(cpu, 0).to_i64() >> 63;
    T::set_register(cpu, 2, T::from_u64(sign as u64));
    Ok(())
}

fn load_address<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let offset = cpu.effective_offset(op);
    T::set_register(cpu, op.reg, T::from_u64(offset));
    Ok(())
}

/// XLAT: AL becomes the byte at (R/E)BX + AL.
fn translate_byte(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let offset = cpu.registers[3].wrapping_add(cpu.registers[0] & 0xff);
    let value: u8 = cpu.read_at(op.segment, op.truncate(offset))?;
    u8::set_register(cpu, 0, value);
    Ok(())
}

fn select_move(instruction: &Instruction, form: Form) -> Option<Execute> {
    if is_memory_offset(instruction.code()) {
        return match form {
            Form::RegMem => width!(operand_bits(instruction, 0), load_absolute[]),
            _ => width!(operand_bits(instruction, 1), store_absolute[]),
        };
    }
    let register = |operand| match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand),
        _ => Register::None,
    };
    let bits = operand_bits(instruction, 0);
    if register(1).is_segment_register() {
        return match form {
            Form::RegReg => width!(bits, segment_to_register[]),
            _ => Some(segment_to_memory),
        };
    }
    // Moves to segment registers and of control and debug registers have their own families.
    let other = |register: Register| register != Register::None && !register.is_gpr();
    if other(register(0)) || other(register(1)) {
        return None;
    }
    two_operands!(form, bits, copy[])
}

/// MOVBE: a move that reverses the order of the bytes.
fn move_reversed<T: Integer, D: Target, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = S::get::<T>(cpu, op)?.to_u64().swap_bytes();
    D::set::<T>(cpu, op, T::from_u64(value >> (64 - T::SIZE * 8)))
}

macro_rules! extension {
    ($name:ident, $target:expr, $source:expr, $place:ty) => {
        match ($target, $source) {
            (16, 8) => Some($name::<u16, u8, $place> as Execute),
            (32, 8) => Some($name::<u32, u8, $place> as Execute),
            (64, 8) => Some($name::<u64, u8, $place> as Execute),
            (16, 16) => Some($name::<u16, u16, $place> as Execute),
            (32, 16) => Some($name::<u32, u16, $place> as Execute),
            (64, 16) => Some($name::<u64, u16, $place> as Execute),
            (32, 32) => Some($name::<u32, u32, $place> as Execute),
            (64, 32) => Some($name::<u64, u32, $place> as Execute),
            _ => None,
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let bits = || operand_bits(instruction, 0);
    let source = || operand_bits(instruction, 1);
    match instruction.mnemonic() {
        Mnemonic::Mov => select_move(instruction, form),
        Mnemonic::Movbe => two_operands!(form, bits(), move_reversed[]),
        Mnemonic::Movnti => two_operands!(form, bits(), copy[]),
        Mnemonic::Movzx => match form {
            Form::RegReg => extension!(zero_extend, bits(), source(), Rm),
            Form::RegMem => extension!(zero_extend, bits(), source(), Mem),
            _ => None,
        },
        Mnemonic::Movsx | Mnemonic::Movsxd => match form {
            Form::RegReg if bits() == 16 && source() == 32 => Some(sign_extend::<u16, u16, Rm>),
            Form::RegReg => extension!(sign_extend, bits(), source(), Rm),
            Form::RegMem if bits() == 16 && source() == 32 => Some(sign_extend::<u16, u16, Mem>),
            Form::RegMem => extension!(sign_extend, bits(), source(), Mem),
            _ => None,
        },
        Mnemonic::Cbw => Some(extend_accumulator::<u16, u8>),
        Mnemonic::Cwde => Some(extend_accumulator::<u32, u16>),
        Mnemonic::Cdqe => Some(extend_accumulator::<u64, u32>),
        Mnemonic::Cwd => Some(sign_to_data_register::<u16>),
        Mnemonic::Cdq => Some(sign_to_data_register::<u32>),
        Mnemonic::Cqo => Some(sign_to_data_register::<u64>),
        Mnemonic::Lea => width!(bits(), load_address[]),
        Mnemonic::Xlatb => Some(translate_byte),
        _ => None,
    }
}
