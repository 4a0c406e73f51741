//! Virtualization of the APIC's state: TPR, PPR, EOI and self-IPI virtualization, and evaluation
//! and delivery of virtual interrupts (SDM 30.1, 30.2).

use apic::register_page::{
    RegisterPage, VectorBank, clear_vector, highest_vector, processor_priority, set_vector,
};
use arch::{apic_register, control_register::rflags, exit::ExitReason, vmx_control::primary};

use super::{Trap, VmExit};
use crate::{
    cpu::{
        Activity, Cpu, Inhibit,
        raise::{Exception, Source},
    },
    trace::Event,
};

/// The virtual-APIC page (SDM 30.1.1 Virtualized APIC registers), in RAM.
pub struct VirtualApicPage<'a> {
    cpu: &'a mut Cpu,
    /// RAM offset; `None` where the virtual-APIC address has no RAM: reads are ones, writes lost.
    page: Option<u64>,
}

impl Cpu {
    /// The virtual-APIC page of the VMCS in force.
    pub(super) fn virtual_apic_page(&mut self) -> VirtualApicPage<'_> {
        let page = self.ram.offset(self.vmx.guest.controls.virtual_apic);
        VirtualApicPage { cpu: self, page }
    }
}

impl VirtualApicPage<'_> {
    /// Reads `size` bytes, 1 to 8, at a page offset.
    pub fn read_bytes(&self, offset: u64, size: usize) -> u64 {
        let Some(page) = self.page else {
            return u64::MAX >> (64 - 8 * size.clamp(1, 8));
        };
        match size {
            1 => u64::from(self.cpu.ram.load::<u8>(page + offset)),
            2 => u64::from(self.cpu.ram.load::<u16>(page + offset)),
            4 => u64::from(self.cpu.ram.load::<u32>(page + offset)),
            8 => self.cpu.ram.load(page + offset),
            _ => (0..size.min(8)).fold(0, |value, i| {
                value | u64::from(self.cpu.ram.load::<u8>(page + offset + i as u64)) << (8 * i)
            }),
        }
    }

    /// Writes `size` bytes, 1 to 8, at a page offset.
    pub fn write_bytes(&mut self, offset: u64, size: usize, value: u64) {
        let Some(page) = self.page else {
            return;
        };
        match size {
            1 => self.cpu.store(page + offset, value as u8),
            2 => self.cpu.store(page + offset, value as u16),
            4 => self.cpu.store(page + offset, value as u32),
            8 => self.cpu.store(page + offset, value),
            _ => {
                for (i, byte) in (0..).zip(value.to_le_bytes()).take(size.min(8)) {
                    self.cpu.store(page + offset + i, byte);
                }
            }
        }
    }

    fn task_priority(&self) -> u8 {
        self.read(apic_register::TASK_PRIORITY) as u8
    }
}

impl RegisterPage for VirtualApicPage<'_> {
    fn read(&self, offset: u32) -> u32 {
        self.read_bytes(u64::from(offset), 4) as u32
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.write_bytes(u64::from(offset), 4, u64::from(value));
    }
}

/// Guest interrupt status (SDM 24.4.2), and whether a pending virtual interrupt is recognized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualInterrupts {
    /// RVI: the highest vector requested.
    pub requesting: u8,
    /// SVI: the highest vector in service.
    pub servicing: u8,
    /// A pending virtual interrupt has been recognized (SDM 30.2.1).
    pub recognized: bool,
}

impl VirtualInterrupts {
    /// Decodes the VMCS field.
    pub const fn from_status(status: u16) -> Self {
        Self {
            requesting: status as u8,
            servicing: (status >> 8) as u8,
            recognized: false,
        }
    }

    /// The VMCS field.
    pub const fn status(self) -> u16 {
        self.requesting as u16 | (self.servicing as u16) << 8
    }
}

/// What VM entry does for virtual-interrupt delivery when it has loaded the guest's state (SDM 26.3.2.5
/// Updating Non-Register State).
pub fn after_loading(cpu: &mut Cpu) {
    if cpu.vmx.guest.controls.virtual_interrupt_delivery() {
        virtualize_processor_priority(cpu);
        evaluate(cpu);
    }
}

/// What VM entry does for the TPR threshold behind event injection (SDM 26.7.7 VM Entries and the TPR
/// Threshold): its exit ends the HLT state, and does not occur in the shutdown and wait-for-SIPI states.
pub fn after_injection(cpu: &mut Cpu) {
    let controls = &cpu.vmx.guest.controls;
    if controls.tpr_shadow()
        && controls.virtualize_apic_accesses()
        && !controls.virtual_interrupt_delivery()
        && matches!(cpu.activity, Activity::Active | Activity::Halted)
    {
        check_threshold(cpu);
    }
}

