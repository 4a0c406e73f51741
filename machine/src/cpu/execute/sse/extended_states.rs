//! The XSAVE feature set (SDM volume 1, chapter 13 Managing state using the XSAVE feature set): state
//! components x87 and SSE, and no supervisor state component.

use arch::control_register::{cr0, cr4};
use arch::exception as vector;
use iced_x86::{Instruction, Mnemonic};

use super::{number::MXCSR_MASK, state::at};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    register::number::{RAX, RCX, RDX},
    tlb::Access,
    x87::X87,
};
use crate::vtx::intercept;

/// State component 0.
const X87_STATE: u64 = 1 << 0;
/// State component 1: XMM registers and MXCSR.
const SSE_STATE: u64 = 1 << 1;
/// What XCR0 may enable.
pub const OFFERED: u64 = X87_STATE | SSE_STATE;
/// Bytes of an XSAVE area with these: the legacy region and the header (13.4).
pub const AREA: usize = 576;
/// Offset of the header.
const HEADER: usize = 512;
/// Words of the header.
const HEADER_WORDS: usize = 8;
/// XCOMP_BV: the area is in the compacted format.
const COMPACTED: u64 = 1 << 63;
/// MXCSR in its initial configuration.
const INITIAL_MXCSR: u32 = 0x1f80;
/// Words of 16 bytes of the legacy region up to the last XMM register.
const LEGACY_WORDS: usize = 26;
/// The first of them that is an XMM register.
const FIRST_XMM: usize = 10;

/// The instructions that save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saving {
    Standard,
    Optimized,
    Compacted,
    Supervisor,
}

/// Checks that all these instructions begin with; the offset of their area.
fn enter(cpu: &mut Cpu, op: &Op, access: Access) -> Result<u64, Raised> {
    require_enabled(cpu)?;
    if cpu.cr0 & cr0::TS != 0 {
        return Err(cpu.fault(vector::DEVICE_NOT_AVAILABLE, None));
    }
    let offset = cpu.effective_offset(op);
    let linear = cpu.linear(op.segment, offset, AREA, access)?;
    if linear & 63 != 0 {
        return Err(cpu.general_protection(0));
    }
    Ok(offset)
}

/// #UD while CR4.OSXSAVE is 0.
fn require_enabled(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.cr4 & cr4::OSXSAVE != 0 {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

/// What XSAVES and XRSTORS check besides.
fn require_supervisor(cpu: &mut Cpu) -> Result<(), Raised> {
    require_enabled(cpu)?;
    intercept::check_xsaves_enabled(cpu)?;
    if cpu.cpl == 0 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

fn pair(cpu: &Cpu) -> u64 {
    cpu.registers[RAX] & 0xffff_ffff | cpu.registers[RDX] << 32
}

/// The requested-feature bitmap. IA32_XSS adds nothing to it.
fn requested(cpu: &Cpu) -> u64 {
    pair(cpu) & cpu.xcr0
}

/// XMM registers that the mode knows.
fn xmm_count(cpu: &Cpu) -> usize {
    if cpu.mode_64 { 16 } else { 8 }
}

impl Cpu {
    /// XINUSE (13.6 Processor tracking of XSAVE-managed state), without MXCSR.
    fn states_in_use(&self) -> u64 {
        let x87 = !self.x87.is_initial();
        let sse = self.xmm.iter().any(|register| *register != 0);
        let bit = |used, state| if used { state } else { 0 };
        bit(x87, X87_STATE) | bit(sse, SSE_STATE)
    }

    /// The same with MXCSR (13.10 Operation of XSAVEC).
    fn states_in_use_with_mxcsr(&self) -> u64 {
        if self.mxcsr != INITIAL_MXCSR {
            self.states_in_use() | SSE_STATE
        } else {
            self.states_in_use()
        }
    }
}

// SDM volume 1, 13.7 Operation of XSAVE, 13.9 XSAVEOPT, 13.10 XSAVEC, 13.11 XSAVES
fn save(cpu: &mut Cpu, op: &Op, saving: Saving, wide: bool) -> Result<(), Raised> {
    let offset = enter(cpu, op, Access::Write)?;
    let requested = requested(cpu);
    // The area may span two pages; both must be writable before anything is written, as for FXSAVE.
    for distance in [AREA - 1, 0] {
        cpu.probe_write::<u8>(op.segment, at(offset, distance))?;
    }
    let image = cpu.fx_image(wide);
    let (saved, mxcsr) = match saving {
        Saving::Standard | Saving::Optimized => {
            let used = cpu.states_in_use();
            let old: u64 = cpu.read_at(op.segment, at(offset, HEADER))?;
            let new = old & !requested | used & requested;
            cpu.write_at(op.segment, at(offset, HEADER), new)?;
            let saved = if saving == Saving::Standard {
                requested
            } else {
                requested & used
            };
            (saved, requested & SSE_STATE != 0)
        }
        Saving::Compacted | Saving::Supervisor => {
            let saved = requested & cpu.states_in_use_with_mxcsr();
            cpu.write_at(op.segment, at(offset, HEADER), saved)?;
            cpu.write_at(op.segment, at(offset, HEADER + 8), requested | COMPACTED)?;
            (saved, saved & SSE_STATE != 0)
        }
    };
    if saved & X87_STATE != 0 {
        cpu.write_at(op.segment, offset, image[0])?;
        cpu.write_at(op.segment, at(offset, 16), image[1] as u64)?;
        for (i, word) in image.iter().enumerate().take(FIRST_XMM).skip(2) {
            cpu.write_at(op.segment, at(offset, i * 16), *word)?;
        }
    }
    if mxcsr {
        cpu.write_at(op.segment, at(offset, 24), (image[1] >> 64) as u64)?;
    }
    if saved & SSE_STATE != 0 {
        let end = FIRST_XMM + xmm_count(cpu);
        for (i, word) in image.iter().enumerate().take(end).skip(FIRST_XMM) {
            cpu.write_at(op.segment, at(offset, i * 16), *word)?;
        }
    }
    Ok(())
}

/// What the header of an area says, if it is one that can be restored.
struct Header {
    /// XSTATE_BV.
    present: u64,
    compacted: bool,
}

/// SDM volume 1, 13.8 Operation of XRSTOR and 13.12 Operation of XRSTORS: the header.
fn header(cpu: &mut Cpu, op: &Op, offset: u64) -> Result<Header, Raised> {
    let mut words = [0_u64; HEADER_WORDS];
    for (i, word) in words.iter_mut().enumerate() {
        *word = cpu.read_at(op.segment, at(offset, HEADER + i * 8))?;
    }
    let [present, layout, rest @ ..] = words;
    let compacted = layout & COMPACTED != 0;
    let valid = if compacted {
        let layout = layout & !COMPACTED;
        layout & !cpu.xcr0 == 0 && present & !layout == 0 && rest == [0; HEADER_WORDS - 2]
    } else {
        layout == 0 && rest[0] == 0 && present & !cpu.xcr0 == 0
    };
    if valid {
        Ok(Header { present, compacted })
    } else {
        Err(cpu.general_protection(0))
    }
}

/// Whether an area of the standard format can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Formats {
    Both,
    CompactedOnly,
}

fn restore(cpu: &mut Cpu, op: &Op, formats: Formats, wide: bool) -> Result<(), Raised> {
    let offset = enter(cpu, op, Access::Read)?;
    let requested = requested(cpu);
    let header = header(cpu, op, offset)?;
    if formats == Formats::CompactedOnly && !header.compacted {
        return Err(cpu.general_protection(0));
    }
    let mut image = [0_u128; LEGACY_WORDS];
    for (i, word) in image.iter_mut().enumerate() {
        *word = cpu.read_at(op.segment, at(offset, i * 16))?;
    }
    let loaded = requested & header.present;
    let initialized = requested & !header.present;
    // The standard format has MXCSR whether or not it has the XMM registers.
    let mxcsr = if loaded & SSE_STATE != 0 || !header.compacted && requested & SSE_STATE != 0 {
        (image[1] >> 64) as u32
    } else if initialized & SSE_STATE != 0 {
        INITIAL_MXCSR
    } else {
        cpu.mxcsr
    };
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.mxcsr = mxcsr;
    if loaded & X87_STATE != 0 {
        cpu.x87.restore(&image, wide);
    } else if initialized & X87_STATE != 0 {
        cpu.x87 = X87::default();
    }
    if requested & SSE_STATE != 0 {
        let count = xmm_count(cpu);
        for (register, word) in cpu.xmm.iter_mut().zip(&image[FIRST_XMM..]).take(count) {
            *register = if loaded & SSE_STATE != 0 { *word } else { 0 };
        }
    }
    Ok(())
}

fn xsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    save(cpu, op, Saving::Standard, WIDE)
}

fn xsaveopt<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    save(cpu, op, Saving::Optimized, WIDE)
}

