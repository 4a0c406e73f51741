//! VM exits (SDM chapter 27).

use arch::{
    control_register::{cr0, cr4, efer, rflags},
    exit::{ENTRY_FAILURE, ExitReason},
    interruption::InterruptionInformation,
    vmcs::{self, Field16, Field32, FieldNatural},
    vmx_control::{entry, exit as exit_control, pin},
};

use super::{
    VmExit,
    controls::Controls,
    entry::CR0_KEPT,
    entry_checks::{Violation, guest_state::interruptibility},
    exceptions, exit_class, msr_areas, vmcs as region_layout, vpid,
};
use crate::{
    cpu::{
        Activity, Cpu, Inhibit,
        raise::Source,
        segment::{DescriptorTable, Segment, register, rights},
    },
    trace::Event,
};

/// VMX-abort code: host PDPTEs are corrupt (SDM 27.7).
pub const ABORT_HOST_PDPTES: u32 = 2;

/// Leaves the guest. RIP is what the guest-state area is to hold.
pub fn exit(cpu: &mut Cpu, exit: VmExit) {
    if !cpu.vmx.non_root {
        return;
    }
    let rip = cpu.rip();
    cpu.counters.count_exit(exit.reason);
    cpu.counters.guest_instructions += cpu
        .instructions
        .wrapping_sub(cpu.vmx.guest.entry_instructions);
    cpu.trace(Event::Exit {
        reason: exit.reason,
        qualification: exit.qualification,
        rip,
    });
    record(cpu, &exit);
    save_guest_state(cpu, &exit);
    let stored = msr_areas::store_on_exit(cpu);
    vpid::leave(cpu);
    let controls = leave_non_root(cpu);
    if let Err(code) = stored {
        return abort(cpu, code);
    }
    load_host(cpu, &controls);
    if exit
        .event
        .is_some_and(|event| event.source == Source::NonMaskableInterrupt)
    {
        // SDM 27.5.5: an NMI that causes the exit blocks further ones.
        cpu.nmi_blocked = true;
    }
}

/// Bit 12 of the interruption information or of the exit qualification, where an exit that an IRET caused
/// says that it had ended the blocking of NMIs before (SDM 27.2.1, 27.2.3).
fn nmi_unblocking(cpu: &Cpu) -> u32 {
    let unblocked = cpu.vmx.guest.nmi_unblocked_by == Some(cpu.instructions);
    if unblocked && cpu.delivering.is_none() {
        InterruptionInformation::NMI_UNBLOCKING
    } else {
        0
    }
}

/// VM entry fails after its first checks (SDM 26.8 VM-entry failures during or after loading guest
/// state).
pub(super) fn entry_failure(
    cpu: &mut Cpu,
    controls: &Controls,
    reason: ExitReason,
    violation: Violation,
) {
    cpu.counters.count_exit(reason);
    cpu.trace(Event::Exit {
        reason,
        qualification: violation.qualification,
        rip: cpu.vmcs(vmcs::GUEST_RIP),
    });
    cpu.vmx.last_violation = Some(violation);
    cpu.set_vmcs(vmcs::EXIT_REASON, reason as u32 | ENTRY_FAILURE);
    cpu.set_vmcs(vmcs::EXIT_QUALIFICATION, violation.qualification);
    load_host(cpu, controls);
}

/// Nothing of the guest stays but what was saved; gives the controls that it was left by.
fn leave_non_root(cpu: &mut Cpu) -> Controls {
    // A host whose RIP is the guest's is not between its iterations.
    cpu.paused_iteration = None;
    cpu.vmx.leave()
}

