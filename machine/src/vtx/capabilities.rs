//! What the processor says it can do: the VMX capability MSRs (SDM appendix A).
//!
//! One place for both what is advertised and what VM entry accepts: a control that is not
//! implemented is not among the allowed 1-settings.

use arch::{
    control_register::{cr0, cr4},
    msr,
    vmx_control::{
        entry, ept_vpid_capability as ept_vpid, exit, pin, primary, secondary, tertiary,
    },
};

use super::{vm_functions, vmcs};
use crate::cpu::{Cpu, CpuModel, model::VirtualizationLevel as Level};

/// The settings that one 32-bit control field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1, with the "true" capability MSRs.
    pub must_be_1: u32,
    /// Bits that must be 1 for software that does not know the "true" MSRs.
    pub default_1: u32,
    /// Bits that may be 1.
    pub may_be_1: u32,
}

impl Allowed {
    /// Whether `value` is a legal setting.
    pub const fn permits(self, value: u32) -> bool {
        value & self.must_be_1 == self.must_be_1 && value & !self.may_be_1 == 0
    }

    const fn new(default_1: u32, may_be_0: u32, offered: u32) -> Self {
        Self {
            must_be_1: default_1 & !may_be_0,
            default_1,
            may_be_1: default_1 | offered,
        }
    }
}

/// SDM A.3.1 Pin-based VM-execution controls.
pub fn pin_based(model: &CpuModel) -> Allowed {
    let mut offered = pin::EXTERNAL_INTERRUPT_EXITING
        | pin::NMI_EXITING
        | pin::VIRTUAL_NMIS
        | pin::PREEMPTION_TIMER;
    if model.virtualization >= Level::PostedInterrupts {
        offered |= pin::PROCESS_POSTED_INTERRUPTS;
    }
    Allowed::new(0x16, 0, offered)
}

/// SDM A.3.2 Primary processor-based VM-execution controls.
pub fn primary(model: &CpuModel) -> Allowed {
    let mut offered = primary::INTERRUPT_WINDOW_EXITING
        | primary::USE_TSC_OFFSETTING
        | primary::HLT_EXITING
        | primary::INVLPG_EXITING
        | primary::MWAIT_EXITING
        | primary::RDPMC_EXITING
        | primary::RDTSC_EXITING
        | primary::CR3_LOAD_EXITING
        | primary::CR3_STORE_EXITING
        | primary::CR8_LOAD_EXITING
        | primary::CR8_STORE_EXITING
        | primary::NMI_WINDOW_EXITING
        | primary::MOV_DR_EXITING
        | primary::UNCONDITIONAL_IO_EXITING
        | primary::USE_IO_BITMAPS
        | primary::MONITOR_TRAP_FLAG
        | primary::USE_MSR_BITMAPS
        | primary::MONITOR_EXITING
        | primary::PAUSE_EXITING
        | primary::ACTIVATE_SECONDARY_CONTROLS;
    if model.virtualization >= Level::ApicVirtualization {
        offered |= primary::USE_TPR_SHADOW;
    }
    if model.virtualization >= Level::IpiVirtualization {
        offered |= primary::ACTIVATE_TERTIARY_CONTROLS;
    }
    // Bits 15 and 16, the CR3 exits, may be 0 by the "true" MSR.
    Allowed::new(
        0x0401_e172,
        primary::CR3_LOAD_EXITING | primary::CR3_STORE_EXITING,
        offered,
    )
}

/// SDM A.3.3 Secondary processor-based VM-execution controls.
pub fn secondary(model: &CpuModel) -> Allowed {
    let mut offered = secondary::ENABLE_EPT
        | secondary::DESCRIPTOR_TABLE_EXITING
        | secondary::ENABLE_RDTSCP
        | secondary::ENABLE_VPID
        | secondary::WBINVD_EXITING
        | secondary::UNRESTRICTED_GUEST
        | secondary::RDRAND_EXITING
        | secondary::ENABLE_INVPCID
        | secondary::PAUSE_LOOP_EXITING
        | secondary::ENABLE_VM_FUNCTIONS
        | secondary::VMCS_SHADOWING
        | secondary::ENABLE_PML
        | secondary::ENABLE_XSAVES
        | secondary::EPT_VIOLATION_EXCEPTION
        | secondary::MODE_BASED_EXECUTE
        | secondary::USE_TSC_SCALING
        | secondary::RDSEED_EXITING;
    if model.virtualization >= Level::ApicVirtualization {
        offered |= secondary::VIRTUALIZE_APIC_ACCESSES
            | secondary::VIRTUALIZE_X2APIC_MODE
            | secondary::APIC_REGISTER_VIRTUALIZATION
            | secondary::VIRTUAL_INTERRUPT_DELIVERY;
    }
    Allowed::new(0, 0, offered)
}

/// SDM A.3.4 Tertiary processor-based VM-execution controls: the allowed 1-settings.
pub fn tertiary(model: &CpuModel) -> u64 {
    if model.virtualization >= Level::IpiVirtualization {
        tertiary::IPI_VIRTUALIZATION
    } else {
        0
    }
}

