//! SDM 27.3.1.5 Checks on guest non-register state; 27.3.1.6 Checks on guest page-directory-pointer-table
//! entries.

use super::KeptBy::{Hypervisor, Processor};
use super::{Check, GuestState};
use crate::vcpu::event_injection::interruptibility::{MOV_SS, NMI, STI};
use arch::control_register::{cr0, cr4, rflags};
use arch::debug_register::{debugctl, pending};
use arch::interruption::{InterruptionInformation, InterruptionType};
use arch::vmx_control::pin;

fn injected(guest: &GuestState) -> Option<InterruptionType> {
    let information = InterruptionInformation(guest.injected);
    information
        .is_valid()
        .then(|| information.interruption_type())
}

const fn blocked_by(guest: &GuestState, what: u32) -> bool {
    guest.interruptibility & what != 0
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        section: "27.3.1.5",
        rule: "the activity state is the active one",
        kept_by: Hypervisor(
            "HLT exits and the vCPU sleeps here; a triple fault and INIT exit; nothing writes another state",
        ),
        // The others have rules of their own, which this one includes.
        holds: |guest| guest.activity == 0,
    },
    Check {
        section: "27.3.1.5",
        rule: "reserved bits of the interruptibility state, SMI and enclave blocking are 0",
        kept_by: Hypervisor("only STI and MOV SS are cleared, and NMI changed"),
        holds: |guest| guest.interruptibility & !(STI | MOV_SS | NMI) == 0,
    },
    Check {
        section: "27.3.1.5",
        rule: "blocking by STI and by MOV SS exclude each other",
        kept_by: Processor("each of the instructions ends the other's blocking"),
        holds: |guest| guest.interruptibility & (STI | MOV_SS) != STI | MOV_SS,
    },
    Check {
        section: "27.3.1.5",
        rule: "RFLAGS.IF is 1 while STI blocks",
        kept_by: Processor("STI has set it, and its blocking ends with the next instruction"),
        holds: |guest| !blocked_by(guest, STI) || guest.rflags & rflags::IF != 0,
    },
    Check {
        section: "27.3.1.5",
        rule: "neither STI nor MOV SS blocks if an external interrupt is injected",
        kept_by: Hypervisor("event_injection::accepts_interrupts"),
        holds: |guest| {
            injected(guest) != Some(InterruptionType::ExternalInterrupt)
                || !blocked_by(guest, STI | MOV_SS)
        },
    },
    Check {
        section: "27.3.1.5",
        rule: "MOV SS does not block if an NMI is injected, nor, on some processors, STI",
        kept_by: Hypervisor("event_injection::accepts_non_maskable"),
        holds: |guest| {
            injected(guest) != Some(InterruptionType::NonMaskable)
                || !blocked_by(guest, STI | MOV_SS)
        },
    },
    Check {
        section: "27.3.1.5",
        rule: "NMIs are not blocked if one is injected with virtual NMIs",
        kept_by: Hypervisor("event_injection::accepts_non_maskable; Event::interrupted unblocks"),
        holds: |guest| {
            injected(guest) != Some(InterruptionType::NonMaskable)
                || guest.pin & pin::VIRTUAL_NMIS == 0
                || !blocked_by(guest, NMI)
        },
    },
    Check {
        section: "27.3.1.5",
        rule: "reserved bits of the pending debug exceptions are 0",
        kept_by: Hypervisor("guest_state::complete_instruction sets bits that exist"),
        holds: |guest| guest.pending_debug & !pending::DEFINED == 0,
    },
    Check {
        section: "27.3.1.5",
        rule: "a single step is pending while STI or MOV SS blocks exactly if RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF 0",
        kept_by: Hypervisor("guest_state::settle_pending_debug, before each entry with an event"),
        holds: |guest| {
            let steps =
                guest.rflags & rflags::TF != 0 && guest.debugctl & debugctl::BRANCH_TRAP_FLAG == 0;
            !blocked_by(guest, STI | MOV_SS)
                || (guest.pending_debug & pending::SINGLE_STEP != 0) == steps
        },
    },
    Check {
        section: "27.3.1.5",
        rule: "the VMCS link pointer is FFFFFFFF_FFFFFFFFH, or a VMCS of the kind that shadowing says",
        kept_by: Hypervisor("vmcs_setup writes it once"),
        holds: |guest| guest.link_pointer == u64::MAX,
    },
    Check {
        section: "27.3.1.6",
        rule: "reserved bits of page-directory-pointer-table entries that are present are 0",
        kept_by: Hypervisor("guest_state::page_directory_pointers: #GP"),
        holds: |guest| {
            guest.ia32e_mode()
                || guest.cr0 & cr0::PG == 0
                || guest.cr4 & cr4::PAE == 0
                || guest
                    .page_directory_pointers
                    .iter()
                    .all(|entry| entry & 1 == 0 || entry & 0x1e6 == 0 && guest.is_physical(*entry))
        },
    },
];
