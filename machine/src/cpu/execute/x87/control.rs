//! Control instructions: control and status words, environment, state, stack pointer, WAIT.

use arch::control_register::cr0;
use arch::exception as vector;
use iced_x86::{Code, Instruction, Mnemonic};

use crate::cpu::{
    Cpu,
    decode::Form,
    extended::Extended,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
    x87::{X87, condition::C1},
};

/// Bits of the control word that exist, and the one that is always set.
const CONTROL: u16 = 0x1f7f;
const CONTROL_FIXED: u16 = 0x40;

/// WAIT.
fn wait(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(cpu.fault(vector::DEVICE_NOT_AVAILABLE, None));
    }
    cpu.raise_pending_x87()
}

/// FNOP, and FNENI, FNDISI and FNSETPM, which do nothing on this FPU.
fn nothing(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()
}

fn nothing_no_wait(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()
}

fn initialize(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    cpu.x87.initialize();
    Ok(())
}

fn clear_exceptions(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    cpu.x87.status &= 0x7f00;
    Ok(())
}

fn load_control(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let value = cpu.read::<u16>(op)?;
    cpu.x87.control = value & CONTROL | CONTROL_FIXED;
    cpu.x87.update_summary();
    Ok(())
}

fn store_control(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    let value = cpu.x87.control;
    cpu.write(op, value)
}

fn store_status(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    let value = cpu.x87.status;
    cpu.write(op, value)
}

fn store_status_ax(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    let value = cpu.x87.status;
    u16::set_register(cpu, 0, value);
    Ok(())
}

fn free<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.x87.free(op.reg);
    cpu.x87.set_conditions(C1, 0);
    if POP {
        cpu.x87.pop();
    }
    Ok(())
}

fn move_top<const UP: bool>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let top = cpu.x87.top();
    cpu.x87.set_top(if UP {
        top.wrapping_add(1)
    } else {
        top.wrapping_sub(1)
    });
    cpu.x87.set_conditions(C1, 0);
    Ok(())
}

impl X87 {
    /// The state after FNINIT; register contents stay.
    fn initialize(&mut self) {
        *self = Self {
            registers: self.registers,
            ..Self::default()
        };
    }
}

/// Whether pointers are stored as in real mode (SDM volume 1, 8.1.10).
fn real_format(cpu: &Cpu) -> bool {
    !cpu.protected_mode() || cpu.virtual_8086()
}

/// The environment as seven words (SDM volume 1, figures 8-9 to 8-12).
fn environment(cpu: &Cpu, wide: bool) -> [u32; 7] {
    let x87 = &cpu.x87;
    let instruction = x87.instruction_pointer as u32;
    let data = x87.data_pointer as u32;
    let opcode = u32::from(x87.opcode & 0x7ff);
    let reserved = if wide { 0xffff_0000 } else { 0 };
    let mut words = [
        u32::from(x87.control) | reserved,
        u32::from(x87.status) | reserved,
        u32::from(x87.tag_word()) | reserved,
        instruction,
        opcode << 16,
        data,
        reserved,
    ];
    if real_format(cpu) {
        let high = |address: u32| {
            if wide {
                address >> 16 << 12
            } else {
                address >> 4 & 0xf000
            }
        };
        words[4] = high(instruction) | opcode;
        words[6] = high(data);
        if wide {
            words[3] = instruction & 0xffff | reserved;
            words[5] = data & 0xffff | reserved;
        }
    } else if !wide {
        words[4] = 0;
    }
    words
}

fn write_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op, offset: u64) -> Result<u64, Raised> {
    let size = if WIDE { 4 } else { 2 };
    for (i, word) in environment(cpu, WIDE).into_iter().enumerate() {
        let place = offset.wrapping_add(i as u64 * size);
        if WIDE {
            cpu.write_at(op.segment, place, word)?;
        } else {
            cpu.write_at(op.segment, place, word as u16)?;
        }
    }
    Ok(offset.wrapping_add(7 * size))
}

fn read_environment<const WIDE: bool>(
    cpu: &mut Cpu,
    op: &Op,
    offset: u64,
) -> Result<([u32; 7], u64), Raised> {
    let size = if WIDE { 4 } else { 2 };
    let mut words = [0; 7];
    for (i, word) in words.iter_mut().enumerate() {
        let place = offset.wrapping_add(i as u64 * size);
        *word = if WIDE {
            cpu.read_at::<u32>(op.segment, place)?
        } else {
            cpu.read_at::<u16>(op.segment, place)?.into()
        };
    }
    Ok((words, offset.wrapping_add(7 * size)))
}

