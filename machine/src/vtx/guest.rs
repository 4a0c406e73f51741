//! What a VM entry puts in force.
//!
//! A processor reads controls and state from a VMCS at VM entry and works with its own copy from then on.
//! All such copies, and all that comes of them, are one value: VM entry makes it and VM exit drops it, so
//! that nothing of one VMCS, or of one entry with it, can reach another (SDM 24.1: the VMCSs of different
//! virtual machines are independent). What outlives it is in the VMCS, or is a translation that is tagged
//! with its VPID and EPT pointer ([`vpid`](super::vpid), [`ept`](super::ept)).

use arch::{
    interruption::{InterruptionInformation, InterruptionType},
    vmcs,
};

use super::{
    Trap, apic_virtualization::VirtualInterrupts, controls::Controls,
    entry_checks::guest_state::interruptibility, pause_loop::PauseLoop,
    preemption_timer::PreemptionTimer,
};
use crate::cpu::{Activity, Cpu};

/// The guest of the VM entry that the processor is in. In VMX root operation, and outside VMX operation,
/// it is that of none: the default, with every control 0.
#[derive(Debug, Default)]
pub struct Guest {
    /// The controls, as VM entry read them.
    pub controls: Controls,
    /// Virtual-interrupt delivery: guest interrupt status, and what was recognized under it.
    pub virtual_interrupts: VirtualInterrupts,
    /// The VMX-preemption timer.
    pub preemption_timer: PreemptionTimer,
    /// PAUSE-loop exiting.
    pub pause_loop: PauseLoop,
    /// Virtual-NMI blocking (SDM 24.6.1, "virtual NMIs").
    pub virtual_nmi_blocked: bool,
    /// [`Cpu::instructions`] at the IRET that ended the blocking of (virtual) NMIs.
    pub nmi_unblocked_by: Option<u64>,
    /// Debug exceptions that wait for delivery (SDM 24.4.2).
    pub pending_debug: u64,
    /// The event that is being delivered was injected by VM entry (SDM 26.6.1): it is not intercepted, is
    /// saved with the guest's RF and does not change debug registers or CR2.
    pub injecting: bool,
    /// A monitor-trap-flag exit is due before the next instruction.
    pub monitor_trap_pending: bool,
    /// What completes the instruction that was executed last.
    pub trap: Option<Trap>,
    /// Guest-linear address of the VM exit that is about to happen.
    pub linear_address: u64,
    /// Its guest-physical address.
    pub physical_address: u64,
    /// [`Cpu::instructions`] at VM entry.
    pub entry_instructions: u64,
}

impl Guest {
    /// The guest of the current VMCS (SDM 26.3.2.5 Updating Non-Register State).
    pub(super) fn of_current(cpu: &Cpu, controls: Controls) -> Self {
        let blocking = cpu.vmcs(vmcs::GUEST_INTERRUPTIBILITY_STATE);
        let virtual_interrupts = if controls.virtual_interrupt_delivery() {
            VirtualInterrupts::from_status(cpu.vmcs(vmcs::GUEST_INTERRUPT_STATUS))
        } else {
            VirtualInterrupts::default()
        };
        Self {
            virtual_nmi_blocked: controls.virtual_nmis() && blocking & interruptibility::NMI != 0,
            pending_debug: pending_debug(cpu, blocking),
            preemption_timer: PreemptionTimer::of_current(cpu, &controls),
            entry_instructions: cpu.instructions,
            controls,
            virtual_interrupts,
            ..Self::default()
        }
    }
}

/// The debug exceptions that are pending behind VM entry (SDM 26.7.3 Delivery of Pending Debug Exceptions
/// after VM Entry): an event that is injected takes their place, but for a software interrupt or exception
/// behind MOV SS; in the shutdown and wait-for-SIPI states there are none.
fn pending_debug(cpu: &Cpu, blocking: u32) -> u64 {
    use InterruptionType as T;
    let information = InterruptionInformation(cpu.vmcs(vmcs::ENTRY_INTERRUPTION_INFORMATION));
    let kind = information.interruption_type();
    let vectoring = information.is_valid() && kind != T::Other;
    let pending = if vectoring {
        matches!(kind, T::SoftwareInterrupt | T::SoftwareException)
            && blocking & interruptibility::MOV_SS != 0
    } else {
        matches!(cpu.activity, Activity::Active | Activity::Halted)
    };
    if pending {
        cpu.vmcs(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS)
    } else {
        0
    }
}
