//! Instructions on segment registers, selectors and the registers of system segments.

use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Cpu, Inhibit,
    decode::Form,
    descriptor::{Descriptor, RPL, SystemType, is_null},
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
    segment::register,
    stack_frame::{Item, StackFrame},
};
use super::system::user_mode_prevented;
use crate::vtx::intercept::{self, DescriptorTable, OperandPlace};

/// The function that carries out an instruction on segments.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    let segment = |index| instruction.op_register(index).is_segment_register();
    Some(match (instruction.mnemonic(), form) {
        (M::Mov, Form::RegReg) if segment(0) => mov_to_segment::<false>,
        (M::Mov, Form::RegMem) if segment(0) => mov_to_segment::<true>,
        (M::Pop, Form::Reg) if segment(0) => pop_segment,
        (M::Les, _) => load_far_pointer::<{ register::ES }>,
        (M::Lds, _) => load_far_pointer::<{ register::DS }>,
        (M::Lss, _) => load_far_pointer::<{ register::SS }>,
        (M::Lfs, _) => load_far_pointer::<{ register::FS }>,
        (M::Lgs, _) => load_far_pointer::<{ register::GS }>,
        (M::Lldt, Form::Mem) => load_local_table::<true>,
        (M::Lldt, _) => load_local_table::<false>,
        (M::Ltr, Form::Mem) => load_task_register::<true>,
        (M::Ltr, _) => load_task_register::<false>,
        (M::Sldt, Form::Mem) => store_local_table_to_memory,
        (M::Sldt, _) => store_local_table,
        (M::Str, Form::Mem) => store_task_register_to_memory,
        (M::Str, _) => store_task_register,
        (M::Lar, Form::RegMem) => load_access_rights::<true>,
        (M::Lar, _) => load_access_rights::<false>,
        (M::Lsl, Form::RegMem) => load_segment_limit::<true>,
        (M::Lsl, _) => load_segment_limit::<false>,
        (M::Verr, Form::Mem) => verify_read::<true>,
        (M::Verr, _) => verify_read::<false>,
        (M::Verw, Form::Mem) => verify_write::<true>,
        (M::Verw, _) => verify_write::<false>,
        (M::Arpl, Form::MemReg) => adjust_privilege_in_memory,
        (M::Arpl, _) => adjust_privilege,
        _ => return None,
    })
}

/// Loads a segment register; SS holds off interrupts and traps for one instruction (SDM 6.8.3).
fn load(cpu: &mut Cpu, number: u8, selector: u16) -> Result<(), Raised> {
    if number == register::CS || number > register::GS {
        return Err(cpu.invalid_opcode());
    }
    cpu.load_segment(number, selector)?;
    if number == register::SS {
        cpu.inhibit = Inhibit::MovSs;
        cpu.inhibit_expires = false;
        cpu.trap_suppressed = true;
        cpu.look_at_events();
    }
    Ok(())
}

fn selector_operand<const MEMORY: bool>(cpu: &mut Cpu, op: &Op, number: u8) -> Result<u16, Raised> {
    if MEMORY {
        cpu.read(op)
    } else {
        Ok(u16::register(cpu, number))
    }
}

fn mov_to_segment<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let selector = selector_operand::<MEMORY>(cpu, op, op.rm)?;
    load(cpu, op.reg, selector)
}

/// Writes a selector to a register, zero-extended to the operand size.
fn set_selector(cpu: &mut Cpu, op: &Op, selector: u16) {
    if op.operand_bits() == 16 {
        u16::set_register(cpu, op.reg, selector);
    } else {
        u64::set_register(cpu, op.reg, selector.into());
    }
}

fn pop_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let mut frame = StackFrame::current(cpu);
    let item = Item::from_bits(op.operand_bits());
    let selector = frame.pop(cpu, Item::Word)?;
    frame.skip(item.size() - 2);
    load(cpu, op.reg, selector as u16)?;
    frame.commit(cpu);
    Ok(())
}

fn load_far_pointer<const SEGMENT: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let at = cpu.effective_offset(op);
    let bits = op.operand_bits();
    let offset: u64 = match bits {
        16 => cpu.read_at::<u16>(op.segment, at)?.into(),
        32 => cpu.read_at::<u32>(op.segment, at)?.into(),
        _ => cpu.read_at::<u64>(op.segment, at)?,
    };
    let selector: u16 = cpu.read_at(op.segment, at.wrapping_add(u64::from(bits / 8)))?;
    // LSS does not hold off interrupts: it loads both halves itself.
    cpu.load_segment(SEGMENT, selector)?;
    match bits {
        16 => u16::set_register(cpu, op.reg, offset as u16),
        32 => u32::set_register(cpu, op.reg, offset as u32),
        _ => u64::set_register(cpu, op.reg, offset),
    }
    Ok(())
}

/// #UD outside protected mode: these instructions are not recognized there.
fn protected_only(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.protected_mode() && !cpu.virtual_8086() {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

fn privileged(cpu: &mut Cpu) -> Result<(), Raised> {
    protected_only(cpu)?;
    if cpu.cpl == 0 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

fn place<const MEMORY: bool>() -> OperandPlace {
    if MEMORY {
        OperandPlace::Memory
    } else {
        OperandPlace::Register
    }
}

fn load_local_table<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::LoadLocal, place::<MEMORY>(), op)?;
    let selector = selector_operand::<MEMORY>(cpu, op, op.reg)?;
    cpu.load_ldtr(selector)
}

fn load_task_register<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::LoadTask, place::<MEMORY>(), op)?;
    let selector = selector_operand::<MEMORY>(cpu, op, op.reg)?;
    cpu.load_tr(selector)
}

