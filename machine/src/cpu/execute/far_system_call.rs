//! SYSCALL, SYSRET, SYSENTER and SYSEXIT (SDM 5.8.7 and 5.8.8).

use arch::control_register::{efer, rflags};
use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Cpu,
    decode::Form,
    descriptor::RPL,
    op::{Execute, Op},
    raise::Raised,
    register::number::{RCX, RDX, RSP},
    segment::{Segment, register, rights},
};

/// Register number of R11.
const R11: usize = 11;

/// The function that carries out a fast system call or its return.
pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    Some(match instruction.mnemonic() {
        M::Syscall => system_call,
        M::Sysret | M::Sysretq => system_return,
        M::Sysenter => system_enter,
        M::Sysexit | M::Sysexitq => system_exit,
        _ => return None,
    })
}

/// Which code segment a fast transfer loads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CodeSize {
    Bits32,
    Bits64,
}

/// Loads CS and SS with the fixed contents that these instructions give them.
fn load_flat(cpu: &mut Cpu, cs: u16, ss: u16, cpl: u8, size: CodeSize) {
    let rights = rights::PRESENT
        | u32::from(cpl) << 5
        | rights::CODE_OR_DATA
        | rights::READ_WRITE
        | rights::ACCESSED
        | rights::GRANULAR;
    let flat = Segment {
        selector: cs & !RPL | u16::from(cpl),
        base: 0,
        limit: u32::MAX,
        rights: rights | rights::CODE,
    };
    cpu.segments[register::CS as usize] = Segment {
        rights: flat.rights
            | match size {
                CodeSize::Bits32 => rights::BIG,
                CodeSize::Bits64 => rights::LONG,
            },
        ..flat
    };
    cpu.segments[register::SS as usize] = Segment {
        selector: ss & !RPL | u16::from(cpl),
        rights: rights | rights::BIG,
        ..flat
    };
}

fn system_calls_enabled(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.mode_64 && cpu.efer & efer::SCE != 0 {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

fn system_call(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    system_calls_enabled(cpu)?;
    cpu.registers[RCX] = cpu.rip();
    let flags = cpu.rflags();
    cpu.registers[R11] = flags;
    let target = cpu.msrs.lstar;
    cpu.set_rip(target);
    cpu.set_rflags(flags & !cpu.msrs.fmask & !rflags::RF);
    // With TF masked, a program that single-steps is not trapped inside the system.
    cpu.trap_suppressed = cpu.system_flags & rflags::TF == 0;
    let cs = (cpu.msrs.star >> 32) as u16 & !RPL;
    load_flat(cpu, cs, cs.wrapping_add(8), 0, CodeSize::Bits64);
    cpu.refresh_mode();
    Ok(())
}

fn system_return(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    system_calls_enabled(cpu)?;
    if cpu.cpl != 0 {
        return Err(cpu.general_protection(0));
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let target = cpu.registers[RCX];
    let (cs, size) = if op.operand_bits() == 64 {
        if !Cpu::is_canonical(target) {
            return Err(cpu.general_protection(0));
        }
        cpu.set_rip(target);
        (base.wrapping_add(16), CodeSize::Bits64)
    } else {
        cpu.set_rip(target & 0xffff_ffff);
        (base, CodeSize::Bits32)
    };
    // RF and VM are cleared, reserved bits fixed.
    let flags = cpu.registers[R11] & 0x003c_7fd7;
    cpu.set_rflags(flags);
    load_flat(cpu, cs, base.wrapping_add(8), 3, size);
    cpu.refresh_mode();
    Ok(())
}

/// The code selector in IA32_SYSENTER_CS, or #GP(0) where these instructions are not usable.
fn enter_selector(cpu: &mut Cpu) -> Result<u16, Raised> {
    let selector = cpu.msrs.sysenter_cs as u16;
    if !cpu.protected_mode() || selector & !RPL == 0 {
        return Err(cpu.general_protection(0));
    }
    Ok(selector)
}

fn system_enter(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let selector = enter_selector(cpu)?;
    cpu.system_flags &= !(rflags::VM | rflags::IF | rflags::RF);
    let (size, mask) = if cpu.ia32e_mode() {
        (CodeSize::Bits64, u64::MAX)
    } else {
        (CodeSize::Bits32, 0xffff_ffff)
    };
    cpu.registers[RSP] = cpu.msrs.sysenter_esp & mask;
    let target = cpu.msrs.sysenter_eip & mask;
    cpu.set_rip(target);
    load_flat(cpu, selector, (selector & !RPL).wrapping_add(8), 0, size);
    cpu.refresh_mode();
    Ok(())
}

fn system_exit(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = enter_selector(cpu)?;
    if cpu.cpl != 0 {
        return Err(cpu.general_protection(0));
    }
    let (rip, rsp) = (cpu.registers[RDX], cpu.registers[RCX]);
    if op.operand_bits() == 64 {
        if !Cpu::is_canonical(rip) || !Cpu::is_canonical(rsp) {
            return Err(cpu.general_protection(0));
        }
        cpu.registers[RSP] = rsp;
        cpu.set_rip(rip);
        let cs = selector.wrapping_add(32);
        load_flat(cpu, cs, cs.wrapping_add(8), 3, CodeSize::Bits64);
    } else {
        cpu.registers[RSP] = rsp & 0xffff_ffff;
        cpu.set_rip(rip & 0xffff_ffff);
        let cs = selector.wrapping_add(16);
        load_flat(cpu, cs, selector.wrapping_add(24), 3, CodeSize::Bits32);
    }
    cpu.refresh_mode();
    Ok(())
}
