//! Checks on VMX controls (SDM 26.2.1).

use arch::{
    control_register::cr0,
    exception,
    interruption::{InterruptionInformation, InterruptionType},
    vmcs::{self, Field32, Field64},
    vmx_control::{exit, pin, primary, secondary, vm_function},
};

use super::{Checked, physical, require};
use crate::{
    cpu::{Cpu, model::PidPointerTableChecks},
    vtx::{capabilities, controls::Controls, vm_functions, vmcs::Field},
};

const PAGE: u64 = 0xfff;

/// All checks on control fields.
pub fn check(cpu: &Cpu, region: u64, controls: &Controls) -> Checked {
    execution(cpu, region, controls)?;
    apic(cpu, controls)?;
    translation(cpu, controls)?;
    shadowing(cpu, controls)?;
    exit_controls(cpu, region, controls)?;
    entry_controls(cpu, region, controls)
}

// SDM 26.2.1.1 VM-Execution Control Fields
fn execution(cpu: &Cpu, region: u64, c: &Controls) -> Checked {
    let model = &*cpu.model;
    require(
        capabilities::pin_based(model).permits(c.pin),
        "reserved pin-based controls have their fixed settings",
    )?;
    require(
        capabilities::primary(model).permits(c.primary),
        "reserved primary processor-based controls have their fixed settings",
    )?;
    require(
        capabilities::secondary(model).permits(c.secondary),
        "reserved secondary processor-based controls have their fixed settings",
    )?;
    require(
        c.tertiary & !capabilities::tertiary(model) == 0,
        "reserved tertiary processor-based controls are 0",
    )?;
    require(
        c.cr3_target_count <= capabilities::CR3_TARGETS,
        "the CR3-target count is not above the processor's",
    )?;
    require(
        !c.primary(primary::USE_IO_BITMAPS)
            || c.io_bitmaps.iter().all(|at| physical(cpu, *at, PAGE)),
        "I/O-bitmap addresses are pages",
    )?;
    require(
        !c.primary(primary::USE_MSR_BITMAPS) || physical(cpu, c.msr_bitmap, PAGE),
        "the MSR-bitmap address is a page",
    )?;
    require(
        c.pin(pin::NMI_EXITING) || !c.virtual_nmis(),
        "virtual NMIs require NMI exiting",
    )?;
    require(
        c.virtual_nmis() || !c.primary(primary::NMI_WINDOW_EXITING),
        "NMI-window exiting requires virtual NMIs",
    )?;
    let _ = region;
    Ok(())
}

