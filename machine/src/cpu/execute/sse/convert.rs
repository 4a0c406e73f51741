//! Conversions between floating-point formats and integers (SDM volume 1, 11.4.1.6).

use iced_x86::{Instruction, Mnemonic};

use super::{
    File, Mem, Mmx, Rm, Source, Xmm,
    arithmetic::{lane, with_lowest},
    number::{Binary, Double, Operand as Unpacked, Single, Status},
};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    float::{self, Number, Rounding, flag},
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};
use crate::memory::Word;

/// An integer from a number, rounded by MXCSR or truncated; the integer indefinite if it does not
/// fit.
fn to_integer<B: Binary, const TRUNCATE: bool>(status: &mut Status, bits: u64, width: u32) -> u64 {
    let rounding = if TRUNCATE {
        Rounding::Zero
    } else {
        status.rounding()
    };
    let result = match status.unpack::<B>(bits) {
        Unpacked::Number(number, _) => float::to_signed(number, rounding, width),
        Unpacked::Nan(..) => None,
    };
    match result {
        Some((value, how)) => {
            if how.inexact {
                status.after |= flag::PRECISION;
            }
            value as u64 & u64::MAX >> (64 - width)
        }
        None => {
            status.before |= flag::INVALID;
            1 << (width - 1)
        }
    }
}

/// A number from a signed integer.
fn from_integer<B: Binary>(status: &mut Status, value: i64) -> u64 {
    status.finish::<B>(Some(Number::from_integer(value).exact()), false)
}

/// A number of one format from the other.
fn change_format<A: Binary, B: Binary>(status: &mut Status, bits: u64) -> u64 {
    match status.unpack::<A>(bits) {
        Unpacked::Number(number, denormal) => status.finish::<B>(Some(number.exact()), denormal),
        Unpacked::Nan(nan, signaling) => {
            if signaling {
                status.before |= flag::INVALID;
            }
            // Sign, then the highest bits of what follows the exponent's leading bits.
            let payload = nan << (64 - A::FRACTION) >> (64 - B::FRACTION);
            let sign = nan >> (A::BITS - 1) << (B::BITS - 1);
            let exponent = (1u64 << (B::BITS - 1 - B::FRACTION)) - 1;
            sign | exponent << B::FRACTION | payload
        }
    }
}

/// CVTSI2SS, CVTSI2SD.
fn general_to_scalar<B: Binary, T: Operand, S: GeneralSource>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = S::get::<T>(cpu, op)?.to_i64();
    let mut status = Status::new(cpu);
    let result = from_integer::<B>(&mut status, value);
    cpu.settle(&status)?;
    let old = Xmm::load(cpu, op.reg);
    Xmm::store(cpu, op.reg, with_lowest::<B>(old, result));
    Ok(())
}

/// A general register or memory.
trait GeneralSource {
    fn get<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised>;
}

impl GeneralSource for Rm {
    fn get<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        Ok(T::register(cpu, op.rm))
    }
}

impl GeneralSource for Mem {
    fn get<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        cpu.read(op)
    }
}

/// CVTSS2SI, CVTTSS2SI, CVTSD2SI, CVTTSD2SI.
fn scalar_to_general<B: Binary, T: Operand, S: Source, const TRUNCATE: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let bits = S::low::<B::Word>(cpu, op)?.to_u64();
    let mut status = Status::new(cpu);
    let result = to_integer::<B, TRUNCATE>(&mut status, bits, T::BITS);
    cpu.settle(&status)?;
    T::set_register(cpu, op.reg, T::from_u64(result));
    Ok(())
}

/// CVTSS2SD, CVTSD2SS.
fn scalar_to_scalar<A: Binary, B: Binary, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let bits = S::low::<A::Word>(cpu, op)?.to_u64();
    let mut status = Status::new(cpu);
    let result = change_format::<A, B>(&mut status, bits);
    cpu.settle(&status)?;
    let old = Xmm::load(cpu, op.reg);
    Xmm::store(cpu, op.reg, with_lowest::<B>(old, result));
    Ok(())
}

/// A conversion of one lane; `FROM` and `TO` are the widths in bits.
trait Lane {
    const FROM: u32;
    const TO: u32;
    fn apply(status: &mut Status, bits: u64) -> u64;
}

