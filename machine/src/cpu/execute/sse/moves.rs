//! Moves between XMM, MMX and general registers and memory.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::{File, Kind, Mem, Mmx, Rm, Source, Xmm, operand};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
    tlb::Access,
};
use crate::memory::Word;

/// MOVAPS, MOVAPD, MOVDQA, and MOVUPS and its like between registers; MOVQ between MMX registers.
fn load<F: File, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let value = S::get::<F>(cpu, op)?;
    F::commit(cpu);
    F::store(cpu, op.reg, value);
    Ok(())
}

fn load_unaligned(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = cpu.read::<u128>(op)?;
    Xmm::store(cpu, op.reg, value);
    Ok(())
}

fn store_aligned(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    cpu.require_alignment(op, Access::Write)?;
    let value = Xmm::load(cpu, op.reg);
    cpu.write(op, value)
}

fn store_unaligned(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = Xmm::load(cpu, op.reg);
    cpu.write(op, value)
}

/// The low part of a register to memory: MOVSS, MOVSD, MOVLPS, MOVLPD, MOVD, MOVQ, MOVNTQ.
fn store_low<F: File, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let value = F::load(cpu, op.reg) as u64;
    cpu.write(op, T::from_u64(value))?;
    F::commit(cpu);
    Ok(())
}

/// The high half of an XMM register to memory: MOVHPS, MOVHPD.
fn store_high(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = (Xmm::load(cpu, op.reg) >> 64) as u64;
    cpu.write(op, value)
}

/// Memory or the low part of an XMM register, zero-extended: MOVSS, MOVSD, MOVD, MOVQ.
fn load_low<F: File, S: Source, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let value: T = S::low(cpu, op)?;
    F::commit(cpu);
    F::store(cpu, op.reg, value.to_u64().into());
    Ok(())
}

/// The low 32 bits only: MOVSS between registers.
fn merge_32(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let low = Xmm::load(cpu, op.rm) & 0xffff_ffff;
    let value = Xmm::load(cpu, op.reg) >> 32 << 32 | low;
    Xmm::store(cpu, op.reg, value);
    Ok(())
}

/// The low 64 bits only: MOVSD between registers, MOVLPS and MOVLPD from memory.
fn merge_low<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let low: u64 = S::low(cpu, op)?;
    let value = Xmm::load(cpu, op.reg) >> 64 << 64 | u128::from(low);
    Xmm::store(cpu, op.reg, value);
    Ok(())
}

/// The high 64 bits only: MOVLHPS, and MOVHPS and MOVHPD from memory.
fn merge_high<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let high: u64 = S::low(cpu, op)?;
    let value = Xmm::load(cpu, op.reg) as u64;
    Xmm::store(cpu, op.reg, u128::from(high) << 64 | u128::from(value));
    Ok(())
}

/// MOVHLPS.
fn high_to_low(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let high = Xmm::load(cpu, op.reg) >> 64 << 64;
    let value = high | Xmm::load(cpu, op.rm) >> 64;
    Xmm::store(cpu, op.reg, value);
    Ok(())
}

/// A general register, zero-extended: MOVD, MOVQ.
fn from_general<F: File, T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let value = T::register(cpu, op.rm).to_u64();
    F::store(cpu, op.reg, value.into());
    Ok(())
}

/// To a general register: MOVD, MOVQ.
fn to_general<F: File, T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let value = F::load(cpu, op.rm) as u64;
    T::set_register(cpu, op.reg, T::from_u64(value));
    Ok(())
}

/// MOVDDUP.
fn duplicate_low<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let low = u128::from(S::low::<u64>(cpu, op)?);
    Xmm::store(cpu, op.reg, low << 64 | low);
    Ok(())
}

/// MOVSLDUP and MOVSHDUP: each even, or each odd, doubleword twice.
fn duplicate_singles<S: Source, const ODD: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    const EVEN: u128 = 0xffff_ffff_0000_0000_ffff_ffff;
    Xmm::enter(cpu)?;
    let value = S::get::<Xmm>(cpu, op)? >> (32 * ODD) & EVEN;
    Xmm::store(cpu, op.reg, value << 32 | value);
    Ok(())
}

/// MOVDQ2Q.
fn xmm_to_mmx(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    Mmx::enter(cpu)?;
    Mmx::commit(cpu);
    let value = Xmm::load(cpu, op.rm);
    Mmx::store(cpu, op.reg, value);
    Ok(())
}