// SDM 27.2 Recording VM-Exit Information and Updating VM-Entry Control Fields
fn record(cpu: &mut Cpu, exit: &VmExit) {
    cpu.set_vmcs(vmcs::EXIT_REASON, exit.reason as u32);
    let qualification = match exit.reason {
        ExitReason::EptViolation | ExitReason::PageModificationLogFull => {
            exit.qualification | u64::from(nmi_unblocking(cpu))
        }
        _ => exit.qualification,
    };
    cpu.set_vmcs(vmcs::EXIT_QUALIFICATION, qualification);
    cpu.set_vmcs(vmcs::GUEST_LINEAR_ADDRESS, cpu.vmx.guest.linear_address);
    cpu.set_vmcs(vmcs::GUEST_PHYSICAL_ADDRESS, cpu.vmx.guest.physical_address);
    let (mut information, error_code) = match &exit.event {
        Some(event) => exceptions::interruption(cpu, event),
        None => (0, 0),
    };
    if exit.reason == ExitReason::ExceptionOrNmi {
        information |= nmi_unblocking(cpu);
    }
    cpu.set_vmcs(vmcs::EXIT_INTERRUPTION_INFORMATION, information);
    cpu.set_vmcs(vmcs::EXIT_INTERRUPTION_ERROR_CODE, error_code);
    cpu.set_vmcs(
        vmcs::EXIT_INSTRUCTION_INFORMATION,
        exit.instruction_information,
    );
    // SDM 27.2.4 Information for VM Exits During Event Delivery
    let mut length = cpu.vmx.instruction_length;
    let (information, error_code) = match cpu.delivering {
        Some(event) => {
            length = cpu.delivering_length;
            exceptions::interruption(cpu, &event)
        }
        None => (0, 0),
    };
    cpu.set_vmcs(vmcs::IDT_VECTORING_INFORMATION, information);
    cpu.set_vmcs(vmcs::IDT_VECTORING_ERROR_CODE, error_code);
    cpu.set_vmcs(vmcs::EXIT_INSTRUCTION_LENGTH, u32::from(length));
    // SDM 27.2: the valid bit of the VM-entry interruption information is cleared.
    let injected = cpu.vmcs(vmcs::ENTRY_INTERRUPTION_INFORMATION);
    cpu.set_vmcs(
        vmcs::ENTRY_INTERRUPTION_INFORMATION,
        injected & !InterruptionInformation::VALID,
    );
}

/// The registers ES to GS with their fields.
pub(super) const SEGMENTS: [(u8, Field16, FieldNatural, Field32, Field32); 6] = [
    (
        register::ES,
        vmcs::GUEST_ES_SELECTOR,
        vmcs::GUEST_ES_BASE,
        vmcs::GUEST_ES_LIMIT,
        vmcs::GUEST_ES_ACCESS_RIGHTS,
    ),
    (
        register::CS,
        vmcs::GUEST_CS_SELECTOR,
        vmcs::GUEST_CS_BASE,
        vmcs::GUEST_CS_LIMIT,
        vmcs::GUEST_CS_ACCESS_RIGHTS,
    ),
    (
        register::SS,
        vmcs::GUEST_SS_SELECTOR,
        vmcs::GUEST_SS_BASE,
        vmcs::GUEST_SS_LIMIT,
        vmcs::GUEST_SS_ACCESS_RIGHTS,
    ),
    (
        register::DS,
        vmcs::GUEST_DS_SELECTOR,
        vmcs::GUEST_DS_BASE,
        vmcs::GUEST_DS_LIMIT,
        vmcs::GUEST_DS_ACCESS_RIGHTS,
    ),
    (
        register::FS,
        vmcs::GUEST_FS_SELECTOR,
        vmcs::GUEST_FS_BASE,
        vmcs::GUEST_FS_LIMIT,
        vmcs::GUEST_FS_ACCESS_RIGHTS,
    ),
    (
        register::GS,
        vmcs::GUEST_GS_SELECTOR,
        vmcs::GUEST_GS_BASE,
        vmcs::GUEST_GS_LIMIT,
        vmcs::GUEST_GS_ACCESS_RIGHTS,
    ),
];

