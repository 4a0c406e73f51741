//! Bits of the VMX control fields (SDM 24.6 VM-execution control fields, 24.7 VM-exit control
//! fields, 24.8 VM-entry control fields).

/// Pin-based VM-execution controls.
pub mod pin {
    /// External-interrupt exiting.
    pub const EXTERNAL_INTERRUPT_EXITING: u32 = 1 << 0;
    /// NMI exiting.
    pub const NMI_EXITING: u32 = 1 << 3;
    /// Virtual NMIs.
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    /// Activate VMX-preemption timer.
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    /// Process posted interrupts.
    pub const PROCESS_POSTED_INTERRUPTS: u32 = 1 << 7;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u32, &str)] = &[
        (EXTERNAL_INTERRUPT_EXITING, "external-interrupt exiting"),
        (NMI_EXITING, "NMI exiting"),
        (VIRTUAL_NMIS, "virtual NMIs"),
        (PREEMPTION_TIMER, "activate VMX-preemption timer"),
        (PROCESS_POSTED_INTERRUPTS, "process posted interrupts"),
    ];
}

/// Primary processor-based VM-execution controls.
pub mod primary {
    /// Interrupt-window exiting.
    pub const INTERRUPT_WINDOW_EXITING: u32 = 1 << 2;
    /// Use TSC offsetting.
    pub const USE_TSC_OFFSETTING: u32 = 1 << 3;
    /// HLT exiting.
    pub const HLT_EXITING: u32 = 1 << 7;
    /// INVLPG exiting.
    pub const INVLPG_EXITING: u32 = 1 << 9;
    /// MWAIT exiting.
    pub const MWAIT_EXITING: u32 = 1 << 10;
    /// RDPMC exiting.
    pub const RDPMC_EXITING: u32 = 1 << 11;
    /// RDTSC exiting.
    pub const RDTSC_EXITING: u32 = 1 << 12;
    /// CR3-load exiting.
    pub const CR3_LOAD_EXITING: u32 = 1 << 15;
    /// CR3-store exiting.
    pub const CR3_STORE_EXITING: u32 = 1 << 16;
    /// Activate tertiary controls.
    pub const ACTIVATE_TERTIARY_CONTROLS: u32 = 1 << 17;
    /// CR8-load exiting.
    pub const CR8_LOAD_EXITING: u32 = 1 << 19;
    /// CR8-store exiting.
    pub const CR8_STORE_EXITING: u32 = 1 << 20;
    /// Use TPR shadow.
    pub const USE_TPR_SHADOW: u32 = 1 << 21;
    /// NMI-window exiting.
    pub const NMI_WINDOW_EXITING: u32 = 1 << 22;
    /// MOV-DR exiting.
    pub const MOV_DR_EXITING: u32 = 1 << 23;
    /// Unconditional I/O exiting.
    pub const UNCONDITIONAL_IO_EXITING: u32 = 1 << 24;
    /// Use I/O bitmaps.
    pub const USE_IO_BITMAPS: u32 = 1 << 25;
    /// Monitor trap flag.
    pub const MONITOR_TRAP_FLAG: u32 = 1 << 27;
    /// Use MSR bitmaps.
    pub const USE_MSR_BITMAPS: u32 = 1 << 28;
    /// MONITOR exiting.
    pub const MONITOR_EXITING: u32 = 1 << 29;
    /// PAUSE exiting.
    pub const PAUSE_EXITING: u32 = 1 << 30;
    /// Activate secondary controls.
    pub const ACTIVATE_SECONDARY_CONTROLS: u32 = 1 << 31;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u32, &str)] = &[
        (INTERRUPT_WINDOW_EXITING, "interrupt-window exiting"),
        (USE_TSC_OFFSETTING, "use TSC offsetting"),
        (HLT_EXITING, "HLT exiting"),
        (INVLPG_EXITING, "INVLPG exiting"),
        (MWAIT_EXITING, "MWAIT exiting"),
        (RDPMC_EXITING, "RDPMC exiting"),
        (RDTSC_EXITING, "RDTSC exiting"),
        (CR3_LOAD_EXITING, "CR3-load exiting"),
        (CR3_STORE_EXITING, "CR3-store exiting"),
        (ACTIVATE_TERTIARY_CONTROLS, "activate tertiary controls"),
        (CR8_LOAD_EXITING, "CR8-load exiting"),
        (CR8_STORE_EXITING, "CR8-store exiting"),
        (USE_TPR_SHADOW, "use TPR shadow"),
        (NMI_WINDOW_EXITING, "NMI-window exiting"),
        (MOV_DR_EXITING, "MOV-DR exiting"),
        (UNCONDITIONAL_IO_EXITING, "unconditional I/O exiting"),
        (USE_IO_BITMAPS, "use I/O bitmaps"),
        (MONITOR_TRAP_FLAG, "monitor trap flag"),
        (USE_MSR_BITMAPS, "use MSR bitmaps"),
        (MONITOR_EXITING, "MONITOR exiting"),
        (PAUSE_EXITING, "PAUSE exiting"),
        (ACTIVATE_SECONDARY_CONTROLS, "activate secondary controls"),
    ];
}

