//! The VMX instructions (SDM chapter "VMX instruction reference").

use arch::{
    control_register::{cr4, rflags},
    exit::ExitReason,
    msr::feature_control,
    vmcs::{INSTRUCTION_ERROR, instruction_error as error},
};
use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{
    Cpu, Inhibit,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
};
use crate::vtx::{
    VmExit,
    control_registers::{permits_cr0, permits_cr4},
    entry, ept, instruction_information as information, vm_functions,
    vmcs::{self, Component, LaunchState, NO_POINTER},
    vmcs_shadowing::{Direction, accessed_region, is_shadowed},
};

/// Says which function carries out a VMX instruction.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    Some(match (instruction.mnemonic(), form) {
        (Mnemonic::Vmxon, Form::Mem) => vmxon,
        (Mnemonic::Vmxoff, _) => vmxoff,
        (Mnemonic::Vmclear, Form::Mem) => vmclear,
        (Mnemonic::Vmptrld, Form::Mem) => vmptrld,
        (Mnemonic::Vmptrst, Form::Mem) => vmptrst,
        (Mnemonic::Vmread, Form::RegReg) => vmread::<false>,
        (Mnemonic::Vmread, Form::MemReg) => vmread::<true>,
        (Mnemonic::Vmwrite, Form::RegReg) => vmwrite::<false>,
        (Mnemonic::Vmwrite, Form::RegMem) => vmwrite::<true>,
        (Mnemonic::Vmlaunch, _) => vmlaunch,
        (Mnemonic::Vmresume, _) => vmresume,
        (Mnemonic::Vmcall, _) => vmcall,
        (Mnemonic::Invept, Form::RegMem) => invept,
        (Mnemonic::Invvpid, Form::RegMem) => invvpid,
        (Mnemonic::Vmfunc, _) => vmfunc,
        _ => return None,
    })
}

/// How a VMX instruction ends (SDM 30.2 Conventions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Succeed,
    FailInvalid,
    /// VMfail: VMfailValid with this number if there is a current VMCS, otherwise VMfailInvalid.
    Fail(u32),
}

fn conclude(cpu: &mut Cpu, outcome: Outcome) -> Result<(), Raised> {
    let flags = match outcome {
        Outcome::Succeed => 0,
        Outcome::Fail(number) if cpu.vmx.current != NO_POINTER => {
            cpu.set_vmcs(INSTRUCTION_ERROR, number);
            rflags::ZF
        }
        Outcome::FailInvalid | Outcome::Fail(_) => rflags::CF,
    };
    cpu.flags = crate::cpu::flags::Flags::from_rflags(flags);
    Ok(())
}

/// What all VMX instructions but VMXON begin with; `leave` describes the exit from VMX non-root
/// operation.
fn begin(cpu: &mut Cpu, leave: impl FnOnce(&Cpu) -> VmExit) -> Result<(), Raised> {
    if !cpu.vmx.on || !mode_permits(cpu) {
        return Err(cpu.invalid_opcode());
    }
    if cpu.vmx.non_root {
        let exit = leave(cpu);
        return Err(cpu.vm_exit(exit));
    }
    if cpu.cpl != 0 {
        return Err(cpu.general_protection(0));
    }
    Ok(())
}

/// The same for VMREAD and VMWRITE of the field whose encoding is in register `field`: with VMCS
/// shadowing they may execute in VMX non-root operation.
fn begin_field(
    cpu: &mut Cpu,
    direction: Direction,
    field: u8,
    leave: impl FnOnce(&Cpu) -> VmExit,
) -> Result<(), Raised> {
    if cpu.vmx.non_root && mode_permits(cpu) && is_shadowed(cpu, direction, register(cpu, field)) {
        return if cpu.cpl == 0 {
            Ok(())
        } else {
            Err(cpu.general_protection(0))
        };
    }
    begin(cpu, leave)
}

fn vmfunc(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    vm_functions::vmfunc(cpu)
}

