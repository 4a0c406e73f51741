//! Accesses to the APIC-access page (SDM 30.4 Virtualizing memory-mapped APIC accesses).

use apic::ipi_decision::{Controls, memory_mapped_command};
use arch::{apic_register, exit::ExitReason};

use super::{Trap, VmExit, apic_virtualization as virtualization, ipi_virtualization};
use crate::cpu::{Cpu, raise::Raised};
use crate::trace::CommandKind;

/// A write that went to the virtual-APIC page and whose emulation is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualizedWrite {
    /// Page offset.
    pub offset: u64,
    /// Bytes.
    pub size: usize,
}

/// Access type in the exit qualification (SDM 27.2.1, table 27-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    LinearRead = 0,
    LinearWrite = 1,
    LinearFetch = 2,
    LinearEventDelivery = 3,
    PhysicalEventDelivery = 10,
    Physical = 15,
}

fn access_exit(cpu: &mut Cpu, offset: u64, kind: Type, linear: u64) -> Raised {
    let kind = match kind {
        Type::LinearRead | Type::LinearWrite if cpu.delivering.is_some() => {
            Type::LinearEventDelivery
        }
        Type::Physical if cpu.delivering.is_some() => Type::PhysicalEventDelivery,
        kind => kind,
    };
    cpu.vmx.guest.linear_address = linear;
    cpu.vm_exit(VmExit::qualified(
        ExitReason::ApicAccess,
        offset & 0xfff | (kind as u64) << 12,
    ))
}

/// The controls that the ICR's decision table looks at.
pub(super) fn ipi_controls(cpu: &Cpu) -> Controls {
    Controls {
        virtual_interrupt_delivery: cpu.vmx.guest.controls.virtual_interrupt_delivery(),
        ipi_virtualization: cpu.vmx.guest.controls.ipi_virtualization(),
    }
}

/// Whether an access lies entirely in the low 4 bytes of a 16-byte slot.
fn in_slot(offset: u64, size: usize) -> bool {
    (offset & 15) as usize + size <= 4
}

// SDM 30.4.2 Virtualizing Reads from the APIC-Access Page
fn read_is_virtualized(cpu: &Cpu, offset: u64, size: usize) -> bool {
    let controls = &cpu.vmx.guest.controls;
    if !controls.tpr_shadow() || size > 4 || !in_slot(offset, size) {
        return false;
    }
    // The operation has virtualized a write before.
    if matches!(cpu.vmx.guest.trap, Some(Trap::ApicWriteEmulation(_))) {
        return false;
    }
    match offset {
        0x080 => true,
        // UNCONFIRMED: IPI virtualization alone does not virtualize reads of 300H.
        0x0b0 | 0x300 if controls.virtual_interrupt_delivery() => true,
        _ => {
            controls.apic_register_virtualization()
                && matches!(
                    offset & !3,
                    0x020 | 0x030
                        | 0x080
                        | 0x0b0
                        | 0x0d0
                        | 0x0e0
                        | 0x0f0
                        | 0x100..=0x170
                        | 0x180..=0x1f0
                        | 0x200..=0x270
                        | 0x280
                        | 0x300
                        | 0x310
                        | 0x320..=0x370
                        | 0x380
                        | 0x3e0
                )
        }
    }
}

// SDM 30.4.3.1 Determining Whether a Write Access is Virtualized
fn write_is_virtualized(cpu: &Cpu, offset: u64, size: usize) -> bool {
    let controls = &cpu.vmx.guest.controls;
    if !controls.tpr_shadow() || size > 4 || !in_slot(offset, size) {
        return false;
    }
    if let Some(Trap::ApicWriteEmulation(earlier)) = cpu.vmx.guest.trap
        && earlier != (VirtualizedWrite { offset, size })
    {
        return false;
    }
    match offset {
        0x080 => true,
        0x0b0 | 0x300 if controls.virtual_interrupt_delivery() => true,
        0x300 if controls.ipi_virtualization() => true,
        _ => {
            controls.apic_register_virtualization()
                && matches!(
                    offset & !3,
                    0x020
                        | 0x080
                        | 0x0b0
                        | 0x0d0
                        | 0x0e0
                        | 0x0f0
                        | 0x280
                        | 0x300
                        | 0x310
                        | 0x320
                        | 0x330
                        | 0x340
                        | 0x350
                        | 0x360
                        | 0x370
                        | 0x380
                        | 0x3e0
                )
        }
    }
}

