//! Packed integers and logic: two source operands, the first of which is replaced.

use std::array::from_fn;

use iced_x86::{Instruction, Mnemonic};

use super::{File, Kind, Mem, Mmx, Rm, Source, Xmm, operand};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
};

/// An operation on whole registers of `BYTES` bytes; MMX registers come zero-extended, and what is
/// above their 8 bytes in the result is dropped.
trait Packed {
    /// The memory operand of the MMX form has 4 bytes.
    const HALF_MEMORY: bool = false;
    /// Does it.
    fn apply<const BYTES: usize>(a: u128, b: u128) -> u128;
}

fn execute<S: Source, O: Packed>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::get::<Xmm>(cpu, op)?;
    let a = Xmm::load(cpu, op.reg);
    Xmm::store(cpu, op.reg, O::apply::<16>(a, b));
    Ok(())
}

fn execute_mmx<S: Source, O: Packed>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Mmx::enter(cpu)?;
    let b = S::get::<Mmx>(cpu, op)?;
    Mmx::commit(cpu);
    let a = Mmx::load(cpu, op.reg);
    Mmx::store(cpu, op.reg, O::apply::<8>(a, b));
    Ok(())
}

fn execute_mmx_half<O: Packed>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Mmx::enter(cpu)?;
    let b = cpu.read::<u32>(op)?;
    Mmx::commit(cpu);
    let a = Mmx::load(cpu, op.reg);
    Mmx::store(cpu, op.reg, O::apply::<8>(a, b.into()));
    Ok(())
}

fn by_form<O: Packed>(instruction: &Instruction, form: Form) -> Option<Execute> {
    match (operand(instruction, 0), form) {
        (Kind::Xmm, Form::RegReg) => Some(execute::<Rm, O>),
        (Kind::Xmm, Form::RegMem) => Some(execute::<Mem, O>),
        (Kind::Mmx, Form::RegReg) => Some(execute_mmx::<Rm, O>),
        (Kind::Mmx, Form::RegMem) if O::HALF_MEMORY => Some(execute_mmx_half::<O>),
        (Kind::Mmx, Form::RegMem) => Some(execute_mmx::<Mem, O>),
        _ => None,
    }
}

pub(super) fn words(value: u128) -> [u16; 8] {
    from_fn(|i| (value >> (16 * i)) as u16)
}

pub(super) fn from_words(lanes: [u16; 8]) -> u128 {
    (0..8).fold(0, |value, i| value | u128::from(lanes[i]) << (16 * i))
}

pub(super) fn doublewords(value: u128) -> [u32; 4] {
    from_fn(|i| (value >> (32 * i)) as u32)
}

pub(super) fn from_doublewords(lanes: [u32; 4]) -> u128 {
    (0..4).fold(0, |value, i| value | u128::from(lanes[i]) << (32 * i))
}

#[inline(always)]
fn each_byte(a: u128, b: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(from_fn(|i| f(a[i], b[i])))
}

#[inline(always)]
fn each_word(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|i| f(a[i], b[i])))
}

#[inline(always)]
fn each_doubleword(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (doublewords(a), doublewords(b));
    from_doublewords(from_fn(|i| f(a[i], b[i])))
}

#[inline(always)]
fn each_quadword(a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let low = f(a as u64, b as u64);
    let high = f((a >> 64) as u64, (b >> 64) as u64);
    u128::from(high) << 64 | u128::from(low)
}

fn mask<T: From<bool>>(set: bool, ones: T) -> T {
    if set { ones } else { T::from(false) }
}

/// PACK: words of `a`, then of `b`, each narrowed.
#[inline(always)]
fn pack_words<const BYTES: usize>(a: u128, b: u128, narrow: impl Fn(i16) -> u8) -> u128 {
    let (a, b) = (words(a), words(b));
    let lanes = BYTES / 2;
    u128::from_le_bytes(from_fn(|i| {
        if i < lanes {
            narrow(a[i] as i16)
        } else if i < BYTES {
            narrow(b[i - lanes] as i16)
        } else {
            0
        }
    }))
}

/// PACK: doublewords of `a`, then of `b`, each narrowed.
#[inline(always)]
pub(super) fn pack_doublewords<const BYTES: usize>(
    a: u128,
    b: u128,
    narrow: impl Fn(i32) -> u16,
) -> u128 {
    let (a, b) = (doublewords(a), doublewords(b));
    let lanes = BYTES / 4;
    from_words(from_fn(|i| {
        if i < lanes {
            narrow(a[i] as i32)
        } else if i < 2 * lanes {
            narrow(b[i - lanes] as i32)
        } else {
            0
        }
    }))
}