/// Protected mode, but neither virtual-8086 nor compatibility mode.
fn mode_permits(cpu: &Cpu) -> bool {
    cpu.protected_mode() && !cpu.virtual_8086() && (!cpu.ia32e_mode() || cpu.mode_64)
}

/// The exit of an instruction whose operand is in memory.
fn memory_exit(cpu: &Cpu, reason: ExitReason, op: &Op) -> VmExit {
    VmExit::qualified(reason, information::displacement(cpu, op))
        .with_instruction_information(information::memory_operand(op))
}

/// Whether `address` can be that of a VMXON region or VMCS.
fn plausible(cpu: &Cpu, address: u64) -> bool {
    address & (0xfff | !cpu.model.physical_mask()) == 0
}

fn revision(cpu: &Cpu, address: u64) -> Option<u32> {
    let at = cpu.ram.offset(address)?;
    Some(vmcs::revision_word(&cpu.ram, at))
}

fn vmxon(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if cpu.cr4 & cr4::VMXE == 0 || !mode_permits(cpu) {
        return Err(cpu.invalid_opcode());
    }
    if cpu.vmx.on {
        if cpu.vmx.non_root {
            let exit = memory_exit(cpu, ExitReason::Vmxon, op);
            return Err(cpu.vm_exit(exit));
        }
        if cpu.cpl != 0 {
            return Err(cpu.general_protection(0));
        }
        return conclude(cpu, Outcome::Fail(error::VMXON_IN_ROOT));
    }
    // SDM 23.7, 23.8: the lock, the permission, and the bits that VMX operation fixes.
    const ENABLED: u64 = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
    cpu.vmx.on = true;
    let fixed = permits_cr0(cpu, cpu.cr0) && permits_cr4(cpu, cpu.cr4);
    cpu.vmx.on = false;
    if cpu.cpl != 0 || !fixed || cpu.msrs.feature_control & ENABLED != ENABLED {
        return Err(cpu.general_protection(0));
    }
    let address = cpu.read::<u64>(op)?;
    if !plausible(cpu, address) || revision(cpu, address) != Some(vmcs::REVISION) {
        return conclude(cpu, Outcome::FailInvalid);
    }
    cpu.vmx.on = true;
    cpu.vmx.vmxon_region = address;
    cpu.vmx.current = NO_POINTER;
    conclude(cpu, Outcome::Succeed)
}

fn vmxoff(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    begin(cpu, |_| VmExit::new(ExitReason::Vmxoff))?;
    cpu.vmx.on = false;
    cpu.vmx.current = NO_POINTER;
    cpu.vmx.vmxon_region = NO_POINTER;
    cpu.vmx.translations.invalidate_all();
    cpu.vmx.ept_cache.clear();
    // A blocked INIT is blocked no longer.
    cpu.look_at_events();
    conclude(cpu, Outcome::Succeed)
}

fn vmclear(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    begin(cpu, |cpu| memory_exit(cpu, ExitReason::Vmclear, op))?;
    let address = cpu.read::<u64>(op)?;
    if !plausible(cpu, address) {
        return conclude(cpu, Outcome::Fail(error::VMCLEAR_INVALID_ADDRESS));
    }
    if address == cpu.vmx.vmxon_region {
        return conclude(cpu, Outcome::Fail(error::VMCLEAR_VMXON_POINTER));
    }
    if let Some(at) = cpu.ram.offset(address) {
        vmcs::set_launch_state(cpu, at, LaunchState::Clear);
    }
    if address == cpu.vmx.current {
        cpu.vmx.current = NO_POINTER;
    }
    conclude(cpu, Outcome::Succeed)
}

