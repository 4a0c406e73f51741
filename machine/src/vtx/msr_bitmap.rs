//! RDMSR and WRMSR in VMX non-root operation: MSR bitmaps (SDM 24.6.9), and the x2APIC registers
//! that are virtualized (SDM 30.5 Virtualizing MSR-based APIC accesses).

use apic::ipi_decision::{IpiDecision, x2apic_command, x2apic_self_ipi};
use arch::{exit::ExitReason, msr, vmx_control::primary};

use super::{apic_access, apic_virtualization, instruction_exit, ipi_virtualization};
use crate::cpu::{Cpu, raise::Raised};
use crate::trace::CommandKind;

/// The four bitmaps, by their place in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read = 0,
    Write = 2048,
}

fn intercepts(cpu: &Cpu, index: u32, direction: Direction) -> bool {
    if !cpu.vmx.guest.controls.primary(primary::USE_MSR_BITMAPS) {
        return true;
    }
    let (bit, half) = match index {
        0..=0x1fff => (index, 0),
        0xc000_0000..=0xc000_1fff => (index & 0x1fff, 1024),
        _ => return true,
    };
    let byte = cpu.vmx.guest.controls.msr_bitmap + direction as u64 + half + u64::from(bit / 8);
    match cpu.ram.offset(byte) {
        Some(at) => cpu.ram.load::<u8>(at) >> (bit & 7) & 1 != 0,
        None => true,
    }
}

/// RDMSR of `index`: `Ok(None)` if it is carried out as outside VMX non-root operation.
pub fn read(cpu: &mut Cpu, index: u32) -> Result<Option<u64>, Raised> {
    if !cpu.vmx.non_root {
        return Ok(None);
    }
    if intercepts(cpu, index, Direction::Read) {
        return Err(instruction_exit(cpu, ExitReason::Rdmsr));
    }
    let controls = &cpu.vmx.guest.controls;
    let virtualized = controls.virtualize_x2apic_mode()
        && match index {
            msr::IA32_X2APIC_TPR => true,
            msr::X2APIC_FIRST..=msr::X2APIC_LAST => controls.apic_register_virtualization(),
            _ => false,
        };
    if virtualized {
        let offset = u64::from(index & 0xff) << 4;
        return Ok(Some(cpu.virtual_apic_page().read_bytes(offset, 8)));
    }
    if index == msr::IA32_TIME_STAMP_COUNTER {
        // SDM 25.3: RDMSR of the time-stamp counter scales and adds the TSC offset.
        return Ok(Some(controls.guest_time(cpu.time_stamp_counter())));
    }
    Ok(None)
}

/// The outcome of a WRMSR for VMX non-root operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It was virtualized.
    Done,
    /// It is carried out as outside VMX non-root operation.
    Physical,
}

/// WRMSR of `index`.
pub fn write(cpu: &mut Cpu, index: u32, value: u64) -> Result<Write, Raised> {
    if !cpu.vmx.non_root {
        return Ok(Write::Physical);
    }
    let kind = match index {
        msr::IA32_X2APIC_SELF_IPI => CommandKind::ToSelf,
        _ => CommandKind::of_x2apic(value),
    };
    if intercepts(cpu, index, Direction::Write) {
        if matches!(index, msr::IA32_X2APIC_ICR | msr::IA32_X2APIC_SELF_IPI) {
            cpu.counters.count_command(kind);
        }
        return Err(instruction_exit(cpu, ExitReason::Wrmsr));
    }
    if !cpu.vmx.guest.controls.virtualize_x2apic_mode() {
        return Ok(Write::Physical);
    }
    let delivery = cpu.vmx.guest.controls.virtual_interrupt_delivery();
    match index {
        msr::IA32_X2APIC_TPR => {
            if value & !0xff != 0 {
                return Err(cpu.general_protection(0));
            }
            cpu.virtual_apic_page().write_bytes(0x080, 8, value);
            apic_virtualization::virtualize_task_priority(cpu);
        }
        msr::IA32_X2APIC_EOI if delivery => {
            if value != 0 {
                return Err(cpu.general_protection(0));
            }
            cpu.virtual_apic_page().write_bytes(0x0b0, 8, 0);
            apic_virtualization::virtualize_end_of_interrupt(cpu);
        }
        msr::IA32_X2APIC_SELF_IPI => {
            let decision = x2apic_self_ipi(value, apic_access::ipi_controls(cpu));
            return command(cpu, decision, kind, 0x3f0, value);
        }
        msr::IA32_X2APIC_ICR => {
            let decision = x2apic_command(value, apic_access::ipi_controls(cpu));
            return command(cpu, decision, kind, 0x300, value);
        }
        _ => return Ok(Write::Physical),
    }
    Ok(Write::Done)
}

fn command(
    cpu: &mut Cpu,
    decision: IpiDecision,
    kind: CommandKind,
    offset: u64,
    value: u64,
) -> Result<Write, Raised> {
    match decision {
        IpiDecision::NotVirtualized => Ok(Write::Physical),
        IpiDecision::GeneralProtection => Err(cpu.general_protection(0)),
        IpiDecision::SelfIpi { .. }
        | IpiDecision::VirtualizeIpi { .. }
        | IpiDecision::ApicWriteExit => {
            // The success path of 83FH storing its value is UNCONFIRMED.
            cpu.virtual_apic_page().write_bytes(offset, 8, value);
            ipi_virtualization::carry_out(cpu, decision, kind, offset);
            Ok(Write::Done)
        }
    }
}
