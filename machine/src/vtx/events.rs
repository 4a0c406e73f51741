//! What is looked at between instructions in VMX non-root operation, highest priority first (SDM
//! 6.9, 25.2 Other causes of VM exits, 26.7 Special features of VM entry).

use arch::{
    control_register::rflags,
    exception,
    exit::ExitReason,
    vmx_control::{exit as exit_control, pin, primary},
};

use super::{
    Trap, VmExit, apic_access, apic_virtualization, entry_checks::guest_state::pending_debug, exit,
    posted_interrupts,
};
use crate::cpu::{
    Activity, Cpu, Inhibit,
    local_apic::InterruptSource,
    raise::{Exception, Source},
};

/// Whether something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Processed {
    /// An event was delivered, or the guest was left; look again.
    Something,
    /// There is nothing to do before the next instruction.
    Nothing,
}

/// Completes the last instruction: emulation of its virtualized APIC write, or a trap-like exit.
/// Both come before every other event (SDM 30.4.3.2).
pub fn complete_instruction(cpu: &mut Cpu) {
    while let Some(trap) = cpu.vmx.guest.trap.take() {
        match trap {
            Trap::ApicWriteEmulation(write) => apic_access::emulate_write(cpu, write.offset),
            Trap::Exit(due) => exit(cpu, due),
        }
    }
}

/// The same where a debug trap is due with these bits of DR6, which a VM exit leaves to the guest-state
/// area (SDM 27.3.4). False if the guest was left.
pub fn complete_before_trap(cpu: &mut Cpu, due: u64) -> bool {
    let before = cpu.vmx.guest.pending_debug;
    cpu.vmx.guest.pending_debug |= pending_debug::from_debug_status(due);
    complete_instruction(cpu);
    if cpu.vmx.non_root {
        cpu.vmx.guest.pending_debug = before;
    }
    cpu.vmx.non_root
}

/// Takes the debug exceptions that VM entry loaded and a MOV SS held back so far, as the bits of DR6 that
/// they set together with those of the instruction that has ended (SDM 26.7.3).
pub fn take_pending_debug(cpu: &mut Cpu) -> u64 {
    let pending = std::mem::take(&mut cpu.vmx.guest.pending_debug);
    pending & (pending_debug::BREAKPOINTS | pending_debug::SINGLE_STEP)
}

/// Leaves the guest for what has priority over the debug trap that is due (SDM 25.5.2 Monitor trap flag,
/// 6.9), which stays pending in the guest-state area (SDM 27.3.4). True if it did.
pub fn leave_before_trap(cpu: &mut Cpu, due: u64) -> bool {
    let Some(exit_first) = due_exit(cpu) else {
        return false;
    };
    cpu.vmx.guest.pending_debug = pending_debug::from_debug_status(due);
    exit(cpu, exit_first);
    true
}

/// An event has been delivered: with the monitor trap flag an exit is due before the handler's first
/// instruction, whether VM entry injected the event or it came by itself (SDM 25.5.2).
pub fn after_delivery(cpu: &mut Cpu) {
    if cpu.vmx.guest.controls.primary(primary::MONITOR_TRAP_FLAG) {
        cpu.vmx.guest.monitor_trap_pending = true;
    }
}

/// Deals with the event of the highest priority.
pub fn process(cpu: &mut Cpu) -> Processed {
    complete_instruction(cpu);
    if !cpu.vmx.non_root {
        return Processed::Something;
    }
    if let Some(due) = due_exit(cpu) {
        exit(cpu, due);
        return Processed::Something;
    }
    if debug_exception(cpu) || non_maskable_interrupt(cpu) {
        return Processed::Something;
    }
    let window = cpu
        .vmx
        .guest
        .controls
        .primary(primary::INTERRUPT_WINDOW_EXITING);
    if window && interruptible(cpu) && awake_or_halted(cpu) {
        exit(cpu, VmExit::new(ExitReason::InterruptWindow));
        return Processed::Something;
    }
    // SDM 30.2.2: the same priority as the interrupt-window exit, above external interrupts.
    if apic_virtualization::deliverable(cpu) {
        apic_virtualization::deliver(cpu);
        return Processed::Something;
    }
    external_interrupt(cpu)
}

/// RFLAGS.IF is 1 and nothing blocks.
fn interruptible(cpu: &Cpu) -> bool {
    cpu.system_flags & rflags::IF != 0 && cpu.inhibit == Inhibit::None
}

fn awake_or_halted(cpu: &Cpu) -> bool {
    matches!(cpu.activity, Activity::Active | Activity::Halted)
}

