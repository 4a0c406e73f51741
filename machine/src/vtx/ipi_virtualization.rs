//! IPI virtualization: posting an interrupt for another virtual processor without a VM exit (SDM
//! 30.1.6).

use apic::{
    apic_base::ApicMode,
    ipi_decision::IpiDecision,
    pid_pointer_table::{Refusal, descriptor_address, entry_index},
    posted_interrupt::{DescriptorView, Notification},
};
use arch::{
    interrupt_command::{DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode},
    pid_pointer::PidPointerEntry,
    posted_interrupt_descriptor::{CONTROL, SIZE},
};

use super::{apic_access, apic_virtualization};
use crate::{
    cpu::Cpu,
    memory::Writable,
    trace::{CommandKind, Event},
};

/// The words of a posted-interrupt descriptor.
type Descriptor = [u64; SIZE / 8];

/// Carries out what a write of the interrupt command register was decided to be; `offset` is the
/// page offset for the exit, `kind` what was asked for.
pub(super) fn carry_out(cpu: &mut Cpu, decision: IpiDecision, kind: CommandKind, offset: u64) {
    match decision {
        IpiDecision::SelfIpi { vector } => apic_virtualization::virtualize_self_ipi(cpu, vector),
        IpiDecision::VirtualizeIpi { vector, target } => {
            if virtualize(cpu, vector, target).is_err() {
                cpu.counters.count_command(kind);
                // As if for page offset 300H, whatever the instruction was.
                apic_access::apic_write_exit(cpu, 0x300);
            }
        }
        IpiDecision::ApicWriteExit
        | IpiDecision::GeneralProtection
        | IpiDecision::NotVirtualized => {
            cpu.counters.count_command(kind);
            apic_access::apic_write_exit(cpu, offset);
        }
    }
}

/// Posts `vector` to the virtual processor whose APIC ID is `target`.
fn virtualize(cpu: &mut Cpu, vector: u8, target: u32) -> Result<(), Refusal> {
    // SDM 30.1.6: the vector, then the index, then the entry.
    let controls = &cpu.vmx.guest.controls;
    let index = entry_index(vector, target, controls.last_pid_pointer_index)?;
    let address = controls
        .pid_pointer_table
        .wrapping_add(u64::from(index) * PidPointerEntry::SIZE);
    // Where no RAM is, the bus reads as ones, which is no usable entry.
    let entry = cpu
        .ram
        .offset(address)
        .map_or(u64::MAX, |at| cpu.ram.load(at));
    let descriptor = descriptor_address(entry, cpu.model.physical_address_width)?;
    // Two locked operations: PIR, then ON unless ON or SN.
    let notification =
        on_descriptor(cpu, descriptor, |descriptor| descriptor.post(vector)).flatten();
    cpu.counters.ipis_virtualized += 1;
    cpu.trace(Event::IpiVirtualized {
        vector,
        target,
        notified: notification.is_some(),
    });
    if let Some(notification) = notification {
        cpu.counters.notifications_sent += 1;
        notify(cpu, notification);
    }
    Ok(())
}

/// Sends the notification as the *physical* local APIC's ICR would (SDM 30.1.6): in xAPIC mode
/// NDST[15:8] is the destination, in x2APIC mode all of NDST.
fn notify(cpu: &mut Cpu, notification: Notification) {
    let destination = match cpu.apic.base().mode() {
        ApicMode::Xapic => notification.destination >> 8 & 0xff,
        ApicMode::X2apic => notification.destination,
        ApicMode::Disabled => return,
    };
    cpu.send_interrupt(InterruptCommand {
        vector: notification.vector,
        delivery_mode: DeliveryMode::Fixed,
        destination_mode: DestinationMode::Physical,
        assert: true,
        trigger_mode: TriggerMode::Edge,
        shorthand: Shorthand::None,
        destination,
    });
}

/// Does something to the posted-interrupt descriptor at a physical address; `None` if it is not in RAM or
/// not aligned.
pub(super) fn on_descriptor<R>(
    cpu: &mut Cpu,
    address: u64,
    act: impl FnOnce(DescriptorView<'_>) -> R,
) -> Option<R> {
    let at = cpu
        .ram
        .offset(address)
        .filter(|at| at.is_multiple_of(SIZE as u64))?;
    cpu.writing(at, |ram, place: Writable<Descriptor>| {
        let [a, b, c, d, control, ..] = place.words();
        Some(act(DescriptorView {
            requests: [
                ram.atomic_u64(a)?,
                ram.atomic_u64(b)?,
                ram.atomic_u64(c)?,
                ram.atomic_u64(d)?,
            ],
            control: ram.atomic_u64(control)?,
        }))
    })
}

/// The control word of the descriptor at a physical address.
pub(super) fn control_of_descriptor(cpu: &Cpu, address: u64) -> Option<u64> {
    let at = cpu.ram.offset(address)?;
    Some(cpu.ram.load(at + CONTROL as u64))
}