// SDM 27.3 Saving Guest State
fn save_guest_state(cpu: &mut Cpu, exit: &VmExit) {
    cpu.set_vmcs(vmcs::GUEST_CR0, cpu.cr0);
    cpu.set_vmcs(vmcs::GUEST_CR3, cpu.cr3);
    cpu.set_vmcs(vmcs::GUEST_CR4, cpu.cr4);
    let controls = cpu.vmx.guest.controls;
    if controls.exit(exit_control::SAVE_DEBUG_CONTROLS) {
        cpu.set_vmcs(vmcs::GUEST_DR7, cpu.dr[7]);
        cpu.set_vmcs(vmcs::GUEST_DEBUGCTL, cpu.msrs.debugctl);
    }
    cpu.set_vmcs(vmcs::GUEST_SYSENTER_CS, cpu.msrs.sysenter_cs as u32);
    cpu.set_vmcs(vmcs::GUEST_SYSENTER_ESP, cpu.msrs.sysenter_esp);
    cpu.set_vmcs(vmcs::GUEST_SYSENTER_EIP, cpu.msrs.sysenter_eip);
    if controls.exit(exit_control::SAVE_PAT) {
        cpu.set_vmcs(vmcs::GUEST_PAT, cpu.msrs.pat);
    }
    if controls.exit(exit_control::SAVE_EFER) {
        cpu.set_vmcs(vmcs::GUEST_EFER, cpu.efer);
    }
    // IA32_VMX_MISC[5] is 1: the IA-32e mode guest control follows EFER.LMA.
    let mode = if cpu.efer & efer::LMA != 0 {
        controls.entry | entry::IA32E_MODE_GUEST
    } else {
        controls.entry & !entry::IA32E_MODE_GUEST
    };
    cpu.set_vmcs(vmcs::ENTRY_CONTROLS, mode);
    for (number, selector, base, limit, access) in SEGMENTS {
        let segment = cpu.segments[number as usize];
        save_segment(cpu, segment, selector, base, limit, access);
    }
    save_segment(
        cpu,
        cpu.ldtr,
        vmcs::GUEST_LDTR_SELECTOR,
        vmcs::GUEST_LDTR_BASE,
        vmcs::GUEST_LDTR_LIMIT,
        vmcs::GUEST_LDTR_ACCESS_RIGHTS,
    );
    save_segment(
        cpu,
        cpu.tr,
        vmcs::GUEST_TR_SELECTOR,
        vmcs::GUEST_TR_BASE,
        vmcs::GUEST_TR_LIMIT,
        vmcs::GUEST_TR_ACCESS_RIGHTS,
    );
    cpu.set_vmcs(vmcs::GUEST_GDTR_BASE, cpu.gdtr.base);
    cpu.set_vmcs(vmcs::GUEST_GDTR_LIMIT, u32::from(cpu.gdtr.limit));
    cpu.set_vmcs(vmcs::GUEST_IDTR_BASE, cpu.idtr.base);
    cpu.set_vmcs(vmcs::GUEST_IDTR_LIMIT, u32::from(cpu.idtr.limit));
    cpu.set_vmcs(vmcs::GUEST_RIP, cpu.rip());
    cpu.set_vmcs(vmcs::GUEST_RSP, cpu.registers[4]);
    cpu.set_vmcs(vmcs::GUEST_RFLAGS, exit_class::saved_rflags(cpu, exit));
    save_non_register_state(cpu, exit);
    if controls.ept() && cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.ia32e_mode() {
        for (field, value) in [
            vmcs::GUEST_PDPTE_0,
            vmcs::GUEST_PDPTE_1,
            vmcs::GUEST_PDPTE_2,
            vmcs::GUEST_PDPTE_3,
        ]
        .into_iter()
        .zip(cpu.pdpte)
        {
            cpu.set_vmcs(field, value);
        }
    }
}

/// Bits of the access rights that are saved; bits 31:17 and 11:8 are always cleared (SDM 27.3.2).
const ACCESS_RIGHTS: u32 = 0x1_f0ff;

