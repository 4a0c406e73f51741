//! Control-register accesses in VMX operation (SDM 23.8 Restrictions on VMX operation, 24.6.6
//! Guest/host masks and read shadows, 25.1.3, 25.3).

use arch::{control_register::cr0, exit::ExitReason, vmx_control::primary};

use super::{VmExit, apic_virtualization, capabilities};
use crate::cpu::{Cpu, raise::Raised};

/// Access type in the exit qualification (SDM 27.2.1, table 27-3).
const MOV_TO: u64 = 0;
const MOV_FROM: u64 = 1;
const CLTS: u64 = 2;
const LMSW: u64 = 3;

fn control_register_exit(cpu: &mut Cpu, number: u64, kind: u64, rest: u64) -> Raised {
    cpu.vm_exit(VmExit::qualified(
        ExitReason::ControlRegisterAccess,
        number | kind << 4 | rest,
    ))
}

/// CR0 as MOV from CR0 and SMSW see it.
#[inline]
pub fn visible_cr0(cpu: &Cpu) -> u64 {
    if cpu.vmx.non_root {
        let c = &cpu.vmx.guest.controls;
        cpu.cr0 & !c.cr0_mask | c.cr0_shadow & c.cr0_mask
    } else {
        cpu.cr0
    }
}

/// CR4 as MOV from CR4 sees it.
#[inline]
pub fn visible_cr4(cpu: &Cpu) -> u64 {
    if cpu.vmx.non_root {
        let c = &cpu.vmx.guest.controls;
        cpu.cr4 & !c.cr4_mask | c.cr4_shadow & c.cr4_mask
    } else {
        cpu.cr4
    }
}

/// MOV of `value` to CR0 from general register `register`: what is to be loaded.
pub fn write_cr0(cpu: &mut Cpu, value: u64, register: u8) -> Result<u64, Raised> {
    if !cpu.vmx.non_root {
        return Ok(value);
    }
    let c = &cpu.vmx.guest.controls;
    if (value ^ c.cr0_shadow) & c.cr0_mask != 0 {
        return Err(control_register_exit(
            cpu,
            0,
            MOV_TO,
            u64::from(register & 15) << 8,
        ));
    }
    Ok(value & !c.cr0_mask | cpu.cr0 & c.cr0_mask)
}

/// MOV of `value` to CR4 from general register `register`: what is to be loaded.
pub fn write_cr4(cpu: &mut Cpu, value: u64, register: u8) -> Result<u64, Raised> {
    if !cpu.vmx.non_root {
        return Ok(value);
    }
    let c = &cpu.vmx.guest.controls;
    if (value ^ c.cr4_shadow) & c.cr4_mask != 0 {
        return Err(control_register_exit(
            cpu,
            4,
            MOV_TO,
            u64::from(register & 15) << 8,
        ));
    }
    Ok(value & !c.cr4_mask | cpu.cr4 & c.cr4_mask)
}

/// MOV of `value` to CR3.
pub fn write_cr3(cpu: &mut Cpu, value: u64, register: u8) -> Result<(), Raised> {
    let c = &cpu.vmx.guest.controls;
    if !cpu.vmx.non_root || !c.primary(primary::CR3_LOAD_EXITING) {
        return Ok(());
    }
    let target = c
        .cr3_targets
        .iter()
        .take(c.cr3_target_count as usize)
        .any(|target| *target == value);
    if target {
        return Ok(());
    }
    Err(control_register_exit(
        cpu,
        3,
        MOV_TO,
        u64::from(register & 15) << 8,
    ))
}

/// MOV from CR3.
pub fn read_cr3(cpu: &mut Cpu, register: u8) -> Result<(), Raised> {
    if cpu.vmx.non_root && cpu.vmx.guest.controls.primary(primary::CR3_STORE_EXITING) {
        return Err(control_register_exit(
            cpu,
            3,
            MOV_FROM,
            u64::from(register & 15) << 8,
        ));
    }
    Ok(())
}