/// A read of the APIC-access page.
pub fn apic_access_read(
    cpu: &mut Cpu,
    offset: u64,
    size: usize,
    linear: u64,
) -> Result<u64, Raised> {
    if read_is_virtualized(cpu, offset, size) {
        Ok(cpu.virtual_apic_page().read_bytes(offset, size))
    } else {
        Err(access_exit(cpu, offset, Type::LinearRead, linear))
    }
}

/// A write of the APIC-access page.
pub fn apic_access_write(
    cpu: &mut Cpu,
    offset: u64,
    size: usize,
    value: u64,
    linear: u64,
) -> Result<(), Raised> {
    if !write_is_virtualized(cpu, offset, size) {
        if offset == u64::from(apic_register::INTERRUPT_COMMAND) {
            // Where the high half is, the hypervisor alone knows.
            cpu.counters
                .count_command(CommandKind::of_xapic(value as u32, 0));
        }
        return Err(access_exit(cpu, offset, Type::LinearWrite, linear));
    }
    cpu.virtual_apic_page().write_bytes(offset, size, value);
    cpu.vmx.guest.trap = Some(Trap::ApicWriteEmulation(VirtualizedWrite { offset, size }));
    cpu.look_at_events();
    Ok(())
}

/// An instruction fetch from the APIC-access page.
pub fn apic_access_fetch(cpu: &mut Cpu, offset: u64, linear: u64) -> Result<u8, Raised> {
    Err(access_exit(cpu, offset, Type::LinearFetch, linear))
}

/// A paging structure on the APIC-access page (SDM 30.4.6.1 Guest-physical accesses).
pub(super) fn paging_structure_exit(cpu: &mut Cpu, offset: u64) -> Raised {
    access_exit(cpu, offset, Type::Physical, 0)
}

/// The APIC-write exit for a page offset; trap-like (SDM 30.4.3.3).
pub(super) fn apic_write_exit(cpu: &mut Cpu, offset: u64) {
    cpu.vmx.guest.trap = Some(Trap::Exit(VmExit::qualified(ExitReason::ApicWrite, offset)));
    cpu.look_at_events();
}

// SDM 30.4.3.2 APIC-Write Emulation
pub(super) fn emulate_write(cpu: &mut Cpu, offset: u64) {
    let delivery = cpu.vmx.guest.controls.virtual_interrupt_delivery();
    match offset {
        0x080 => {
            let mut page = cpu.virtual_apic_page();
            let priority = page.read_bytes(0x080, 1);
            page.write_bytes(0x080, 4, priority);
            virtualization::virtualize_task_priority(cpu);
        }
        0x0b0 if delivery => {
            cpu.virtual_apic_page().write_bytes(0x0b0, 4, 0);
            virtualization::virtualize_end_of_interrupt(cpu);
        }
        0x300 => {
            let page = cpu.virtual_apic_page();
            let low = page.read_bytes(u64::from(apic_register::INTERRUPT_COMMAND), 4) as u32;
            let high = page.read_bytes(u64::from(apic_register::INTERRUPT_COMMAND_HIGH), 4) as u32;
            let decision = memory_mapped_command(low, high, ipi_controls(cpu));
            let kind = CommandKind::of_xapic(low, high);
            ipi_virtualization::carry_out(cpu, decision, kind, offset);
        }
        0x310..=0x313 => {
            let mut page = cpu.virtual_apic_page();
            let high = page.read_bytes(0x310, 4);
            page.write_bytes(0x310, 4, high & 0xff00_0000);
        }
        _ => apic_write_exit(cpu, offset),
    }
}
