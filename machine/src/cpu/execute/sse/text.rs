//! String comparison and CRC32 (SSE4.2; SDM volume 2, 4.1).

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::{File, Mem, Rm, Source, Xmm};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};
use crate::memory::Word;

/// Elements of an operand: signed or not, as integers, and how many are valid.
struct Elements {
    values: [i32; 16],
    valid: usize,
}

/// Elements in a register.
fn count(code: u8) -> usize {
    if code & 1 == 0 { 16 } else { 8 }
}

fn elements(value: u128, code: u8, length: Option<usize>) -> Elements {
    let values = std::array::from_fn(|i| match (code & 3, i) {
        (0, _) => i32::from((value >> (8 * i)) as u8),
        (2, _) => i32::from((value >> (8 * i)) as i8),
        (_, 8..) => 0,
        (1, _) => i32::from((value >> (16 * i)) as u16),
        _ => i32::from((value >> (16 * i)) as i16),
    });
    let count = count(code);
    let valid = length.unwrap_or_else(|| {
        values
            .iter()
            .take(count)
            .position(|&value| value == 0)
            .unwrap_or(count)
    });
    Elements {
        values,
        valid: valid.min(count),
    }
}

/// IntRes2: a bit for each element of `b`.
fn compare(a: &Elements, b: &Elements, code: u8) -> u32 {
    let count = count(code);
    let equal = |i: usize, j: usize| a.values[j] == b.values[i];
    let found = |i: usize| match code >> 2 & 3 {
        // Equal any.
        0 => i < b.valid && (0..a.valid).any(|j| equal(i, j)),
        // Ranges: pairs of limits.
        1 => {
            i < b.valid
                && (0..a.valid / 2).any(|pair| {
                    (a.values[2 * pair]..=a.values[2 * pair + 1]).contains(&b.values[i])
                })
        }
        // Equal each.
        2 => match (i < a.valid, i < b.valid) {
            (true, true) => equal(i, i),
            (valid_a, valid_b) => valid_a == valid_b,
        },
        // Equal ordered.
        _ => (0..a.valid.min(count - i)).all(|j| i + j < b.valid && equal(i + j, j)),
    };
    let bits = (0..count).fold(0, |bits, i| bits | u32::from(found(i)) << i);
    let all = (1 << count) - 1;
    match code >> 4 & 3 {
        1 => bits ^ all,
        3 => bits ^ ((1 << b.valid) - 1),
        _ => bits,
    }
}

/// The length that a register gives: its magnitude, at most 16.
fn length<T: Operand>(cpu: &Cpu, number: u8) -> usize {
    T::register(cpu, number).to_i64().unsigned_abs().min(16) as usize
}

/// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM. `T` is the width of explicit lengths.
fn strings<S: Source, T: Operand, const EXPLICIT: bool, const MASK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let second = S::low::<u128>(cpu, op)?;
    let first = Xmm::load(cpu, op.reg);
    let code = op.immediate as u8;
    let explicit = |number| EXPLICIT.then(|| length::<T>(cpu, number));
    let (a, b) = (
        elements(first, code, explicit(0)),
        elements(second, code, explicit(2)),
    );
    let bits = compare(&a, &b, code);
    let count = count(code);
    if MASK {
        let value = if code & 0x40 == 0 {
            bits.into()
        } else {
            let width = 128 / count;
            (0..count)
                .filter(|i| bits >> i & 1 != 0)
                .fold(0, |value, i| value | ((1u128 << width) - 1) << (i * width))
        };
        Xmm::store(cpu, 0, value);
    } else {
        let index = match (bits, code & 0x40 == 0) {
            (0, _) => count as u32,
            (_, true) => bits.trailing_zeros(),
            (_, false) => 31 - bits.leading_zeros(),
        };
        u64::set_register(cpu, 1, index.into());
    }
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    cpu.flags = Flags::from_rflags(
        flag(bits != 0, rflags::CF)
            | flag(b.valid < count, rflags::ZF)
            | flag(a.valid < count, rflags::SF)
            | flag(bits & 1 != 0, rflags::OF),
    );
    Ok(())
}

fn string_form<T: Operand, const EXPLICIT: bool, const MASK: bool>(form: Form) -> Option<Execute> {
    match form {
        Form::RegRegImm => Some(strings::<Rm, T, EXPLICIT, MASK>),
        Form::RegMemImm => Some(strings::<Mem, T, EXPLICIT, MASK>),
        _ => None,
    }
}

/// The reflected polynomial 11EDC6F41H, applied to each bit of a source of type `T`.
fn accumulate<T: Word>(sum: u32, source: T) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut source = source.to_u64();
    let mut sum = sum;
    for _ in 0..T::BITS / 8 {
        sum ^= u32::from(source as u8);
        source >>= 8;
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 != 0 { POLYNOMIAL } else { 0 };
        }
    }
    sum
}

fn crc32_register<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let source = T::register(cpu, op.rm);
    let sum = accumulate(u32::register(cpu, op.reg), source);
    u64::set_register(cpu, op.reg, sum.into());
    Ok(())
}

fn crc32_memory<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let source = cpu.read::<T>(op)?;
    let sum = accumulate(u32::register(cpu, op.reg), source);
    u64::set_register(cpu, op.reg, sum.into());
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Pcmpistri => string_form::<u32, false, false>(form),
        Mnemonic::Pcmpistrm => string_form::<u32, false, true>(form),
        Mnemonic::Pcmpestri => string_form::<u32, true, false>(form),
        Mnemonic::Pcmpestrm => string_form::<u32, true, true>(form),
        Mnemonic::Pcmpestri64 => string_form::<u64, true, false>(form),
        Mnemonic::Pcmpestrm64 => string_form::<u64, true, true>(form),
        Mnemonic::Crc32 => match (form, operand_bits(instruction, 1)) {
            (Form::RegReg, 8) => Some(crc32_register::<u8>),
            (Form::RegReg, 16) => Some(crc32_register::<u16>),
            (Form::RegReg, 32) => Some(crc32_register::<u32>),
            (Form::RegReg, 64) => Some(crc32_register::<u64>),
            (Form::RegMem, 8) => Some(crc32_memory::<u8>),
            (Form::RegMem, 16) => Some(crc32_memory::<u16>),
            (Form::RegMem, 32) => Some(crc32_memory::<u32>),
            (Form::RegMem, 64) => Some(crc32_memory::<u64>),
            _ => None,
        },
        _ => None,
    }
}
