//! VM entries (SDM chapter 26).

use arch::{
    control_register::{cr0, cr4, efer},
    exit::ExitReason,
    interruption::{InterruptionInformation, InterruptionType},
    vmcs::{self, Field16, Field32, FieldNatural, instruction_error},
    vmx_control::entry as entry_control,
};

use super::{
    apic_virtualization,
    controls::Controls,
    entry_checks::{self, Violation, guest_state::interruptibility},
    exit::{self, SEGMENTS},
    guest::Guest,
    msr_areas,
    vmcs::{LaunchState, set_launch_state},
    vpid,
};
use crate::{
    cpu::{
        Activity, Cpu, Inhibit,
        raise::{Exception, Source},
        segment::{DescriptorTable, Segment},
    },
    trace::Event,
};

/// Bits of CR0 that neither VM entry nor VM exit modifies (SDM 26.3.2.1, 27.5.1): ET, NW, CD and the reserved
/// bits 15:6, 17 and 28:19.
pub(super) const CR0_KEPT: u64 = cr0::ET | cr0::CD | cr0::NW | 0xffc0 | 1 << 17 | 0x1ff8_0000;

/// Enters the guest of the current VMCS. `Err` is the number for VMfailValid; after `Ok` the
/// processor is in the guest, or back in the host after a failed entry (SDM 26.8).
pub fn enter(cpu: &mut Cpu) -> Result<(), u32> {
    let region = cpu.vmx.region;
    let controls = Controls::read(&cpu.ram, region);
    cpu.vmx.last_violation = None;
    if let Err(violation) = entry_checks::controls::check(cpu, region, &controls) {
        cpu.vmx.last_violation = Some(violation);
        return Err(instruction_error::ENTRY_INVALID_CONTROLS);
    }
    if let Err(violation) = entry_checks::host_state::check(cpu, region, &controls) {
        cpu.vmx.last_violation = Some(violation);
        return Err(instruction_error::ENTRY_INVALID_HOST_STATE);
    }
    // SDM 26.3.1.5, 26.8: from here on failure loads the host state.
    vpid::before_entry(cpu);
    if let Err(violation) = entry_checks::guest_state::check(cpu, region, &controls) {
        exit::entry_failure(
            cpu,
            &controls,
            ExitReason::EntryFailureGuestState,
            violation,
        );
        return Ok(());
    }
    let was_nmi_blocked = cpu.nmi_blocked;
    load_guest_state(cpu, &controls);
    if let Err(entry) = msr_areas::load_on_entry(cpu) {
        cpu.nmi_blocked = was_nmi_blocked;
        let violation = Violation {
            rule: "the VM-entry MSR-load area loads",
            qualification: entry,
        };
        exit::entry_failure(
            cpu,
            &controls,
            ExitReason::EntryFailureMsrLoading,
            violation,
        );
        return Ok(());
    }
    set_launch_state(cpu, region, LaunchState::Launched);
    let guest = Guest::of_current(cpu, controls);
    cpu.vmx.enter(guest);
    vpid::enter(cpu);
    cpu.counters.entries += 1;
    cpu.trace(Event::Entry { rip: cpu.rip() });
    if cpu.vmx.guest.preemption_timer.is_running() {
        cpu.heed_timer();
    }
    apic_virtualization::after_loading(cpu);
    inject(cpu);
    apic_virtualization::after_injection(cpu);
    cpu.look_at_events();
    Ok(())
}

fn load_segment(
    cpu: &Cpu,
    selector: Field16,
    base: FieldNatural,
    limit: Field32,
    access: Field32,
) -> Segment {
    Segment {
        selector: cpu.vmcs(selector),
        base: cpu.vmcs(base),
        limit: cpu.vmcs(limit),
        rights: cpu.vmcs(access),
    }
}

