//! Names of MSRs.

use arch::msr;

/// First and last of a range, and its name. The manual's names; "MSR_" ones belong to processor models.
const NAMES: &[(u32, u32, &str)] = &[
    (0x00, 0x01, "IA32_P5_MC_ADDR, TYPE"),
    (0x10, 0x10, "IA32_TIME_STAMP_COUNTER"),
    (0x17, 0x17, "IA32_PLATFORM_ID"),
    (msr::IA32_APIC_BASE, msr::IA32_APIC_BASE, "IA32_APIC_BASE"),
    (0x2a, 0x2a, "MSR_EBL_CR_POWERON"),
    (0x34, 0x34, "MSR_SMI_COUNT"),
    (0x35, 0x35, "MSR_CORE_THREAD_COUNT"),
    (0x3a, 0x3a, "IA32_FEATURE_CONTROL"),
    (0x3b, 0x3b, "IA32_TSC_ADJUST"),
    (0x48, 0x48, "IA32_SPEC_CTRL"),
    (0x49, 0x49, "IA32_PRED_CMD"),
    (0x4e, 0x4e, "MSR_PPIN_CTL"),
    (0x79, 0x79, "IA32_BIOS_UPDT_TRIG"),
    (0x8b, 0x8b, "IA32_BIOS_SIGN_ID"),
    (0xcd, 0xcd, "MSR_FSB_FREQ"),
    (0xce, 0xce, "MSR_PLATFORM_INFO"),
    (0xe2, 0xe2, "MSR_PKG_CST_CONFIG_CONTROL"),
    (0xfe, 0xfe, "IA32_MTRRCAP"),
    (0x10a, 0x10a, "IA32_ARCH_CAPABILITIES"),
    (0x140, 0x140, "MISC_FEATURE_ENABLES"),
    (0x174, 0x176, "IA32_SYSENTER_CS, ESP, EIP"),
    (0x179, 0x179, "IA32_MCG_CAP"),
    (0x17a, 0x17a, "IA32_MCG_STATUS"),
    (0x198, 0x198, "IA32_PERF_STATUS"),
    (0x199, 0x199, "IA32_PERF_CTL"),
    (0x19a, 0x19a, "IA32_CLOCK_MODULATION"),
    (0x19b, 0x19b, "IA32_THERM_INTERRUPT"),
    (0x19c, 0x19c, "IA32_THERM_STATUS"),
    (0x1a0, 0x1a0, "IA32_MISC_ENABLE"),
    (0x1a2, 0x1a2, "MSR_TEMPERATURE_TARGET"),
    (0x1a4, 0x1a4, "MSR_MISC_FEATURE_CONTROL"),
    (0x1ad, 0x1ad, "MSR_TURBO_RATIO_LIMIT"),
    (0x1b1, 0x1b1, "IA32_PACKAGE_THERM_STATUS"),
    (0x1b2, 0x1b2, "IA32_PACKAGE_THERM_INTERRUPT"),
    (0x1d9, 0x1d9, "IA32_DEBUGCTL"),
    (0x1fc, 0x1fc, "MSR_POWER_CTL"),
    (0x200, 0x20f, "IA32_MTRR_PHYSBASE0 to PHYSMASK7"),
    (0x250, 0x250, "IA32_MTRR_FIX64K_00000"),
    (0x258, 0x259, "IA32_MTRR_FIX16K"),
    (0x268, 0x26f, "IA32_MTRR_FIX4K"),
    (0x277, 0x277, "IA32_PAT"),
    (0x2ff, 0x2ff, "IA32_MTRR_DEF_TYPE"),
    (0x38f, 0x38f, "IA32_PERF_GLOBAL_CTRL"),
    (
        msr::IA32_VMX_BASIC,
        msr::IA32_VMX_PROCBASED_CTLS3,
        "VMX capabilities",
    ),
    (0x606, 0x606, "MSR_RAPL_POWER_UNIT"),
    (0x610, 0x610, "MSR_PKG_POWER_LIMIT"),
    (0x611, 0x611, "MSR_PKG_ENERGY_STATUS"),
    (0x619, 0x619, "MSR_DRAM_ENERGY_STATUS"),
    (0x639, 0x639, "MSR_PP0_ENERGY_STATUS"),
    (0x6e0, 0x6e0, "IA32_TSC_DEADLINE"),
    (msr::X2APIC_FIRST, msr::X2APIC_LAST, "x2APIC registers"),
    (0xda0, 0xda0, "IA32_XSS"),
    (0xc000_0080, 0xc000_0080, "IA32_EFER"),
    (0xc000_0081, 0xc000_0084, "IA32_STAR, LSTAR, CSTAR, FMASK"),
    (0xc000_0100, 0xc000_0101, "IA32_FS_BASE, GS_BASE"),
    (0xc000_0102, 0xc000_0102, "IA32_KERNEL_GS_BASE"),
    (0xc000_0103, 0xc000_0103, "IA32_TSC_AUX"),
    (0xc001_1029, 0xc001_1029, "AMD's DE_CFG"),
];

/// The range that an MSR belongs to: first, last and name.
#[track_caller]
pub(crate) fn of(index: u32) -> (u32, u32, &'static str) {
    let found = NAMES
        .iter()
        .find(|(first, last, _)| (*first..=*last).contains(&index));
    *found.unwrap_or_else(|| panic!("tests/contract/msr_name.rs has no name for MSR {index:#x}"))
}