// SDM 26.2.1.1: the checks that concern APIC virtualization.
fn apic(cpu: &Cpu, c: &Controls) -> Checked {
    if c.tpr_shadow() {
        require(
            physical(cpu, c.virtual_apic, PAGE),
            "the virtual-APIC address is a page",
        )?;
        if !c.virtual_interrupt_delivery() {
            require(
                c.tpr_threshold & !15 == 0,
                "bits 31:4 of the TPR threshold are 0 without virtual-interrupt delivery",
            )?;
            let vtpr = match cpu.ram.offset(c.virtual_apic) {
                Some(page) => cpu.ram.load::<u8>(page + 0x80),
                None => 0xff,
            };
            require(
                c.virtualize_apic_accesses() || c.tpr_threshold & 15 <= u32::from(vtpr >> 4),
                "the TPR threshold is not above VTPR[7:4] without virtualized APIC accesses",
            )?;
        }
    } else {
        require(
            !c.virtualize_x2apic_mode(),
            "virtualize x2APIC mode requires the TPR shadow",
        )?;
        require(
            !c.apic_register_virtualization(),
            "APIC-register virtualization requires the TPR shadow",
        )?;
        require(
            !c.virtual_interrupt_delivery(),
            "virtual-interrupt delivery requires the TPR shadow",
        )?;
        require(
            !c.ipi_virtualization(),
            "IPI virtualization requires the TPR shadow",
        )?;
    }
    require(
        !c.virtualize_apic_accesses() || physical(cpu, c.apic_access, PAGE),
        "the APIC-access address is a page",
    )?;
    require(
        !(c.virtualize_x2apic_mode() && c.virtualize_apic_accesses()),
        "x2APIC mode and APIC accesses are not both virtualized",
    )?;
    require(
        !c.virtual_interrupt_delivery() || c.pin(pin::EXTERNAL_INTERRUPT_EXITING),
        "virtual-interrupt delivery requires external-interrupt exiting",
    )?;
    if c.process_posted_interrupts() {
        require(
            c.virtual_interrupt_delivery(),
            "posted interrupts require virtual-interrupt delivery",
        )?;
        require(
            c.exit(exit::ACKNOWLEDGE_INTERRUPT),
            "posted interrupts require acknowledge interrupt on exit",
        )?;
        require(
            c.notification_vector < 256,
            "the posted-interrupt notification vector is below 256",
        )?;
        require(
            physical(cpu, c.descriptor, 63),
            "the posted-interrupt descriptor address is a multiple of 64",
        )?;
    }
    if c.ipi_virtualization() && cpu.model.pid_pointer_table_checks == PidPointerTableChecks::Strict
    {
        // UNCONFIRMED: alignment and width of the table, and of its last entry.
        let last = c
            .pid_pointer_table
            .wrapping_add(8 * u64::from(c.last_pid_pointer_index));
        require(
            physical(cpu, c.pid_pointer_table, 7),
            "the PID-pointer table address is a multiple of 8",
        )?;
        require(
            physical(cpu, last, 7),
            "the last entry of the PID-pointer table is within the physical-address width",
        )?;
    }
    Ok(())
}

// SDM 26.2.1.1: VPID, EPT, unrestricted guest.
fn translation(cpu: &Cpu, c: &Controls) -> Checked {
    require(
        !c.secondary(secondary::ENABLE_VPID) || c.vpid != 0,
        "the VPID is not 0",
    )?;
    if c.ept() {
        require(
            matches!(c.ept_pointer & 7, 0 | 6),
            "the EPT memory type is uncacheable or write-back",
        )?;
        require(c.ept_pointer >> 3 & 7 == 3, "the EPT page-walk length is 4")?;
        require(
            physical(cpu, c.ept_pointer, 0xf80),
            "reserved bits of the EPT pointer are 0",
        )?;
    }
    require(
        !c.unrestricted_guest() || c.ept(),
        "unrestricted guest requires EPT",
    )?;
    require(
        !c.mode_based_execute() || c.ept(),
        "mode-based execute control requires EPT",
    )?;
    require(
        !c.ept_violation_exception() || physical(cpu, c.virtualization_exception, PAGE),
        "the virtualization-exception information address is a page",
    )?;
    if c.secondary(secondary::ENABLE_PML) {
        require(c.ept(), "page-modification logging requires EPT")?;
        require(
            physical(cpu, c.modification_log, PAGE),
            "the PML address is a page",
        )?;
    }
    require(
        c.vm_functions & !vm_functions::OFFERED == 0,
        "reserved VM-function controls are 0",
    )?;
    if c.vm_functions & vm_function::EPTP_SWITCHING != 0 {
        require(c.ept(), "EPTP switching requires EPT")?;
        require(
            physical(cpu, c.eptp_list, PAGE),
            "the EPTP-list address is a page",
        )?;
    }
    Ok(())
}

// SDM 26.2.1.1: VMCS shadowing.
fn shadowing(cpu: &Cpu, c: &Controls) -> Checked {
    require(
        !c.vmcs_shadowing()
            || physical(cpu, c.vmread_bitmap, PAGE) && physical(cpu, c.vmwrite_bitmap, PAGE),
        "VMREAD and VMWRITE bitmap addresses are pages",
    )
}

