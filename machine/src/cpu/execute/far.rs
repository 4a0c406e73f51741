//! Far transfers of control: JMP, CALL and RET between segments (SDM 5.8 Privilege level checking
//! when transferring program control between code segments).

use arch::exception as vector;
use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Cpu,
    decode::Form,
    descriptor::{Descriptor, RPL, SystemType, is_null},
    op::{Execute, Op},
    raise::Raised,
    register::number::RSP,
    segment::{Segment, register, rights},
    stack_frame::{Item, StackFrame},
    task::TaskSwitch,
};

/// The function that carries out a far transfer.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    let far = instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect();
    Some(match (instruction.mnemonic(), form) {
        (M::Jmp, Form::Imm) if instruction.is_jmp_far() => direct::<false>,
        (M::Call, Form::Imm) if instruction.is_call_far() => direct::<true>,
        (M::Jmp, Form::Mem) if far => indirect::<false>,
        (M::Call, Form::Mem) if far => indirect::<true>,
        (M::Retf, _) => return_far,
        _ => return None,
    })
}

/// Which of the two instructions transfers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

fn transfer_of<const CALL: bool>() -> Transfer {
    if CALL { Transfer::Call } else { Transfer::Jump }
}

fn direct<const CALL: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = (op.immediate >> 32) as u16;
    let offset = op.immediate & 0xffff_ffff;
    transfer(cpu, op, transfer_of::<CALL>(), selector, offset)
}

fn indirect<const CALL: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let at = cpu.effective_offset(op);
    let bits = op.operand_bits();
    let offset: u64 = match bits {
        16 => cpu.read_at::<u16>(op.segment, at)?.into(),
        32 => cpu.read_at::<u32>(op.segment, at)?.into(),
        _ => cpu.read_at::<u64>(op.segment, at)?,
    };
    let selector = cpu.read_at(op.segment, at.wrapping_add(u64::from(bits / 8)))?;
    transfer(cpu, op, transfer_of::<CALL>(), selector, offset)
}

fn transfer(
    cpu: &mut Cpu,
    op: &Op,
    kind: Transfer,
    selector: u16,
    offset: u64,
) -> Result<(), Raised> {
    let item = Item::from_bits(op.operand_bits());
    if !cpu.protected_mode() || cpu.virtual_8086() {
        return transfer_8086(cpu, kind, item, selector, offset);
    }
    if is_null(selector) {
        return Err(cpu.general_protection(0));
    }
    let descriptor = cpu.descriptor(selector, vector::GENERAL_PROTECTION)?;
    match descriptor.system_type() {
        None => to_code(cpu, kind, item, &descriptor, offset),
        Some(SystemType::CallGate) => through_gate(cpu, kind, &descriptor),
        Some(SystemType::CallGate16) if !cpu.ia32e_mode() => through_gate(cpu, kind, &descriptor),
        Some(
            system @ (SystemType::TaskGate
            | SystemType::AvailableTss
            | SystemType::AvailableTss16
            | SystemType::BusyTss
            | SystemType::BusyTss16),
        ) if !cpu.ia32e_mode() => to_task(cpu, kind, &descriptor, system),
        Some(_) => Err(cpu.selector_protection(selector)),
    }
}

fn transfer_8086(
    cpu: &mut Cpu,
    kind: Transfer,
    item: Item,
    selector: u16,
    offset: u64,
) -> Result<(), Raised> {
    if offset > u64::from(cpu.segments[register::CS as usize].limit) {
        return Err(cpu.general_protection(0));
    }
    if kind == Transfer::Call {
        push_return(cpu, item)?;
    }
    cpu.load_8086_segment(register::CS, selector);
    cpu.set_rip(offset);
    cpu.refresh_mode();
    Ok(())
}

/// Pushes CS and RIP on the stack in use.
fn push_return(cpu: &mut Cpu, item: Item) -> Result<(), Raised> {
    let mut frame = StackFrame::current(cpu);
    frame.push(cpu, item, &code_pointer(cpu))?;
    frame.commit(cpu);
    Ok(())
}

/// What a far call pushes last.
fn code_pointer(cpu: &Cpu) -> [u64; 2] {
    let cs = cpu.segments[register::CS as usize].selector;
    [cs.into(), cpu.rip()]
}

/// Checks that a code segment is usable as such and `offset` is inside it, and gives it with `cpl`
/// in its selector.
fn code_segment(
    cpu: &mut Cpu,
    descriptor: &Descriptor,
    offset: u64,
    cpl: u8,
) -> Result<Segment, Raised> {
    let mut segment = descriptor.segment();
    let long = cpu.ia32e_mode() && segment.has(rights::LONG);
    if long && segment.has(rights::BIG) {
        return Err(cpu.selector_protection(descriptor.selector));
    }
    if !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::SEGMENT_NOT_PRESENT, descriptor.selector));
    }
    let inside = if long {
        Cpu::is_canonical(offset)
    } else {
        segment.covers(offset, 1)
    };
    if !inside {
        return Err(cpu.general_protection(0));
    }
    segment = cpu.mark_accessed(descriptor)?;
    segment.selector = descriptor.selector & !RPL | u16::from(cpl);
    Ok(segment)
}

