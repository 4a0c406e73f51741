//! Checks on the host-state area (SDM 26.2.2 to 26.2.4).

use arch::{
    control_register::{cr4, efer},
    vmcs::{self, Field16, FieldNatural},
    vmx_control::{entry, exit},
};

use super::{Checked, pat, physical, require};
use crate::{
    cpu::Cpu,
    vtx::{capabilities, controls::Controls, vmcs::Field},
};

/// All checks on host-state fields.
pub fn check(cpu: &Cpu, region: u64, c: &Controls) -> Checked {
    let get = |field: FieldNatural| field.get(&cpu.ram, region);
    let selector = |field: Field16| field.get(&cpu.ram, region);
    let canonical = |field: FieldNatural| Cpu::is_canonical(get(field));
    let host_64 = c.exit(exit::HOST_ADDRESS_SPACE_SIZE);

    // SDM 26.2.2 Checks on Host Control Registers, MSRs, and SSP
    require(
        valid_cr0(get(vmcs::HOST_CR0)),
        "host CR0 has the bits that VMX operation fixes",
    )?;
    require(
        valid_cr4(cpu, get(vmcs::HOST_CR4)),
        "host CR4 has the bits that VMX operation fixes",
    )?;
    require(
        physical(cpu, get(vmcs::HOST_CR3), 0),
        "host CR3 is within the physical-address width",
    )?;
    require(
        canonical(vmcs::HOST_SYSENTER_ESP) && canonical(vmcs::HOST_SYSENTER_EIP),
        "host IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
    )?;
    require(
        !c.exit(exit::LOAD_PAT) || pat(vmcs::HOST_PAT.get(&cpu.ram, region)),
        "host IA32_PAT holds memory types",
    )?;
    if c.exit(exit::LOAD_EFER) {
        let value = vmcs::HOST_EFER.get(&cpu.ram, region);
        let mode = if host_64 { efer::LMA | efer::LME } else { 0 };
        require(valid_efer(value), "reserved bits of host IA32_EFER are 0")?;
        require(
            value & (efer::LMA | efer::LME) == mode,
            "host IA32_EFER.LMA and LME equal the host address-space size",
        )?;
    }

    // SDM 26.2.3 Checks on Host Segment and Descriptor-Table Registers
    for field in [
        vmcs::HOST_ES_SELECTOR,
        vmcs::HOST_CS_SELECTOR,
        vmcs::HOST_SS_SELECTOR,
        vmcs::HOST_DS_SELECTOR,
        vmcs::HOST_FS_SELECTOR,
        vmcs::HOST_GS_SELECTOR,
        vmcs::HOST_TR_SELECTOR,
    ] {
        require(
            selector(field) & 7 == 0,
            "host selectors have RPL 0 and refer to the GDT",
        )?;
    }
    require(
        selector(vmcs::HOST_CS_SELECTOR) != 0,
        "the host CS selector is not null",
    )?;
    require(
        selector(vmcs::HOST_TR_SELECTOR) != 0,
        "the host TR selector is not null",
    )?;
    require(
        host_64 || selector(vmcs::HOST_SS_SELECTOR) != 0,
        "the host SS selector is not null for a 32-bit host",
    )?;
    for field in [
        vmcs::HOST_FS_BASE,
        vmcs::HOST_GS_BASE,
        vmcs::HOST_GDTR_BASE,
        vmcs::HOST_IDTR_BASE,
        vmcs::HOST_TR_BASE,
    ] {
        require(canonical(field), "host base addresses are canonical")?;
    }

    // SDM 26.2.4 Checks Related to Address-Space Size
    require(
        cpu.ia32e_mode() == host_64,
        "the host address-space size is that of the mode in which VM entry is executed",
    )?;
    let rip = get(vmcs::HOST_RIP);
    if host_64 {
        require(
            get(vmcs::HOST_CR4) & cr4::PAE != 0,
            "host CR4.PAE is 1 for a 64-bit host",
        )?;
        require(Cpu::is_canonical(rip), "host RIP is canonical")
    } else {
        require(
            !c.entry(entry::IA32E_MODE_GUEST),
            "a 32-bit host has no IA-32e mode guest",
        )?;
        require(
            get(vmcs::HOST_CR4) & cr4::PCIDE == 0,
            "host CR4.PCIDE is 0 for a 32-bit host",
        )?;
        require(
            rip >> 32 == 0,
            "bits 63:32 of host RIP are 0 for a 32-bit host",
        )
    }
}

/// Whether CR0 has the values that VMX operation requires (SDM 23.8).
fn valid_cr0(value: u64) -> bool {
    value & capabilities::CR0_FIXED_0 == capabilities::CR0_FIXED_0
        && value & !capabilities::CR0_FIXED_1 == 0
}

/// The same for CR4.
pub(super) fn valid_cr4(cpu: &Cpu, value: u64) -> bool {
    value & capabilities::CR4_FIXED_0 == capabilities::CR4_FIXED_0
        && value & !cpu.cr4_allowed() == 0
}

/// Whether IA32_EFER has no reserved bit.
pub(super) fn valid_efer(value: u64) -> bool {
    value & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) == 0
}
