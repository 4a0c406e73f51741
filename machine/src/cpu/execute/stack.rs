//! PUSH, POP, ENTER, LEAVE and their relatives (SDM volume 1, 7.3.1.4 Stack manipulation and 6.5
//! Procedure calls for block-structured languages).

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{Imm, Integer, Mem, Reg, Source, width};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    register::number::{RBP, RSP},
};

fn push<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: T = S::get(cpu, op)?;
    cpu.push(value)
}

/// A 32-bit push of a selector writes 16 bits (SDM volume 2, PUSH); a 64-bit one zero-extends it.
fn push_segment<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = cpu.segments[(op.reg & 7) as usize].selector;
    if T::SIZE != 4 {
        return cpu.push(T::from_u64(u64::from(selector)));
    }
    let top = cpu.truncate_stack(cpu.stack_top().wrapping_sub(4));
    cpu.write_at(cpu.stack_segment(), top, selector)?;
    cpu.set_stack_top(top);
    Ok(())
}

/// POP SP keeps the popped value, not the incremented pointer.
fn pop_register<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value: T = cpu.pop()?;
    T::set_register(cpu, op.reg, value);
    Ok(())
}

/// The address of the target is computed after the stack pointer moved (SDM volume 2, POP).
fn pop_memory<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let before = cpu.registers[RSP];
    let value: T = cpu.pop()?;
    cpu.write(op, value).inspect_err(|_| {
        cpu.registers[RSP] = before;
    })
}

fn push_all<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let segment = cpu.stack_segment();
    let top = cpu.stack_top();
    let place = |cpu: &Cpu, number: u64| {
        cpu.truncate_stack(top.wrapping_sub((number + 1) * T::SIZE as u64))
    };
    // All eight are known writable before one is written.
    for number in 0..8 {
        cpu.probe_write::<T>(segment, place(cpu, number))?;
    }
    for number in 0..8 {
        cpu.write_at(segment, place(cpu, number), T::register(cpu, number as u8))?;
    }
    cpu.set_stack_top(place(cpu, 7));
    Ok(())
}

fn pop_all<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let mut values = [T::default(); 8];
    for (i, value) in values.iter_mut().enumerate() {
        *value = cpu.peek((i * T::SIZE) as u64)?;
    }
    for (number, value) in (0..8).rev().zip(values) {
        if number != RSP as u8 {
            T::set_register(cpu, number, value);
        }
    }
    cpu.set_stack_top(cpu.stack_top().wrapping_add(8 * T::SIZE as u64));
    Ok(())
}

/// Whether the flags are out of reach: virtual-8086 mode with IOPL below 3 (SDM 20.2.8, without
/// virtual-8086 mode extensions).
fn flags_are_trapped(cpu: &Cpu) -> bool {
    cpu.virtual_8086() && cpu.system_flags & rflags::IOPL != rflags::IOPL
}

fn push_flags<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if flags_are_trapped(cpu) {
        return Err(cpu.general_protection(0));
    }
    let image = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push(T::from_u64(image))
}

fn pop_flags<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if flags_are_trapped(cpu) {
        return Err(cpu.general_protection(0));
    }
    let popped = cpu.pop::<T>()?.to_u64();
    let current = cpu.rflags();
    let privilege_of_flags = ((cpu.system_flags & rflags::IOPL) >> 12) as u8;
    // SDM volume 2, POPF, table 4-16: what each privilege may change.
    let mut kept = rflags::VM | rflags::VIF | rflags::VIP;
    if cpu.cpl != 0 {
        kept |= rflags::IOPL;
    }
    if cpu.cpl > privilege_of_flags {
        kept |= rflags::IF;
    }
    if T::SIZE == 2 {
        kept |= !0xffff & !rflags::RF;
    }
    let value = popped & !kept | current & kept;
    cpu.set_rflags(value & !rflags::RF);
    Ok(())
}