/// Exits that nothing but the state decides: INIT, start-up IPI, monitor trap flag.
fn due_exit(cpu: &mut Cpu) -> Option<VmExit> {
    let waiting = cpu.activity == Activity::WaitForStartUp;
    // SDM 25.2: INIT is blocked in the wait-for-SIPI state, start-up IPIs are lost in others.
    if cpu.init_pending && !waiting {
        cpu.init_pending = false;
        return Some(VmExit::new(ExitReason::InitSignal));
    }
    if let Some(vector) = cpu.start_up_pending.take()
        && waiting
    {
        return Some(VmExit::qualified(ExitReason::StartUpIpi, u64::from(vector)));
    }
    let stepped = cpu.vmx.guest.controls.primary(primary::MONITOR_TRAP_FLAG)
        && cpu.instructions != cpu.vmx.guest.entry_instructions;
    // SDM 27.1: blocked in the shutdown state and the wait-for-SIPI state.
    if (stepped || cpu.vmx.guest.monitor_trap_pending) && awake_or_halted(cpu) {
        return Some(VmExit::new(ExitReason::MonitorTrapFlag));
    }
    None
}

/// Pending debug exceptions that VM entry loaded (SDM 26.7.3).
fn debug_exception(cpu: &mut Cpu) -> bool {
    let pending = cpu.vmx.guest.pending_debug;
    if pending & (pending_debug::ENABLED_BREAKPOINT | pending_debug::SINGLE_STEP) == 0
        || cpu.inhibit == Inhibit::MovSs
        || !awake_or_halted(cpu)
    {
        return false;
    }
    cpu.vmx.guest.pending_debug = 0;
    cpu.instruction_start = cpu.rip();
    cpu.deliver_event(Exception {
        vector: exception::DEBUG,
        error_code: None,
        detail: pending & (pending_debug::BREAKPOINTS | pending_debug::SINGLE_STEP),
        source: Source::Trap,
    });
    true
}

/// VMX-preemption timer, NMI window and NMI.
fn non_maskable_interrupt(cpu: &mut Cpu) -> bool {
    if cpu.activity == Activity::WaitForStartUp {
        return false;
    }
    if cpu.vmx.guest.preemption_timer.is_running()
        && cpu.vmx.guest.preemption_timer.expired(cpu.now())
    {
        exit(cpu, VmExit::new(ExitReason::PreemptionTimer));
        return true;
    }
    let blocked_by_instruction = cpu.inhibit != Inhibit::None;
    let window = cpu.vmx.guest.controls.primary(primary::NMI_WINDOW_EXITING);
    // SDM 26.7.6: it ends the HLT state and the shutdown state.
    if window && !cpu.vmx.guest.virtual_nmi_blocked && !blocked_by_instruction {
        exit(cpu, VmExit::new(ExitReason::NmiWindow));
        return true;
    }
    if !cpu.nmi_pending.is_pending() || cpu.nmi_blocked || blocked_by_instruction {
        return false;
    }
    cpu.nmi_pending.take();
    let event = Exception {
        vector: exception::NON_MASKABLE_INTERRUPT,
        error_code: None,
        detail: 0,
        source: Source::NonMaskableInterrupt,
    };
    if cpu.vmx.guest.controls.pin(pin::NMI_EXITING) {
        exit(cpu, VmExit::by_event(ExitReason::ExceptionOrNmi, event));
    } else {
        cpu.instruction_start = cpu.rip();
        cpu.deliver_event(event);
    }
    true
}

fn external_interrupt(cpu: &mut Cpu) -> Processed {
    if !awake_or_halted(cpu) {
        return Processed::Nothing;
    }
    let Some(source) = cpu.deliverable_interrupt() else {
        return Processed::Nothing;
    };
    let controls = cpu.vmx.guest.controls;
    if !controls.pin(pin::EXTERNAL_INTERRUPT_EXITING) {
        if !interruptible(cpu) {
            return Processed::Nothing;
        }
        let vector = cpu.acknowledge_interrupt(source);
        cpu.instruction_start = cpu.rip();
        cpu.deliver_event(external(vector));
        return Processed::Something;
    }
    // With external-interrupt exiting neither RFLAGS.IF nor blocking matters (SDM 25.2).
    if controls.process_posted_interrupts() {
        let vector = cpu.acknowledge_interrupt(source);
        if u16::from(vector) == controls.notification_vector & 0xff
            && source == InterruptSource::LocalApic
        {
            posted_interrupts::process(cpu);
        } else {
            if posted_interrupts::names(cpu, vector) {
                cpu.counters.notifications_exited += 1;
            }
            exit_with_vector(cpu, vector);
        }
    } else if controls.exit(exit_control::ACKNOWLEDGE_INTERRUPT) {
        let vector = cpu.acknowledge_interrupt(source);
        exit_with_vector(cpu, vector);
    } else {
        exit(cpu, VmExit::new(ExitReason::ExternalInterrupt));
    }
    Processed::Something
}

fn external(vector: u8) -> Exception {
    Exception {
        vector,
        error_code: None,
        detail: 0,
        source: Source::ExternalInterrupt,
    }
}

fn exit_with_vector(cpu: &mut Cpu, vector: u8) {
    exit(
        cpu,
        VmExit::by_event(ExitReason::ExternalInterrupt, external(vector)),
    );
}