/// Secondary processor-based VM-execution controls.
pub mod secondary {
    /// Virtualize APIC accesses.
    pub const VIRTUALIZE_APIC_ACCESSES: u32 = 1 << 0;
    /// Enable EPT.
    pub const ENABLE_EPT: u32 = 1 << 1;
    /// Descriptor-table exiting.
    pub const DESCRIPTOR_TABLE_EXITING: u32 = 1 << 2;
    /// Enable RDTSCP (and RDPID).
    pub const ENABLE_RDTSCP: u32 = 1 << 3;
    /// Virtualize x2APIC mode.
    pub const VIRTUALIZE_X2APIC_MODE: u32 = 1 << 4;
    /// Enable VPID.
    pub const ENABLE_VPID: u32 = 1 << 5;
    /// WBINVD exiting.
    pub const WBINVD_EXITING: u32 = 1 << 6;
    /// Unrestricted guest.
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    /// APIC-register virtualization.
    pub const APIC_REGISTER_VIRTUALIZATION: u32 = 1 << 8;
    /// Virtual-interrupt delivery.
    pub const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    /// PAUSE-loop exiting.
    pub const PAUSE_LOOP_EXITING: u32 = 1 << 10;
    /// RDRAND exiting.
    pub const RDRAND_EXITING: u32 = 1 << 11;
    /// Enable INVPCID.
    pub const ENABLE_INVPCID: u32 = 1 << 12;
    /// Enable VM functions.
    pub const ENABLE_VM_FUNCTIONS: u32 = 1 << 13;
    /// VMCS shadowing.
    pub const VMCS_SHADOWING: u32 = 1 << 14;
    /// RDSEED exiting.
    pub const RDSEED_EXITING: u32 = 1 << 16;
    /// Enable PML.
    pub const ENABLE_PML: u32 = 1 << 17;
    /// EPT-violation #VE.
    pub const EPT_VIOLATION_EXCEPTION: u32 = 1 << 18;
    /// Enable XSAVES/XRSTORS.
    pub const ENABLE_XSAVES: u32 = 1 << 20;
    /// Mode-based execute control for EPT.
    pub const MODE_BASED_EXECUTE: u32 = 1 << 22;
    /// Use TSC scaling.
    pub const USE_TSC_SCALING: u32 = 1 << 25;
    /// Enable user wait and pause.
    pub const ENABLE_USER_WAIT: u32 = 1 << 26;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u32, &str)] = &[
        (VIRTUALIZE_APIC_ACCESSES, "virtualize APIC accesses"),
        (ENABLE_EPT, "enable EPT"),
        (DESCRIPTOR_TABLE_EXITING, "descriptor-table exiting"),
        (ENABLE_RDTSCP, "enable RDTSCP"),
        (VIRTUALIZE_X2APIC_MODE, "virtualize x2APIC mode"),
        (ENABLE_VPID, "enable VPID"),
        (WBINVD_EXITING, "WBINVD exiting"),
        (UNRESTRICTED_GUEST, "unrestricted guest"),
        (APIC_REGISTER_VIRTUALIZATION, "APIC-register virtualization"),
        (VIRTUAL_INTERRUPT_DELIVERY, "virtual-interrupt delivery"),
        (PAUSE_LOOP_EXITING, "PAUSE-loop exiting"),
        (RDRAND_EXITING, "RDRAND exiting"),
        (ENABLE_INVPCID, "enable INVPCID"),
        (ENABLE_VM_FUNCTIONS, "enable VM functions"),
        (VMCS_SHADOWING, "VMCS shadowing"),
        (RDSEED_EXITING, "RDSEED exiting"),
        (ENABLE_PML, "enable PML"),
        (EPT_VIOLATION_EXCEPTION, "EPT-violation #VE"),
        (ENABLE_XSAVES, "enable XSAVES/XRSTORS"),
        (MODE_BASED_EXECUTE, "mode-based execute control for EPT"),
        (USE_TSC_SCALING, "use TSC scaling"),
        (ENABLE_USER_WAIT, "enable user wait and pause"),
    ];
}

/// VM-function controls, a 64-bit field.
pub mod vm_function {
    /// EPTP switching.
    pub const EPTP_SWITCHING: u64 = 1 << 0;
}

/// Tertiary processor-based VM-execution controls, a 64-bit field.
pub mod tertiary {
    /// LOADIWKEY exiting.
    pub const LOADIWKEY_EXITING: u64 = 1 << 0;
    /// Enable HLAT.
    pub const ENABLE_HLAT: u64 = 1 << 1;
    /// EPT paging-write control.
    pub const EPT_PAGING_WRITE: u64 = 1 << 2;
    /// Guest-paging verification.
    pub const GUEST_PAGING_VERIFICATION: u64 = 1 << 3;
    /// IPI virtualization.
    pub const IPI_VIRTUALIZATION: u64 = 1 << 4;
    /// Virtualize IA32_SPEC_CTRL.
    pub const VIRTUALIZE_SPEC_CTRL: u64 = 1 << 7;
    /// APIC-timer virtualization.
    pub const APIC_TIMER_VIRTUALIZATION: u64 = 1 << 8;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u64, &str)] = &[
        (LOADIWKEY_EXITING, "LOADIWKEY exiting"),
        (ENABLE_HLAT, "enable HLAT"),
        (EPT_PAGING_WRITE, "EPT paging-write control"),
        (GUEST_PAGING_VERIFICATION, "guest-paging verification"),
        (IPI_VIRTUALIZATION, "IPI virtualization"),
        (VIRTUALIZE_SPEC_CTRL, "virtualize IA32_SPEC_CTRL"),
        (APIC_TIMER_VIRTUALIZATION, "APIC-timer virtualization"),
    ];
}

