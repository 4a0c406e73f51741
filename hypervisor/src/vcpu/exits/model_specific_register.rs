//! RDMSR and WRMSR.

use super::{Context, Next, Outcome, advance, general_protection};
use crate::host::instructions::read_time_stamp;
use crate::interrupts::posting::Sender;
use crate::say;
use crate::vcpu::guest_state::{Accepted, write_efer};
use crate::vcpu::run::flush_translations;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::msr::{
    Access, Direction, Notice, Register, checked_pat, line_of, read_access, write_access,
};
use crate::vmx::feature::Feature;
use crate::vmx::instructions::{RAX, RCX, RDX};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::{msr, vmcs};

/// The common IPI: an intercepted WRMSR 830H with a fixed, physical unicast. `false`: it is something
/// else, and nothing was done.
#[inline(always)]
pub(in crate::vcpu) fn unicast(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Result<bool, VmxError> {
    let registers = &vcpu.registers.0;
    if registers[RCX] as u32 != msr::IA32_X2APIC_ICR {
        return Ok(false);
    }
    let command = registers[RAX] & 0xffff_ffff | registers[RDX] << 32;
    let sender = Sender {
        processor: context.processor.number,
    };
    let vm = &context.hypervisor.vm.interrupts;
    let Some(signal) = vcpu.apic.send_unicast(command, vm, sender) else {
        return Ok(false);
    };
    context.hypervisor.signal(signal, context.processor);
    advance(vmcs)?;
    Ok(true)
}

fn set_result(vcpu: &mut VirtualProcessor, value: u64) {
    vcpu.registers.0[RAX] = value & 0xffff_ffff;
    vcpu.registers.0[RDX] = value >> 32;
}

pub(super) fn read(vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs, context: Context) -> Outcome {
    let register = vcpu.registers.0[RCX] as u32;
    let now = guest_time(vcpu);
    let value = if is_x2apic(register) {
        vcpu.apic.read_msr(register, now).ok()
    } else {
        match read_access(register) {
            Access::Constant(value) => Some(value),
            Access::Emulated(which) => match which {
                Register::ApicBase => Some(vcpu.apic.base().value()),
                Register::TscDeadline => Some(vcpu.apic.apic().tsc_deadline()),
                Register::TimeStampCounter => Some(now),
                Register::Efer => Some(vmcs.read(vmcs::GUEST_EFER)?),
                Register::Pat if has_pat(context) => Some(vmcs.read(vmcs::GUEST_PAT)?),
                Register::Pat => Some(0x0007_0406_0007_0406),
                Register::MemoryType => vcpu.memory_types.read(register).ok(),
            },
            // The bitmap passes it, so the processor must have found it missing.
            Access::PassThrough | Access::Ignored | Access::Only(_) | Access::Fault => None,
        }
    };
    match value {
        Some(value) => {
            set_result(vcpu, value);
            advance(vmcs)?;
            Ok(Next::Resume)
        }
        None => refuse(vcpu, register, Direction::Read),
    }
}

pub(super) fn write(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let registers = &vcpu.registers.0;
    let register = registers[RCX] as u32;
    let value = registers[RAX] & 0xffff_ffff | registers[RDX] << 32;
    let now = guest_time(vcpu);
    let accepted = if is_x2apic(register) {
        let effect = vcpu.apic.write_msr(register, value, now);
        if let Ok(effect) = effect {
            super::follow_up(effect, vcpu, vmcs, context)?;
        }
        effect.is_ok()
    } else {
        match write_access(register) {
            Access::Ignored => true,
            Access::Only(accepted) => value == accepted,
            Access::Emulated(which) => emulated_write(which, register, value, vcpu, vmcs, context)?,
            Access::PassThrough | Access::Constant(_) | Access::Fault => false,
        }
    };
    if !accepted {
        return refuse(vcpu, register, Direction::Write);
    }
    advance(vmcs)?;
    Ok(Next::Resume)
}

/// `Ok(false)`: the value is refused.
fn emulated_write(
    which: Register,
    register: u32,
    value: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Result<bool, VmxError> {
    match which {
        Register::ApicBase => {
            let Ok(effect) = vcpu.apic.write_base(value) else {
                return Ok(false);
            };
            super::follow_up(effect, vcpu, vmcs, context)?;
        }
        Register::TscDeadline => {
            let effect = vcpu.apic.write_tsc_deadline(value);
            super::follow_up(effect, vcpu, vmcs, context)?;
        }
        Register::TimeStampCounter => {
            let difference = value.wrapping_sub(guest_time(vcpu));
            vcpu.tsc_offset = vcpu.tsc_offset.wrapping_add(difference);
            vcpu.apic.shift_time(difference);
            vmcs.write(vmcs::TSC_OFFSET, vcpu.tsc_offset)?;
            context.processor.note_timer();
        }
        Register::Efer => {
            flush_translations(vcpu, context.hypervisor)?;
            return Ok(write_efer(value, vmcs)? == Accepted::Yes);
        }
        Register::Pat => {
            let Ok(pat) = checked_pat(value) else {
                return Ok(false);
            };
            if has_pat(context) {
                vmcs.write(vmcs::GUEST_PAT, pat)?;
            }
        }
        Register::MemoryType => return Ok(vcpu.memory_types.write(register, value).is_ok()),
    }
    Ok(true)
}

fn refuse(vcpu: &mut VirtualProcessor, register: u32, direction: Direction) -> Outcome {
    // What the policy refuses is no surprise.
    if line_of(register).is_none() && vcpu.unknown_msrs.count(register, direction) == Notice::Log {
        say!(
            "posthaste: vcpu {}: {} of MSR {register:#x} refused",
            vcpu.number,
            match direction {
                Direction::Read => "read",
                Direction::Write => "write",
            }
        );
    }
    general_protection(vcpu)
}

fn is_x2apic(register: u32) -> bool {
    (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&register)
}

fn has_pat(context: Context) -> bool {
    context.hypervisor.features.contains(Feature::Pat)
}

/// The guest's TSC.
pub(super) fn guest_time(vcpu: &VirtualProcessor) -> u64 {
    read_time_stamp().wrapping_add(vcpu.tsc_offset)
}
