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
};
use std::sync::atomic::Ordering;

use super::{apic_access, apic_virtualization};
use crate::{
    cpu::Cpu,
    memory::Ram,
    trace::{CommandKind, Event},
};

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
    let entry = match cpu
        .ram
        .offset(address)
        .and_then(|at| cpu.ram.atomic_u64(at))
    {
        Some(entry) => entry.load(Ordering::SeqCst),
        // No RAM there: the bus reads as ones, which is no usable entry.
        None => u64::MAX,
    };
    let descriptor = descriptor_address(entry, cpu.model.physical_address_width)?;
    let notification = cpu
        .ram
        .offset(descriptor)
        .and_then(|at| descriptor_view(&cpu.ram, at))
        // Two locked operations: PIR, then ON unless ON or SN.
        .and_then(|descriptor| descriptor.post(vector));
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

/// The posted-interrupt descriptor at a RAM offset.
pub(super) fn descriptor_view(ram: &Ram, at: u64) -> Option<DescriptorView<'_>> {
    Some(DescriptorView {
        requests: [
            ram.atomic_u64(at)?,
            ram.atomic_u64(at + 8)?,
            ram.atomic_u64(at + 16)?,
            ram.atomic_u64(at + 24)?,
        ],
        control: ram.atomic_u64(at + 32)?,
    })
}