/// PUNPCK: groups of `GROUP` bytes of `a` and `b` in turn, from byte `from` on.
#[inline(always)]
fn interleave<const GROUP: usize>(a: u128, b: u128, from: usize) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(from_fn(|i| {
        let place = (from + i / (2 * GROUP) * GROUP + i % GROUP) & 15;
        if (i / GROUP).is_multiple_of(2) {
            a[place]
        } else {
            b[place]
        }
    }))
}

/// A product of signed words, for PMADDWD and PMULH.
fn product(a: u16, b: u16) -> i32 {
    i32::from(a as i16) * i32::from(b as i16)
}

/// PSADBW in each quadword.
fn sum_of_differences(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    (0..8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum()
}

fn multiply_add(a: u128, b: u128) -> u128 {
    let (a, b) = (words(a), words(b));
    from_doublewords(from_fn(|i| {
        let low = product(a[2 * i], b[2 * i]);
        let high = product(a[2 * i + 1], b[2 * i + 1]);
        low.wrapping_add(high) as u32
    }))
}

/// PHADD and PHSUB: pairs of words of `a`, then of `b`.
#[inline(always)]
fn each_pair_of_words<const BYTES: usize>(a: u128, b: u128, f: impl Fn(i16, i16) -> i16) -> u128 {
    let (a, b) = (words(a), words(b));
    let half = BYTES / 4;
    from_words(from_fn(|i| {
        let from = if i < half { &a } else { &b };
        let pair = 2 * (i & (half - 1));
        f(from[pair] as i16, from[pair + 1] as i16) as u16
    }))
}

/// The same for doublewords.
#[inline(always)]
fn each_pair_of_doublewords<const BYTES: usize>(
    a: u128,
    b: u128,
    f: impl Fn(u32, u32) -> u32,
) -> u128 {
    let (a, b) = (doublewords(a), doublewords(b));
    let half = BYTES / 8;
    from_doublewords(from_fn(|i| {
        let from = if i < half { &a } else { &b };
        let pair = 2 * (i & (half - 1));
        f(from[pair], from[pair + 1])
    }))
}

/// PMADDUBSW: unsigned bytes of `a` by signed bytes of `b`.
fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let product = |i: usize| i16::from(a[i]) * i16::from(b[i] as i8);
    from_words(from_fn(|i| {
        product(2 * i).saturating_add(product(2 * i + 1)) as u16
    }))
}

/// PSHUFB.
fn shuffle_bytes<const BYTES: usize>(a: u128, b: u128) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(from_fn(|i| {
        if b[i] & 0x80 != 0 {
            0
        } else {
            a[b[i] as usize & (BYTES - 1)]
        }
    }))
}

/// PHMINPOSUW: the least word and its place.
fn least_word(b: u128) -> u128 {
    let (value, place) = (0..8).fold((u16::MAX, 0), |(least, place), i| {
        let word = (b >> (16 * i)) as u16;
        if word < least {
            (word, i)
        } else {
            (least, place)
        }
    });
    u128::from(value) | place << 16
}

/// PMULHRSW.
fn rounded_product(a: u16, b: u16) -> u16 {
    (((product(a, b) >> 14) + 1) >> 1) as u16
}

macro_rules! operations {
    ($($($mnemonic:ident)|+: |$a:ident, $b:ident, $bytes:ident| $body:expr;)*) => {
        $(operations!(@one $($mnemonic)|+, $a, $b, $bytes, $body);)*

        pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
            match instruction.mnemonic() {
                $($(Mnemonic::$mnemonic)|+ => {
                    operations!(@first $($mnemonic)|+, instruction, form)
                })*
                Mnemonic::Punpcklbw => by_form::<InterleaveLow<1>>(instruction, form),
                Mnemonic::Punpcklwd => by_form::<InterleaveLow<2>>(instruction, form),
                Mnemonic::Punpckldq | Mnemonic::Unpcklps => {
                    by_form::<InterleaveLow<4>>(instruction, form)
                }
                Mnemonic::Punpcklqdq | Mnemonic::Unpcklpd => {
                    by_form::<InterleaveLow<8>>(instruction, form)
                }
                _ => None,
            }
        }
    };
    (@one $name:ident $(| $other:ident)*, $a:ident, $b:ident, $bytes:ident, $body:expr) => {
        struct $name;
        impl Packed for $name {
            #[inline(always)]
            fn apply<const BYTES: usize>($a: u128, $b: u128) -> u128 {
                let $bytes = BYTES;
                let _ = $bytes;
                $body
            }
        }
    };
    (@first $name:ident $(| $other:ident)*, $instruction:ident, $form:ident) => {
        by_form::<$name>($instruction, $form)
    };
}