// SDM 5.8.1 Direct calls or jumps to code segments
fn to_code(
    cpu: &mut Cpu,
    kind: Transfer,
    item: Item,
    descriptor: &Descriptor,
    offset: u64,
) -> Result<(), Raised> {
    let selector = descriptor.selector;
    let permitted = descriptor.is_code()
        && if descriptor.is_conforming() {
            descriptor.privilege() <= cpu.cpl
        } else {
            descriptor.privilege() == cpu.cpl && selector & RPL <= u16::from(cpu.cpl)
        };
    if !permitted {
        return Err(cpu.selector_protection(selector));
    }
    let segment = code_segment(cpu, descriptor, offset, cpu.cpl)?;
    if kind == Transfer::Call {
        push_return(cpu, item)?;
    }
    cpu.segments[register::CS as usize] = segment;
    cpu.set_rip(offset);
    cpu.refresh_mode();
    Ok(())
}

// SDM 5.8.4 Accessing a code segment through a call gate
fn through_gate(cpu: &mut Cpu, kind: Transfer, gate: &Descriptor) -> Result<(), Raised> {
    let level = cpu.cpl.max((gate.selector & RPL) as u8);
    if gate.privilege() < level {
        return Err(cpu.selector_protection(gate.selector));
    }
    let mut offset = u64::from(gate.gate_offset());
    let mut item = if gate.system_type() == Some(SystemType::CallGate16) {
        offset &= 0xffff;
        Item::Word
    } else {
        Item::Doubleword
    };
    let long = cpu.ia32e_mode();
    if long {
        let Some(high) = cpu.upper_descriptor(gate)? else {
            return Err(cpu.selector_protection(gate.selector));
        };
        offset |= high << 32;
        item = Item::Quadword;
    }
    if !gate.is_present() {
        return Err(cpu.selector_fault(vector::SEGMENT_NOT_PRESENT, gate.selector));
    }
    let selector = gate.gate_selector();
    if is_null(selector) {
        return Err(cpu.general_protection(0));
    }
    let code = cpu.descriptor(selector, vector::GENERAL_PROTECTION)?;
    let inward = !code.is_conforming() && code.privilege() < cpu.cpl;
    let permitted = code.is_code()
        && code.privilege() <= cpu.cpl
        && !(kind == Transfer::Jump && inward)
        && (!long || code.is_64_bit_code());
    if !permitted {
        return Err(cpu.selector_protection(selector));
    }
    let cpl = if inward { code.privilege() } else { cpu.cpl };
    let segment = code_segment(cpu, &code, offset, cpl)?;
    if kind == Transfer::Call {
        if inward {
            call_inner_level(cpu, gate, item, cpl)?;
        } else {
            push_return(cpu, item)?;
        }
    }
    cpu.segments[register::CS as usize] = segment;
    cpu.set_rip(offset);
    cpu.refresh_mode();
    Ok(())
}

/// The most parameters that a call gate copies, and the mask of their number.
const PARAMETERS: usize = 31;

// SDM 5.8.5 Stack switching
fn call_inner_level(cpu: &mut Cpu, gate: &Descriptor, item: Item, cpl: u8) -> Result<(), Raised> {
    let old_ss = cpu.segments[register::SS as usize].selector.into();
    let old_pointer = cpu.registers[RSP];
    let [cs, rip] = code_pointer(cpu);
    if cpu.ia32e_mode() {
        let top = cpu.long_stack(4 + u64::from(cpl) * 8)?;
        let mut frame = StackFrame::long(top, cpu.stack_privilege(cpl));
        frame.push(cpu, item, &[old_ss, old_pointer, cs, rip])?;
        frame.commit(cpu);
        cpu.segments[register::SS as usize] = Cpu::null_stack_segment(cpl.into());
        return Ok(());
    }
    let (selector, pointer) = cpu.inner_stack(cpl)?;
    let ss = cpu.inner_stack_segment(selector, cpl)?;
    let privilege = cpu.stack_privilege(cpl);
    let mut frame = StackFrame::inner(ss, pointer, privilege, (selector & !RPL).into());
    let mut outer = StackFrame::current(cpu);
    let count = (gate.low >> 32) as usize & PARAMETERS;
    let mut values = [0; PARAMETERS + 4];
    values[..2].copy_from_slice(&[old_ss, old_pointer]);
    // The parameters keep their order: the last one pushed lies lowest.
    for parameter in values[2..2 + count].iter_mut().rev() {
        *parameter = outer.pop(cpu, item)?;
    }
    values[2 + count..4 + count].copy_from_slice(&[cs, rip]);
    frame.push(cpu, item, &values[..4 + count])?;
    cpu.segments[register::SS as usize] = ss;
    frame.commit(cpu);
    Ok(())
}

