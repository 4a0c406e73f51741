//! Bringing a vCPU's controls in line with the state of its local APIC.

use super::run::flush_translations;
use super::virtual_processor::VirtualProcessor;
use crate::system::Hypervisor;
use crate::vmx::control_plan::Controls;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::vmx_control::{primary, secondary};

/// Bits that the run loop turns on and off by itself.
const DYNAMIC_PRIMARY: u32 = primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING;

/// Decides again and writes what changed: controls, and the MSR bitmap with them.
pub fn refresh(
    vmcs: &mut impl Vmcs,
    vcpu: &mut VirtualProcessor,
    hypervisor: &Hypervisor,
) -> Result<(), VmxError> {
    let Some(apic) = vcpu.apic.reconfigure() else {
        return Ok(());
    };
    let controls = Controls::new(&hypervisor.capabilities, hypervisor.features, apic);
    write(vmcs, vcpu, hypervisor, controls)
}

/// Writes the execution controls and the MSR bitmap for the local APIC's present controls.
pub fn write(
    vmcs: &mut impl Vmcs,
    vcpu: &mut VirtualProcessor,
    hypervisor: &Hypervisor,
    controls: Controls,
) -> Result<(), VmxError> {
    let shadows = &mut vcpu.controls;
    let before = shadows.secondary.value().unwrap_or(0);
    shadows.pin.set(vmcs, controls.pin)?;
    let kept = shadows.primary.value().unwrap_or(0) & DYNAMIC_PRIMARY;
    shadows.primary.set(vmcs, controls.primary | kept)?;
    shadows.secondary.set(vmcs, controls.secondary)?;
    // The field exists only where the tertiary controls can be activated.
    if hypervisor
        .capabilities
        .primary
        .allows(u64::from(primary::ACTIVATE_TERTIARY_CONTROLS))
    {
        shadows.tertiary.set(vmcs, controls.tertiary)?;
    }
    vcpu.msr_bitmap
        .set_x2apic(&vcpu.apic.controls().x2apic_msrs());
    if controls.secondary & !before & secondary::VIRTUALIZE_APIC_ACCESSES != 0 {
        // SDM 29.4.3.3: a translation to the page that was cached while accesses were not virtualized
        // may serve them still.
        flush_translations(vcpu, hypervisor)?;
    }
    Ok(())
}
