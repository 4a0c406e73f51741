//! SDM 27.3.1.1 Checks on guest control registers, debug registers, and MSRs; 27.3.1.3 Checks on guest
//! descriptor-table registers; 27.3.1.4 Checks on guest RIP, RFLAGS, and SSP.

use super::KeptBy::{Hypervisor, Processor};
use super::{Check, GuestState};
use arch::control_register::{cr0, cr4, efer, rflags};
use arch::interruption::{InterruptionInformation, InterruptionType};
use arch::segment::rights;
use arch::vmx_control::entry;

/// CR4.CET.
const CR4_CET: u64 = 1 << 23;
/// RFLAGS bits that are 0.
const RFLAGS_RESERVED: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;

const fn loads(guest: &GuestState, control: u32) -> bool {
    guest.entry & control != 0
}

fn is_pat(value: u64) -> bool {
    let mut entries = value.to_le_bytes().into_iter();
    entries.all(|entry| matches!(entry, 0 | 1 | 4..=7))
}

fn injects(guest: &GuestState, kind: InterruptionType) -> bool {
    let injected = InterruptionInformation(guest.injected);
    injected.is_valid() && injected.interruption_type() == kind
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        section: "27.3.1.1",
        rule: "CR0 has the bits that VMX operation fixes",
        kept_by: Hypervisor(
            "guest_state::write_cr0 sets NE, which the guest does not own, and drops bits that do not exist",
        ),
        // Unrestricted guest frees PE and PG.
        holds: |guest| guest.cr0 & cr0::NE != 0 && guest.cr0 >> 32 == 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR0.PE is 1 if CR0.PG is",
        kept_by: Hypervisor("guest_state::write_cr0: #GP"),
        holds: |guest| guest.cr0 & cr0::PG == 0 || guest.cr0 & cr0::PE != 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR4 has the bits that VMX operation fixes",
        kept_by: Hypervisor(
            "guest_state::write_cr4 sets VMXE, which the guest does not own; #GP for bits that the processor lacks",
        ),
        holds: |guest| guest.cr4 & cr4::VMXE != 0 && guest.cr4 & !guest.limits.cr4 == 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR0.WP is 1 if CR4.CET is",
        kept_by: Hypervisor("guest_state::write_cr4: #GP, CET is not the guest's"),
        holds: |guest| guest.cr4 & CR4_CET == 0 || guest.cr0 & cr0::WP != 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "reserved bits of IA32_DEBUGCTL are 0",
        kept_by: Hypervisor("vm::msr ignores the guest's writes; the field stays 0"),
        holds: |guest| !loads(guest, entry::LOAD_DEBUG_CONTROLS) || guest.debugctl & !0xffc7 == 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR0.PG and CR4.PAE are 1 for a guest in IA-32e mode",
        kept_by: Hypervisor(
            "guest_state::write_cr0 changes the control with CR0.PG; write_cr4: #GP for PAE 0",
        ),
        holds: |guest| !guest.ia32e_mode() || guest.cr0 & cr0::PG != 0 && guest.cr4 & cr4::PAE != 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR4.PCIDE is 0 for a guest that is not in IA-32e mode",
        kept_by: Hypervisor("guest_state::write_cr0 and write_cr4: #GP"),
        holds: |guest| guest.ia32e_mode() || guest.cr4 & cr4::PCIDE == 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "CR3 is within the physical-address width",
        kept_by: Hypervisor(
            "MOV to CR3 faults, in guest_state::write_cr3 too; a task switch loads 32 bits",
        ),
        holds: |guest| guest.is_physical(guest.cr3),
    },
    Check {
        section: "27.3.1.1",
        rule: "bits 63:32 of DR7 are 0",
        kept_by: Processor("MOV to DR7 faults"),
        holds: |guest| !loads(guest, entry::LOAD_DEBUG_CONTROLS) || guest.dr7 >> 32 == 0,
    },
    Check {
        section: "27.3.1.1",
        rule: "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
        kept_by: Processor("WRMSR faults"),
        holds: |guest| guest.sysenter.iter().all(|at| guest.is_canonical(*at)),
    },
    Check {
        section: "27.3.1.1",
        rule: "IA32_PAT holds memory types",
        kept_by: Hypervisor("vm::msr::checked_pat: #GP"),
        holds: |guest| !loads(guest, entry::LOAD_PAT) || is_pat(guest.pat),
    },
    Check {
        section: "27.3.1.1",
        rule: "reserved bits of IA32_EFER are 0",
        kept_by: Hypervisor("guest_state::write_efer: #GP"),
        holds: |guest| {
            guest.efer & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) == 0
                || !loads(guest, entry::LOAD_EFER)
        },
    },
    Check {
        section: "27.3.1.1",
        rule: "IA32_EFER.LMA is the control \"IA-32e mode guest\"",
        kept_by: Hypervisor("guest_state::write_cr0 writes both; write_efer keeps LMA"),
        holds: |guest| {
            (guest.efer & efer::LMA != 0) == guest.ia32e_mode() || !loads(guest, entry::LOAD_EFER)
        },
    },
    Check {
        section: "27.3.1.1",
        rule: "IA32_EFER.LMA is IA32_EFER.LME if CR0.PG is 1",
        kept_by: Hypervisor("guest_state::write_cr0; write_efer: #GP while CR0.PG is 1"),
        holds: |guest| {
            (guest.efer & efer::LMA != 0) == (guest.efer & efer::LME != 0)
                || guest.cr0 & cr0::PG == 0
                || !loads(guest, entry::LOAD_EFER)
        },
    },
    Check {
        section: "27.3.1.3",
        rule: "bases of GDTR and IDTR are canonical",
        kept_by: Processor("LGDT and LIDT fault"),
        holds: |guest| guest.table_bases.iter().all(|at| guest.is_canonical(*at)),
    },
    Check {
        section: "27.3.1.3",
        rule: "bits 31:16 of the limits of GDTR and IDTR are 0",
        kept_by: Processor("LGDT and LIDT load 16 bits"),
        holds: |guest| guest.table_limits.iter().all(|limit| limit >> 16 == 0),
    },
    Check {
        section: "27.3.1.4",
        rule: "bits 63:32 of RIP are 0 outside 64-bit mode",
        kept_by: Hypervisor("guest_state::complete_instruction: EIP wraps"),
        holds: |guest| in_64_bit_mode(guest) || guest.rip >> 32 == 0,
    },
    Check {
        section: "27.3.1.4",
        rule: "RIP's bits beyond the linear-address width are identical in 64-bit mode",
        kept_by: Processor(
            "the last byte of an instruction is canonical, and the address behind it satisfies the rule",
        ),
        holds: |guest| {
            let beyond = guest.rip as i64 >> guest.limits.linear_address_width;
            !in_64_bit_mode(guest) || matches!(beyond, 0 | -1)
        },
    },
    Check {
        section: "27.3.1.4",
        rule: "reserved bits of RFLAGS have their fixed values",
        kept_by: Processor("no instruction changes them; the hypervisor only clears RF"),
        holds: |guest| {
            guest.rflags & RFLAGS_RESERVED == 0 && guest.rflags & rflags::RESERVED_1 != 0
        },
    },
    Check {
        section: "27.3.1.4",
        rule: "RFLAGS.VM is 0 in IA-32e mode and if CR0.PE is 0",
        kept_by: Processor("virtual-8086 mode is at privilege level 3, where CR0 is not written"),
        holds: |guest| {
            !guest.virtual_8086_mode() || !guest.ia32e_mode() && guest.cr0 & cr0::PE != 0
        },
    },
    Check {
        section: "27.3.1.4",
        rule: "RFLAGS.IF is 1 if an external interrupt is injected",
        kept_by: Hypervisor(
            "event_injection::accepts_interrupts; an interrupt that an exit met was accepted by the guest",
        ),
        holds: |guest| {
            !injects(guest, InterruptionType::ExternalInterrupt) || guest.rflags & rflags::IF != 0
        },
    },
];

const fn in_64_bit_mode(guest: &GuestState) -> bool {
    guest.ia32e_mode() && guest.segments[1].rights & rights::LONG != 0
}