/// Primary VM-exit controls.
pub mod exit {
    /// Save debug controls.
    pub const SAVE_DEBUG_CONTROLS: u32 = 1 << 2;
    /// Host address-space size.
    pub const HOST_ADDRESS_SPACE_SIZE: u32 = 1 << 9;
    /// Load IA32_PERF_GLOBAL_CTRL.
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 12;
    /// Acknowledge interrupt on exit.
    pub const ACKNOWLEDGE_INTERRUPT: u32 = 1 << 15;
    /// Save IA32_PAT.
    pub const SAVE_PAT: u32 = 1 << 18;
    /// Load IA32_PAT.
    pub const LOAD_PAT: u32 = 1 << 19;
    /// Save IA32_EFER.
    pub const SAVE_EFER: u32 = 1 << 20;
    /// Load IA32_EFER.
    pub const LOAD_EFER: u32 = 1 << 21;
    /// Save VMX-preemption timer value.
    pub const SAVE_PREEMPTION_TIMER: u32 = 1 << 22;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u32, &str)] = &[
        (SAVE_DEBUG_CONTROLS, "save debug controls"),
        (HOST_ADDRESS_SPACE_SIZE, "host address-space size"),
        (LOAD_PERF_GLOBAL_CTRL, "load IA32_PERF_GLOBAL_CTRL"),
        (ACKNOWLEDGE_INTERRUPT, "acknowledge interrupt on exit"),
        (SAVE_PAT, "save IA32_PAT"),
        (LOAD_PAT, "load IA32_PAT"),
        (SAVE_EFER, "save IA32_EFER"),
        (LOAD_EFER, "load IA32_EFER"),
        (SAVE_PREEMPTION_TIMER, "save VMX-preemption timer value"),
    ];
}

/// VM-entry controls.
pub mod entry {
    /// Load debug controls.
    pub const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
    /// IA-32e mode guest.
    pub const IA32E_MODE_GUEST: u32 = 1 << 9;
    /// Entry to SMM.
    pub const ENTRY_TO_SMM: u32 = 1 << 10;
    /// Deactivate dual-monitor treatment.
    pub const DEACTIVATE_DUAL_MONITOR: u32 = 1 << 11;
    /// Load IA32_PERF_GLOBAL_CTRL.
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 13;
    /// Load IA32_PAT.
    pub const LOAD_PAT: u32 = 1 << 14;
    /// Load IA32_EFER.
    pub const LOAD_EFER: u32 = 1 << 15;
    /// Name of each defined bit, lowest first.
    pub const NAMES: &[(u32, &str)] = &[
        (LOAD_DEBUG_CONTROLS, "load debug controls"),
        (IA32E_MODE_GUEST, "IA-32e mode guest"),
        (ENTRY_TO_SMM, "entry to SMM"),
        (DEACTIVATE_DUAL_MONITOR, "deactivate dual-monitor treatment"),
        (LOAD_PERF_GLOBAL_CTRL, "load IA32_PERF_GLOBAL_CTRL"),
        (LOAD_PAT, "load IA32_PAT"),
        (LOAD_EFER, "load IA32_EFER"),
    ];
}

/// Bits of IA32_VMX_EPT_VPID_CAP (SDM A.10 VPID and EPT capabilities).
pub mod ept_vpid_capability {
    /// Execute-only translations.
    pub const EXECUTE_ONLY: u64 = 1 << 0;
    /// Page-walk length of 4.
    pub const PAGE_WALK_4: u64 = 1 << 6;
    /// Uncacheable EPT structures.
    pub const MEMORY_TYPE_UC: u64 = 1 << 8;
    /// Write-back EPT structures.
    pub const MEMORY_TYPE_WB: u64 = 1 << 14;
    /// 2-MByte pages.
    pub const PAGE_2M: u64 = 1 << 16;
    /// 1-GByte pages.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty flags.
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    /// Advanced information for EPT violations.
    pub const ADVANCED_INFORMATION: u64 = 1 << 22;
    /// Single-context INVEPT.
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    /// All-context INVEPT.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID.
    pub const INVVPID: u64 = 1 << 32;
    /// Individual-address INVVPID.
    pub const INVVPID_ADDRESS: u64 = 1 << 40;
    /// Single-context INVVPID.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// All-context INVVPID.
    pub const INVVPID_ALL: u64 = 1 << 42;
    /// Single-context-retaining-globals INVVPID.
    pub const INVVPID_SINGLE_RETAINING_GLOBALS: u64 = 1 << 43;
}
