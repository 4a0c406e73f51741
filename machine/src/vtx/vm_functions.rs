//! VM functions (SDM 25.5.6 VM functions), of which there is one: EPTP switching.

use arch::{exit::ExitReason, vmcs, vmx_control::secondary};

use super::{ept, instruction_exit, vpid};
use crate::cpu::{
    Cpu,
    raise::Raised,
    register::number::{RAX, RCX},
};

/// VM-function controls that may be 1.
pub use arch::vmx_control::vm_function::EPTP_SWITCHING as OFFERED;

/// Entries of an EPTP list.
const EPTP_ENTRIES: u32 = 512;

/// VMFUNC (25.5.6.2 General operation of the VMFUNC instruction).
pub fn vmfunc(cpu: &mut Cpu) -> Result<(), Raised> {
    let function = cpu.registers[RAX] as u32;
    let controls = &cpu.vmx.guest.controls;
    let enabled = cpu.vmx.non_root && controls.secondary(secondary::ENABLE_VM_FUNCTIONS);
    if !enabled || function >= 64 {
        return Err(cpu.invalid_opcode());
    }
    let offered = OFFERED >> function & 1 != 0;
    if !offered || controls.vm_functions >> function & 1 == 0 {
        return Err(instruction_exit(cpu, ExitReason::Vmfunc));
    }
    switch_ept(cpu)
}

// SDM 25.5.6.3 EPTP Switching
fn switch_ept(cpu: &mut Cpu) -> Result<(), Raised> {
    let index = cpu.registers[RCX] as u32;
    let entry = cpu.vmx.guest.controls.eptp_list + u64::from(index % EPTP_ENTRIES) * 8;
    let pointer = cpu
        .ram
        .offset(entry)
        .map(|place| cpu.ram.load::<u64>(place));
    let Some(pointer) =
        pointer.filter(|pointer| index < EPTP_ENTRIES && ept::is_pointer(cpu, *pointer))
    else {
        return Err(instruction_exit(cpu, ExitReason::Vmfunc));
    };
    cpu.set_vmcs(vmcs::EPT_POINTER, pointer);
    if cpu.vmx.guest.controls.ept_violation_exception() {
        cpu.set_vmcs(vmcs::EPTP_INDEX, index as u16);
    }
    vpid::switch_ept(cpu, pointer);
    // The instructions that follow are others, perhaps.
    cpu.look_at_events();
    Ok(())
}
