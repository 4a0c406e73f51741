//! Posted-interrupt processing, the receiver's side (SDM 30.6).

use apic::register_page::{VectorBank, merge_vectors};
use arch::msr;

use super::{
    apic_virtualization,
    ipi_virtualization::{control_of_descriptor, on_descriptor},
};
use crate::{cpu::Cpu, trace::Event};

/// The notification vector was acknowledged: ends it, and moves the descriptor's requests into
/// VIRR.
pub(super) fn process(cpu: &mut Cpu) {
    cpu.counters.notifications_processed += 1;
    // ON is cleared, then PIR is taken, by locked operations that preserve the rest of the descriptor; then the
    // physical interrupt is ended. The manual ends it between the two, which nobody can tell: a
    // notification that comes meanwhile waits in the local APIC until this is done.
    let descriptor = cpu.vmx.guest.controls.descriptor;
    let requests = on_descriptor(cpu, descriptor, |descriptor| descriptor.receive());
    let requests = requests.unwrap_or([0; 4]);
    end_of_interrupt(cpu);
    let mut page = cpu.virtual_apic_page();
    let highest = merge_vectors(&mut page, VectorBank::InterruptRequest, requests);
    if let Some(vector) = highest {
        apic_virtualization::request(cpu, vector);
    }
    cpu.trace(Event::PostedInterrupts { highest });
    apic_virtualization::evaluate(cpu);
}

/// As if software wrote 0 to the physical EOI register.
fn end_of_interrupt(cpu: &mut Cpu) {
    use apic::apic_base::ApicMode;
    match cpu.apic.base().mode() {
        ApicMode::Xapic => cpu.apic_page_write(arch::apic_register::END_OF_INTERRUPT, 0),
        ApicMode::X2apic => {
            // 0 is the one value that does not fault.
            let _ = cpu.apic_msr_write(msr::IA32_X2APIC_EOI, 0);
        }
        ApicMode::Disabled => {}
    }
}

/// Whether the posted-interrupt descriptor of the virtual processor that runs names `vector` for its
/// notifications.
pub(super) fn names(cpu: &Cpu, vector: u8) -> bool {
    let control = control_of_descriptor(cpu, cpu.vmx.guest.controls.descriptor);
    // SDM 30.6: NV is bits 279:272 of the descriptor, bits 23:16 of this word.
    control.is_some_and(|control| (control >> 16) as u8 == vector)
}
