//! Accesses to memory that is not RAM: EPT violations and APIC-access exits.

use super::emulated::GuestDevices;
use super::model_specific_register::guest_time;
use super::{Context, Next, Outcome, simple};
use crate::emulation::Emulator;
use crate::emulation::address_space::Mode;
use crate::emulation::code::Code;
use crate::emulation::fault::Stop;
use crate::vcpu::event_injection::{Event, interruptibility};
use crate::vcpu::memory_instruction::{
    CodeSize, MemoryInstruction, Operation, Register, decode, mask,
};
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::{Vmcs, VmxError};
use apic::apic_base::ApicMode;
use arch::segment::rights;
use arch::vmcs;
use devices::pc::io_apic_offset;

/// Exit reason 44: the qualification has the page offset in bits 11:0 and the kind of access in bits
/// 15:12 (SDM 28.2.1, table "Exit Qualification for APIC-Access VM Exits from Linear Accesses").
pub(super) fn apic_access(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    let offset = qualification & 0xfff;
    let address = vcpu.apic.base().page_address() + offset;
    if qualification >> 12 & 15 > 1 {
        // A fetch, or an access while an event was delivered: nobody keeps code or stacks there.
        vcpu.event = Event::interrupted(vmcs)?;
        return simple::unmapped(address, vcpu, vmcs, context);
    }
    emulate(
        Target::LocalApic(offset as u32),
        address,
        vcpu,
        vmcs,
        context,
    )
}

/// Exit reason 48.
pub(super) fn ept_violation(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let address = vmcs.read(vmcs::GUEST_PHYSICAL_ADDRESS)?;
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    if let Some(event) = Event::interrupted(vmcs)? {
        // The access was the delivery's own, to its stack or its table: there is no instruction to
        // emulate, and nobody keeps those in a device.
        vcpu.event = Some(event);
        return simple::unmapped(address, vcpu, vmcs, context);
    } else if qualification >> 12 & 1 != 0 {
        // SDM 28.2.3: an IRET that had unblocked NMIs did not complete.
        let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
        vmcs.write(
            vmcs::GUEST_INTERRUPTIBILITY_STATE,
            state | interruptibility::NMI,
        )?;
    }
    let page = vcpu.apic.base().page_address();
    let target = if let Some(offset) = io_apic_offset(address) {
        Target::IoApic(offset)
    } else if vcpu.apic.base().mode() == ApicMode::Xapic && address & !0xfff == page {
        Target::LocalApic((address & 0xfff) as u32)
    } else {
        Target::Nothing
    };
    emulate(target, address, vcpu, vmcs, context)
}

/// What answers.
#[derive(Clone, Copy, Debug)]
enum Target {
    LocalApic(u32),
    IoApic(u64),
    /// Reads as ones; writes go nowhere.
    Nothing,
}

fn emulate(
    target: Target,
    address: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let Some(instruction) = fetch(vcpu, vmcs, context)? else {
        return simple::unmapped(address, vcpu, vmcs, context);
    };
    match instruction.operation {
        Operation::Load { to, .. } => {
            let value = read(target, instruction.size, vcpu, context);
            let (Register::Low(number) | Register::High(number)) = to;
            let index = usize::from(number & 15);
            if index == RSP && matches!(to, Register::Low(_)) {
                let old = vmcs.read(vmcs::GUEST_RSP)?;
                vmcs.write(vmcs::GUEST_RSP, instruction.loaded(old, value))?;
            } else {
                let old = vcpu.registers.0[index];
                vcpu.registers.0[index] = instruction.loaded(old, value);
            }
        }
        Operation::Store { .. } | Operation::StoreImmediate(_) => {
            let rsp = vmcs.read(vmcs::GUEST_RSP)?;
            let value = instruction.stored(&vcpu.registers.0, rsp).unwrap_or(0);
            write(target, instruction.size, value, vcpu, vmcs, context)?;
        }
    }
    // The exit gives no instruction length for these.
    super::advance_by(u32::from(instruction.length), vmcs)?;
    Ok(Next::Resume)
}

/// Reads and decodes the instruction at CS:RIP.
fn fetch(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Result<Option<MemoryInstruction>, VmxError> {
    let rip = vmcs.read(vmcs::GUEST_RIP)?;
    let devices = GuestDevices { vcpu, context };
    let mut emulator = Emulator::new(vmcs, &context.hypervisor.vm.memory, devices)?;
    let rights = emulator.vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)?;
    let code_size = match emulator.space.mode {
        Mode::Bits64 => CodeSize::Bits64,
        _ if rights & rights::BIG != 0 => CodeSize::Bits32,
        _ => CodeSize::Bits16,
    };
    let mut code = Code::at(rip);
    loop {
        match emulator.fetch(&mut code) {
            Ok(()) => {}
            Err(Stop::Fault(_)) => return Ok(None),
            Err(Stop::Vmx(error)) => return Err(error),
        }
        if let Some(instruction) = decode(code.bytes(), code_size) {
            return Ok(Some(instruction));
        }
    }
}

fn read(target: Target, size: u8, vcpu: &mut VirtualProcessor, context: Context) -> u64 {
    match target {
        Target::LocalApic(offset) => {
            let now = guest_time(vcpu);
            let value = u64::from(vcpu.apic.read_register(offset, now));
            value >> (8 * (offset & 3)) & mask(size)
        }
        Target::IoApic(offset) => u64::from(context.hypervisor.io_apic_read(offset)) & mask(size),
        Target::Nothing => mask(size),
    }
}

fn write(
    target: Target,
    size: u8,
    value: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Result<(), VmxError> {
    match target {
        // Registers are written 32 bits at a time (SDM 10.4.1); anything else is not defined there.
        Target::LocalApic(offset) if size == 4 => {
            let now = guest_time(vcpu);
            let effect = vcpu.apic.write_register(offset, value as u32, now);
            super::follow_up(effect, vcpu, vmcs, context)
        }
        Target::IoApic(offset) => {
            context
                .hypervisor
                .io_apic_write(offset, value as u32, context.processor);
            Ok(())
        }
        Target::LocalApic(_) | Target::Nothing => Ok(()),
    }
}
