//! Single lanes in and out of XMM registers, lanes widened, and PTEST (SSE4.1).

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::{File, Mem, Rm, Source, Xmm};
use crate::cpu::{
    Cpu,
    decode::Form,
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};
use crate::memory::Word;

/// Distance in bits of the lane that the immediate names.
fn distance<T: Word>(op: &Op) -> u32 {
    (op.immediate as u32 & (128 / T::BITS - 1)) * T::BITS
}

/// PEXTR and EXTRACTPS to a register, zero-extended.
fn extract<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = Xmm::load(cpu, op.rm) >> distance::<T>(op);
    let value = T::from_u64(value as u64).to_u64();
    u64::set_register(cpu, op.reg, value);
    Ok(())
}

/// The same to memory.
fn extract_to_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = Xmm::load(cpu, op.reg) >> distance::<T>(op);
    cpu.write(op, T::from_u64(value as u64))
}

/// PINSR from a register.
fn insert<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    // A byte is the register's lowest whatever its number.
    let value = T::from_u64(u64::register(cpu, op.rm));
    put(cpu, op, value);
    Ok(())
}

/// PINSR from memory.
fn insert_from_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = cpu.read::<T>(op)?;
    put(cpu, op, value);
    Ok(())
}

fn put<T: Word>(cpu: &mut Cpu, op: &Op, value: T) {
    let place = distance::<T>(op);
    let lane = u128::from(u64::MAX >> (64 - T::BITS)) << place;
    let old = Xmm::load(cpu, op.reg);
    Xmm::store(
        cpu,
        op.reg,
        old & !lane | u128::from(value.to_u64()) << place,
    );
}

/// INSERTPS: a lane of the source into one of the target, and lanes cleared.
fn insert_single(cpu: &mut Cpu, op: &Op, value: u32) {
    let code = op.immediate as u32;
    let place = (code >> 4 & 3) * 32;
    let old = Xmm::load(cpu, op.reg);
    let mut result = old & !(0xffff_ffff << place) | u128::from(value) << place;
    for i in (0..4).filter(|i| code >> i & 1 != 0) {
        result &= !(0xffff_ffff << (i * 32));
    }
    Xmm::store(cpu, op.reg, result);
}

fn insert_single_register(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let from = (op.immediate as u32 >> 6 & 3) * 32;
    let value = (Xmm::load(cpu, op.rm) >> from) as u32;
    insert_single(cpu, op, value);
    Ok(())
}

fn insert_single_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = cpu.read::<u32>(op)?;
    insert_single(cpu, op, value);
    Ok(())
}

/// PMOVSX and PMOVZX of lanes of `FROM` bits to lanes of `TO` bits; `T` is as wide as what is read.
fn widen<S: Source, T: Word, const FROM: u32, const TO: u32, const SIGNED: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let source = S::low::<T>(cpu, op)?.to_u64();
    let result = (0..128 / TO).fold(0, |result, i| {
        let lane = source >> (i * FROM) << (64 - FROM);
        let lane = if SIGNED {
            (lane as i64 >> (64 - FROM)) as u64 & u64::MAX >> (64 - TO)
        } else {
            lane >> (64 - FROM)
        };
        result | u128::from(lane) << (i * TO)
    });
    Xmm::store(cpu, op.reg, result);
    Ok(())
}

/// PTEST.
fn test<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::get::<Xmm>(cpu, op)?;
    let a = Xmm::load(cpu, op.reg);
    let zf = if a & b == 0 { rflags::ZF } else { 0 };
    let cf = if !a & b == 0 { rflags::CF } else { 0 };
    cpu.flags = Flags::from_rflags(zf | cf);
    Ok(())
}

fn extraction<T: Word>(form: Form) -> Option<Execute> {
    match form {
        Form::RegRegImm => Some(extract::<T>),
        Form::MemRegImm => Some(extract_to_memory::<T>),
        _ => None,
    }
}

fn insertion<T: Operand>(form: Form) -> Option<Execute> {
    match form {
        Form::RegRegImm => Some(insert::<T>),
        Form::RegMemImm => Some(insert_from_memory::<T>),
        _ => None,
    }
}

fn widening<T: Word, const FROM: u32, const TO: u32, const SIGNED: bool>(
    form: Form,
) -> Option<Execute> {
    match form {
        Form::RegReg => Some(widen::<Rm, T, FROM, TO, SIGNED>),
        Form::RegMem => Some(widen::<Mem, T, FROM, TO, SIGNED>),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Pextrb => extraction::<u8>(form),
        Mnemonic::Pextrw if form == Form::MemRegImm => extraction::<u16>(form),
        Mnemonic::Pextrd | Mnemonic::Extractps => extraction::<u32>(form),
        Mnemonic::Pextrq => extraction::<u64>(form),
        Mnemonic::Pinsrb => insertion::<u8>(form),
        Mnemonic::Pinsrd => insertion::<u32>(form),
        Mnemonic::Pinsrq => insertion::<u64>(form),
        Mnemonic::Insertps if form == Form::RegRegImm => Some(insert_single_register),
        Mnemonic::Insertps if form == Form::RegMemImm => Some(insert_single_memory),
        Mnemonic::Pmovsxbw => widening::<u64, 8, 16, true>(form),
        Mnemonic::Pmovsxbd => widening::<u32, 8, 32, true>(form),
        Mnemonic::Pmovsxbq => widening::<u16, 8, 64, true>(form),
        Mnemonic::Pmovsxwd => widening::<u64, 16, 32, true>(form),
        Mnemonic::Pmovsxwq => widening::<u32, 16, 64, true>(form),
        Mnemonic::Pmovsxdq => widening::<u64, 32, 64, true>(form),
        Mnemonic::Pmovzxbw => widening::<u64, 8, 16, false>(form),
        Mnemonic::Pmovzxbd => widening::<u32, 8, 32, false>(form),
        Mnemonic::Pmovzxbq => widening::<u16, 8, 64, false>(form),
        Mnemonic::Pmovzxwd => widening::<u64, 16, 32, false>(form),
        Mnemonic::Pmovzxwq => widening::<u32, 16, 64, false>(form),
        Mnemonic::Pmovzxdq => widening::<u64, 32, 64, false>(form),
        Mnemonic::Ptest if form == Form::RegReg => Some(test::<Rm>),
        Mnemonic::Ptest if form == Form::RegMem => Some(test::<Mem>),
        _ => None,
    }
}
