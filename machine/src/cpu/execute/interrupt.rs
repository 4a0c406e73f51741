//! Software interrupts and the return from interrupts (SDM 6.4.4, 6.12.1; IRET in volume 2).

use arch::control_register::rflags;
use arch::exception as vector;
use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Cpu,
    decode::Form,
    descriptor::RPL,
    op::{Execute, Op},
    raise::{Exception, Raised, Source},
    segment::register,
    stack_frame::{Item, StackFrame},
    task::TaskSwitch,
};

/// The function that carries out a software interrupt or IRET.
pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    Some(match instruction.mnemonic() {
        M::Int => interrupt,
        M::Int3 => breakpoint,
        M::Int1 => privileged_trap,
        M::Into => overflow,
        M::Iret | M::Iretd | M::Iretq => interrupt_return,
        _ => return None,
    })
}

/// Delivers a software interrupt; RIP is that of the next instruction already.
fn deliver(cpu: &mut Cpu, vector: u8, source: Source) {
    cpu.deliver_event(Exception {
        vector,
        error_code: None,
        detail: 0,
        source,
    });
}

/// IOPL of 3 is needed in virtual-8086 mode (SDM 20.2.7; VME is not offered).
fn check_8086_privilege(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.virtual_8086() && cpu.system_flags & rflags::IOPL != rflags::IOPL {
        return Err(cpu.general_protection(0));
    }
    Ok(())
}

fn interrupt(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    check_8086_privilege(cpu)?;
    deliver(cpu, op.immediate as u8, Source::SoftwareInterrupt);
    Ok(())
}

fn breakpoint(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    deliver(cpu, vector::BREAKPOINT, Source::SoftwareException);
    Ok(())
}

fn privileged_trap(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    // A breakpoint that MOV SS held back is the same #DB at the same boundary (SDM 6.8.3, 6.9).
    let detail = cpu.take_held_breakpoints();
    cpu.deliver_event(Exception {
        vector: vector::DEBUG,
        error_code: None,
        detail,
        source: Source::PrivilegedSoftwareException,
    });
    Ok(())
}

fn overflow(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.flags.of() {
        deliver(cpu, vector::OVERFLOW, Source::SoftwareException);
    }
    Ok(())
}

fn interrupt_return(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let item = Item::from_bits(op.operand_bits());
    cpu.unblock_nmi();
    if !cpu.protected_mode() || cpu.virtual_8086() {
        return return_8086(cpu, item);
    }
    if cpu.system_flags & rflags::NT != 0 {
        return return_from_task(cpu);
    }
    let mut frame = StackFrame::current(cpu);
    let rip = frame.pop(cpu, item)?;
    let selector = frame.pop(cpu, item)? as u16;
    let flags = frame.pop(cpu, item)?;
    if flags & rflags::VM != 0 && cpu.cpl == 0 && !cpu.ia32e_mode() {
        return return_to_8086(cpu, frame, rip, selector, flags);
    }
    let cs = cpu.return_code_segment(selector, rip)?;
    let outer = selector & RPL > u16::from(cpu.cpl);
    if cpu.mode_64 || outer {
        let pointer = frame.pop(cpu, item)?;
        let ss_selector = frame.pop(cpu, item)? as u16;
        let ss = cpu.return_stack_segment(ss_selector, selector, &cs)?;
        restore_flags(cpu, item, flags);
        cpu.enter_outer_level(cs, rip, ss, pointer, item);
    } else {
        restore_flags(cpu, item, flags);
        cpu.segments[register::CS as usize] = cs;
        frame.commit(cpu);
        cpu.set_rip(rip);
        cpu.refresh_mode();
    }
    Ok(())
}

/// Flags as IRET restores them at the privilege level it returns from.
fn restore_flags(cpu: &mut Cpu, item: Item, value: u64) {
    let mut writable = rflags::STATUS
        | rflags::TF
        | rflags::DF
        | rflags::NT
        | rflags::RF
        | rflags::AC
        | rflags::ID;
    if u64::from(cpu.cpl) <= cpu.system_flags >> 12 & 3 {
        writable |= rflags::IF;
    }
    if cpu.cpl == 0 {
        writable |= rflags::IOPL | rflags::VIF | rflags::VIP;
    }
    set_flags(cpu, writable & item.mask(), value);
}

fn set_flags(cpu: &mut Cpu, writable: u64, value: u64) {
    let flags = cpu.rflags() & !writable | value & writable;
    cpu.set_rflags(flags);
    // RF from the stack covers the next instruction, not this one.
    cpu.resume_expires = false;
}

// SDM volume 2, IRET: REAL-ADDRESS-MODE and RETURN-FROM-VIRTUAL-8086-MODE
fn return_8086(cpu: &mut Cpu, item: Item) -> Result<(), Raised> {
    check_8086_privilege(cpu)?;
    let mut frame = StackFrame::current(cpu);
    let rip = frame.pop(cpu, item)?;
    let selector = frame.pop(cpu, item)? as u16;
    let flags = frame.pop(cpu, item)?;
    if rip > u64::from(cpu.segments[register::CS as usize].limit) {
        return Err(cpu.general_protection(0));
    }
    frame.commit(cpu);
    let mut kept = rflags::VM | rflags::VIF | rflags::VIP;
    if cpu.virtual_8086() {
        kept |= rflags::IOPL;
    }
    set_flags(cpu, !kept & item.mask(), flags);
    cpu.load_8086_segment(register::CS, selector);
    cpu.set_rip(rip);
    cpu.refresh_mode();
    Ok(())
}

// SDM 20.2.5 Entering virtual-8086 mode
fn return_to_8086(
    cpu: &mut Cpu,
    mut frame: StackFrame,
    rip: u64,
    cs: u16,
    flags: u64,
) -> Result<(), Raised> {
    let item = Item::Doubleword;
    let pointer = frame.pop(cpu, item)?;
    let mut selectors = [0; 5];
    for selector in &mut selectors {
        *selector = frame.pop(cpu, item)? as u16;
    }
    let [ss, es, ds, fs, gs] = selectors;
    if rip > 0xffff {
        return Err(cpu.general_protection(0));
    }
    set_flags(cpu, u64::MAX, flags);
    for (number, selector) in [
        (register::CS, cs),
        (register::SS, ss),
        (register::ES, es),
        (register::DS, ds),
        (register::FS, fs),
        (register::GS, gs),
    ] {
        cpu.load_8086_segment(number, selector);
    }
    cpu.registers[super::super::register::number::RSP] = pointer;
    cpu.set_rip(rip);
    cpu.refresh_mode();
    Ok(())
}

// SDM 7.4 Task linking
fn return_from_task(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.ia32e_mode() {
        return Err(cpu.general_protection(0));
    }
    let link: u16 = cpu.read_system(cpu.tr.base)?;
    cpu.switch_task(link, TaskSwitch::Return)
}

impl Cpu {
    /// IRET ends the blocking of NMIs, even if it faults (SDM 6.7.1).
    pub fn unblock_nmi(&mut self) {
        crate::vtx::intercept::unblock_nmi(self);
        if self.nmi_pending.is_pending() || self.vmx.non_root {
            self.look_at_events();
        }
    }
}
