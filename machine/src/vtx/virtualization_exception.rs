//! EPT violations that the guest sees itself as virtualization exceptions (SDM 25.5.7 Virtualization
//! exceptions).

use arch::{exception, exit::ExitReason, vmcs};

use crate::cpu::{Cpu, raise::Raised};

/// Offsets in the virtualization-exception information area (SDM 25.5.7.2, table 25-1).
mod offset {
    pub(super) const REASON: u64 = 0;
    pub(super) const BUSY: u64 = 4;
    pub(super) const QUALIFICATION: u64 = 8;
    pub(super) const GUEST_LINEAR: u64 = 16;
    pub(super) const GUEST_PHYSICAL: u64 = 24;
    pub(super) const EPTP_INDEX: u64 = 32;
}

/// The RAM offset of the area.
fn area(cpu: &Cpu) -> Option<u64> {
    cpu.ram
        .offset(cpu.vmx.guest.controls.virtualization_exception)
}

/// Makes of a convertible EPT violation a #VE, if everything else is in place for it (25.5.7.1
/// Convertible EPT violations, 25.5.7.2 Virtualization-exception information).
pub(super) fn convert(cpu: &mut Cpu, qualification: u64) -> Option<Raised> {
    if !cpu.vmx.guest.controls.ept_violation_exception()
        || !cpu.protected_mode()
        || cpu.delivering.is_some()
    {
        return None;
    }
    let area = area(cpu)?;
    if cpu.ram.load::<u32>(area + offset::BUSY) != 0 {
        return None;
    }
    let index = cpu.vmcs(vmcs::EPTP_INDEX);
    cpu.store(area + offset::REASON, ExitReason::EptViolation as u32);
    cpu.store(area + offset::BUSY, u32::MAX);
    cpu.store(area + offset::QUALIFICATION, qualification);
    cpu.store(area + offset::GUEST_LINEAR, cpu.vmx.guest.linear_address);
    cpu.store(
        area + offset::GUEST_PHYSICAL,
        cpu.vmx.guest.physical_address,
    );
    cpu.store(area + offset::EPTP_INDEX, index);
    Some(cpu.fault(exception::VIRTUALIZATION, None))
}

/// The access behind exception `vector` has tried to read, too.
pub(super) fn note_read(cpu: &mut Cpu, vector: u8) {
    if vector == exception::VIRTUALIZATION
        && cpu.vmx.non_root
        && let Some(area) = area(cpu)
    {
        let qualification: u64 = cpu.ram.load(area + offset::QUALIFICATION);
        cpu.store(area + offset::QUALIFICATION, qualification | 1);
    }
}
