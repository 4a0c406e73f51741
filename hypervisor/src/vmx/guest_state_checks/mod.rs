//! What a VM entry wants of the guest-state area (SDM 27.3.1 Checks on the guest state area), rule by
//! rule, with what keeps each of them.
//!
//! The processor makes these checks; nothing here runs before an entry. The table says why none of them
//! can fail, whatever a guest does, and names the rule when one does.

mod non_register_state;
mod registers;
mod segments;

use super::vmcs::Vmcs;
use arch::segment::Segment;
use arch::vmcs;
use core::fmt::{self, Write};

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its section.
    pub section: &'static str,
    /// The rule, in the manual's words.
    pub rule: &'static str,
    /// Who could break it, and what keeps them from it.
    pub kept_by: KeptBy,
    holds: fn(&GuestState) -> bool,
}

/// What keeps a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBy {
    /// The hypervisor leaves the fields as the exit saved them, and no instruction gets a guest there:
    /// the reason.
    Processor(&'static str),
    /// The hypervisor writes the fields: the function that keeps to the rule, and how.
    Hypervisor(&'static str),
}

/// The guest-state area, and what its rules depend on besides.
#[derive(Clone, Copy, Debug)]
pub struct GuestState {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    dr7: u64,
    debugctl: u64,
    efer: u64,
    pat: u64,
    sysenter: [u64; 2],
    rip: u64,
    rflags: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR: in the order of their encodings.
    segments: [Segment; 8],
    table_bases: [u64; 2],
    table_limits: [u32; 2],
    activity: u32,
    interruptibility: u32,
    pending_debug: u64,
    link_pointer: u64,
    page_directory_pointers: [u64; 4],
    /// VM-entry interruption information.
    injected: u32,
    pin: u32,
    entry: u32,
    limits: Limits,
}

/// What the rules depend on besides the VMCS.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// CR4 bits that may be 1.
    pub cr4: u64,
    /// The physical-address width.
    pub physical_address_width: u32,
    /// The width of linear addresses.
    pub linear_address_width: u32,
}

impl GuestState {
    /// Reads the fields; those that the processor does not have are 0.
    pub fn read(vmcs: &impl Vmcs, limits: Limits) -> Self {
        let natural = |field: vmcs::FieldNatural| vmcs.read(field).unwrap_or(0);
        let wide = |field: vmcs::Field64| vmcs.read(field).unwrap_or(0);
        let word = |field: vmcs::Field32| vmcs.read(field).unwrap_or(0);
        // Selectors, bases, limits and access rights lie two apart (SDM appendix B).
        let segment = |number: u32| Segment {
            selector: vmcs
                .read(vmcs::Field16(vmcs::GUEST_ES_SELECTOR.0 + 2 * number))
                .unwrap_or(0),
            base: natural(vmcs::FieldNatural(vmcs::GUEST_ES_BASE.0 + 2 * number)),
            limit: word(vmcs::Field32(vmcs::GUEST_ES_LIMIT.0 + 2 * number)),
            rights: word(vmcs::Field32(vmcs::GUEST_ES_ACCESS_RIGHTS.0 + 2 * number)),
        };
        Self {
            cr0: natural(vmcs::GUEST_CR0),
            cr3: natural(vmcs::GUEST_CR3),
            cr4: natural(vmcs::GUEST_CR4),
            dr7: natural(vmcs::GUEST_DR7),
            debugctl: wide(vmcs::GUEST_DEBUGCTL),
            efer: wide(vmcs::GUEST_EFER),
            pat: wide(vmcs::GUEST_PAT),
            sysenter: [vmcs::GUEST_SYSENTER_ESP, vmcs::GUEST_SYSENTER_EIP].map(natural),
            rip: natural(vmcs::GUEST_RIP),
            rflags: natural(vmcs::GUEST_RFLAGS),
            segments: [0, 1, 2, 3, 4, 5, 6, 7].map(segment),
            table_bases: [vmcs::GUEST_GDTR_BASE, vmcs::GUEST_IDTR_BASE].map(natural),
            table_limits: [vmcs::GUEST_GDTR_LIMIT, vmcs::GUEST_IDTR_LIMIT].map(word),
            activity: word(vmcs::GUEST_ACTIVITY_STATE),
            interruptibility: word(vmcs::GUEST_INTERRUPTIBILITY_STATE),
            pending_debug: natural(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS),
            link_pointer: wide(vmcs::VMCS_LINK_POINTER),
            page_directory_pointers: [
                vmcs::GUEST_PDPTE_0,
                vmcs::GUEST_PDPTE_1,
                vmcs::GUEST_PDPTE_2,
                vmcs::GUEST_PDPTE_3,
            ]
            .map(wide),
            injected: word(vmcs::ENTRY_INTERRUPTION_INFORMATION),
            pin: word(vmcs::PIN_BASED_CONTROLS),
            entry: word(vmcs::ENTRY_CONTROLS),
            limits,
        }
    }

    /// The rules that it breaks.
    pub fn violations(&self) -> impl Iterator<Item = &'static Check> {
        all().filter(|check| !(check.holds)(self))
    }

    const fn is_canonical(&self, address: u64) -> bool {
        let unused = 64 - self.limits.linear_address_width;
        (address as i64) << unused >> unused == address as i64
    }

    /// Whether no bit of a physical address is beyond the processor's width.
    const fn is_physical(&self, address: u64) -> bool {
        address >> self.limits.physical_address_width == 0
    }

    const fn ia32e_mode(&self) -> bool {
        self.entry & arch::vmx_control::entry::IA32E_MODE_GUEST != 0
    }

    const fn virtual_8086_mode(&self) -> bool {
        self.rflags & arch::control_register::rflags::VM != 0
    }
}

/// Every rule.
pub fn all() -> impl Iterator<Item = &'static Check> {
    registers::CHECKS
        .iter()
        .chain(segments::CHECKS)
        .chain(non_register_state::CHECKS)
}

/// Writes which rules the current guest state breaks, a line each.
pub fn write_violations(
    out: &mut (impl Write + ?Sized),
    vmcs: &impl Vmcs,
    limits: Limits,
) -> fmt::Result {
    let state = GuestState::read(vmcs, limits);
    for check in state.violations() {
        writeln!(
            out,
            "guest state breaks a rule of VM entries: {} (SDM {})",
            check.rule, check.section
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
