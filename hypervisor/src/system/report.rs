//! What is printed at the end, and when an entry failed.
#![allow(
    unsafe_code,
    reason = "reads structures by physical address for the dump"
)]

use super::Hypervisor;
use crate::host::{console, instructions, non_maskable};
use crate::interrupts::ipi_virtualization::Inhibition;
use crate::say;
use crate::vcpu::exit_counters::ExitCounters;
use crate::vcpu::run::Failure;
use crate::vmx::dump::{self, PhysicalMemory};
use crate::vmx::feature::Feature;
use crate::vmx::guest_state_checks::{self, Limits};
use crate::vmx::instructions::CurrentVmcs;

/// Structures of the hypervisor's own, identity-mapped.
struct Identity;

impl PhysicalMemory for Identity {
    fn read_u64(&self, address: u64) -> u64 {
        // SAFETY: the dump asks only for addresses that the hypervisor wrote into the VMCS or the
        // PID-pointer table: its own structures, mapped, aligned to 8.
        unsafe { (address as *const u64).read_volatile() }
    }
}

/// CPUID.80000008H:EAX, or what it would be where there is no such leaf.
fn address_widths() -> u32 {
    if instructions::cpuid(0x8000_0000, 0).eax >= 0x8000_0008 {
        instructions::cpuid(0x8000_0008, 0).eax
    } else {
        48 << 8 | 36
    }
}

/// The physical-address width.
pub fn physical_address_width() -> u32 {
    address_widths() & 0xff
}

/// Says that a vCPU cannot be entered, why, and prints the VMCS that is current on this processor.
pub fn entry_failure(hypervisor: &Hypervisor, vcpu: u32, processor: u32, failure: &Failure) {
    // SAFETY: the caller's vCPU is loaded on this processor, or its VMCS could not be made current,
    // and then there is nothing to read.
    let vmcs = unsafe { CurrentVmcs::new() };
    console::with_writer(|out| {
        let _ = writeln!(
            out,
            "posthaste: vcpu {vcpu} on processor {processor} cannot be entered: {failure}"
        );
        if matches!(failure, Failure::Entry(_)) {
            let limits = Limits {
                cr4: hypervisor.capabilities.cr4.may_be_1,
                physical_address_width: physical_address_width(),
                linear_address_width: address_widths() >> 8 & 0xff,
            };
            let _ = guest_state_checks::write_violations(out, &vmcs, limits);
        }
        let _ = dump::write(out, &vmcs, &Identity, physical_address_width());
    });
}

/// Prints how often IPIs to an APIC ID came to be left to software, if the processor virtualizes IPIs.
pub fn inhibitions(hypervisor: &Hypervisor) {
    if !hypervisor.features.contains(Feature::IpiVirtualization) {
        return;
    }
    let table = hypervisor.vm.interrupts.ipi_virtualization();
    console::with_writer(|out| {
        let _ = write!(out, "#ph inhibitions");
        for reason in Inhibition::ALL {
            let _ = write!(out, " {}={}", reason.name(), table.inhibited(reason));
        }
        let _ = writeln!(out);
    });
}

/// Prints the exits of every vCPU. No processor runs one any more.
pub fn exits(hypervisor: &Hypervisor) {
    let mut all = ExitCounters::default();
    for number in 0..hypervisor.vm.vcpu_count() {
        // SAFETY: the caller's promise that every processor has left its vCPU.
        let Some(vcpu) = (unsafe { hypervisor.vm.vcpu(number) }) else {
            continue;
        };
        all.add(&vcpu.exits);
        line(&number, &vcpu.exits);
    }
    line(&"all", &all);
    say!("posthaste: {} exits", all.total());
}

/// Says how many non-maskable interrupts came, if any did.
pub fn non_maskable_interrupts() {
    non_maskable::say_first();
    let count = non_maskable::count();
    if count != 0 {
        say!("posthaste: {count} non-maskable interrupts that nobody asked for");
    }
}

fn line(who: &dyn core::fmt::Display, counters: &ExitCounters) {
    console::with_writer(|out| {
        let _ = write!(out, "#ph exits vcpu={who}");
        let _ = counters.write(out);
        let _ = writeln!(out);
    });
}
