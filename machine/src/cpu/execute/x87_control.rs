//! x87 instructions that control the unit (SDM volume 1, 8.3.9 x87 FPU control instructions).

use arch::control_register::cr0;
use arch::exception as vector;
use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    x87::X87,
};

/// Status word: exception flags, stack fault, error summary and busy.
const STATUS_EXCEPTIONS: u16 = 0x80ff;
const STATUS_SUMMARY: u16 = 1 << 7;
const STATUS_BUSY: u16 = 1 << 15;
/// The six exceptions and their masks.
const EXCEPTIONS: u16 = 0x3f;
/// Bits of the control word that exist; bit 6 is always set.
const CONTROL: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 1 << 6;

impl Cpu {
    /// SDM 2.5 Control registers: EM and TS keep the x87 instructions from software.
    #[inline(always)]
    fn enter_x87(&mut self) -> Result<(), Raised> {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 {
            Ok(())
        } else {
            Err(self.fault(vector::DEVICE_NOT_AVAILABLE, None))
        }
    }
}

/// FNINIT.
fn fninit(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    // It empties the registers and keeps their content.
    cpu.x87 = X87 {
        registers: cpu.x87.registers,
        ..X87::default()
    };
    Ok(())
}

/// FNCLEX.
fn fnclex(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.x87.status &= !STATUS_EXCEPTIONS;
    Ok(())
}

/// FNSTCW.
fn fnstcw(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let value = cpu.x87.control;
    cpu.write(op, value)
}

/// FLDCW. An exception that it unmasks becomes pending.
fn fldcw(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.raise_pending_x87()?;
    let value = cpu.read::<u16>(op)? & CONTROL | CONTROL_FIXED;
    cpu.x87.control = value;
    if cpu.x87.status & !value & EXCEPTIONS != 0 {
        cpu.x87.status |= STATUS_SUMMARY | STATUS_BUSY;
    } else {
        cpu.x87.status &= !(STATUS_SUMMARY | STATUS_BUSY);
    }
    Ok(())
}

/// FNSTSW to memory.
fn fnstsw(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let value = cpu.x87.status;
    cpu.write(op, value)
}

/// FNSTSW AX.
fn fnstsw_ax(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.registers[0] = cpu.registers[0] & !0xffff | u64::from(cpu.x87.status);
    Ok(())
}

/// WAIT. TS keeps it from software only with MP.
fn wait(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(cpu.fault(vector::DEVICE_NOT_AVAILABLE, None));
    }
    cpu.raise_pending_x87()
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    match (instruction.mnemonic(), form) {
        (Mnemonic::Fninit, _) => Some(fninit),
        (Mnemonic::Fnclex, _) => Some(fnclex),
        (Mnemonic::Fnstcw, Form::Mem) => Some(fnstcw),
        (Mnemonic::Fldcw, Form::Mem) => Some(fldcw),
        (Mnemonic::Fnstsw, Form::Mem) => Some(fnstsw),
        (Mnemonic::Fnstsw, Form::Reg) => Some(fnstsw_ax),
        (Mnemonic::Wait, _) => Some(wait),
        _ => None,
    }
}