/// CVTPS2DQ, CVTTPS2DQ, CVTPD2DQ, CVTTPD2DQ, and to MMX.
struct ToInteger<B: Binary, const TRUNCATE: bool>(std::marker::PhantomData<B>);
/// CVTDQ2PS, CVTDQ2PD, and from MMX.
struct FromInteger<B: Binary>(std::marker::PhantomData<B>);
/// CVTPS2PD, CVTPD2PS.
struct Change<A: Binary, B: Binary>(std::marker::PhantomData<(A, B)>);

impl<B: Binary, const TRUNCATE: bool> Lane for ToInteger<B, TRUNCATE> {
    const FROM: u32 = B::BITS;
    const TO: u32 = 32;
    fn apply(status: &mut Status, bits: u64) -> u64 {
        to_integer::<B, TRUNCATE>(status, bits, 32)
    }
}

impl<B: Binary> Lane for FromInteger<B> {
    const FROM: u32 = 32;
    const TO: u32 = B::BITS;
    fn apply(status: &mut Status, bits: u64) -> u64 {
        from_integer::<B>(status, bits as i32 as i64)
    }
}

impl<A: Binary, B: Binary> Lane for Change<A, B> {
    const FROM: u32 = A::BITS;
    const TO: u32 = B::BITS;
    fn apply(status: &mut Status, bits: u64) -> u64 {
        change_format::<A, B>(status, bits)
    }
}

/// Converts `lanes` lanes of `source`.
#[inline(always)]
fn lanes<L: Lane>(status: &mut Status, source: u128, lanes: u32) -> u128 {
    (0..lanes).fold(0, |result, i| {
        let bits = if L::FROM == 32 {
            lane::<Single>(source, i)
        } else {
            lane::<Double>(source, i)
        };
        result | u128::from(L::apply(status, bits)) << (i * L::TO)
    })
}

/// XMM to XMM: as many lanes as the wider format has; a narrow source in memory has 8 bytes.
fn packed<L: Lane, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let source = if L::FROM < L::TO {
        S::low::<u64>(cpu, op)?.into()
    } else {
        S::get::<Xmm>(cpu, op)?
    };
    let mut status = Status::new(cpu);
    let result = lanes::<L>(&mut status, source, 128 / L::FROM.max(L::TO));
    cpu.settle(&status)?;
    Xmm::store(cpu, op.reg, result);
    Ok(())
}

/// CVTPS2PI, CVTTPS2PI, CVTPD2PI, CVTTPD2PI.
fn to_mmx<L: Lane, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    Mmx::enter(cpu)?;
    let source = if L::FROM == 32 {
        S::low::<u64>(cpu, op)?.into()
    } else {
        S::get::<Xmm>(cpu, op)?
    };
    // Also if an exception follows, as processors do.
    Mmx::commit(cpu);
    let mut status = Status::new(cpu);
    let result = lanes::<L>(&mut status, source, 2);
    cpu.settle(&status)?;
    Mmx::store(cpu, op.reg, result);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD from a register.
fn from_mmx<L: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    Mmx::enter(cpu)?;
    Mmx::commit(cpu);
    let source = Mmx::load(cpu, op.rm);
    integers_to_xmm::<L>(cpu, op, source)
}

/// CVTPI2PS and CVTPI2PD from memory.
fn from_mmx_memory<L: Lane, const TOUCHES_MMX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    if TOUCHES_MMX {
        Mmx::enter(cpu)?;
    }
    let source = cpu.read::<u64>(op)?.into();
    if TOUCHES_MMX {
        Mmx::commit(cpu);
    }
    integers_to_xmm::<L>(cpu, op, source)
}

fn integers_to_xmm<L: Lane>(cpu: &mut Cpu, op: &Op, source: u128) -> Result<(), Raised> {
    let mut status = Status::new(cpu);
    let result = lanes::<L>(&mut status, source, 2);
    cpu.settle(&status)?;
    let kept = if L::TO == 32 {
        Xmm::load(cpu, op.reg) >> 64 << 64
    } else {
        0
    };
    Xmm::store(cpu, op.reg, kept | result);
    Ok(())
}

fn packed_form<L: Lane>(form: Form) -> Option<Execute> {
    match form {
        Form::RegReg => Some(packed::<L, Rm>),
        Form::RegMem => Some(packed::<L, Mem>),
        _ => None,
    }
}

fn mmx_form<L: Lane>(form: Form) -> Option<Execute> {
    match form {
        Form::RegReg => Some(to_mmx::<L, Rm>),
        Form::RegMem => Some(to_mmx::<L, Mem>),
        _ => None,
    }
}

