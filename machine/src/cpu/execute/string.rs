//! String instructions (SDM volume 1, 7.3.9 String operations).
//!
//! A repeated instruction does a bounded part of its work, then asks to be run again with its
//! registers updated: events are looked at in between, as between iterations on hardware.

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{Integer, width};
use crate::cpu::{
    Cpu,
    decode::Form,
    flags::Flags,
    op::{Execute, FLAT, Op, REPNE},
    raise::{Pending, Raised},
    register::{
        Operand,
        number::{RCX, RDI, RSI},
    },
    segment::register,
    tlb::Access,
};
use crate::memory::Word;

/// Iterations done one by one before events are looked at.
const LONGEST_RUN: u64 = 512;

/// One string instruction.
trait Kind {
    /// Whether ZF ends a repetition.
    const COMPARES: bool = false;

    /// One iteration.
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised>;

    /// Up to `count` iterations in bulk, upwards; gives how many were done.
    fn bulk<T: Integer>(_cpu: &mut Cpu, _op: &Op, _count: u64) -> u64 {
        0
    }
}

struct Move;
struct Store;
struct Load;
struct Compare;
struct Scan;

#[inline(always)]
fn offset(cpu: &Cpu, op: &Op, number: usize) -> u64 {
    op.truncate(cpu.registers[number])
}

/// Writes as much of a register as the address size covers.
#[inline(always)]
fn set_counter(cpu: &mut Cpu, op: &Op, number: usize, value: u64) {
    match op.address_shift {
        0 => cpu.registers[number & 15] = value,
        32 => u32::set_register(cpu, number as u8, value as u32),
        _ => u16::set_register(cpu, number as u8, value as u16),
    }
}

#[inline(always)]
fn advance<T: Word>(cpu: &mut Cpu, op: &Op, number: usize) {
    let size = T::SIZE as u64;
    let next = if cpu.system_flags & rflags::DF == 0 {
        cpu.registers[number].wrapping_add(size)
    } else {
        cpu.registers[number].wrapping_sub(size)
    };
    set_counter(cpu, op, number, next);
}

/// ES, which no prefix overrides.
#[inline(always)]
fn extra_segment(cpu: &Cpu) -> u8 {
    if cpu.mode_64 { FLAT } else { register::ES }
}

/// The linear address of the string that a register points to, and how many of `count` elements follow
/// there in the same page and segment.
#[inline(always)]
fn in_page<T: Word>(
    cpu: &mut Cpu,
    op: &Op,
    (segment, number): (u8, usize),
    access: Access,
    count: u64,
) -> Option<(u64, u64)> {
    let offset = offset(cpu, op, number);
    let linear = cpu.linear(segment, offset, T::SIZE, access).ok()?;
    let count = count.min((4096 - (linear & 0xfff)) / T::SIZE as u64);
    let length = count * T::SIZE as u64;
    // The offset must not wrap at the address size, and the last byte must be in the segment too.
    if count == 0 || op.truncate(offset.wrapping_add(length - 1)) < offset {
        return None;
    }
    cpu.linear(segment, offset, length as usize, access).ok()?;
    Some((linear, count))
}

impl Kind for Move {
    #[inline(always)]
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
        let value: T = cpu.read_at(op.segment, offset(cpu, op, RSI))?;
        cpu.write_at(extra_segment(cpu), offset(cpu, op, RDI), value)?;
        advance::<T>(cpu, op, RSI);
        advance::<T>(cpu, op, RDI);
        Ok(())
    }

    fn bulk<T: Integer>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
        let source = (op.segment, RSI);
        let target = (extra_segment(cpu), RDI);
        let Some((from, count)) = in_page::<T>(cpu, op, source, Access::Read, count) else {
            return 0;
        };
        let Some((to, count)) = in_page::<T>(cpu, op, target, Access::Write, count) else {
            return 0;
        };
        let privilege = cpu.privilege();
        let from = cpu.tlb.lookup::<T>(from, Access::Read, privilege);
        let to = cpu.tlb.lookup_write::<T>(to, privilege);
        let (Some(from), Some(to)) = (from, to) else {
            return 0;
        };
        let length = count * T::SIZE as u64;
        // A target inside the source repeats what was just written; that goes one by one.
        if to.offset() > from && to.offset() < from + length {
            return 0;
        }
        cpu.ram.copy(from, to.bytes(length));
        set_counter(cpu, op, RSI, cpu.registers[RSI].wrapping_add(length));
        set_counter(cpu, op, RDI, cpu.registers[RDI].wrapping_add(length));
        count
    }
}

