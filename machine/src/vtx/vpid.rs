//! Which cached translations belong to whom (SDM 28.4 Caching translation information).
//!
//! The translation cache tags what it holds with a context. VMX root operation is one; a guest's
//! is found again by its VPID and EPT pointer. Guests without a VPID start with a fresh one, as VM
//! entries and exits then invalidate.

use crate::cpu::{Cpu, process_context::Paging, tlb::Context};

/// Contexts kept at most; the oldest goes first.
const KEPT: usize = 64;

/// A guest's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    vpid: u16,
    ept_pointer: u64,
    /// A VMM that changes this between entries without INVVPID gets a fresh context.
    paging: Paging,
    context: Context,
}

/// The contexts of a processor in VMX operation.
#[derive(Debug, Default)]
pub struct Translations {
    root: Context,
    root_paging: Paging,
    guests: Vec<Kept>,
}

impl Translations {
    /// Forgets the guests for which `stale` says so.
    fn forget(&mut self, stale: impl Fn(u16, u64) -> bool) {
        self.guests
            .retain(|kept| !stale(kept.vpid, kept.ept_pointer));
    }

    /// INVEPT, single-context: everything translated through the EPT at `ept_pointer`.
    pub fn invalidate_ept(&mut self, ept_pointer: u64) {
        // SDM 28.4.1: the tag is the address of the PML4 table, bits 51:12.
        self.forget(|_, kept| kept >> 12 == ept_pointer >> 12);
    }

    /// INVVPID: everything tagged with `vpid`.
    pub fn invalidate_vpid(&mut self, vpid: u16) {
        self.forget(|kept, _| kept == vpid);
    }

    /// INVEPT or INVVPID, all-context.
    pub fn invalidate_all(&mut self) {
        self.guests.clear();
    }
}

/// VM entry is about to load the guest's state.
pub fn before_entry(cpu: &mut Cpu) {
    cpu.vmx.translations.root_paging = Paging::of(cpu);
}

/// VM entry has loaded the guest's state: its translations take over.
pub fn enter(cpu: &mut Cpu) {
    if cpu.vmx.guest.controls.vpid != 0 {
        cpu.vmx.translations.root = cpu.tlb.context();
    }
    find(cpu);
}

/// A VM exit has saved the guest's state and not yet loaded the host's.
pub fn leave(cpu: &mut Cpu) {
    keep(cpu);
    if cpu.vmx.guest.controls.vpid == 0 {
        cpu.tlb.flush();
    } else {
        cpu.tlb.resume(cpu.vmx.translations.root);
    }
}

/// The guest goes on with another EPT.
pub fn switch_ept(cpu: &mut Cpu, ept_pointer: u64) {
    keep(cpu);
    cpu.vmx.guest.controls.ept_pointer = ept_pointer;
    find(cpu);
}

/// Makes the translations of the guest in force current: those that were kept, if there are any.
fn find(cpu: &mut Cpu) {
    cpu.alignment_checked = false;
    cpu.process_contexts.clear();
    let controls = &cpu.vmx.guest.controls;
    let (vpid, ept_pointer) = (controls.vpid, controls.ept_pointer);
    if vpid == 0 {
        cpu.tlb.flush();
        return;
    }
    let paging = Paging::of(cpu);
    let guests = &mut cpu.vmx.translations.guests;
    let known = guests
        .iter()
        .position(|kept| kept.vpid == vpid && kept.ept_pointer == ept_pointer);
    match known.map(|index| guests.swap_remove(index)) {
        Some(kept) if kept.paging == paging => cpu.tlb.resume(kept.context),
        _ => cpu.tlb.flush(),
    }
    // They may have been made before the guest's breakpoints were.
    cpu.refresh_data_breakpoints();
}

/// Keeps the translations of the guest in force for its next time, if it has a VPID.
fn keep(cpu: &mut Cpu) {
    cpu.alignment_checked = false;
    cpu.process_contexts.clear();
    let controls = &cpu.vmx.guest.controls;
    let (vpid, ept_pointer) = (controls.vpid, controls.ept_pointer);
    if vpid == 0 {
        return;
    }
    let kept = Kept {
        vpid,
        ept_pointer,
        paging: Paging::of(cpu),
        context: cpu.tlb.context(),
    };
    let guests = &mut cpu.vmx.translations.guests;
    if guests.len() >= KEPT {
        guests.remove(0);
    }
    guests.push(kept);
}

/// The host's state is loaded: its translations serve it only if they were made under the same paging,
/// of the same PCID among the rest.
pub fn host_loaded(cpu: &mut Cpu) {
    if Paging::of(cpu) != cpu.vmx.translations.root_paging {
        cpu.tlb.flush();
    }
}