/// MOVQ2DQ.
fn mmx_to_xmm(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    Mmx::enter(cpu)?;
    Mmx::commit(cpu);
    let value = Mmx::load(cpu, op.rm);
    Xmm::store(cpu, op.reg, value);
    Ok(())
}

/// MOVNTI.
fn store_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = T::register(cpu, op.reg);
    cpu.write(op, value)
}

/// MOVMSKPS and MOVMSKPD: the sign bits of lanes of `BITS` bits; PMOVMSKB with 8.
fn signs<F: File, const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    F::commit(cpu);
    let value = F::load(cpu, op.rm);
    let lanes = F::BYTES as u32 * 8 / BITS;
    let mask = (0..lanes).fold(0, |mask, lane| {
        mask | (value >> (lane * BITS + BITS - 1) & 1) << lane
    });
    u64::set_register(cpu, op.reg, mask as u64);
    Ok(())
}

/// MASKMOVDQU and MASKMOVQ: the bytes whose mask has its top bit set, to DS:rDI.
fn store_masked<F: File>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    F::enter(cpu)?;
    let value = F::load(cpu, op.reg).to_le_bytes();
    let mask = F::load(cpu, op.rm).to_le_bytes();
    let offset = cpu.effective_offset(op);
    let selected = |i: usize| mask[i] & 0x80 != 0;
    // The bytes are stored one by one; that all of them may be is known first. Alignment is that of
    // quadwords, whatever the mask is.
    for i in (0..F::BYTES).filter(|&i| selected(i)) {
        let place = cpu.wrapped_offset(op, offset, i as u64);
        cpu.probe_write::<u8>(op.segment, place)?;
    }
    let base = cpu.segments[(op.segment & 7) as usize].base;
    cpu.check_alignment(base.wrapping_add(offset), 8, cpu.privilege())?;
    for i in (0..F::BYTES).filter(|&i| selected(i)) {
        cpu.write_at(
            op.segment,
            cpu.wrapped_offset(op, offset, i as u64),
            value[i],
        )?;
    }
    F::commit(cpu);
    Ok(())
}

impl Cpu {
    /// `distance` bytes beyond `offset`, wrapping at the address size.
    fn wrapped_offset(&self, op: &Op, offset: u64, distance: u64) -> u64 {
        let sum = offset.wrapping_add(distance);
        match op.address_bits() {
            64 => sum,
            32 => sum as u32 as u64,
            _ => sum as u16 as u64,
        }
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    use Form::{MemReg, RegMem, RegReg};
    let first = operand(instruction, 0);
    let second = operand(instruction, 1);
    let wide = instruction.op_kind(0) == OpKind::Register && instruction.op_register(0).is_gpr64()
        || instruction.op_kind(1) == OpKind::Register && instruction.op_register(1).is_gpr64();
    Some(match (instruction.mnemonic(), form) {
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, RegReg)
        | (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, RegReg) => load::<Xmm, Rm>,
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, RegMem) => load::<Xmm, Mem>,
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, MemReg)
        | (Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq, MemReg) => store_aligned,
        (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, RegMem)
        | (Mnemonic::Lddqu, RegMem) => load_unaligned,
        (Mnemonic::Movntdqa, RegMem) => load::<Xmm, Mem>,
        (Mnemonic::Movddup, RegReg) => duplicate_low::<Rm>,
        (Mnemonic::Movddup, RegMem) => duplicate_low::<Mem>,
        (Mnemonic::Movsldup, RegReg) => duplicate_singles::<Rm, 0>,
        (Mnemonic::Movsldup, RegMem) => duplicate_singles::<Mem, 0>,
        (Mnemonic::Movshdup, RegReg) => duplicate_singles::<Rm, 1>,
        (Mnemonic::Movshdup, RegMem) => duplicate_singles::<Mem, 1>,
        (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, MemReg) => store_unaligned,
        (Mnemonic::Movss, RegReg) => merge_32,
        (Mnemonic::Movss, RegMem) => load_low::<Xmm, Mem, u32>,
        (Mnemonic::Movss, MemReg) => store_low::<Xmm, u32>,
        (Mnemonic::Movsd, RegReg) if first == Kind::Xmm => merge_low::<Rm>,
        (Mnemonic::Movsd, RegMem) if first == Kind::Xmm => load_low::<Xmm, Mem, u64>,
        (Mnemonic::Movsd, MemReg) if second == Kind::Xmm => store_low::<Xmm, u64>,
        (Mnemonic::Movlps | Mnemonic::Movlpd, RegMem) => merge_low::<Mem>,
        (Mnemonic::Movlps | Mnemonic::Movlpd, MemReg) => store_low::<Xmm, u64>,
        (Mnemonic::Movhps | Mnemonic::Movhpd, RegMem) => merge_high::<Mem>,
        (Mnemonic::Movhps | Mnemonic::Movhpd, MemReg) => store_high,
        (Mnemonic::Movlhps, RegReg) => merge_high::<Rm>,
        (Mnemonic::Movhlps, RegReg) => high_to_low,
        (Mnemonic::Movmskps, RegReg) => signs::<Xmm, 32>,
        (Mnemonic::Movmskpd, RegReg) => signs::<Xmm, 64>,
        (Mnemonic::Pmovmskb, RegReg) if second == Kind::Mmx => signs::<Mmx, 8>,
        (Mnemonic::Pmovmskb, RegReg) => signs::<Xmm, 8>,
        (Mnemonic::Movnti, MemReg) if wide => store_general::<u64>,
        (Mnemonic::Movnti, MemReg) => store_general::<u32>,
        (Mnemonic::Movntq, MemReg) => store_low::<Mmx, u64>,
        (Mnemonic::Movdq2q, RegReg) => xmm_to_mmx,
        (Mnemonic::Movq2dq, RegReg) => mmx_to_xmm,
        (Mnemonic::Maskmovdqu, _) if instruction.op_count() == 3 => store_masked::<Xmm>,
        (Mnemonic::Maskmovq, _) if instruction.op_count() == 3 => store_masked::<Mmx>,
        (Mnemonic::Movd | Mnemonic::Movq, _) => return select_movd(instruction.code(), form),
        _ => return None,
    })
}

