//! CPUID.

use super::{Context, Next, Outcome, advance};
use crate::host::{instructions, time};
use crate::system::apic_timer_hertz;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::cpuid::{CpuidContext, CpuidRegisters, answer};
use crate::vmx::feature::Feature;
use crate::vmx::instructions::{RAX, RBX, RCX, RDX};
use crate::vmx::vmcs::Vmcs;
use apic::apic_base::ApicMode;

/// What the processor itself says.
pub fn processor(leaf: u32, subleaf: u32) -> CpuidRegisters {
    let real = instructions::cpuid(leaf, subleaf);
    CpuidRegisters {
        eax: real.eax,
        ebx: real.ebx,
        ecx: real.ecx,
        edx: real.edx,
    }
}

pub(super) fn cpuid(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let hypervisor = context.hypervisor;
    let about = CpuidContext {
        apic_id: vcpu.number,
        vcpus: hypervisor.vm.vcpu_count(),
        apic: hypervisor.configuration.apic,
        apic_enabled: vcpu.apic.base().mode() != ApicMode::Disabled,
        rdtscp: hypervisor.features.contains(Feature::Rdtscp),
        tsc_hz: time::tsc_hertz(),
        apic_timer_hz: apic_timer_hertz(),
    };
    let registers = &mut vcpu.registers.0;
    let result = answer(
        registers[RAX] as u32,
        registers[RCX] as u32,
        &about,
        processor,
    );
    registers[RAX] = u64::from(result.eax);
    registers[RBX] = u64::from(result.ebx);
    registers[RCX] = u64::from(result.ecx);
    registers[RDX] = u64::from(result.edx);
    advance(vmcs)?;
    Ok(Next::Resume)
}
