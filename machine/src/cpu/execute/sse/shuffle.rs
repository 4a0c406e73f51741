//! Shuffles by an immediate, and words inserted and extracted.

use iced_x86::{Instruction, Mnemonic};

use super::{
    File, Kind, Mem, Mmx, Rm, Source, Xmm, operand,
    packed::{doublewords, from_doublewords, from_words, words},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};

/// A shuffle of `a` and `b` by an immediate.
trait Shuffle {
    /// Does it.
    fn apply(a: u128, b: u128, order: u8) -> u128;
}

fn shuffle<F: File, S: Source, O: Shuffle>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let b = S::get::<F>(cpu, op)?;
    F::commit(cpu);
    let a = F::load(cpu, op.reg);
    F::store(cpu, op.reg, O::apply(a, b, op.immediate as u8));
    Ok(())
}

fn by_form<O: Shuffle>(instruction: &Instruction, form: Form) -> Option<Execute> {
    match (operand(instruction, 0), form) {
        (Kind::Xmm, Form::RegRegImm) => Some(shuffle::<Xmm, Rm, O>),
        (Kind::Xmm, Form::RegMemImm) => Some(shuffle::<Xmm, Mem, O>),
        (Kind::Mmx, Form::RegRegImm) => Some(shuffle::<Mmx, Rm, O>),
        (Kind::Mmx, Form::RegMemImm) => Some(shuffle::<Mmx, Mem, O>),
        _ => None,
    }
}

/// Field `i` of two bits.
fn field(order: u8, i: usize) -> usize {
    (order >> (2 * (i & 3)) & 3) as usize
}

/// PSHUFD.
struct Doublewords;
impl Shuffle for Doublewords {
    #[inline(always)]
    fn apply(_a: u128, b: u128, order: u8) -> u128 {
        let b = doublewords(b);
        from_doublewords(std::array::from_fn(|i| b[field(order, i)]))
    }
}

/// PSHUFLW and PSHUFW.
struct LowWords;
impl Shuffle for LowWords {
    #[inline(always)]
    fn apply(_a: u128, b: u128, order: u8) -> u128 {
        let b = words(b);
        from_words(std::array::from_fn(|i| {
            if i < 4 { b[field(order, i)] } else { b[i] }
        }))
    }
}

/// PSHUFHW.
struct HighWords;
impl Shuffle for HighWords {
    #[inline(always)]
    fn apply(_a: u128, b: u128, order: u8) -> u128 {
        let b = words(b);
        from_words(std::array::from_fn(|i| {
            if i < 4 { b[i] } else { b[4 + field(order, i)] }
        }))
    }
}

/// SHUFPS.
struct Singles;
impl Shuffle for Singles {
    #[inline(always)]
    fn apply(a: u128, b: u128, order: u8) -> u128 {
        let (a, b) = (doublewords(a), doublewords(b));
        from_doublewords(std::array::from_fn(|i| {
            let from = if i < 2 { &a } else { &b };
            from[field(order, i)]
        }))
    }
}

/// SHUFPD.
struct Doubles;
impl Shuffle for Doubles {
    #[inline(always)]
    fn apply(a: u128, b: u128, order: u8) -> u128 {
        let half =
            |value: u128, high: u8| value >> (64 * u32::from(high & 1)) & u128::from(u64::MAX);
        half(b, order >> 1) << 64 | half(a, order)
    }
}

/// PALIGNR: bytes of both, `b` below, from a place on.
struct Align<const BYTES: u32>;
impl<const BYTES: u32> Shuffle for Align<BYTES> {
    #[inline(always)]
    fn apply(a: u128, b: u128, order: u8) -> u128 {
        let bits = BYTES * 8;
        let count = u32::from(order) * 8;
        let low = b.checked_shr(count).unwrap_or(0);
        let high = if count <= bits {
            a.checked_shl(bits - count).unwrap_or(0)
        } else {
            a.checked_shr(count - bits).unwrap_or(0)
        };
        low | high
    }
}

/// Lanes of `BITS` bits of `b` where the immediate has a one: BLENDPS, BLENDPD, PBLENDW.
struct Blend<const BITS: u32>;
impl<const BITS: u32> Shuffle for Blend<BITS> {
    #[inline(always)]
    fn apply(a: u128, b: u128, order: u8) -> u128 {
        let mask = (0..128 / BITS).fold(0, |mask, i| {
            let lane = ((1u128 << BITS) - 1) << (i * BITS);
            if order >> i & 1 != 0 {
                mask | lane
            } else {
                mask
            }
        });
        a & !mask | b & mask
    }
}

