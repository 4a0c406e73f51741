//! Bit instructions (SDM volume 1, 7.3.7 Bit and byte).

use iced_x86::{Instruction, Mnemonic};

use super::place::{Imm, Integer, Mem, Reg, Rm, Source, Target, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, LOCK, Op},
    raise::Raised,
};
use crate::memory::Word;

/// What becomes of the bit.
trait Change {
    fn apply(value: u64, bit: u64) -> u64;
}

struct Set;
struct Reset;
struct Complement;

impl Change for Set {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}

impl Change for Reset {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}

impl Change for Complement {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

#[inline(always)]
fn number<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<u32, Raised> {
    Ok(S::get::<T>(cpu, op)?.to_u64() as u32 & (T::BITS - 1))
}

/// The offset of the word in memory that holds the bit which a register counts from the operand
/// (SDM volume 1, 3.1.1.9 Bit(BitBase, BitOffset)).
#[inline(always)]
fn word_of_bit<T: Integer>(cpu: &Cpu, op: &Op) -> u64 {
    let distance = T::register(cpu, op.reg).to_i64() >> T::BITS.trailing_zeros();
    let bytes = (distance as u64).wrapping_mul(T::SIZE as u64);
    op.truncate(cpu.effective_offset(op).wrapping_add(bytes))
}

// Only CF is defined (and ZF kept); the others stay here.
fn test<T: Integer, D: Source, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let number = number::<T, S>(cpu, op)?;
    let value = D::get::<T>(cpu, op)?.to_u64();
    cpu.flags = cpu.flags.with_cf(value >> number & 1 != 0);
    Ok(())
}

fn test_far<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let number = number::<T, Reg>(cpu, op)?;
    let value = cpu.read_at::<T>(op.segment, word_of_bit::<T>(cpu, op))?;
    cpu.flags = cpu.flags.with_cf(value.to_u64() >> number & 1 != 0);
    Ok(())
}

fn change<T: Integer, K: Change, D: Target, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let number = number::<T, S>(cpu, op)?;
    let old = D::update(cpu, op, |value: T| {
        T::from_u64(K::apply(value.to_u64(), 1 << number))
    })?;
    cpu.flags = cpu.flags.with_cf(old.to_u64() >> number & 1 != 0);
    Ok(())
}

fn change_far<T: Integer, K: Change>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let number = number::<T, Reg>(cpu, op)?;
    let offset = word_of_bit::<T>(cpu, op);
    let old = cpu.read_modify_write_at(op.segment, offset, op.has(LOCK), |value: T| {
        T::from_u64(K::apply(value.to_u64(), 1 << number))
    })?;
    cpu.flags = cpu.flags.with_cf(old.to_u64() >> number & 1 != 0);
    Ok(())
}

fn select_change<K: Change>(form: Form, bits: u32) -> Option<Execute> {
    match form {
        Form::RegReg => width!(bits, change[K, Reg, Rm]),
        Form::RegImm => width!(bits, change[K, Reg, Imm]),
        Form::MemImm => width!(bits, change[K, Mem, Imm]),
        Form::MemReg => width!(bits, change_far[K]),
        _ => None,
    }
}

/// Which end a scan begins at.
trait Scan {
    fn position<T: Word>(value: u64) -> u32;
}

struct Forward;
struct Backward;

impl Scan for Forward {
    #[inline(always)]
    fn position<T: Word>(value: u64) -> u32 {
        value.trailing_zeros()
    }
}

impl Scan for Backward {
    #[inline(always)]
    fn position<T: Word>(value: u64) -> u32 {
        63 - value.leading_zeros()
    }
}

// A zero source leaves the target as it is (SDM volume 2, BSF, footnote 1). Of the flags only ZF is
// defined; the others stay.
fn scan<T: Integer, K: Scan, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = S::get::<T>(cpu, op)?.to_u64();
    cpu.flags = cpu.flags.with_zf(value == 0);
    if value != 0 {
        T::set_register(cpu, op.reg, T::from_u64(u64::from(K::position::<T>(value))));
    }
    Ok(())
}

fn population_count<T: Integer, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = S::get::<T>(cpu, op)?.to_u64();
    T::set_register(cpu, op.reg, T::from_u64(u64::from(value.count_ones())));
    cpu.flags = Flags::from_rflags(if value == 0 {
        arch::control_register::rflags::ZF
    } else {
        0
    });
    Ok(())
}

fn swap_bytes<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = T::register(cpu, op.reg).to_u64();
    // BSWAP of 16 bits is undefined; processors clear them.
    let swapped = if T::SIZE == 2 {
        0
    } else {
        value.swap_bytes() >> (64 - T::BITS)
    };
    T::set_register(cpu, op.reg, T::from_u64(swapped));
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    let bits = operand_bits(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Bt => match form {
            Form::RegReg => width!(bits, test[Reg, Rm]),
            Form::RegImm => width!(bits, test[Reg, Imm]),
            Form::MemImm => width!(bits, test[Mem, Imm]),
            Form::MemReg => width!(bits, test_far[]),
            _ => None,
        },
        Mnemonic::Bts => select_change::<Set>(form, bits),
        Mnemonic::Btr => select_change::<Reset>(form, bits),
        Mnemonic::Btc => select_change::<Complement>(form, bits),
        // Without BMI1 and LZCNT the F3 prefix of TZCNT and LZCNT means nothing.
        Mnemonic::Bsf => match form {
            Form::RegReg => width!(bits, scan[Forward, Rm]),
            Form::RegMem => width!(bits, scan[Forward, Mem]),
            _ => None,
        },
        Mnemonic::Bsr => match form {
            Form::RegReg => width!(bits, scan[Backward, Rm]),
            Form::RegMem => width!(bits, scan[Backward, Mem]),
            _ => None,
        },
        Mnemonic::Popcnt => match form {
            Form::RegReg => width!(bits, population_count[Rm]),
            Form::RegMem => width!(bits, population_count[Mem]),
            _ => None,
        },
        Mnemonic::Bswap => width!(bits, swap_bytes[]),
        _ => None,
    }
}