fn take_environment<const WIDE: bool>(cpu: &mut Cpu, words: [u32; 7]) {
    let real = real_format(cpu);
    let x87 = &mut cpu.x87;
    let [control, status, tag, instruction, second, data, last] = words;
    x87.control = control as u16 & CONTROL | CONTROL_FIXED;
    x87.status = status as u16;
    x87.tag = tag as u16;
    let (instruction, data, opcode) = match (real, WIDE) {
        (false, true) => (instruction, data, second >> 16),
        (false, false) => (instruction, data, 0),
        (true, true) => (
            instruction & 0xffff | second >> 12 << 16,
            data & 0xffff | last >> 12 << 16,
            second,
        ),
        (true, false) => (
            instruction | (second & 0xf000) << 4,
            data | (last & 0xf000) << 4,
            second,
        ),
    };
    x87.instruction_pointer = instruction.into();
    x87.data_pointer = data.into();
    x87.opcode = opcode as u16 & 0x7ff;
    x87.update_summary();
}

/// All `bytes` of the operand are writable before any of them is written: processors look at the
/// first byte, then at the last.
fn check_writable<const WIDE: bool>(
    cpu: &mut Cpu,
    op: &Op,
    offset: u64,
    bytes: u64,
) -> Result<(), Raised> {
    if WIDE {
        cpu.probe_write::<u32>(op.segment, offset)?;
    } else {
        cpu.probe_write::<u16>(op.segment, offset)?;
    }
    cpu.probe_write::<u8>(op.segment, offset.wrapping_add(bytes - 1))
}

/// The five words of a register in the image of FNSAVE, which only its beginning aligns.
fn words(value: Extended) -> [u16; 5] {
    let [a, b, c, d, e, f, g, h, i, j] = value.to_bytes();
    [[a, b], [c, d], [e, f], [g, h], [i, j]].map(u16::from_le_bytes)
}

fn from_words(words: [u16; 5]) -> Extended {
    let [a, b, c, d, e] = words.map(u64::from);
    Extended {
        significand: a | b << 16 | c << 32 | d << 48,
        head: e as u16,
    }
}

fn store_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    let offset = cpu.effective_offset(op);
    check_writable::<WIDE>(cpu, op, offset, if WIDE { 28 } else { 14 })?;
    write_environment::<WIDE>(cpu, op, offset)?;
    cpu.x87.control |= 0x3f;
    cpu.x87.update_summary();
    Ok(())
}

fn load_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let offset = cpu.effective_offset(op);
    let (words, _) = read_environment::<WIDE>(cpu, op, offset)?;
    take_environment::<WIDE>(cpu, words);
    Ok(())
}

/// FNSAVE.
fn save<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87_no_wait()?;
    let offset = cpu.effective_offset(op);
    check_writable::<WIDE>(cpu, op, offset, if WIDE { 108 } else { 94 })?;
    let mut place = write_environment::<WIDE>(cpu, op, offset)?;
    for i in 0..8 {
        for word in words(cpu.x87.raw(i)) {
            cpu.write_at(op.segment, place, word)?;
            place = place.wrapping_add(2);
        }
    }
    cpu.x87.initialize();
    Ok(())
}

/// FRSTOR.
fn restore<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let offset = cpu.effective_offset(op);
    let (words, mut place) = read_environment::<WIDE>(cpu, op, offset)?;
    let mut values = [Extended::INDEFINITE; 8];
    for value in &mut values {
        let mut words = [0_u16; 5];
        for word in &mut words {
            *word = cpu.read_at(op.segment, place)?;
            place = place.wrapping_add(2);
        }
        *value = from_words(words);
    }
    take_environment::<WIDE>(cpu, words);
    let tag = cpu.x87.tag;
    for (i, value) in values.into_iter().enumerate() {
        cpu.x87.set_st(i as u8, value);
    }
    cpu.x87.tag = tag;
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    Some(match instruction.mnemonic() {
        Mnemonic::Wait => wait,
        Mnemonic::Fnop => nothing,
        Mnemonic::Fneni | Mnemonic::Fndisi | Mnemonic::Fnsetpm => nothing_no_wait,
        Mnemonic::Fninit => initialize,
        Mnemonic::Fnclex => clear_exceptions,
        Mnemonic::Fldcw => load_control,
        Mnemonic::Fnstcw => store_control,
        Mnemonic::Fnstsw if form == Form::Mem => store_status,
        Mnemonic::Fnstsw => store_status_ax,
        Mnemonic::Ffree => free::<false>,
        Mnemonic::Ffreep => free::<true>,
        Mnemonic::Fincstp => move_top::<true>,
        Mnemonic::Fdecstp => move_top::<false>,
        _ => match instruction.code() {
            Code::Fnstenv_m14byte => store_environment::<false>,
            Code::Fnstenv_m28byte => store_environment::<true>,
            Code::Fldenv_m14byte => load_environment::<false>,
            Code::Fldenv_m28byte => load_environment::<true>,
            Code::Fnsave_m94byte => save::<false>,
            Code::Fnsave_m108byte => save::<true>,
            Code::Frstor_m94byte => restore::<false>,
            Code::Frstor_m108byte => restore::<true>,
            _ => return None,
        },
    })
}