/// A TPR-below-threshold exit becomes due if VTPR[7:4] is below the threshold.
fn check_threshold(cpu: &mut Cpu) {
    let priority = cpu.virtual_apic_page().task_priority();
    if u32::from(priority >> 4) < cpu.vmx.guest.controls.tpr_threshold & 15 {
        cpu.vmx.guest.trap = Some(Trap::Exit(VmExit::new(ExitReason::TprBelowThreshold)));
        cpu.look_at_events();
    }
}

// SDM 30.1.2 TPR Virtualization
pub(super) fn virtualize_task_priority(cpu: &mut Cpu) {
    if cpu.vmx.guest.controls.virtual_interrupt_delivery() {
        virtualize_processor_priority(cpu);
        evaluate(cpu);
    } else {
        check_threshold(cpu);
    }
}

// SDM 30.1.3 PPR Virtualization
fn virtualize_processor_priority(cpu: &mut Cpu) {
    let servicing = cpu.vmx.guest.virtual_interrupts.servicing;
    let mut page = cpu.virtual_apic_page();
    let priority = processor_priority(page.task_priority(), servicing);
    page.write(apic_register::PROCESSOR_PRIORITY, u32::from(priority));
}

// SDM 30.1.4 EOI Virtualization
pub(super) fn virtualize_end_of_interrupt(cpu: &mut Cpu) {
    let vector = cpu.vmx.guest.virtual_interrupts.servicing;
    cpu.counters.eois_virtualized += 1;
    let mut page = cpu.virtual_apic_page();
    clear_vector(&mut page, VectorBank::InService, vector);
    let next = highest_vector(&page, VectorBank::InService).unwrap_or(0);
    cpu.vmx.guest.virtual_interrupts.servicing = next;
    virtualize_processor_priority(cpu);
    let [a, b, c, d] = cpu.vmx.guest.controls.eoi_exit_bitmap;
    let word = match vector >> 6 {
        0 => a,
        1 => b,
        2 => c,
        _ => d,
    };
    if word >> (vector & 63) & 1 != 0 {
        cpu.vmx.guest.trap = Some(Trap::Exit(VmExit::qualified(
            ExitReason::VirtualizedEoi,
            u64::from(vector),
        )));
        cpu.look_at_events();
    } else {
        evaluate(cpu);
    }
}

// SDM 30.1.5 Self-IPI Virtualization
pub(super) fn virtualize_self_ipi(cpu: &mut Cpu, vector: u8) {
    cpu.counters.self_ipis_virtualized += 1;
    let mut page = cpu.virtual_apic_page();
    set_vector(&mut page, VectorBank::InterruptRequest, vector);
    request(cpu, vector);
    evaluate(cpu);
}

/// RVI := max(RVI, `vector`).
pub(super) fn request(cpu: &mut Cpu, vector: u8) {
    let interrupts = &mut cpu.vmx.guest.virtual_interrupts;
    interrupts.requesting = interrupts.requesting.max(vector);
}

// SDM 30.2.1 Evaluation of Pending Virtual Interrupts
pub(super) fn evaluate(cpu: &mut Cpu) {
    let priority = cpu
        .virtual_apic_page()
        .read(apic_register::PROCESSOR_PRIORITY) as u8;
    let window = cpu
        .vmx
        .guest
        .controls
        .primary(primary::INTERRUPT_WINDOW_EXITING);
    let interrupts = &mut cpu.vmx.guest.virtual_interrupts;
    interrupts.recognized = !window && interrupts.requesting >> 4 > priority >> 4;
    if interrupts.recognized {
        cpu.look_at_events();
    }
}

/// Whether a recognized virtual interrupt can be delivered now (SDM 30.2.2): RFLAGS.IF, no
/// blocking, and an activity state that it ends.
pub(super) fn deliverable(cpu: &Cpu) -> bool {
    cpu.vmx.guest.virtual_interrupts.recognized
        && cpu.system_flags & rflags::IF != 0
        && cpu.inhibit == Inhibit::None
        && matches!(cpu.activity, Activity::Active | Activity::Halted)
}

// SDM 30.2.2 Virtual-Interrupt Delivery
pub(super) fn deliver(cpu: &mut Cpu) {
    let vector = cpu.vmx.guest.virtual_interrupts.requesting;
    let mut page = cpu.virtual_apic_page();
    set_vector(&mut page, VectorBank::InService, vector);
    page.write(apic_register::PROCESSOR_PRIORITY, u32::from(vector & 0xf0));
    clear_vector(&mut page, VectorBank::InterruptRequest, vector);
    let next = highest_vector(&page, VectorBank::InterruptRequest).unwrap_or(0);
    cpu.vmx.guest.virtual_interrupts = VirtualInterrupts {
        requesting: next,
        servicing: vector,
        recognized: false,
    };
    cpu.counters.virtual_interrupts += 1;
    cpu.trace(Event::VirtualInterrupt { vector });
    cpu.activity = Activity::Active;
    cpu.instruction_start = cpu.rip();
    cpu.deliver_event(Exception {
        vector,
        error_code: None,
        detail: 0,
        source: Source::ExternalInterrupt,
    });
}