/// PUNPCKL and UNPCKL.
struct InterleaveLow<const GROUP: usize>;

impl<const GROUP: usize> Packed for InterleaveLow<GROUP> {
    const HALF_MEMORY: bool = true;

    #[inline(always)]
    fn apply<const BYTES: usize>(a: u128, b: u128) -> u128 {
        interleave::<GROUP>(a, b, 0)
    }
}

operations! {
    Pand | Andps | Andpd: |a, b, _n| a & b;
    Pandn | Andnps | Andnpd: |a, b, _n| !a & b;
    Por | Orps | Orpd: |a, b, _n| a | b;
    Pxor | Xorps | Xorpd: |a, b, _n| a ^ b;
    Paddb: |a, b, _n| each_byte(a, b, u8::wrapping_add);
    Paddw: |a, b, _n| each_word(a, b, u16::wrapping_add);
    Paddd: |a, b, _n| each_doubleword(a, b, u32::wrapping_add);
    Paddq: |a, b, _n| each_quadword(a, b, u64::wrapping_add);
    Psubb: |a, b, _n| each_byte(a, b, u8::wrapping_sub);
    Psubw: |a, b, _n| each_word(a, b, u16::wrapping_sub);
    Psubd: |a, b, _n| each_doubleword(a, b, u32::wrapping_sub);
    Psubq: |a, b, _n| each_quadword(a, b, u64::wrapping_sub);
    Paddsb: |a, b, _n| each_byte(a, b, |x, y| (x as i8).saturating_add(y as i8) as u8);
    Paddsw: |a, b, _n| each_word(a, b, |x, y| (x as i16).saturating_add(y as i16) as u16);
    Psubsb: |a, b, _n| each_byte(a, b, |x, y| (x as i8).saturating_sub(y as i8) as u8);
    Psubsw: |a, b, _n| each_word(a, b, |x, y| (x as i16).saturating_sub(y as i16) as u16);
    Paddusb: |a, b, _n| each_byte(a, b, u8::saturating_add);
    Paddusw: |a, b, _n| each_word(a, b, u16::saturating_add);
    Psubusb: |a, b, _n| each_byte(a, b, u8::saturating_sub);
    Psubusw: |a, b, _n| each_word(a, b, u16::saturating_sub);
    Pavgb: |a, b, _n| each_byte(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8);
    Pavgw: |a, b, _n| each_word(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16);
    Pminub: |a, b, _n| each_byte(a, b, Ord::min);
    Pmaxub: |a, b, _n| each_byte(a, b, Ord::max);
    Pminsw: |a, b, _n| each_word(a, b, |x, y| (x as i16).min(y as i16) as u16);
    Pmaxsw: |a, b, _n| each_word(a, b, |x, y| (x as i16).max(y as i16) as u16);
    Pmullw: |a, b, _n| each_word(a, b, u16::wrapping_mul);
    Pmulhw: |a, b, _n| each_word(a, b, |x, y| (product(x, y) >> 16) as u16);
    Pmulhuw: |a, b, _n| each_word(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16);
    Pmuludq: |a, b, _n| each_quadword(a, b, |x, y| (x & 0xffff_ffff) * (y & 0xffff_ffff));
    Pmaddwd: |a, b, _n| multiply_add(a, b);
    Psadbw: |a, b, _n| each_quadword(a, b, sum_of_differences);
    Pcmpeqb: |a, b, _n| each_byte(a, b, |x, y| mask(x == y, u8::MAX));
    Pcmpeqw: |a, b, _n| each_word(a, b, |x, y| mask(x == y, u16::MAX));
    Pcmpeqd: |a, b, _n| each_doubleword(a, b, |x, y| mask(x == y, u32::MAX));
    Pcmpgtb: |a, b, _n| each_byte(a, b, |x, y| mask(x as i8 > y as i8, u8::MAX));
    Pcmpgtw: |a, b, _n| each_word(a, b, |x, y| mask(x as i16 > y as i16, u16::MAX));
    Pcmpgtd: |a, b, _n| each_doubleword(a, b, |x, y| mask(x as i32 > y as i32, u32::MAX));
    Packsswb: |a, b, _n| pack_words::<BYTES>(a, b, |x| x.clamp(-128, 127) as u8);
    Packuswb: |a, b, _n| pack_words::<BYTES>(a, b, |x| x.clamp(0, 255) as u8);
    Packssdw: |a, b, _n| pack_doublewords::<BYTES>(a, b, |x| x.clamp(-32768, 32767) as u16);
    Punpckhbw: |a, b, n| interleave::<1>(a, b, n / 2);
    Punpckhwd: |a, b, n| interleave::<2>(a, b, n / 2);
    Punpckhdq | Unpckhps: |a, b, n| interleave::<4>(a, b, n / 2);
    Punpckhqdq | Unpckhpd: |a, b, n| interleave::<8>(a, b, n / 2);
    Pabsb: |_a, b, _n| each_byte(b, b, |x, _| (x as i8).unsigned_abs());
    Pabsw: |_a, b, _n| each_word(b, b, |x, _| (x as i16).unsigned_abs());
    Pabsd: |_a, b, _n| each_doubleword(b, b, |x, _| (x as i32).unsigned_abs());
    Phaddw: |a, b, _n| each_pair_of_words::<BYTES>(a, b, i16::wrapping_add);
    Phaddsw: |a, b, _n| each_pair_of_words::<BYTES>(a, b, i16::saturating_add);
    Phsubw: |a, b, _n| each_pair_of_words::<BYTES>(a, b, i16::wrapping_sub);
    Phsubsw: |a, b, _n| each_pair_of_words::<BYTES>(a, b, i16::saturating_sub);
    Phaddd: |a, b, _n| each_pair_of_doublewords::<BYTES>(a, b, u32::wrapping_add);
    Phsubd: |a, b, _n| each_pair_of_doublewords::<BYTES>(a, b, u32::wrapping_sub);
    Pmaddubsw: |a, b, _n| multiply_add_bytes(a, b);
    Pmulhrsw: |a, b, _n| each_word(a, b, rounded_product);
    Pshufb: |a, b, _n| shuffle_bytes::<BYTES>(a, b);
    Psignb: |a, b, _n| each_byte(a, b, |x, y| x.wrapping_mul((y as i8).signum() as u8));
    Psignw: |a, b, _n| each_word(a, b, |x, y| x.wrapping_mul((y as i16).signum() as u16));
    Psignd: |a, b, _n| each_doubleword(a, b, |x, y| x.wrapping_mul((y as i32).signum() as u32));
    Packusdw: |a, b, _n| pack_doublewords::<BYTES>(a, b, |x| x.clamp(0, 65535) as u16);
    Pcmpeqq: |a, b, _n| each_quadword(a, b, |x, y| mask(x == y, u64::MAX));
    Pcmpgtq: |a, b, _n| each_quadword(a, b, |x, y| mask(x as i64 > y as i64, u64::MAX));
    Pminsb: |a, b, _n| each_byte(a, b, |x, y| (x as i8).min(y as i8) as u8);
    Pmaxsb: |a, b, _n| each_byte(a, b, |x, y| (x as i8).max(y as i8) as u8);
    Pminuw: |a, b, _n| each_word(a, b, Ord::min);
    Pmaxuw: |a, b, _n| each_word(a, b, Ord::max);
    Pminud: |a, b, _n| each_doubleword(a, b, Ord::min);
    Pmaxud: |a, b, _n| each_doubleword(a, b, Ord::max);
    Pminsd: |a, b, _n| each_doubleword(a, b, |x, y| (x as i32).min(y as i32) as u32);
    Pmaxsd: |a, b, _n| each_doubleword(a, b, |x, y| (x as i32).max(y as i32) as u32);
    Pmuldq: |a, b, _n| each_quadword(a, b, |x, y| {
        (i64::from(x as i32) * i64::from(y as i32)) as u64
    });
    Pmulld: |a, b, _n| each_doubleword(a, b, u32::wrapping_mul);
    Phminposuw: |_a, b, _n| least_word(b);
}
