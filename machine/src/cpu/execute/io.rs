//! IN, OUT and their string forms (SDM volume 1, chapter 19 Input/output).

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Cpu,
    decode::{Form, operand_bits},
    op::{self, Execute, Op},
    raise::{Pending, Raised},
    register::{
        Operand,
        number::{RAX, RCX, RDI, RDX, RSI},
    },
    segment::register,
};
use crate::memory::Word;
use crate::trace::Event;
use crate::vtx::{
    instruction_information::{address_size, segment as named_segment},
    io_bitmap::{self, Access, PortEncoding, StringAccess},
};

/// The function that carries out a port instruction.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    Some(match (instruction.mnemonic(), form) {
        (M::In, Form::RegImm) => match operand_bits(instruction, 0) {
            8 => input::<u8, true>,
            16 => input::<u16, true>,
            _ => input::<u32, true>,
        },
        (M::In, _) => match operand_bits(instruction, 0) {
            8 => input::<u8, false>,
            16 => input::<u16, false>,
            _ => input::<u32, false>,
        },
        (M::Out, Form::RegReg) => match operand_bits(instruction, 1) {
            8 => output::<u8, false>,
            16 => output::<u16, false>,
            _ => output::<u32, false>,
        },
        (M::Out, _) => match operand_bits(instruction, 1) {
            8 => output::<u8, true>,
            16 => output::<u16, true>,
            _ => output::<u32, true>,
        },
        (M::Insb, _) => input_string::<u8>,
        (M::Insw, _) => input_string::<u16>,
        (M::Insd, _) => input_string::<u32>,
        (M::Outsb, _) => output_string::<u8>,
        (M::Outsw, _) => output_string::<u16>,
        (M::Outsd, _) => output_string::<u32>,
        _ => return None,
    })
}

/// The port: an immediate byte or DX.
fn port<const IMMEDIATE: bool>(cpu: &Cpu, op: &Op) -> u16 {
    if IMMEDIATE {
        (op.immediate & 0xff) as u16
    } else {
        cpu.registers[RDX] as u16
    }
}

/// IN or OUT as a VM exit describes it.
fn plain<const IMMEDIATE: bool>(port: u16, size: usize, input: bool) -> Access {
    Access {
        port,
        size: size as u8,
        input,
        encoding: if IMMEDIATE {
            PortEncoding::Immediate
        } else {
            PortEncoding::Register
        },
        string: None,
    }
}

/// INS or OUTS as a VM exit describes it.
fn string<T: Word>(cpu: &Cpu, op: &Op, port: u16, segment: u8, offset: u64, input: bool) -> Access {
    let base = cpu.segments[(segment & 7) as usize].base;
    Access {
        string: Some(StringAccess {
            repeated: op.has(op::REP | op::REPNE),
            linear: cpu.truncate_linear(base.wrapping_add(offset)),
            instruction_information: address_size(op) << 7
                | u32::from(if input {
                    register::ES
                } else {
                    named_segment(op)
                }) << 15,
        }),
        ..plain::<false>(port, T::SIZE, input)
    }
}

fn input<T: Operand, const IMMEDIATE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let port = port::<IMMEDIATE>(cpu, op);
    cpu.check_port(port, T::SIZE as u8)?;
    io_bitmap::check(cpu, &plain::<IMMEDIATE>(port, T::SIZE, true))?;
    let value = cpu.port_in(port, T::SIZE as u8);
    T::set_register(cpu, RAX as u8, T::from_u64(value.into()));
    Ok(())
}

fn output<T: Operand, const IMMEDIATE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let port = port::<IMMEDIATE>(cpu, op);
    cpu.check_port(port, T::SIZE as u8)?;
    io_bitmap::check(cpu, &plain::<IMMEDIATE>(port, T::SIZE, false))?;
    let value = T::register(cpu, RAX as u8).to_u64() as u32;
    cpu.port_out(port, T::SIZE as u8, value);
    Ok(())
}

/// A register as an address or count of the instruction's address size.
fn address_register(cpu: &Cpu, op: &Op, number: usize) -> u64 {
    let value = cpu.registers[number & 15];
    match op.address_bits() {
        16 => value & 0xffff,
        32 => value & 0xffff_ffff,
        _ => value,
    }
}