impl Kind for Store {
    #[inline(always)]
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
        let value = T::register(cpu, 0);
        cpu.write_at(extra_segment(cpu), offset(cpu, op, RDI), value)?;
        advance::<T>(cpu, op, RDI);
        Ok(())
    }

    fn bulk<T: Integer>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
        let target = (extra_segment(cpu), RDI);
        let Some((to, count)) = in_page::<T>(cpu, op, target, Access::Write, count) else {
            return 0;
        };
        let Some(to) = cpu.tlb.lookup_write::<T>(to, cpu.privilege()) else {
            return 0;
        };
        let length = count * T::SIZE as u64;
        let value = T::register(cpu, 0);
        let byte = value.to_u64() as u8;
        if value == T::from_u64(u64::from(byte) * 0x0101_0101_0101_0101) {
            cpu.ram.fill(to.bytes(length), byte);
        } else {
            cpu.ram.repeat(to.bytes(length), value);
        }
        set_counter(cpu, op, RDI, cpu.registers[RDI].wrapping_add(length));
        count
    }
}

impl Kind for Load {
    #[inline(always)]
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
        let value: T = cpu.read_at(op.segment, offset(cpu, op, RSI))?;
        T::set_register(cpu, 0, value);
        advance::<T>(cpu, op, RSI);
        Ok(())
    }
}

#[inline(always)]
fn compare<T: Word>(a: T, b: T) -> Flags {
    let difference = T::from_u64(a.to_u64().wrapping_sub(b.to_u64()));
    Flags::sub(a, b, difference)
}

impl Kind for Compare {
    const COMPARES: bool = true;

    #[inline(always)]
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
        // Intel's processors read the second operand first, which tells where both fault.
        let b: T = cpu.read_at(extra_segment(cpu), offset(cpu, op, RDI))?;
        let a: T = cpu.read_at(op.segment, offset(cpu, op, RSI))?;
        cpu.flags = compare(a, b);
        advance::<T>(cpu, op, RSI);
        advance::<T>(cpu, op, RDI);
        Ok(())
    }
}

impl Kind for Scan {
    const COMPARES: bool = true;

    #[inline(always)]
    fn once<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
        let b: T = cpu.read_at(extra_segment(cpu), offset(cpu, op, RDI))?;
        cpu.flags = compare(T::register(cpu, 0), b);
        advance::<T>(cpu, op, RDI);
        Ok(())
    }
}

fn single<T: Integer, K: Kind>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    K::once::<T>(cpu, op)
}

/// With a repeat prefix. Where ZF does not matter REPNE repeats like REP.
fn repeated<T: Integer, K: Kind>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let mut count = offset(cpu, op, RCX);
    if count == 0 {
        return Ok(());
    }
    let before = flags_before(cpu);
    let stepping = cpu.stops_between_iterations();
    if !stepping && cpu.system_flags & rflags::DF == 0 {
        let done = K::bulk::<T>(cpu, op, count);
        if done != 0 {
            count -= done;
            set_counter(cpu, op, RCX, count);
            return again_unless_done(cpu, count);
        }
    }
    let longest = if stepping { 1 } else { LONGEST_RUN };
    let busy_until = cpu.busy_until;
    for _ in 0..longest {
        // A fault leaves the registers as this iteration found them, and the flags as the
        // instruction did (SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ).
        if let Err(raised) = K::once::<T>(cpu, op) {
            if K::COMPARES {
                cpu.flags = before;
            }
            return Err(raised);
        }
        count -= 1;
        set_counter(cpu, op, RCX, count);
        if count == 0 || K::COMPARES && cpu.flags.zf() == op.has(REPNE) {
            return Ok(());
        }
        // SDM 30.4.3.2: an iteration is an operation; its APIC write is emulated after it. And one that
        // accessed a device takes its time before the next.
        if cpu.vmx.guest.trap.is_some() || cpu.busy_until != busy_until {
            break;
        }
    }
    cpu.paused_flags = before;
    again_unless_done(cpu, count)
}

/// The status flags from before the repeated instruction that begins or, if nothing came between
/// its iterations, goes on.
fn flags_before(cpu: &Cpu) -> Flags {
    let last = (cpu.instructions.wrapping_sub(1), cpu.instruction_start);
    if cpu.paused_iteration == Some(last) {
        cpu.paused_flags
    } else {
        cpu.flags
    }
}

fn again_unless_done(cpu: &mut Cpu, count: u64) -> Result<(), Raised> {
    if count == 0 {
        Ok(())
    } else {
        Err(cpu.raise(Pending::Again))
    }
}

macro_rules! string {
    ($instruction:expr, $bits:expr, $kind:ty) => {
        if $instruction.has_rep_prefix() || $instruction.has_repne_prefix() {
            width!($bits, repeated[$kind])
        } else {
            width!($bits, single[$kind])
        }
    };
}

pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    // MOVSD and CMPSD are SSE2 instructions too; those have no string operand.
    let of_strings = (0..instruction.op_count()).any(|i| {
        matches!(
            instruction.op_kind(i),
            OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    });
    if !of_strings {
        return None;
    }
    let bits = instruction.memory_size().size() as u32 * 8;
    match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            string!(instruction, bits, Move)
        }
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            string!(instruction, bits, Store)
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            string!(instruction, bits, Load)
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            string!(instruction, bits, Compare)
        }
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
            string!(instruction, bits, Scan)
        }
        _ => None,
    }
}
