//! What VM exits of one class have in common: how they leave RFLAGS.RF and the pending debug exceptions
//! in the guest-state area (SDM 27.3.3 Saving RIP, RSP, RFLAGS, and SSP, 27.3.4 Saving Non-Register State).

use arch::{control_register::rflags, exception, exit::ExitReason as R};

use super::{VmExit, entry_checks::guest_state::pending_debug};
use crate::cpu::{Cpu, Inhibit, breakpoint::debugctl, raise::Exception};

/// What causes a VM exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An instruction that exits always, or as a control says. It has not been executed.
    Instruction,
    /// An exception, an NMI or an external interrupt, directly.
    Event,
    /// The use of an address, by an instruction or by the delivery of an event.
    Access,
    /// A task switch, before it has changed anything.
    TaskSwitch,
    /// An exception during the delivery of a double fault.
    TripleFault,
    /// Something behind an instruction that has been executed, before the debug traps of that instruction:
    /// APIC virtualization, the monitor trap flag, INIT.
    BeforeTraps,
    /// Something else between two instructions.
    Between,
}

impl Class {
    /// The class of the exits for `reason`.
    pub const fn of(reason: R) -> Self {
        match reason {
            R::ExceptionOrNmi | R::ExternalInterrupt => Self::Event,
            R::TripleFault => Self::TripleFault,
            R::TaskSwitch => Self::TaskSwitch,
            R::InitSignal
            | R::IoSmi
            | R::OtherSmi
            | R::MonitorTrapFlag
            | R::TprBelowThreshold
            | R::VirtualizedEoi
            | R::ApicWrite => Self::BeforeTraps,
            R::StartUpIpi | R::InterruptWindow | R::NmiWindow | R::PreemptionTimer => Self::Between,
            R::ApicAccess
            | R::EptViolation
            | R::EptMisconfiguration
            | R::PageModificationLogFull => Self::Access,
            _ => Self::Instruction,
        }
    }
}

/// RFLAGS as the guest-state area gets it. The class decides RF (SDM 27.3.3).
pub(super) fn saved_rflags(cpu: &Cpu, exit: &VmExit) -> u64 {
    // What its delivery would have saved, or saved before it failed.
    let image = |event: &Exception| cpu.saved_rflags(event);
    let unchanged = || {
        if cpu.between_iterations() {
            cpu.rflags() | rflags::RF
        } else {
            cpu.rflags()
        }
    };
    match (Class::of(exit.reason), &cpu.delivering) {
        (Class::Instruction, _) => cpu.rflags() & !rflags::RF,
        (Class::Event, _) => exit.event.as_ref().map_or_else(unchanged, image),
        (Class::Access, None) => cpu.rflags() | rflags::RF,
        (Class::Access | Class::TaskSwitch, Some(event)) => image(event),
        (Class::TaskSwitch, None) => cpu.rflags(),
        (Class::TripleFault | Class::BeforeTraps | Class::Between, _) => unchanged(),
    }
}

/// The pending debug exceptions as the guest-state area gets them (SDM 27.3.4): none, unless the exit comes
/// before they could be delivered or MOV SS holds them back.
pub(super) fn saved_pending_debug(cpu: &mut Cpu, exit: &VmExit) -> u64 {
    let held = std::mem::take(&mut cpu.breakpoints_met);
    let by_debug_exception = exit
        .event
        .is_some_and(|event| event.vector == exception::DEBUG);
    let blocked = cpu.inhibit == Inhibit::MovSs && !by_debug_exception;
    if !blocked && Class::of(exit.reason) != Class::BeforeTraps {
        return 0;
    }
    let mut pending = cpu.vmx.guest.pending_debug;
    if blocked {
        pending |= pending_debug::from_debug_status(held);
        // So is the single step of MOV SS itself, as VM entry then requires (SDM 26.3.1.5).
        let steps = cpu.system_flags & rflags::TF != 0
            && cpu.msrs.debugctl & debugctl::BRANCH_TRAP_FLAG == 0;
        if steps {
            pending |= pending_debug::SINGLE_STEP;
        }
    }
    pending
}