fn set_address_register(cpu: &mut Cpu, op: &Op, number: usize, value: u64) {
    match op.address_bits() {
        16 => u16::set_register(cpu, number as u8, value as u16),
        32 => u32::set_register(cpu, number as u8, value as u32),
        _ => u64::set_register(cpu, number as u8, value),
    }
}

/// Whether there is anything to do: REP with a count of 0 does nothing.
fn has_work(cpu: &Cpu, op: &Op) -> bool {
    !op.has(op::REP | op::REPNE) || address_register(cpu, op, RCX) != 0
}

/// Moves the index register on, and with REP counts down; the instruction runs again until the
/// count is 0, so that interrupts come in between (SDM volume 2, REP).
fn finish<T: Word>(cpu: &mut Cpu, op: &Op, index: usize) -> Result<(), Raised> {
    let step = if cpu.system_flags & rflags::DF == 0 {
        T::SIZE as u64
    } else {
        (T::SIZE as u64).wrapping_neg()
    };
    let moved = address_register(cpu, op, index).wrapping_add(step);
    set_address_register(cpu, op, index, moved);
    if op.has(op::REP | op::REPNE) {
        let count = address_register(cpu, op, RCX).wrapping_sub(1);
        set_address_register(cpu, op, RCX, count);
        if count != 0 {
            return Err(cpu.raise(Pending::Again));
        }
    }
    Ok(())
}

fn input_string<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if !has_work(cpu, op) {
        return Ok(());
    }
    let port = cpu.registers[RDX] as u16;
    cpu.check_port(port, T::SIZE as u8)?;
    let segment = if cpu.mode_64 { op::FLAT } else { register::ES };
    let offset = address_register(cpu, op, RDI);
    let access = string::<T>(cpu, op, port, segment, offset, true);
    io_bitmap::check(cpu, &access)?;
    // The destination must be writable before the port is read: the datum cannot be put back.
    cpu.probe_write::<T>(segment, offset)?;
    let value = cpu.port_in(port, T::SIZE as u8);
    cpu.write_at(segment, offset, T::from_u64(value.into()))?;
    finish::<T>(cpu, op, RDI)
}

fn output_string<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if !has_work(cpu, op) {
        return Ok(());
    }
    let port = cpu.registers[RDX] as u16;
    cpu.check_port(port, T::SIZE as u8)?;
    let offset = address_register(cpu, op, RSI);
    let access = string::<T>(cpu, op, port, op.segment, offset, false);
    io_bitmap::check(cpu, &access)?;
    let value: T = cpu.read_at(op.segment, offset)?;
    cpu.port_out(port, T::SIZE as u8, value.to_u64() as u32);
    finish::<T>(cpu, op, RSI)
}

impl Cpu {
    /// Whether the program may use `size` bytes at `port`: by IOPL, or by the I/O permission bit map
    /// of the TSS (SDM volume 1, 19.5 Protected-mode I/O).
    pub fn check_port(&mut self, port: u16, size: u8) -> Result<(), Raised> {
        if !self.protected_mode() {
            return Ok(());
        }
        if !self.virtual_8086() && u64::from(self.cpl) <= self.system_flags >> 12 & 3 {
            return Ok(());
        }
        // Only 32- and 64-bit TSSs have a bit map.
        let limit = u64::from(self.tr.limit);
        if self.tr.rights & 9 != 9 || limit < 103 {
            return Err(self.general_protection(0));
        }
        let map: u16 = self.read_system(self.tr.base.wrapping_add(102))?;
        let place = u64::from(map) + u64::from(port / 8);
        // Two bytes are read, so that an access may span them.
        if place + 1 > limit {
            return Err(self.general_protection(0));
        }
        let bits: u16 = self.read_system(self.tr.base.wrapping_add(place))?;
        let mask = (1_u16 << size) - 1;
        if bits >> (port % 8) & mask != 0 {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    /// Reads `size` (1, 2 or 4) bytes at a port.
    pub fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.note_port_access(port, size);
        let now = self.now();
        let value = self.platform.port_read(self.index, port, size, now);
        self.heed_platform();
        self.take_device_time();
        self.trace(Event::Port { port, value });
        value
    }

    /// Writes `size` (1, 2 or 4) bytes to a port.
    pub fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.note_port_access(port, size);
        let now = self.now();
        self.trace(Event::Port { port, value });
        self.platform.port_write(self.index, port, size, value, now);
        self.heed_platform();
        self.take_device_time();
        self.look_at_events();
    }
}
