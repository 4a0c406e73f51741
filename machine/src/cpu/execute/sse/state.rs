//! FXSAVE, FXRSTOR, LDMXCSR, STMXCSR and EMMS.

use arch::control_register::{cr0, cr4};
use arch::exception as vector;
use iced_x86::{Instruction, Mnemonic};

use super::{File, Mmx, Xmm, number::MXCSR_MASK};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    tlb::Access,
};

/// Bytes of the FXSAVE image that FXSAVE writes; the rest is software's (SDM volume 1, 10.5.1).
const IMAGE: usize = 416;
/// Bytes of the whole image.
const AREA: usize = 512;

fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = cpu.read::<u32>(op)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.mxcsr = value;
    Ok(())
}

fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let value = cpu.mxcsr;
    cpu.write(op, value)
}

/// EMMS.
fn emms(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    Mmx::enter(cpu)?;
    cpu.x87.empty();
    Ok(())
}

/// Checks before FXSAVE and FXRSTOR. CR4.OSFXSR is not needed (SDM volume 2, FXSAVE).
fn enter(cpu: &mut Cpu, op: &Op, access: Access) -> Result<u64, Raised> {
    if cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(cpu.fault(vector::DEVICE_NOT_AVAILABLE, None));
    }
    cpu.require_alignment(op, access)?;
    let offset = cpu.effective_offset(op);
    // A fault anywhere in the 512 bytes comes before anything is changed.
    cpu.linear(op.segment, offset, AREA, access)?;
    Ok(offset)
}

/// How many XMM registers are part of the image: none without CR4.OSFXSR, 8 outside 64-bit mode.
fn xmm_count(cpu: &Cpu) -> usize {
    match (cpu.cr4 & cr4::OSFXSR != 0, cpu.mode_64) {
        (false, _) => 0,
        (true, false) => 8,
        (true, true) => 16,
    }
}

pub(super) fn at(offset: u64, distance: usize) -> u64 {
    offset.wrapping_add(distance as u64)
}

/// FXSAVE; FXSAVE64 with `WIDE` pointers.
fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let offset = enter(cpu, op, Access::Write)?;
    let image = cpu.fx_image(WIDE);
    let xmm = xmm_count(cpu);
    // The image may span two pages; both must be writable before anything is. Processors look at the
    // last byte first.
    for distance in [AREA - 1, 0] {
        cpu.probe_write::<u8>(op.segment, at(offset, distance))?;
    }
    for (i, chunk) in image.into_iter().enumerate() {
        if i < 10 + xmm {
            cpu.write_at(op.segment, at(offset, i * 16), chunk)?;
        }
    }
    Ok(())
}

/// FXRSTOR; FXRSTOR64 with `WIDE` pointers.
fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let offset = enter(cpu, op, Access::Read)?;
    let mut image = [0; IMAGE / 16];
    for (i, chunk) in image.iter_mut().enumerate() {
        *chunk = cpu.read_at::<u128>(op.segment, at(offset, i * 16))?;
    }
    let mxcsr = (image[1] >> 64) as u32;
    let xmm = xmm_count(cpu);
    if cpu.cr4 & cr4::OSFXSR != 0 {
        if mxcsr & !MXCSR_MASK != 0 {
            return Err(cpu.general_protection(0));
        }
        cpu.mxcsr = mxcsr;
    }
    for (register, value) in cpu.xmm.iter_mut().zip(&image[10..]).take(xmm) {
        *register = *value;
    }
    cpu.x87.restore(&image, WIDE);
    Ok(())
}

impl Cpu {
    /// What FXSAVE stores, in units of 16 bytes.
    pub(super) fn fx_image(&self, wide: bool) -> [u128; IMAGE / 16] {
        let mut image = [0; IMAGE / 16];
        self.x87.save(&mut image, wide);
        image[1] = image[1] & u128::from(u64::MAX)
            | u128::from(self.mxcsr) << 64
            | u128::from(MXCSR_MASK) << 96;
        image[10..].copy_from_slice(&self.xmm);
        image
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match (instruction.mnemonic(), form) {
        (Mnemonic::Ldmxcsr, Form::Mem) => Some(ldmxcsr),
        (Mnemonic::Stmxcsr, Form::Mem) => Some(stmxcsr),
        (Mnemonic::Emms, _) => Some(emms),
        (Mnemonic::Fxsave, Form::Mem) => Some(fxsave::<false>),
        (Mnemonic::Fxsave64, Form::Mem) => Some(fxsave::<true>),
        (Mnemonic::Fxrstor, Form::Mem) => Some(fxrstor::<false>),
        (Mnemonic::Fxrstor64, Form::Mem) => Some(fxrstor::<true>),
        _ => None,
    }
}
