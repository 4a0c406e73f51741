//! Exchanges (SDM volume 1, 7.3.1.2 Exchange instructions).

use iced_x86::{Instruction, Mnemonic};

use super::place::{Integer, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, LOCK, Op},
    raise::Raised,
    register::Operand,
};

fn exchange_registers<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let (a, b) = (T::register(cpu, op.reg), T::register(cpu, op.rm));
    T::set_register(cpu, op.reg, b);
    T::set_register(cpu, op.rm, a);
    Ok(())
}

fn exchange_memory<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let new = T::register(cpu, op.reg);
    let old = cpu.read_modify_write(op, |_: T| new)?;
    T::set_register(cpu, op.reg, old);
    Ok(())
}

fn exchange_add_registers<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let (a, b) = (T::register(cpu, op.reg), T::register(cpu, op.rm));
    let sum = T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    // The target is written last: it wins when both are the same register.
    T::set_register(cpu, op.rm, a);
    T::set_register(cpu, op.reg, sum);
    cpu.flags = Flags::add(a, b, sum);
    Ok(())
}

fn exchange_add_memory<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let b = T::register(cpu, op.reg);
    let add = |a: T| T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    let old = cpu.read_modify_write(op, add)?;
    T::set_register(cpu, op.reg, old);
    cpu.flags = Flags::add(old, b, add(old));
    Ok(())
}

/// The flags of CMPXCHG, and its accumulator where the comparison failed.
#[inline(always)]
fn compared<T: Integer>(cpu: &mut Cpu, expected: T, found: T) {
    let difference = T::from_u64(expected.to_u64().wrapping_sub(found.to_u64()));
    cpu.flags = Flags::sub(expected, found, difference);
    if found != expected {
        T::set_register(cpu, 0, found);
    }
}

/// CMPXCHG with a register as the target, which is left alone, upper half included, where the
/// comparison fails.
fn compare_exchange_registers<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let expected = T::register(cpu, 0);
    let new = T::register(cpu, op.rm);
    let found = T::register(cpu, op.reg);
    compared(cpu, expected, found);
    if found == expected {
        T::set_register(cpu, op.reg, new);
    }
    Ok(())
}

/// CMPXCHG with memory, which is written in either case (SDM volume 2, CMPXCHG).
fn compare_exchange_memory<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let expected = T::register(cpu, 0);
    let new = T::register(cpu, op.reg);
    let found =
        cpu.read_modify_write(op, |found: T| if found == expected { new } else { found })?;
    compared(cpu, expected, found);
    Ok(())
}

fn compare_exchange_8_bytes(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let pair =
        |high: usize, low: usize| cpu.registers[high] << 32 | cpu.registers[low] & 0xffff_ffff;
    let (expected, new) = (pair(2, 0), pair(1, 3));
    let old =
        cpu.read_modify_write(op, |found: u64| if found == expected { new } else { found })?;
    cpu.flags = cpu.flags.with_zf(old == expected);
    if old != expected {
        u32::set_register(cpu, 0, old as u32);
        u32::set_register(cpu, 2, (old >> 32) as u32);
    }
    Ok(())
}

fn compare_exchange_16_bytes(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let pair = |high: usize, low: usize| {
        u128::from(cpu.registers[high]) << 64 | u128::from(cpu.registers[low])
    };
    let (expected, new) = (pair(2, 0), pair(1, 3));
    let offset = cpu.effective_offset(op);
    let linear = cpu.segments[(op.segment & 7) as usize]
        .base
        .wrapping_add(offset);
    if linear & 15 != 0 {
        return Err(cpu.general_protection(0));
    }
    let change = |found: u128| if found == expected { new } else { found };
    let old = cpu.read_modify_write_at(op.segment, offset, op.has(LOCK), change)?;
    cpu.flags = cpu.flags.with_zf(old == expected);
    if old != expected {
        cpu.registers[0] = old as u64;
        cpu.registers[2] = (old >> 64) as u64;
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let bits = operand_bits(instruction, 0);
    match (instruction.mnemonic(), form) {
        (Mnemonic::Xchg, Form::RegReg) => width!(bits, exchange_registers[]),
        (Mnemonic::Xchg, Form::MemReg | Form::RegMem) => width!(bits, exchange_memory[]),
        (Mnemonic::Xadd, Form::RegReg) => width!(bits, exchange_add_registers[]),
        (Mnemonic::Xadd, Form::MemReg) => width!(bits, exchange_add_memory[]),
        (Mnemonic::Cmpxchg, Form::RegReg) => width!(bits, compare_exchange_registers[]),
        (Mnemonic::Cmpxchg, Form::MemReg) => width!(bits, compare_exchange_memory[]),
        (Mnemonic::Cmpxchg8b, Form::Mem) => Some(compare_exchange_8_bytes),
        (Mnemonic::Cmpxchg16b, Form::Mem) => Some(compare_exchange_16_bytes),
        _ => None,
    }
}
