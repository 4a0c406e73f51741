//! The first filling of a vCPU's VMCS, and the host state that changes with the processor.

use super::exits;
use super::guest_state::{CR0_HOST_OWNED, CR4_HOST_OWNED};
use super::virtual_processor::VirtualProcessor;
use crate::host::descriptor_tables::{CODE, DATA, TSS};
use crate::host::instructions::{read_cr0, read_cr3, read_cr4, read_msr};
use crate::host::processor::Processor;
use crate::system::Hypervisor;
use crate::vmx::control_plan::Controls;
use crate::vmx::feature::Feature;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::cr0;
use arch::{msr, vmcs};

/// Writes every control field that does not change later, and the control words.
pub fn write_controls(
    vmcs: &mut impl Vmcs,
    vcpu: &mut VirtualProcessor,
    hypervisor: &Hypervisor,
) -> Result<(), VmxError> {
    let features = hypervisor.features;
    let vm = &hypervisor.vm;
    for field in [
        vmcs::PAGE_FAULT_ERROR_CODE_MASK,
        vmcs::PAGE_FAULT_ERROR_CODE_MATCH,
        vmcs::CR3_TARGET_COUNT,
        vmcs::EXIT_MSR_STORE_COUNT,
        vmcs::EXIT_MSR_LOAD_COUNT,
        vmcs::ENTRY_MSR_LOAD_COUNT,
        vmcs::ENTRY_INTERRUPTION_INFORMATION,
    ] {
        vmcs.write(field, 0)?;
    }
    vmcs.write(vmcs::VMCS_LINK_POINTER, u64::MAX)?;
    let io_bitmap = vm.io_bitmap_address();
    vmcs.write(vmcs::IO_BITMAP_A, io_bitmap)?;
    vmcs.write(vmcs::IO_BITMAP_B, io_bitmap + 4096)?;
    vmcs.write(
        vmcs::MSR_BITMAP,
        core::ptr::from_ref(&*vcpu.msr_bitmap) as u64,
    )?;
    vmcs.write(vmcs::TSC_OFFSET, vcpu.tsc_offset)?;
    vmcs.write(vmcs::EPT_POINTER, vm.ept_pointer)?;
    vmcs.write(vmcs::CR0_GUEST_HOST_MASK, CR0_HOST_OWNED)?;
    vmcs.write(vmcs::CR4_GUEST_HOST_MASK, CR4_HOST_OWNED)?;
    vmcs.write(vmcs::EXCEPTION_BITMAP, exits::EXCEPTION_BITMAP)?;
    if features.contains(Feature::Vpid) {
        // 0 is the hypervisor's own.
        vmcs.write(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, vcpu.number as u16 + 1)?;
    }
    if features.contains(Feature::TprShadow) {
        vmcs.write(vmcs::VIRTUAL_APIC_ADDRESS, vcpu.virtual_apic_address)?;
        vmcs.write(vmcs::TPR_THRESHOLD, 0)?;
    }
    if features.contains(Feature::VirtualizeApicAccesses) {
        vmcs.write(vmcs::APIC_ACCESS_ADDRESS, vm.apic_access_address())?;
    }
    if features.contains(Feature::VirtualInterruptDelivery) {
        vmcs.write(vmcs::GUEST_INTERRUPT_STATUS, 0)?;
        for field in [
            vmcs::EOI_EXIT_BITMAP_0,
            vmcs::EOI_EXIT_BITMAP_1,
            vmcs::EOI_EXIT_BITMAP_2,
            vmcs::EOI_EXIT_BITMAP_3,
        ] {
            vmcs.write(field, 0)?;
        }
    }
    if features.contains(Feature::PostedInterrupts)
        && let Some(port) = vm.interrupts.port(vcpu.number)
    {
        let vectors = vm.interrupts.around().host.vectors();
        vmcs.write(
            vmcs::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
            u16::from(vectors.active),
        )?;
        vmcs.write(
            vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
            core::ptr::from_ref(port.descriptor()) as u64,
        )?;
    }
    // The fields exist only where the feature does (prior-art B2).
    if features.contains(Feature::IpiVirtualization) {
        let table = vm.interrupts.ipi_virtualization();
        vmcs.write(
            vmcs::PID_POINTER_TABLE_ADDRESS,
            table.entries().as_ptr() as u64,
        )?;
        vmcs.write(vmcs::LAST_PID_POINTER_INDEX, table.last_index())?;
    }
    let controls = Controls::new(&hypervisor.capabilities, features, vcpu.apic.controls());
    vcpu.controls.exit.set(vmcs, controls.exit)?;
    vcpu.controls.entry.set(vmcs, controls.entry)?;
    super::control_refresh::write(vmcs, vcpu, hypervisor, controls)
}

/// Host state: what an exit loads. Written when a vCPU comes to a processor; HOST_RSP and HOST_RIP are
/// the entry code's.
pub fn write_host_state(
    vmcs: &mut impl Vmcs,
    processor: &Processor,
    hypervisor: &Hypervisor,
) -> Result<(), VmxError> {
    // TS: root code that uses SSE raises #NM first, which saves the guest's state.
    vmcs.write(vmcs::HOST_CR0, read_cr0() | cr0::TS)?;
    vmcs.write(vmcs::HOST_CR3, read_cr3())?;
    vmcs.write(vmcs::HOST_CR4, read_cr4())?;
    vmcs.write(vmcs::HOST_CS_SELECTOR, CODE)?;
    for field in [
        vmcs::HOST_SS_SELECTOR,
        vmcs::HOST_DS_SELECTOR,
        vmcs::HOST_ES_SELECTOR,
    ] {
        vmcs.write(field, DATA)?;
    }
    vmcs.write(vmcs::HOST_FS_SELECTOR, 0)?;
    vmcs.write(vmcs::HOST_GS_SELECTOR, 0)?;
    vmcs.write(vmcs::HOST_TR_SELECTOR, TSS)?;
    vmcs.write(vmcs::HOST_FS_BASE, 0)?;
    vmcs.write(vmcs::HOST_GS_BASE, processor.address())?;
    vmcs.write(vmcs::HOST_TR_BASE, processor.bases.tss)?;
    vmcs.write(vmcs::HOST_GDTR_BASE, processor.bases.gdt)?;
    vmcs.write(vmcs::HOST_IDTR_BASE, processor.bases.idt)?;
    vmcs.write(vmcs::HOST_SYSENTER_CS, 0)?;
    vmcs.write(vmcs::HOST_SYSENTER_ESP, 0)?;
    vmcs.write(vmcs::HOST_SYSENTER_EIP, 0)?;
    vmcs.write(vmcs::HOST_EFER, read_msr(msr::IA32_EFER))?;
    if hypervisor.features.contains(Feature::Pat) {
        vmcs.write(vmcs::HOST_PAT, read_msr(msr::IA32_PAT))?;
    }
    Ok(())
}