/// MOVD and MOVQ, whose mnemonics name four kinds of move.
fn select_movd(code: Code, form: Form) -> Option<Execute> {
    use Form::{MemReg, RegMem, RegReg};
    Some(match (code, form) {
        (Code::Movd_xmm_rm32, RegReg) => from_general::<Xmm, u32>,
        (Code::Movd_xmm_rm32, RegMem) => load_low::<Xmm, Mem, u32>,
        (Code::Movq_xmm_rm64, RegReg) => from_general::<Xmm, u64>,
        (Code::Movq_xmm_rm64, RegMem) => load_low::<Xmm, Mem, u64>,
        (Code::Movd_rm32_xmm, RegReg) => to_general::<Xmm, u32>,
        (Code::Movd_rm32_xmm, MemReg) => store_low::<Xmm, u32>,
        (Code::Movq_rm64_xmm, RegReg) => to_general::<Xmm, u64>,
        (Code::Movq_rm64_xmm, MemReg) => store_low::<Xmm, u64>,
        (Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm, RegReg) => load_low::<Xmm, Rm, u64>,
        (Code::Movq_xmm_xmmm64, RegMem) => load_low::<Xmm, Mem, u64>,
        (Code::Movq_xmmm64_xmm, MemReg) => store_low::<Xmm, u64>,
        (Code::Movd_mm_rm32, RegReg) => from_general::<Mmx, u32>,
        (Code::Movd_mm_rm32, RegMem) => load_low::<Mmx, Mem, u32>,
        (Code::Movq_mm_rm64, RegReg) => from_general::<Mmx, u64>,
        (Code::Movq_mm_rm64, RegMem) => load_low::<Mmx, Mem, u64>,
        (Code::Movd_rm32_mm, RegReg) => to_general::<Mmx, u32>,
        (Code::Movd_rm32_mm, MemReg) => store_low::<Mmx, u32>,
        (Code::Movq_rm64_mm, RegReg) => to_general::<Mmx, u64>,
        (Code::Movq_rm64_mm, MemReg) => store_low::<Mmx, u64>,
        (Code::Movq_mm_mmm64 | Code::Movq_mmm64_mm, RegReg) => load::<Mmx, Rm>,
        (Code::Movq_mm_mmm64, RegMem) => load::<Mmx, Mem>,
        (Code::Movq_mmm64_mm, MemReg) => store_low::<Mmx, u64>,
        _ => return None,
    })
}
