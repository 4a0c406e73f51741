//! Addresses of model-specific registers (SDM volume 4) and bits of some.

/// Time-stamp counter.
pub const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
/// Local APIC base address and mode.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// VMX and SMX feature lock.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// Offset added to the time-stamp counter by software.
pub const IA32_TSC_ADJUST: u32 = 0x3b;
/// Speculation control.
pub const IA32_SPEC_CTRL: u32 = 0x48;
/// Prediction commands.
pub const IA32_PRED_CMD: u32 = 0x49;
/// Microcode update signature.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// MTRR capabilities.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// What speculation does not do here.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// SYSENTER code segment.
pub const IA32_SYSENTER_CS: u32 = 0x174;
/// SYSENTER stack pointer.
pub const IA32_SYSENTER_ESP: u32 = 0x175;
/// SYSENTER instruction pointer.
pub const IA32_SYSENTER_EIP: u32 = 0x176;
/// Machine-check capabilities.
pub const IA32_MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// Machine-check control.
pub const IA32_MCG_CTL: u32 = 0x17b;
/// Control of the first machine-check bank, before its status, address and miscellaneous registers; four for each bank.
pub const IA32_MC0_CTL: u32 = 0x400;
/// Miscellaneous enables.
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Debug control.
pub const IA32_DEBUGCTL: u32 = 0x1d9;
/// Page-attribute table.
pub const IA32_PAT: u32 = 0x277;
/// Default memory type and MTRR enable.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Performance global control.
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
/// First VMX capability MSR: revision, region size, memory type.
pub const IA32_VMX_BASIC: u32 = 0x480;
/// Pin-based controls.
pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
/// Primary processor-based controls.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// VM-exit controls.
pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
/// VM-entry controls.
pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
/// Miscellaneous VMX data.
pub const IA32_VMX_MISC: u32 = 0x485;
/// CR0 bits that must be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED0: u32 = 0x486;
/// CR0 bits that may be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
/// CR4 bits that must be 1 in VMX operation.
pub const IA32_VMX_CR4_FIXED0: u32 = 0x488;
/// CR4 bits that may be 1 in VMX operation.
pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
/// Highest VMCS field index.
pub const IA32_VMX_VMCS_ENUM: u32 = 0x48a;
/// Secondary processor-based controls.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
/// EPT and VPID capabilities.
pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
/// Pin-based controls, true default-1 settings.
pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
/// Primary controls, true default-1 settings.
pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
/// Exit controls, true default-1 settings.
pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
/// Entry controls, true default-1 settings.
pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
/// VM functions.
pub const IA32_VMX_VMFUNC: u32 = 0x491;
/// Tertiary processor-based controls: a 64-bit mask of allowed 1-settings.
pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
/// Deadline of the local APIC's TSC-deadline timer.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC range; the MSR of register offset `o` is this plus `o >> 4`.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8ff;
/// x2APIC: local APIC ID.
pub const IA32_X2APIC_APICID: u32 = 0x802;
/// x2APIC: task priority.
pub const IA32_X2APIC_TPR: u32 = 0x808;
/// x2APIC: end of interrupt.
pub const IA32_X2APIC_EOI: u32 = 0x80b;
/// x2APIC: spurious-interrupt vector.
pub const IA32_X2APIC_SIVR: u32 = 0x80f;
/// x2APIC: interrupt command, 64 bits.
pub const IA32_X2APIC_ICR: u32 = 0x830;
/// x2APIC: self-IPI.
pub const IA32_X2APIC_SELF_IPI: u32 = 0x83f;
/// Supervisor state components that XSAVES manages.
pub const IA32_XSS: u32 = 0xda0;
/// Extended features, see [`crate::control_register::efer`].
pub const IA32_EFER: u32 = 0xc000_0080;
/// SYSCALL segment selectors.
pub const IA32_STAR: u32 = 0xc000_0081;
/// SYSCALL target in 64-bit mode.
pub const IA32_LSTAR: u32 = 0xc000_0082;
/// SYSCALL target in compatibility mode.
pub const IA32_CSTAR: u32 = 0xc000_0083;
/// SYSCALL flag mask.
pub const IA32_FMASK: u32 = 0xc000_0084;
/// FS base.
pub const IA32_FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const IA32_GS_BASE: u32 = 0xc000_0101;
/// GS base exchanged by SWAPGS.
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Value that RDTSCP and RDPID return.
pub const IA32_TSC_AUX: u32 = 0xc000_0103;

/// Bits of IA32_APIC_BASE (SDM 10.4.4, 10.12.1).
pub mod apic_base {
    /// This is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Global enable.
    pub const ENABLE: u64 = 1 << 11;
    /// Address of the register page at reset.
    pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;
}

/// Bits of IA32_FEATURE_CONTROL (SDM 23.7 Enabling and entering VMX operation).
pub mod feature_control {
    /// The register is locked.
    pub const LOCK: u64 = 1 << 0;
    /// VMXON allowed inside SMX operation.
    pub const VMX_INSIDE_SMX: u64 = 1 << 1;
    /// VMXON allowed outside SMX operation.
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
}