fn general_form<B: Binary, const TRUNCATE: bool>(
    instruction: &Instruction,
    form: Form,
) -> Option<Execute> {
    match (form, operand_bits(instruction, 0)) {
        (Form::RegReg, 32) => Some(scalar_to_general::<B, u32, Rm, TRUNCATE>),
        (Form::RegReg, 64) => Some(scalar_to_general::<B, u64, Rm, TRUNCATE>),
        (Form::RegMem, 32) => Some(scalar_to_general::<B, u32, Mem, TRUNCATE>),
        (Form::RegMem, 64) => Some(scalar_to_general::<B, u64, Mem, TRUNCATE>),
        _ => None,
    }
}

fn from_general_form<B: Binary>(instruction: &Instruction, form: Form) -> Option<Execute> {
    match (form, operand_bits(instruction, 1)) {
        (Form::RegReg, 32) => Some(general_to_scalar::<B, u32, Rm>),
        (Form::RegReg, 64) => Some(general_to_scalar::<B, u64, Rm>),
        (Form::RegMem, 32) => Some(general_to_scalar::<B, u32, Mem>),
        (Form::RegMem, 64) => Some(general_to_scalar::<B, u64, Mem>),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    use Form::{RegMem, RegReg};
    match (instruction.mnemonic(), form) {
        (Mnemonic::Cvtsi2ss, _) => from_general_form::<Single>(instruction, form),
        (Mnemonic::Cvtsi2sd, _) => from_general_form::<Double>(instruction, form),
        (Mnemonic::Cvtss2si, _) => general_form::<Single, false>(instruction, form),
        (Mnemonic::Cvttss2si, _) => general_form::<Single, true>(instruction, form),
        (Mnemonic::Cvtsd2si, _) => general_form::<Double, false>(instruction, form),
        (Mnemonic::Cvttsd2si, _) => general_form::<Double, true>(instruction, form),
        (Mnemonic::Cvtss2sd, RegReg) => Some(scalar_to_scalar::<Single, Double, Rm>),
        (Mnemonic::Cvtss2sd, RegMem) => Some(scalar_to_scalar::<Single, Double, Mem>),
        (Mnemonic::Cvtsd2ss, RegReg) => Some(scalar_to_scalar::<Double, Single, Rm>),
        (Mnemonic::Cvtsd2ss, RegMem) => Some(scalar_to_scalar::<Double, Single, Mem>),
        (Mnemonic::Cvtps2pd, _) => packed_form::<Change<Single, Double>>(form),
        (Mnemonic::Cvtpd2ps, _) => packed_form::<Change<Double, Single>>(form),
        (Mnemonic::Cvtps2dq, _) => packed_form::<ToInteger<Single, false>>(form),
        (Mnemonic::Cvttps2dq, _) => packed_form::<ToInteger<Single, true>>(form),
        (Mnemonic::Cvtpd2dq, _) => packed_form::<ToInteger<Double, false>>(form),
        (Mnemonic::Cvttpd2dq, _) => packed_form::<ToInteger<Double, true>>(form),
        (Mnemonic::Cvtdq2ps, _) => packed_form::<FromInteger<Single>>(form),
        (Mnemonic::Cvtdq2pd, _) => packed_form::<FromInteger<Double>>(form),
        (Mnemonic::Cvtps2pi, _) => mmx_form::<ToInteger<Single, false>>(form),
        (Mnemonic::Cvttps2pi, _) => mmx_form::<ToInteger<Single, true>>(form),
        (Mnemonic::Cvtpd2pi, _) => mmx_form::<ToInteger<Double, false>>(form),
        (Mnemonic::Cvttpd2pi, _) => mmx_form::<ToInteger<Double, true>>(form),
        (Mnemonic::Cvtpi2ps, RegReg) => Some(from_mmx::<FromInteger<Single>>),
        (Mnemonic::Cvtpi2pd, RegReg) => Some(from_mmx::<FromInteger<Double>>),
        // SDM volume 2, CVTPI2PD: from memory it is no MMX instruction.
        (Mnemonic::Cvtpi2ps, RegMem) => Some(from_mmx_memory::<FromInteger<Single>, true>),
        (Mnemonic::Cvtpi2pd, RegMem) => Some(from_mmx_memory::<FromInteger<Double>, false>),
        _ => None,
    }
}