fn save_segment(
    cpu: &mut Cpu,
    segment: Segment,
    selector: Field16,
    base: FieldNatural,
    limit: Field32,
    access: Field32,
) {
    cpu.set_vmcs(selector, segment.selector);
    cpu.set_vmcs(base, segment.base);
    cpu.set_vmcs(limit, segment.limit);
    cpu.set_vmcs(access, segment.rights & ACCESS_RIGHTS);
}

// SDM 27.3.4 Saving Non-Register State
fn save_non_register_state(cpu: &mut Cpu, exit: &VmExit) {
    let controls = cpu.vmx.guest.controls;
    let activity = match cpu.activity {
        Activity::Active => 0,
        // SDM 24.4.2: the field never reflects the state in MWAIT.
        Activity::Halted if cpu.monitor.is_waiting() => 0,
        Activity::Halted => 1,
        Activity::Shutdown => 2,
        Activity::WaitForStartUp => 3,
    };
    cpu.set_vmcs(vmcs::GUEST_ACTIVITY_STATE, activity);
    let blocked = if controls.virtual_nmis() {
        cpu.vmx.guest.virtual_nmi_blocked
    } else {
        cpu.nmi_blocked
    };
    let blocking = match cpu.inhibit {
        Inhibit::None => 0,
        Inhibit::Sti => interruptibility::STI,
        Inhibit::MovSs => interruptibility::MOV_SS,
    } | if blocked { interruptibility::NMI } else { 0 };
    cpu.set_vmcs(vmcs::GUEST_INTERRUPTIBILITY_STATE, blocking);
    let pending = exit_class::saved_pending_debug(cpu, exit);
    cpu.set_vmcs(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, pending);
    if controls.pin(pin::PREEMPTION_TIMER) && controls.exit(exit_control::SAVE_PREEMPTION_TIMER) {
        let now = cpu.now();
        let left = cpu.vmx.guest.preemption_timer.left(now);
        cpu.set_vmcs(vmcs::PREEMPTION_TIMER_VALUE, left);
    }
    if controls.virtual_interrupt_delivery() {
        let status = cpu.vmx.guest.virtual_interrupts.status();
        cpu.set_vmcs(vmcs::GUEST_INTERRUPT_STATUS, status);
    }
}

/// Loads host state and MSRs.
fn load_host(cpu: &mut Cpu, controls: &Controls) {
    load_host_state(cpu, controls);
    if let Err(code) = msr_areas::load_on_exit(cpu) {
        abort(cpu, code);
    }
}

/// SDM 27.7 VMX Aborts: the processor shuts down and leaves a code in the VMCS.
fn abort(cpu: &mut Cpu, code: u32) {
    let region = cpu.vmx.region;
    region_layout::set_abort_indicator(cpu, region, code);
    cpu.activity = Activity::Shutdown;
    cpu.look_at_events();
}