// SDM 26.3.2 Loading Guest State
fn load_guest_state(cpu: &mut Cpu, c: &Controls) {
    // SDM 26.3.2.1 Loading Guest Control Registers, Debug Registers, and MSRs
    cpu.cr0 = cpu.vmcs(vmcs::GUEST_CR0) & !CR0_KEPT | cpu.cr0 & CR0_KEPT;
    cpu.cr3 = cpu.vmcs(vmcs::GUEST_CR3);
    cpu.cr4 = cpu.vmcs(vmcs::GUEST_CR4);
    if c.entry(entry_control::LOAD_DEBUG_CONTROLS) {
        cpu.dr[7] = cpu.vmcs(vmcs::GUEST_DR7) & 0xffff_2fff | 0x400;
        cpu.breakpoints_met = 0;
        cpu.msrs.debugctl = cpu.vmcs(vmcs::GUEST_DEBUGCTL);
    }
    cpu.msrs.sysenter_cs = u64::from(cpu.vmcs(vmcs::GUEST_SYSENTER_CS));
    cpu.msrs.sysenter_esp = cpu.vmcs(vmcs::GUEST_SYSENTER_ESP);
    cpu.msrs.sysenter_eip = cpu.vmcs(vmcs::GUEST_SYSENTER_EIP);
    if c.entry(entry_control::LOAD_EFER) {
        cpu.efer = cpu.vmcs(vmcs::GUEST_EFER);
    } else {
        let ia32e = c.entry(entry_control::IA32E_MODE_GUEST);
        cpu.efer = cpu.efer & !efer::LMA | if ia32e { efer::LMA } else { 0 };
        if cpu.cr0 & cr0::PG != 0 {
            cpu.efer = cpu.efer & !efer::LME | if ia32e { efer::LME } else { 0 };
        }
    }
    if c.entry(entry_control::LOAD_PAT) {
        cpu.msrs.pat = cpu.vmcs(vmcs::GUEST_PAT);
    }
    // SDM 26.3.2.2 Loading Guest Segment Registers and Descriptor-Table Registers
    for (number, selector, base, limit, access) in SEGMENTS {
        cpu.segments[number as usize] = load_segment(cpu, selector, base, limit, access);
    }
    cpu.ldtr = load_segment(
        cpu,
        vmcs::GUEST_LDTR_SELECTOR,
        vmcs::GUEST_LDTR_BASE,
        vmcs::GUEST_LDTR_LIMIT,
        vmcs::GUEST_LDTR_ACCESS_RIGHTS,
    );
    cpu.tr = load_segment(
        cpu,
        vmcs::GUEST_TR_SELECTOR,
        vmcs::GUEST_TR_BASE,
        vmcs::GUEST_TR_LIMIT,
        vmcs::GUEST_TR_ACCESS_RIGHTS,
    );
    cpu.gdtr = DescriptorTable {
        base: cpu.vmcs(vmcs::GUEST_GDTR_BASE),
        limit: cpu.vmcs(vmcs::GUEST_GDTR_LIMIT) as u16,
    };
    cpu.idtr = DescriptorTable {
        base: cpu.vmcs(vmcs::GUEST_IDTR_BASE),
        limit: cpu.vmcs(vmcs::GUEST_IDTR_LIMIT) as u16,
    };
    // SDM 26.3.2.3 Loading Guest RIP, RSP, RFLAGS, and SSP
    cpu.set_rip(cpu.vmcs(vmcs::GUEST_RIP));
    cpu.instruction_start = cpu.rip();
    cpu.registers[4] = cpu.vmcs(vmcs::GUEST_RSP);
    cpu.set_rflags(cpu.vmcs(vmcs::GUEST_RFLAGS));
    // SDM 26.3.2.4 Loading Page-Directory-Pointer-Table Entries
    if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.ia32e_mode() {
        cpu.pdpte = entry_checks::guest_state::pdptes(cpu, cpu.vmx.region, c);
    }
    load_non_register_state(cpu, c);
    cpu.refresh_mode();
}

// SDM 26.3.2.5 Updating Non-Register State, 26.3.3 Clearing Address-Range Monitoring, 26.7 Special
// Features of VM Entry
fn load_non_register_state(cpu: &mut Cpu, c: &Controls) {
    cpu.monitor.clear();
    cpu.activity = match cpu.vmcs(vmcs::GUEST_ACTIVITY_STATE) {
        0 => Activity::Active,
        1 => Activity::Halted,
        2 => Activity::Shutdown,
        _ => Activity::WaitForStartUp,
    };
    let blocking = cpu.vmcs(vmcs::GUEST_INTERRUPTIBILITY_STATE);
    cpu.inhibit = if blocking & interruptibility::STI != 0 {
        Inhibit::Sti
    } else if blocking & interruptibility::MOV_SS != 0 {
        Inhibit::MovSs
    } else {
        Inhibit::None
    };
    cpu.inhibit_expires = false;
    cpu.resume_expires = false;
    cpu.nmi_blocked = blocking & interruptibility::NMI != 0 && !c.virtual_nmis();
}

// SDM 26.6 Event Injection
fn inject(cpu: &mut Cpu) {
    let information = InterruptionInformation(cpu.vmcs(vmcs::ENTRY_INTERRUPTION_INFORMATION));
    if !information.is_valid() {
        return;
    }
    let vector = information.vector();
    let length = u64::from(cpu.vmcs(vmcs::ENTRY_INSTRUCTION_LENGTH));
    let source = match information.interruption_type() {
        InterruptionType::ExternalInterrupt => Source::ExternalInterrupt,
        InterruptionType::NonMaskable => Source::NonMaskableInterrupt,
        InterruptionType::HardwareException => Source::Fault,
        InterruptionType::SoftwareInterrupt => Source::SoftwareInterrupt,
        InterruptionType::PrivilegedSoftwareException => Source::PrivilegedSoftwareException,
        InterruptionType::SoftwareException => Source::SoftwareException,
        // SDM 26.6.2 Injection of Pending MTF VM Exits
        InterruptionType::Other | InterruptionType::Reserved => {
            cpu.vmx.guest.monitor_trap_pending = true;
            return;
        }
    };
    cpu.instruction_start = cpu.rip();
    if source.is_software() {
        cpu.set_rip(cpu.instruction_start.wrapping_add(length));
    }
    // The guest's delivery may write to a stack of privilege level 3.
    cpu.refresh_alignment_check();
    cpu.vmx.guest.injecting = true;
    cpu.deliver_event(Exception {
        vector,
        error_code: information
            .has_error_code()
            .then(|| cpu.vmcs(vmcs::ENTRY_EXCEPTION_ERROR_CODE)),
        detail: 0,
        source,
    });
}