fn vmptrld(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    begin(cpu, |cpu| memory_exit(cpu, ExitReason::Vmptrld, op))?;
    let address = cpu.read::<u64>(op)?;
    if !plausible(cpu, address) {
        return conclude(cpu, Outcome::Fail(error::VMPTRLD_INVALID_ADDRESS));
    }
    if address == cpu.vmx.vmxon_region {
        return conclude(cpu, Outcome::Fail(error::VMPTRLD_VMXON_POINTER));
    }
    // An ordinary or a shadow VMCS.
    let Some(at) = cpu
        .ram
        .offset(address)
        .filter(|at| vmcs::revision_word(&cpu.ram, *at) & !vmcs::SHADOW == vmcs::REVISION)
    else {
        return conclude(cpu, Outcome::Fail(error::VMPTRLD_WRONG_REVISION));
    };
    cpu.vmx.current = address;
    cpu.vmx.region = at;
    conclude(cpu, Outcome::Succeed)
}

fn vmptrst(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    begin(cpu, |cpu| memory_exit(cpu, ExitReason::Vmptrst, op))?;
    cpu.write::<u64>(op, cpu.vmx.current)?;
    conclude(cpu, Outcome::Succeed)
}

/// A general register at the operand size of VMREAD and VMWRITE: 64 bits in 64-bit mode, otherwise
/// 32.
fn register(cpu: &Cpu, number: u8) -> u64 {
    let value = cpu.registers[(number & 15) as usize];
    if cpu.mode_64 {
        value
    } else {
        value & 0xffff_ffff
    }
}

/// The exit of VMREAD or VMWRITE (SDM 27.2.5, table 27-14).
fn field_exit(cpu: &Cpu, reason: ExitReason, op: &Op, value: FieldOperand, field: u8) -> VmExit {
    let field = information::second_register(field);
    match value {
        FieldOperand::Register(number) => VmExit::new(reason)
            .with_instruction_information(information::register_operand(number) | field),
        FieldOperand::Memory => {
            let exit = memory_exit(cpu, reason, op);
            exit.with_instruction_information(exit.instruction_information | field)
        }
    }
}

enum FieldOperand {
    Register(u8),
    Memory,
}

fn vmread<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    // Intel's order: destination, then the register with the encoding.
    let (value, field) = if MEMORY {
        (FieldOperand::Memory, op.reg)
    } else {
        (FieldOperand::Register(op.reg), op.rm)
    };
    begin_field(cpu, Direction::Read, field, |cpu| {
        field_exit(cpu, ExitReason::Vmread, op, value, field)
    })?;
    let Some(region) = accessed_region(cpu) else {
        return conclude(cpu, Outcome::FailInvalid);
    };
    let Some(component) = Component::decode(register(cpu, field), &cpu.model) else {
        return conclude(cpu, Outcome::Fail(error::UNSUPPORTED_COMPONENT));
    };
    let value = component.read(&cpu.ram, region);
    if MEMORY {
        if cpu.mode_64 {
            cpu.write::<u64>(op, value)?;
        } else {
            cpu.write::<u32>(op, value as u32)?;
        }
    } else {
        let value = if cpu.mode_64 {
            value
        } else {
            value & 0xffff_ffff
        };
        cpu.registers[(op.reg & 15) as usize] = value;
    }
    conclude(cpu, Outcome::Succeed)
}

fn vmwrite<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let value = if MEMORY {
        FieldOperand::Memory
    } else {
        FieldOperand::Register(op.rm)
    };
    begin_field(cpu, Direction::Write, op.reg, |cpu| {
        field_exit(cpu, ExitReason::Vmwrite, op, value, op.reg)
    })?;
    let Some(region) = accessed_region(cpu) else {
        return conclude(cpu, Outcome::FailInvalid);
    };
    let value = match (MEMORY, cpu.mode_64) {
        (false, _) => register(cpu, op.rm),
        (true, true) => cpu.read::<u64>(op)?,
        (true, false) => u64::from(cpu.read::<u32>(op)?),
    };
    // IA32_VMX_MISC[29] is 1: exit-information fields can be written as any other.
    let Some(component) = Component::decode(register(cpu, op.reg), &cpu.model) else {
        return conclude(cpu, Outcome::Fail(error::UNSUPPORTED_COMPONENT));
    };
    component.write(cpu, region, value);
    conclude(cpu, Outcome::Succeed)
}

