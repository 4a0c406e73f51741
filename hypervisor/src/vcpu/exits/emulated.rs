//! What comes before and after an instruction that the hypervisor carries out with the guest's memory.

use super::Context;
use super::model_specific_register::guest_time;
use crate::emulation::device::Devices;
use crate::emulation::fault::{Fault, Stop};
use crate::emulation::repetition::Progress;
use crate::emulation::vector_registers::VectorRegisters;
use crate::vcpu::event_injection::Event;
use crate::vcpu::extended_state::set_page_fault_address;
use crate::vcpu::guest_state::{complete_branch, complete_instruction};
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::vmcs::{Vmcs, VmxError};
use apic::apic_base::ApicMode;
use arch::control_register::rflags;
use arch::vmcs;

/// What answers a vCPU where there is no RAM.
pub(super) struct GuestDevices<'a> {
    /// The vCPU, whose local APIC is one.
    pub(super) vcpu: &'a mut VirtualProcessor,
    /// What surrounds it.
    pub(super) context: Context<'a>,
}

impl GuestDevices<'_> {
    /// The offset of an address in the local APIC's page, if it lies there.
    fn local_apic_offset(&self, address: u64) -> Option<u32> {
        let base = self.vcpu.apic.base();
        (base.mode() == ApicMode::Xapic && address & !0xfff == base.page_address())
            .then_some((address & 0xfff) as u32)
    }
}

impl<V: Vmcs> Devices<V> for GuestDevices<'_> {
    fn read(&mut self, address: u64) -> u32 {
        if let Some(offset) = self.local_apic_offset(address) {
            let now = guest_time(self.vcpu);
            self.vcpu.apic.read_register(offset, now)
        } else {
            self.context.hypervisor.device_read(address)
        }
    }

    fn write(&mut self, address: u64, value: u32, vmcs: &mut V) -> Result<(), VmxError> {
        if let Some(offset) = self.local_apic_offset(address) {
            let now = guest_time(self.vcpu);
            let effect = self.vcpu.apic.write_register(offset, value, now);
            super::follow_up(effect, self.vcpu, vmcs, self.context)?;
        } else {
            let Context {
                hypervisor,
                processor,
            } = self.context;
            hypervisor.device_write(address, value, processor);
        }
        Ok(())
    }
}

impl VectorRegisters for GuestDevices<'_> {
    fn image(&mut self) -> &mut [u8; 512] {
        self.vcpu.extended.image(self.context.processor)
    }
}

/// After an instruction of `length` bytes: the guest goes on behind it, between two of its iterations,
/// at the target of its branch, or with its fault. `Err(Stop::NotEmulated)` is for the caller to report.
pub(super) fn conclude(
    progress: Result<Progress, Stop>,
    length: u32,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
) -> Result<(), VmxError> {
    match progress {
        Ok(Progress::Complete) => complete_instruction(vmcs, length),
        Ok(Progress::Branched(target)) => complete_branch(vmcs, target),
        Ok(Progress::Suspended) => suspend(vmcs),
        Err(Stop::Fault(fault)) => raise(fault, vcpu, vmcs),
        Err(Stop::NotEmulated) => Ok(()),
        Err(Stop::Vmx(error)) => Err(error),
    }
}

/// Between two iterations: RIP stays, what held for one instruction boundary is over, a single step
/// leaves its trap pending, and whatever comes now saves RFLAGS.RF as 1 (SDM 17.3.1.1).
fn suspend(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    complete_instruction(vmcs, 0)?;
    set_resume_flag(vmcs)
}

fn raise(fault: Fault, vcpu: &mut VirtualProcessor, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    if let Some(linear) = fault.page_fault_address {
        set_page_fault_address(linear);
    }
    vcpu.event = Some(Event::exception(fault.vector, fault.error_code));
    // SDM 17.3.1.1: what a fault's delivery saves.
    set_resume_flag(vmcs)
}

fn set_resume_flag(vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    let flags = vmcs.read(vmcs::GUEST_RFLAGS)?;
    vmcs.write(vmcs::GUEST_RFLAGS, flags | rflags::RF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;

    #[test]
    fn between_iterations_the_step_is_pending_and_breakpoints_are_held_off() {
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_RIP.0, 0x1234),
            (vmcs::GUEST_RFLAGS.0, rflags::TF | 2),
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 2),
        ]);
        suspend(&mut map).unwrap();
        assert_eq!(map.fields[&vmcs::GUEST_RIP.0], 0x1234);
        assert_eq!(
            map.fields[&vmcs::GUEST_RFLAGS.0],
            rflags::TF | rflags::RF | 2
        );
        assert_eq!(map.fields[&vmcs::GUEST_INTERRUPTIBILITY_STATE.0], 0);
        let pending = map.fields[&vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0];
        assert_eq!(pending, 1 << 14);
    }
}