fn to_task(
    cpu: &mut Cpu,
    kind: Transfer,
    descriptor: &Descriptor,
    system: SystemType,
) -> Result<(), Raised> {
    let level = cpu.cpl.max((descriptor.selector & RPL) as u8);
    if descriptor.privilege() < level {
        return Err(cpu.selector_protection(descriptor.selector));
    }
    let busy = matches!(system, SystemType::BusyTss | SystemType::BusyTss16);
    if busy {
        return Err(cpu.selector_protection(descriptor.selector));
    }
    if !descriptor.is_present() {
        return Err(cpu.selector_fault(vector::SEGMENT_NOT_PRESENT, descriptor.selector));
    }
    let selector = if system == SystemType::TaskGate {
        descriptor.gate_selector()
    } else {
        descriptor.selector
    };
    let how = match kind {
        Transfer::Jump => TaskSwitch::Jump,
        Transfer::Call => TaskSwitch::Call,
    };
    cpu.switch_task(selector, how)
}

/// RETF, with or without bytes to release.
fn return_far(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let item = Item::from_bits(op.operand_bits());
    let release = op.immediate & 0xffff;
    let mut frame = StackFrame::current(cpu);
    let rip = frame.pop(cpu, item)?;
    let selector = frame.pop(cpu, item)? as u16;
    if !cpu.protected_mode() || cpu.virtual_8086() {
        if rip > u64::from(cpu.segments[register::CS as usize].limit) {
            return Err(cpu.general_protection(0));
        }
        frame.skip(release);
        frame.commit(cpu);
        cpu.load_8086_segment(register::CS, selector);
        cpu.set_rip(rip);
        cpu.refresh_mode();
        return Ok(());
    }
    let cs = cpu.return_code_segment(selector, rip)?;
    frame.skip(release);
    if selector & RPL == u16::from(cpu.cpl) {
        cpu.segments[register::CS as usize] = cs;
        frame.commit(cpu);
        cpu.set_rip(rip);
        cpu.refresh_mode();
        return Ok(());
    }
    let pointer = frame.pop(cpu, item)?;
    let ss_selector = frame.pop(cpu, item)? as u16;
    let ss = cpu.return_stack_segment(ss_selector, selector, &cs)?;
    cpu.enter_outer_level(cs, rip, ss, pointer.wrapping_add(release), item);
    Ok(())
}

impl Cpu {
    /// The code segment that RETF or IRET returns to (SDM 5.8.6): not more privileged than CPL, and
    /// `rip` inside it.
    pub(super) fn return_code_segment(
        &mut self,
        selector: u16,
        rip: u64,
    ) -> Result<Segment, Raised> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let descriptor = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        let level = (selector & RPL) as u8;
        let permitted = descriptor.is_code()
            && level >= self.cpl
            && if descriptor.is_conforming() {
                descriptor.privilege() <= level
            } else {
                descriptor.privilege() == level
            };
        if !permitted {
            return Err(self.selector_protection(selector));
        }
        code_segment(self, &descriptor, rip, level)
    }

    /// The stack segment that a return to code segment `cs` (selector `cs_selector`) pops.
    pub(super) fn return_stack_segment(
        &mut self,
        selector: u16,
        cs_selector: u16,
        cs: &Segment,
    ) -> Result<Segment, Raised> {
        let level = cs_selector & RPL;
        if is_null(selector) {
            let to_long = self.ia32e_mode() && cs.has(rights::LONG);
            return if to_long && level != 3 && selector & RPL == level {
                Ok(Self::null_stack_segment(selector))
            } else {
                Err(self.general_protection(0))
            };
        }
        let descriptor = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        self.check_stack_segment(&descriptor, level as u8, vector::GENERAL_PROTECTION)?;
        self.mark_accessed(&descriptor)
    }

    /// Completes a return that pops SS: loads CS:RIP and SS:RSP, and drops data segments that the
    /// new level may not use.
    pub(super) fn enter_outer_level(
        &mut self,
        cs: Segment,
        rip: u64,
        ss: Segment,
        pointer: u64,
        item: Item,
    ) {
        let old = self.cpl;
        self.segments[register::CS as usize] = cs;
        self.segments[register::SS as usize] = ss;
        self.set_rip(rip);
        self.refresh_mode();
        // A 16-bit pop leaves nothing to put in the upper half; the stack's own width decides what
        // is written.
        self.set_outer_stack_pointer(pointer & item.mask());
        if self.cpl > old {
            self.drop_inner_segments();
        }
    }
}