/// MPSADBW: sums of differences between four bytes of `b` and those from each byte of `a` on.
struct SumsOfDifferences;
impl Shuffle for SumsOfDifferences {
    #[inline(always)]
    fn apply(a: u128, b: u128, order: u8) -> u128 {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        let first = usize::from(order >> 2 & 1) * 4;
        let second = usize::from(order & 3) * 4;
        from_words(std::array::from_fn(|i| {
            (0..4)
                .map(|k| u16::from(a[first + i + k].abs_diff(b[second + k])))
                .sum()
        }))
    }
}

/// BLENDVPS, BLENDVPD, PBLENDVB: lanes of `BITS` bits whose mask in XMM0 has its top bit set.
fn blend_by_mask<S: Source, const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::get::<Xmm>(cpu, op)?;
    let (a, signs) = (Xmm::load(cpu, op.reg), Xmm::load(cpu, 0));
    let mask = (0..128 / BITS).fold(0, |mask, i| {
        let lane = ((1u128 << BITS) - 1) << (i * BITS);
        if signs >> (i * BITS + BITS - 1) & 1 != 0 {
            mask | lane
        } else {
            mask
        }
    });
    Xmm::store(cpu, op.reg, a & !mask | b & mask);
    Ok(())
}

fn by_mask<const BITS: u32>(form: Form) -> Option<Execute> {
    match form {
        Form::RegReg | Form::RegRegReg => Some(blend_by_mask::<Rm, BITS>),
        Form::RegMem | Form::RegMemReg => Some(blend_by_mask::<Mem, BITS>),
        _ => None,
    }
}

/// PEXTRW.
fn extract_word<F: File>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let lane = op.immediate as usize & (F::BYTES / 2 - 1);
    let value = (F::load(cpu, op.rm) >> (16 * lane)) as u16;
    u64::set_register(cpu, op.reg, value.into());
    Ok(())
}

fn insert<F: File>(cpu: &mut Cpu, op: &Op, value: u16) {
    let shift = 16 * (op.immediate as usize & (F::BYTES / 2 - 1));
    let old = F::load(cpu, op.reg);
    F::store(
        cpu,
        op.reg,
        old & !(0xffff << shift) | u128::from(value) << shift,
    );
}

/// PINSRW from a general register.
fn insert_word<F: File>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let value = u16::register(cpu, op.rm);
    insert::<F>(cpu, op, value);
    Ok(())
}

/// PINSRW from memory.
fn insert_word_memory<F: File>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let value = cpu.read::<u16>(op)?;
    F::commit(cpu);
    insert::<F>(cpu, op, value);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    use Form::{RegMemImm, RegRegImm};
    let mmx = operand(instruction, 0) == Kind::Mmx || operand(instruction, 1) == Kind::Mmx;
    match (instruction.mnemonic(), form) {
        (Mnemonic::Pshufd, _) => by_form::<Doublewords>(instruction, form),
        (Mnemonic::Pshuflw | Mnemonic::Pshufw, _) => by_form::<LowWords>(instruction, form),
        (Mnemonic::Pshufhw, _) => by_form::<HighWords>(instruction, form),
        (Mnemonic::Shufps, _) => by_form::<Singles>(instruction, form),
        (Mnemonic::Shufpd, _) => by_form::<Doubles>(instruction, form),
        (Mnemonic::Palignr, _) if mmx => by_form::<Align<8>>(instruction, form),
        (Mnemonic::Palignr, _) => by_form::<Align<16>>(instruction, form),
        (Mnemonic::Blendps, _) => by_form::<Blend<32>>(instruction, form),
        (Mnemonic::Blendpd, _) => by_form::<Blend<64>>(instruction, form),
        (Mnemonic::Pblendw, _) => by_form::<Blend<16>>(instruction, form),
        (Mnemonic::Mpsadbw, _) => by_form::<SumsOfDifferences>(instruction, form),
        (Mnemonic::Blendvps, _) => by_mask::<32>(form),
        (Mnemonic::Blendvpd, _) => by_mask::<64>(form),
        (Mnemonic::Pblendvb, _) => by_mask::<8>(form),
        (Mnemonic::Pextrw, RegRegImm) if mmx => Some(extract_word::<Mmx>),
        (Mnemonic::Pextrw, RegRegImm) => Some(extract_word::<Xmm>),
        (Mnemonic::Pinsrw, RegRegImm) if mmx => Some(insert_word::<Mmx>),
        (Mnemonic::Pinsrw, RegRegImm) => Some(insert_word::<Xmm>),
        (Mnemonic::Pinsrw, RegMemImm) if mmx => Some(insert_word_memory::<Mmx>),
        (Mnemonic::Pinsrw, RegMemImm) => Some(insert_word_memory::<Xmm>),
        _ => None,
    }
}