/// SDM A.4.1 Primary VM-exit controls.
pub fn exit_controls(_model: &CpuModel) -> Allowed {
    let offered = exit::SAVE_DEBUG_CONTROLS
        | exit::HOST_ADDRESS_SPACE_SIZE
        | exit::ACKNOWLEDGE_INTERRUPT
        | exit::SAVE_PAT
        | exit::LOAD_PAT
        | exit::SAVE_EFER
        | exit::LOAD_EFER
        | exit::SAVE_PREEMPTION_TIMER;
    Allowed::new(0x0003_6dff, exit::SAVE_DEBUG_CONTROLS, offered)
}

/// SDM A.5 VM-entry controls.
pub fn entry_controls(_model: &CpuModel) -> Allowed {
    let offered =
        entry::LOAD_DEBUG_CONTROLS | entry::IA32E_MODE_GUEST | entry::LOAD_PAT | entry::LOAD_EFER;
    Allowed::new(0x0000_11ff, entry::LOAD_DEBUG_CONTROLS, offered)
}

/// The VMX-preemption timer counts down once per so many ticks of the time-stamp counter, as a
/// power of two (SDM A.6). At one tick an instruction, a coarser timer would stand still between an entry
/// and an exit soon after.
pub const PREEMPTION_TIMER_SHIFT: u32 = 0;
/// CR3-target values (SDM A.6).
pub const CR3_TARGETS: u32 = 4;

/// CR0 bits that must be 1 in VMX operation (SDM A.7): PE, NE, PG.
pub const CR0_FIXED_0: u64 = cr0::PE | cr0::NE | cr0::PG;
/// CR0 bits that may be 1.
pub const CR0_FIXED_1: u64 = 0xffff_ffff;
/// CR4 bits that must be 1 in VMX operation (SDM A.8): VMXE.
pub const CR4_FIXED_0: u64 = cr4::VMXE;

/// SDM A.10 VPID and EPT capabilities.
pub const EPT_VPID: u64 = ept_vpid::EXECUTE_ONLY
    | ept_vpid::PAGE_WALK_4
    | ept_vpid::MEMORY_TYPE_UC
    | ept_vpid::MEMORY_TYPE_WB
    | ept_vpid::PAGE_2M
    | ept_vpid::PAGE_1G
    | ept_vpid::INVEPT
    | ept_vpid::ACCESSED_DIRTY
    | ept_vpid::INVEPT_SINGLE
    | ept_vpid::INVEPT_ALL
    | ept_vpid::INVVPID
    | ept_vpid::INVVPID_ADDRESS
    | ept_vpid::INVVPID_SINGLE
    | ept_vpid::INVVPID_ALL
    | ept_vpid::INVVPID_SINGLE_RETAINING_GLOBALS;

/// The value of the VMX capability MSR at `address`; `None` where the processor has none, so that
/// RDMSR faults.
pub fn capability(cpu: &Cpu, address: u32) -> Option<u64> {
    let model = &*cpu.model;
    if model.virtualization == Level::None {
        return None;
    }
    let old = |allowed: Allowed| u64::from(allowed.may_be_1) << 32 | u64::from(allowed.default_1);
    let true_ = |allowed: Allowed| u64::from(allowed.may_be_1) << 32 | u64::from(allowed.must_be_1);
    Some(match address {
        // SDM A.1: region of 4 KiB, write-back; INS/OUTS information; "true" MSRs.
        msr::IA32_VMX_BASIC => u64::from(vmcs::REVISION) | 4096 << 32 | 6 << 50 | 1 << 54 | 1 << 55,
        msr::IA32_VMX_PINBASED_CTLS => old(pin_based(model)),
        msr::IA32_VMX_PROCBASED_CTLS => old(primary(model)),
        msr::IA32_VMX_EXIT_CTLS => old(exit_controls(model)),
        msr::IA32_VMX_ENTRY_CTLS => old(entry_controls(model)),
        // SDM A.6: EFER.LMA is stored on exit; HLT, shutdown and wait-for-SIPI activity states;
        // VMWRITE to every field; injection with instruction length 0.
        msr::IA32_VMX_MISC => {
            u64::from(PREEMPTION_TIMER_SHIFT)
                | 1 << 5
                | 7 << 6
                | u64::from(CR3_TARGETS) << 16
                | 1 << 29
                | 1 << 30
        }
        msr::IA32_VMX_CR0_FIXED0 => CR0_FIXED_0,
        msr::IA32_VMX_CR0_FIXED1 => CR0_FIXED_1,
        msr::IA32_VMX_CR4_FIXED0 => CR4_FIXED_0,
        msr::IA32_VMX_CR4_FIXED1 => cpu.cr4_allowed(),
        msr::IA32_VMX_VMCS_ENUM => u64::from(vmcs::highest_index(model)) << 1,
        msr::IA32_VMX_PROCBASED_CTLS2 => old(secondary(model)),
        msr::IA32_VMX_EPT_VPID_CAP => EPT_VPID,
        msr::IA32_VMX_TRUE_PINBASED_CTLS => true_(pin_based(model)),
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => true_(primary(model)),
        msr::IA32_VMX_TRUE_EXIT_CTLS => true_(exit_controls(model)),
        msr::IA32_VMX_TRUE_ENTRY_CTLS => true_(entry_controls(model)),
        msr::IA32_VMX_VMFUNC => vm_functions::OFFERED,
        msr::IA32_VMX_PROCBASED_CTLS3
            if primary(model).may_be_1 & primary::ACTIVATE_TERTIARY_CONTROLS != 0 =>
        {
            tertiary(model)
        }
        _ => return None,
    })
}