fn vmlaunch(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    begin(cpu, |_| VmExit::new(ExitReason::Vmlaunch))?;
    enter(cpu, LaunchState::Clear, error::VMLAUNCH_NOT_CLEAR)
}

fn vmresume(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    begin(cpu, |_| VmExit::new(ExitReason::Vmresume))?;
    enter(cpu, LaunchState::Launched, error::VMRESUME_NOT_LAUNCHED)
}

// SDM 26.1 Basic VM-Entry Checks
fn enter(cpu: &mut Cpu, required: LaunchState, otherwise: u32) -> Result<(), Raised> {
    let is_shadow = |cpu: &Cpu| vmcs::revision_word(&cpu.ram, cpu.vmx.region) & vmcs::SHADOW != 0;
    if cpu.vmx.current == NO_POINTER || is_shadow(cpu) {
        return conclude(cpu, Outcome::FailInvalid);
    }
    if cpu.inhibit == Inhibit::MovSs {
        return conclude(cpu, Outcome::Fail(error::ENTRY_BLOCKED_BY_MOV_SS));
    }
    if vmcs::launch_state(&cpu.ram, cpu.vmx.region) != required {
        return conclude(cpu, Outcome::Fail(otherwise));
    }
    match entry::enter(cpu) {
        Ok(()) => {
            // Whatever trap VMLAUNCH owed went with the host's RFLAGS.TF.
            cpu.trap_suppressed = true;
            Ok(())
        }
        Err(number) => conclude(cpu, Outcome::Fail(number)),
    }
}

fn vmcall(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.vmx.non_root {
        return Err(cpu.vm_exit(VmExit::new(ExitReason::Vmcall)));
    }
    begin(cpu, |_| VmExit::new(ExitReason::Vmcall))?;
    conclude(cpu, Outcome::Fail(error::VMCALL_IN_ROOT))
}

/// The exit of INVEPT or INVVPID.
fn invalidation_exit(cpu: &Cpu, reason: ExitReason, op: &Op) -> VmExit {
    let exit = memory_exit(cpu, reason, op);
    exit.with_instruction_information(
        exit.instruction_information | information::second_register(op.reg),
    )
}

fn invept(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    begin(cpu, |cpu| invalidation_exit(cpu, ExitReason::Invept, op))?;
    let descriptor = cpu.read::<u128>(op)?;
    let ept_pointer = descriptor as u64;
    match register(cpu, op.reg) {
        // Single-context: VM entry would have to accept the pointer.
        1 if ept::is_pointer(cpu, ept_pointer) => cpu.vmx.translations.invalidate_ept(ept_pointer),
        2 => cpu.vmx.translations.invalidate_all(),
        _ => return conclude(cpu, Outcome::Fail(error::INVALID_INVALIDATION_OPERAND)),
    }
    cpu.vmx.ept_cache.clear();
    conclude(cpu, Outcome::Succeed)
}

fn invvpid(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    begin(cpu, |cpu| invalidation_exit(cpu, ExitReason::Invvpid, op))?;
    let descriptor = cpu.read::<u128>(op)?;
    let vpid = descriptor as u16;
    let reserved = descriptor as u64 >> 16 != 0;
    let linear = (descriptor >> 64) as u64;
    let valid = match register(cpu, op.reg) {
        _ if reserved => false,
        // Individual-address drops more than it must: all of the VPID.
        0 => vpid != 0 && Cpu::is_canonical(linear),
        1 | 3 => vpid != 0,
        2 => true,
        _ => false,
    };
    if !valid {
        return conclude(cpu, Outcome::Fail(error::INVALID_INVALIDATION_OPERAND));
    }
    if register(cpu, op.reg) == 2 {
        cpu.vmx.translations.invalidate_all();
    } else {
        cpu.vmx.translations.invalidate_vpid(vpid);
    }
    conclude(cpu, Outcome::Succeed)
}