fn xsavec<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    save(cpu, op, Saving::Compacted, WIDE)
}

fn xsaves<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    require_supervisor(cpu)?;
    save(cpu, op, Saving::Supervisor, WIDE)
}

fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    restore(cpu, op, Formats::Both, WIDE)
}

fn xrstors<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    require_supervisor(cpu)?;
    restore(cpu, op, Formats::CompactedOnly, WIDE)
}

fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    require_enabled(cpu)?;
    let value = match cpu.registers[RCX] as u32 {
        0 => cpu.xcr0,
        1 => cpu.xcr0 & cpu.states_in_use_with_mxcsr(),
        _ => return Err(cpu.general_protection(0)),
    };
    cpu.registers[RAX] = value & 0xffff_ffff;
    cpu.registers[RDX] = value >> 32;
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    require_enabled(cpu)?;
    if cpu.cpl != 0 {
        return Err(cpu.general_protection(0));
    }
    intercept::check(cpu, intercept::Instruction::Xsetbv)?;
    let value = pair(cpu);
    // 13.3 Enabling the XSAVE feature set and XSAVE-enabled features
    if cpu.registers[RCX] as u32 != 0 || value & !OFFERED != 0 || value & X87_STATE == 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.xcr0 = value;
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    use Mnemonic as M;
    Some(match (instruction.mnemonic(), form) {
        (M::Xsave, Form::Mem) => xsave::<false>,
        (M::Xsave64, Form::Mem) => xsave::<true>,
        (M::Xsaveopt, Form::Mem) => xsaveopt::<false>,
        (M::Xsaveopt64, Form::Mem) => xsaveopt::<true>,
        (M::Xsavec, Form::Mem) => xsavec::<false>,
        (M::Xsavec64, Form::Mem) => xsavec::<true>,
        (M::Xsaves, Form::Mem) => xsaves::<false>,
        (M::Xsaves64, Form::Mem) => xsaves::<true>,
        (M::Xrstor, Form::Mem) => xrstor::<false>,
        (M::Xrstor64, Form::Mem) => xrstor::<true>,
        (M::Xrstors, Form::Mem) => xrstors::<false>,
        (M::Xrstors64, Form::Mem) => xrstors::<true>,
        (M::Xgetbv, _) => xgetbv,
        (M::Xsetbv, _) => xsetbv,
        _ => return None,
    })
}