/// MOV of `value` to CR8; true if it was virtualized (SDM 30.3 Virtualizing CR8-based TPR accesses).
pub fn write_cr8(cpu: &mut Cpu, value: u64, register: u8) -> Result<bool, Raised> {
    if !cpu.vmx.non_root {
        return Ok(false);
    }
    if cpu.vmx.guest.controls.primary(primary::CR8_LOAD_EXITING) {
        return Err(control_register_exit(
            cpu,
            8,
            MOV_TO,
            u64::from(register & 15) << 8,
        ));
    }
    if !cpu.vmx.guest.controls.tpr_shadow() {
        return Ok(false);
    }
    if value & !15 != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.virtual_apic_page().write_bytes(0x080, 4, value << 4);
    apic_virtualization::virtualize_task_priority(cpu);
    Ok(true)
}

/// MOV from CR8: the virtual value, if it is virtualized.
pub fn read_cr8(cpu: &mut Cpu, register: u8) -> Result<Option<u64>, Raised> {
    if !cpu.vmx.non_root {
        return Ok(None);
    }
    if cpu.vmx.guest.controls.primary(primary::CR8_STORE_EXITING) {
        return Err(control_register_exit(
            cpu,
            8,
            MOV_FROM,
            u64::from(register & 15) << 8,
        ));
    }
    if !cpu.vmx.guest.controls.tpr_shadow() {
        return Ok(None);
    }
    Ok(Some(cpu.virtual_apic_page().read_bytes(0x080, 1) >> 4))
}

/// CLTS: false if CR0.TS is the host's and stays.
pub fn clear_task_switched(cpu: &mut Cpu) -> Result<bool, Raised> {
    if !cpu.vmx.non_root || cpu.vmx.guest.controls.cr0_mask & cr0::TS == 0 {
        return Ok(true);
    }
    if cpu.vmx.guest.controls.cr0_shadow & cr0::TS != 0 {
        return Err(control_register_exit(cpu, 0, CLTS, 0));
    }
    Ok(false)
}

/// Where LMSW has its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmswOperand {
    /// A register.
    Register,
    /// Memory at this linear address.
    Memory(u64),
}

/// LMSW of `source`: the CR0 to load.
pub fn load_machine_status_word(
    cpu: &mut Cpu,
    source: u16,
    operand: LmswOperand,
) -> Result<u64, Raised> {
    const STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let source_bits = u64::from(source) & STATUS;
    // LMSW does not clear PE.
    let wanted = cpu.cr0 & !(STATUS & !cr0::PE) | source_bits;
    if !cpu.vmx.non_root {
        return Ok(wanted);
    }
    let c = &cpu.vmx.guest.controls;
    let sets_pe = c.cr0_mask & cr0::PE & source_bits & !c.cr0_shadow != 0;
    let others = (source_bits ^ c.cr0_shadow) & c.cr0_mask & (STATUS & !cr0::PE) != 0;
    if sets_pe || others {
        let memory = match operand {
            LmswOperand::Register => 0,
            LmswOperand::Memory(linear) => {
                cpu.vmx.guest.linear_address = linear;
                1 << 6
            }
        };
        return Err(control_register_exit(
            cpu,
            0,
            LMSW,
            memory | u64::from(source) << 16,
        ));
    }
    Ok(wanted & !c.cr0_mask | cpu.cr0 & c.cr0_mask)
}

/// Whether VMX operation permits this CR0 (SDM 23.8): anything outside it.
pub fn permits_cr0(cpu: &Cpu, value: u64) -> bool {
    if !cpu.vmx.on {
        return true;
    }
    let mut fixed = capabilities::CR0_FIXED_0;
    if cpu.vmx.non_root && cpu.vmx.guest.controls.unrestricted_guest() {
        fixed &= !(cr0::PE | cr0::PG);
    }
    value & fixed == fixed && value & !capabilities::CR0_FIXED_1 == 0
}

/// Whether VMX operation permits this CR4: anything outside it.
pub fn permits_cr4(cpu: &Cpu, value: u64) -> bool {
    !cpu.vmx.on || value & capabilities::CR4_FIXED_0 == capabilities::CR4_FIXED_0
}