fn enter<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let segment = cpu.stack_segment();
    let step = T::SIZE as u64;
    let level = u64::from(op.extra & 31);
    let pushes = level + 1;
    let begin = cpu.stack_top();
    let place = |cpu: &Cpu, number: u64| cpu.truncate_stack(begin.wrapping_sub(number * step));
    // All pushes are known to be possible before the first, and the new top must be writable (SDM
    // volume 2, ENTER).
    for number in 1..=pushes {
        let place = place(cpu, number);
        cpu.probe_write::<T>(segment, place)?;
    }
    let size = op.immediate & 0xffff;
    let top = cpu.truncate_stack(place(cpu, pushes).wrapping_sub(size));
    cpu.probe_write::<T>(segment, top)?;
    // The frame pointer is as wide as operands, however wide the stack is.
    let frame = cpu.registers[RSP] & !cpu.truncate_stack(u64::MAX) | place(cpu, 1);
    let first = place(cpu, 1);
    cpu.write_at(segment, first, T::register(cpu, RBP as u8))?;
    if level > 0 {
        let mut link = cpu.registers[RBP];
        for number in 2..=level {
            link = cpu.truncate_stack(link.wrapping_sub(step));
            let value: T = cpu.read_at(segment, link)?;
            let place = place(cpu, number);
            cpu.write_at(segment, place, value)?;
        }
        let last = place(cpu, pushes);
        cpu.write_at(segment, last, T::from_u64(frame))?;
    }
    T::set_register(cpu, RBP as u8, T::from_u64(frame));
    cpu.set_stack_top(top);
    Ok(())
}

fn leave<T: Integer>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let frame = cpu.truncate_stack(cpu.registers[RBP]);
    let value: T = cpu.read_at(cpu.stack_segment(), frame)?;
    cpu.set_stack_top(frame.wrapping_add(T::SIZE as u64));
    T::set_register(cpu, RBP as u8, value);
    Ok(())
}

/// Whether the only operand is a segment register.
fn of_segment(instruction: &Instruction) -> bool {
    instruction.op_kind(0) == OpKind::Register && instruction.op_register(0).is_segment_register()
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    // What is pushed is as wide as the stack pointer moves, which iced knows of every code.
    let moved = instruction.stack_pointer_increment().unsigned_abs() * 8;
    match instruction.mnemonic() {
        Mnemonic::Push if of_segment(instruction) => width!(moved, push_segment[]),
        Mnemonic::Push => match form {
            Form::Reg => width!(moved, push[Reg]),
            Form::Mem => width!(moved, push[Mem]),
            Form::Imm => width!(moved, push[Imm]),
            _ => None,
        },
        Mnemonic::Pop if of_segment(instruction) => None,
        Mnemonic::Pop => match form {
            Form::Reg => width!(moved, pop_register[]),
            Form::Mem => width!(moved, pop_memory[]),
            _ => None,
        },
        Mnemonic::Pusha => Some(push_all::<u16>),
        Mnemonic::Pushad => Some(push_all::<u32>),
        Mnemonic::Popa => Some(pop_all::<u16>),
        Mnemonic::Popad => Some(pop_all::<u32>),
        Mnemonic::Pushf => Some(push_flags::<u16>),
        Mnemonic::Pushfd => Some(push_flags::<u32>),
        Mnemonic::Pushfq => Some(push_flags::<u64>),
        Mnemonic::Popf => Some(pop_flags::<u16>),
        Mnemonic::Popfd => Some(pop_flags::<u32>),
        Mnemonic::Popfq => Some(pop_flags::<u64>),
        Mnemonic::Enter => match instruction.op_code().operand_size() {
            16 => Some(enter::<u16>),
            32 => Some(enter::<u32>),
            _ => Some(enter::<u64>),
        },
        Mnemonic::Leave => match instruction.op_code().operand_size() {
            16 => Some(leave::<u16>),
            32 => Some(leave::<u32>),
            _ => Some(leave::<u64>),
        },
        _ => None,
    }
}