fn store_local_table_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    user_mode_prevented(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::StoreLocal, OperandPlace::Memory, op)?;
    let selector = cpu.ldtr.selector;
    cpu.write(op, selector)
}

fn store_local_table(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    user_mode_prevented(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::StoreLocal, OperandPlace::Register, op)?;
    let selector = cpu.ldtr.selector;
    set_selector(cpu, op, selector);
    Ok(())
}

fn store_task_register_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    user_mode_prevented(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::StoreTask, OperandPlace::Memory, op)?;
    let selector = cpu.tr.selector;
    cpu.write(op, selector)
}

fn store_task_register(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    user_mode_prevented(cpu)?;
    intercept::descriptor_table(cpu, DescriptorTable::StoreTask, OperandPlace::Register, op)?;
    let selector = cpu.tr.selector;
    set_selector(cpu, op, selector);
    Ok(())
}

/// The descriptor of `selector` if the program may see it: inside its table, and of a privilege that
/// CPL and RPL reach unless it is conforming code.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Raised> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(descriptor) = cpu.find_descriptor(selector)? else {
        return Ok(None);
    };
    let level = cpu.cpl.max((selector & RPL) as u8);
    let reachable = descriptor.is_conforming() || level <= descriptor.privilege();
    Ok(reachable.then_some(descriptor))
}

fn set_zero(cpu: &mut Cpu, zero: bool) {
    cpu.flags = cpu.flags.with_zf(zero);
}

/// The system types that LAR accepts; LSL takes those of them that have a limit (SDM volume 2).
fn has_rights(cpu: &Cpu, kind: SystemType) -> bool {
    match kind {
        SystemType::Ldt | SystemType::AvailableTss | SystemType::BusyTss | SystemType::CallGate => {
            true
        }
        SystemType::AvailableTss16
        | SystemType::BusyTss16
        | SystemType::CallGate16
        | SystemType::TaskGate => !cpu.ia32e_mode(),
        _ => false,
    }
}

fn has_limit(cpu: &Cpu, kind: SystemType) -> bool {
    has_rights(cpu, kind)
        && !matches!(
            kind,
            SystemType::CallGate | SystemType::CallGate16 | SystemType::TaskGate
        )
}

/// What LAR and LSL look up; `None` clears ZF.
fn look_up<const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
    accept: fn(&Cpu, SystemType) -> bool,
) -> Result<Option<Descriptor>, Raised> {
    protected_only(cpu)?;
    let selector = selector_operand::<MEMORY>(cpu, op, op.rm)?;
    let found = visible(cpu, selector)?;
    Ok(found.filter(|descriptor| {
        descriptor
            .system_type()
            .is_none_or(|kind| accept(cpu, kind))
    }))
}

fn set_result(cpu: &mut Cpu, op: &Op, value: u32) {
    match op.operand_bits() {
        16 => u16::set_register(cpu, op.reg, value as u16),
        32 => u32::set_register(cpu, op.reg, value),
        _ => u64::set_register(cpu, op.reg, value.into()),
    }
}

/// The bits of a descriptor's second doubleword that LAR loads. The manual leaves bits 19:16 undefined;
/// processors load them with the rest.
const ACCESS_RIGHTS: u32 = 0x00ff_ff00;

fn load_access_rights<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let found = look_up::<MEMORY>(cpu, op, has_rights)?;
    if let Some(descriptor) = found {
        set_result(cpu, op, (descriptor.low >> 32) as u32 & ACCESS_RIGHTS);
    }
    set_zero(cpu, found.is_some());
    Ok(())
}

fn load_segment_limit<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let found = look_up::<MEMORY>(cpu, op, has_limit)?;
    if let Some(descriptor) = found {
        set_result(cpu, op, descriptor.segment().limit);
    }
    set_zero(cpu, found.is_some());
    Ok(())
}

fn verify_read<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    let selector = selector_operand::<MEMORY>(cpu, op, op.reg)?;
    let found = visible(cpu, selector)?;
    set_zero(
        cpu,
        found.is_some_and(|descriptor| descriptor.is_readable()),
    );
    Ok(())
}

fn verify_write<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    let selector = selector_operand::<MEMORY>(cpu, op, op.reg)?;
    let found = visible(cpu, selector)?;
    set_zero(
        cpu,
        found.is_some_and(|descriptor| descriptor.is_writable()),
    );
    Ok(())
}

/// The destination with the source's RPL if that is larger; `None` if it is not.
fn adjusted(destination: u16, source: u16) -> Option<u16> {
    (destination & RPL < source & RPL).then_some(destination & !RPL | source & RPL)
}

fn adjust_privilege(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    let result = adjusted(u16::register(cpu, op.reg), u16::register(cpu, op.rm));
    if let Some(selector) = result {
        u16::set_register(cpu, op.reg, selector);
    }
    set_zero(cpu, result.is_some());
    Ok(())
}

fn adjust_privilege_in_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    protected_only(cpu)?;
    let source = u16::register(cpu, op.reg);
    let mut changed = false;
    cpu.read_modify_write::<u16>(op, |old| {
        let result = adjusted(old, source);
        changed = result.is_some();
        result.unwrap_or(old)
    })?;
    set_zero(cpu, changed);
    Ok(())
}