/// An MSR area: a count of 16-byte entries at an address.
fn msr_area(
    cpu: &Cpu,
    region: u64,
    count: Field32,
    address: Field64,
    rule: &'static str,
) -> Checked {
    let count = u64::from(count.get(&cpu.ram, region));
    let address = address.get(&cpu.ram, region);
    let last = address.wrapping_add(count * 16).wrapping_sub(1);
    require(
        count == 0 || physical(cpu, address, 15) && physical(cpu, last, 0) && last >= address,
        rule,
    )
}

// SDM 26.2.1.2 VM-Exit Control Fields
fn exit_controls(cpu: &Cpu, region: u64, c: &Controls) -> Checked {
    require(
        capabilities::exit_controls(&cpu.model).permits(c.exit),
        "reserved VM-exit controls have their fixed settings",
    )?;
    require(
        c.pin(pin::PREEMPTION_TIMER) || !c.exit(exit::SAVE_PREEMPTION_TIMER),
        "save VMX-preemption timer value requires the timer",
    )?;
    msr_area(
        cpu,
        region,
        vmcs::EXIT_MSR_STORE_COUNT,
        vmcs::EXIT_MSR_STORE_ADDRESS,
        "the VM-exit MSR-store area is aligned to 16 and within the physical-address width",
    )?;
    msr_area(
        cpu,
        region,
        vmcs::EXIT_MSR_LOAD_COUNT,
        vmcs::EXIT_MSR_LOAD_ADDRESS,
        "the VM-exit MSR-load area is aligned to 16 and within the physical-address width",
    )
}

// SDM 26.2.1.3 VM-Entry Control Fields
fn entry_controls(cpu: &Cpu, region: u64, c: &Controls) -> Checked {
    require(
        capabilities::entry_controls(&cpu.model).permits(c.entry),
        "reserved VM-entry controls have their fixed settings",
    )?;
    msr_area(
        cpu,
        region,
        vmcs::ENTRY_MSR_LOAD_COUNT,
        vmcs::ENTRY_MSR_LOAD_ADDRESS,
        "the VM-entry MSR-load area is aligned to 16 and within the physical-address width",
    )?;
    let info = InterruptionInformation(vmcs::ENTRY_INTERRUPTION_INFORMATION.get(&cpu.ram, region));
    if info.is_valid() {
        injection(cpu, region, c, info)?;
    }
    Ok(())
}

fn injection(cpu: &Cpu, region: u64, c: &Controls, info: InterruptionInformation) -> Checked {
    use InterruptionType as T;
    let kind = info.interruption_type();
    let vector = info.vector();
    require(
        kind != T::Reserved,
        "the interruption type of an injected event is not reserved",
    )?;
    require(
        match kind {
            T::NonMaskable => vector == 2,
            T::HardwareException => vector <= 31,
            T::Other => vector == 0,
            _ => true,
        },
        "the vector of an injected event fits its type",
    )?;
    let guest_cr0 = vmcs::GUEST_CR0.get(&cpu.ram, region);
    let protected = !c.unrestricted_guest() || guest_cr0 & cr0::PE != 0;
    // SDM 6.13: #CP delivers an error code only where the processor has CET, which this one has
    // not.
    let delivers = protected
        && kind == T::HardwareException
        && exception::pushes_error_code(vector)
        && vector != exception::CONTROL_PROTECTION;
    require(
        info.has_error_code() == delivers,
        "an injected event delivers an error code exactly if its exception does",
    )?;
    require(
        info.0 & 0x7fff_f000 == 0,
        "bits 30:12 of the VM-entry interruption information are 0",
    )?;
    require(
        !info.has_error_code() || vmcs::ENTRY_EXCEPTION_ERROR_CODE.get(&cpu.ram, region) >> 16 == 0,
        "bits 31:16 of the VM-entry exception error code are 0",
    )?;
    let software = matches!(
        kind,
        T::SoftwareInterrupt | T::PrivilegedSoftwareException | T::SoftwareException
    );
    // Length 0 is allowed: IA32_VMX_MISC[30] is 1.
    require(
        !software || vmcs::ENTRY_INSTRUCTION_LENGTH.get(&cpu.ram, region) <= 15,
        "the VM-entry instruction length is at most 15",
    )
}