// SDM 27.5 Loading Host State
fn load_host_state(cpu: &mut Cpu, controls: &Controls) {
    let host_64 = controls.exit(exit_control::HOST_ADDRESS_SPACE_SIZE);
    // SDM 27.5.1 Loading Host Control Registers, Debug Registers, MSRs
    cpu.cr0 = cpu.vmcs(vmcs::HOST_CR0) & !CR0_KEPT | cpu.cr0 & CR0_KEPT;
    cpu.cr3 = cpu.vmcs(vmcs::HOST_CR3);
    let host_cr4 = cpu.vmcs(vmcs::HOST_CR4);
    cpu.cr4 = if host_64 {
        host_cr4 | cr4::PAE
    } else {
        host_cr4 & !cr4::PCIDE
    };
    cpu.dr[7] = 0x400;
    cpu.msrs.debugctl = 0;
    cpu.msrs.sysenter_cs = u64::from(cpu.vmcs(vmcs::HOST_SYSENTER_CS));
    cpu.msrs.sysenter_esp = cpu.vmcs(vmcs::HOST_SYSENTER_ESP);
    cpu.msrs.sysenter_eip = cpu.vmcs(vmcs::HOST_SYSENTER_EIP);
    let mode = if host_64 { efer::LMA | efer::LME } else { 0 };
    cpu.efer = cpu.efer & !(efer::LMA | efer::LME) | mode;
    if controls.exit(exit_control::LOAD_EFER) {
        cpu.efer = cpu.vmcs(vmcs::HOST_EFER);
    }
    if controls.exit(exit_control::LOAD_PAT) {
        cpu.msrs.pat = cpu.vmcs(vmcs::HOST_PAT);
    }
    load_host_segments(cpu, host_64);
    // SDM 27.5.3 Loading Host RIP, RSP, RFLAGS, and SSP
    cpu.set_rip(cpu.vmcs(vmcs::HOST_RIP));
    cpu.registers[4] = cpu.vmcs(vmcs::HOST_RSP);
    cpu.set_rflags(rflags::RESERVED_1);
    // SDM 27.5.5 Updating Non-Register State, 27.5.6 Clearing Address-Range Monitoring
    cpu.monitor.clear();
    cpu.activity = Activity::Active;
    cpu.inhibit = Inhibit::None;
    cpu.inhibit_expires = false;
    cpu.resume_expires = false;
    cpu.refresh_mode();
    vpid::host_loaded(cpu);
    // SDM 27.5.4 Checking and Loading Host Page-Directory-Pointer-Table Entries
    if !host_64 && cpu.cr4 & cr4::PAE != 0 && cpu.load_pdptes(cpu.cr3).is_err() {
        abort(cpu, ABORT_HOST_PDPTES);
    }
}

// SDM 27.5.2 Loading Host Segment and Descriptor-Table Registers
fn load_host_segments(cpu: &mut Cpu, host_64: bool) {
    let data = |selector: u16, base: u64| Segment {
        selector,
        base,
        limit: u32::MAX,
        rights: rights::PRESENT
            | rights::CODE_OR_DATA
            | rights::READ_WRITE
            | rights::ACCESSED
            | rights::BIG
            | rights::GRANULAR
            | if selector == 0 { rights::UNUSABLE } else { 0 },
    };
    for (number, selector, base) in [
        (register::ES, vmcs::HOST_ES_SELECTOR, 0),
        (register::SS, vmcs::HOST_SS_SELECTOR, 0),
        (register::DS, vmcs::HOST_DS_SELECTOR, 0),
        (
            register::FS,
            vmcs::HOST_FS_SELECTOR,
            cpu.vmcs(vmcs::HOST_FS_BASE),
        ),
        (
            register::GS,
            vmcs::HOST_GS_SELECTOR,
            cpu.vmcs(vmcs::HOST_GS_BASE),
        ),
    ] {
        cpu.segments[number as usize] = data(cpu.vmcs(selector), base);
    }
    let size = if host_64 { rights::LONG } else { rights::BIG };
    cpu.segments[register::CS as usize] = Segment {
        selector: cpu.vmcs(vmcs::HOST_CS_SELECTOR),
        base: 0,
        limit: u32::MAX,
        rights: rights::PRESENT
            | rights::CODE_OR_DATA
            | rights::CODE
            | rights::READ_WRITE
            | rights::ACCESSED
            | rights::GRANULAR
            | size,
    };
    cpu.tr = Segment {
        selector: cpu.vmcs(vmcs::HOST_TR_SELECTOR),
        base: cpu.vmcs(vmcs::HOST_TR_BASE),
        limit: 0x67,
        rights: rights::PRESENT | 11,
    };
    cpu.ldtr = Segment::unusable(0);
    cpu.gdtr = DescriptorTable {
        base: cpu.vmcs(vmcs::HOST_GDTR_BASE),
        limit: 0xffff,
    };
    cpu.idtr = DescriptorTable {
        base: cpu.vmcs(vmcs::HOST_IDTR_BASE),
        limit: 0xffff,
    };
}
