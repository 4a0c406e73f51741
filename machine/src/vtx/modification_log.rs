//! Page-modification logging (SDM 28.3.6 Page-modification logging).

use arch::{exit::ExitReason, vmcs, vmx_control::secondary};

use super::VmExit;
use crate::cpu::{Cpu, raise::Raised};

/// Entries of the log; the index goes down from the last.
const ENTRIES: u16 = 512;

/// Accessed or dirty flags for EPT are about to be set: with a full log the guest is left instead.
pub(super) fn require_room(cpu: &mut Cpu) -> Result<(), Raised> {
    if !cpu.vmx.guest.controls.secondary(secondary::ENABLE_PML)
        || cpu.vmcs(vmcs::PML_INDEX) < ENTRIES
    {
        return Ok(());
    }
    Err(cpu.vm_exit(VmExit::new(ExitReason::PageModificationLogFull)))
}

/// The dirty flag of the page of `guest_physical` has become 1.
pub(super) fn record(cpu: &mut Cpu, guest_physical: u64) {
    if !cpu.vmx.guest.controls.secondary(secondary::ENABLE_PML) {
        return;
    }
    let index = cpu.vmcs(vmcs::PML_INDEX);
    let entry = cpu.vmx.guest.controls.modification_log + u64::from(index) * 8;
    if let Some(place) = cpu.ram.offset(entry) {
        cpu.store(place, guest_physical & !0xfff);
    }
    cpu.set_vmcs(vmcs::PML_INDEX, index.wrapping_sub(1));
}
