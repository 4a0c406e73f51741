//! Accesses to memory that is not RAM: EPT violations and APIC-access exits. The instruction that made
//! one is carried out in the processor's place.

use super::emulated::{GuestDevices, conclude};
use super::{Context, Next, Outcome, simple};
use crate::emulation::Emulator;
use crate::emulation::fault::Stop;
use crate::vcpu::event_injection::{Event, interruptibility};
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::Vmcs;
use arch::vmcs;

/// Exit reason 44: the qualification has the page offset in bits 11:0 (SDM 28.2.1, table "Exit
/// Qualification for APIC-Access VM Exits from Linear Accesses").
pub(super) fn apic_access(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let offset = vmcs.read(vmcs::EXIT_QUALIFICATION)? & 0xfff;
    let address = vcpu.apic.base().page_address() + offset;
    access(address, vcpu, vmcs, context)
}

/// Exit reason 48.
pub(super) fn ept_violation(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let address = vmcs.read(vmcs::GUEST_PHYSICAL_ADDRESS)?;
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    let interrupted = vmcs.read(vmcs::IDT_VECTORING_INFORMATION)? >> 31 != 0;
    if !interrupted && qualification >> 12 & 1 != 0 {
        // SDM 28.2.3: an IRET that had unblocked NMIs did not complete.
        let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
        vmcs.write(
            vmcs::GUEST_INTERRUPTIBILITY_STATE,
            state | interruptibility::NMI,
        )?;
    }
    access(address, vcpu, vmcs, context)
}

fn access(
    address: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    if let Some(event) = Event::interrupted(vmcs)? {
        // The access was the delivery's own, to its stack or its table: there is no instruction to
        // emulate, and nobody keeps those in a device.
        vcpu.event = Some(event);
        return simple::unmapped(address, vcpu, vmcs, context);
    }
    let registers = vcpu.registers.0;
    let memory = &context.hypervisor.vm.memory;
    let devices = GuestDevices {
        vcpu: &mut *vcpu,
        context,
    };
    let mut emulator = Emulator::new(vmcs, memory, devices, registers)?;
    let (progress, length) = emulator.run();
    let mut after = emulator.finish()?.0;
    // The VMCS has the guest's RSP; its place is the entry code's.
    after[RSP] = registers[RSP];
    vcpu.registers.0 = after;
    if progress == Err(Stop::NotEmulated) {
        return simple::unmapped(address, vcpu, vmcs, context);
    }
    conclude(progress, length, vcpu, vmcs)?;
    if context.hypervisor.vm.is_ending() {
        return Ok(Next::Leave(Leave::Ending));
    }
    Ok(Next::Resume)
}
