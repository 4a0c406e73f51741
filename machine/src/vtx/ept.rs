//! Extended page tables (SDM 28.3 The extended page-table mechanism).

use arch::exit::ExitReason;

use super::{
    GuestPhysicalAccess, LinearMode, VmExit, apic_access::paging_structure_exit, apic_access_page,
    modification_log, virtualization_exception,
};
use crate::cpu::{
    Cpu,
    paging::Place,
    raise::{Pending, Raised},
    tlb::Access,
};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// Execute access for user-mode linear addresses, with mode-based execute control.
const EXECUTE_USER: u64 = 1 << 10;
/// All of them.
const RIGHTS: u64 = READ | WRITE | EXECUTE | EXECUTE_USER;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
/// EPT pointer: accessed and dirty flags are in use.
pub const ACCESSED_DIRTY: u64 = 1 << 6;
/// Addresses in entries are bits 51:12; those beyond the physical-address width are reserved.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a guest-physical address leads.
#[derive(Clone, Copy, Debug)]
pub struct HostPhysical {
    /// The host-physical address of the byte.
    pub physical: u64,
    /// Reads are permitted.
    pub read: bool,
    /// Writes are permitted, and the dirty flag is set if it is in use.
    pub write: bool,
    /// Fetches are permitted.
    pub execute: bool,
}

/// Guest-physical translations of one processor: those that page walks use again and again.
#[derive(Debug)]
pub struct Cache {
    entries: Box<[Cached]>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    /// Guest frame, with bit 0 set when in use.
    tag: u64,
    ept_pointer: u64,
    frame: u64,
    permitted: u64,
}

const SLOTS: usize = 512;

impl Default for Cache {
    fn default() -> Self {
        let empty = Cached {
            tag: 0,
            ept_pointer: 0,
            frame: 0,
            permitted: 0,
        };
        Self {
            entries: vec![empty; SLOTS].into_boxed_slice(),
        }
    }
}

impl Cache {
    /// Forgets everything.
    pub fn clear(&mut self) {
        for entry in &mut self.entries {
            entry.tag = 0;
        }
    }

    fn slot(&mut self, guest_physical: u64) -> &mut Cached {
        let page = guest_physical >> 12;
        &mut self.entries[(page ^ page >> 9) as usize % SLOTS]
    }
}

/// Translates a guest-physical address; outside VMX non-root operation, or without EPT, it is the
/// host-physical address.
#[inline]
pub fn translate(
    cpu: &mut Cpu,
    guest_physical: u64,
    access: Access,
    purpose: GuestPhysicalAccess,
) -> Result<HostPhysical, Raised> {
    if !cpu.vmx.guest.controls.ept() {
        return Ok(HostPhysical {
            physical: guest_physical,
            read: true,
            write: true,
            execute: true,
        });
    }
    translate_by_ept(cpu, guest_physical, access, purpose)
}

fn translate_by_ept(
    cpu: &mut Cpu,
    guest_physical: u64,
    access: Access,
    purpose: GuestPhysicalAccess,
) -> Result<HostPhysical, Raised> {
    let ept_pointer = cpu.vmx.guest.controls.ept_pointer;
    // SDM 28.3.5: with accessed and dirty flags, accesses to paging-structure entries count as
    // writes.
    let flags_in_use = ept_pointer & ACCESSED_DIRTY != 0;
    let structure = matches!(purpose, GuestPhysicalAccess::PagingStructure { .. });
    let needed = match access {
        _ if structure && flags_in_use => READ | WRITE,
        // Setting an accessed or dirty flag there reads the entry, too.
        Access::Write if structure => READ | WRITE,
        Access::Read => READ,
        Access::Write => WRITE,
        Access::Execute => execute_right(cpu, purpose),
    };
    let cached = *cpu.vmx.ept_cache.slot(guest_physical);
    if cached.tag == guest_physical & !0xfff | 1
        && cached.ept_pointer == ept_pointer
        && cached.permitted & needed == needed
    {
        return Ok(found(
            cpu,
            cached.frame,
            guest_physical,
            cached.permitted,
            purpose,
        ));
    }
    let (frame, permitted) = walk(cpu, guest_physical, needed, purpose)?;
    if structure && let Some(Place::ApicAccess(_)) = apic_access_page(cpu, frame) {
        return Err(paging_structure_exit(cpu, guest_physical & 0xfff));
    }
    *cpu.vmx.ept_cache.slot(guest_physical) = Cached {
        tag: guest_physical & !0xfff | 1,
        ept_pointer,
        frame,
        permitted,
    };
    Ok(found(cpu, frame, guest_physical, permitted, purpose))
}

/// Whether VM entry accepts an EPT pointer (SDM 26.2.1.1), whose page walks have four levels.
pub fn is_pointer(cpu: &Cpu, value: u64) -> bool {
    matches!(value & 7, 0 | 6)
        && value >> 3 & 7 == 3
        && value & (0xf80 | !cpu.model.physical_mask()) == 0
}

/// The right that a fetch needs (SDM 28.3.3.2).
fn execute_right(cpu: &Cpu, purpose: GuestPhysicalAccess) -> u64 {
    match purpose {
        GuestPhysicalAccess::Operand {
            mode: LinearMode::User,
            ..
        } if cpu.vmx.guest.controls.mode_based_execute() => EXECUTE_USER,
        _ => EXECUTE,
    }
}

fn found(
    cpu: &Cpu,
    frame: u64,
    guest_physical: u64,
    permitted: u64,
    purpose: GuestPhysicalAccess,
) -> HostPhysical {
    HostPhysical {
        physical: frame | guest_physical & 0xfff,
        read: permitted & READ != 0,
        write: permitted & WRITE != 0,
        execute: permitted & execute_right(cpu, purpose) != 0,
    }
}

/// Walks the tables: the 4-KByte frame and the permitted accesses. Writes count as permitted only
/// if the dirty flag is set or not in use, so that the first write comes here.
fn walk(
    cpu: &mut Cpu,
    guest_physical: u64,
    needed: u64,
    purpose: GuestPhysicalAccess,
) -> Result<(u64, u64), Raised> {
    let ept_pointer = cpu.vmx.guest.controls.ept_pointer;
    let flags_in_use = ept_pointer & ACCESSED_DIRTY != 0;
    // SDM 28.3.2: guest-physical addresses beyond 48 bits cannot be translated by four levels.
    if guest_physical >> 48 != 0 {
        let found = Prevented {
            guest_physical,
            needed,
            permitted: 0,
            entry: SUPPRESS_EXCEPTION,
        };
        return Err(violation(cpu, found, purpose));
    }
    let mut table = ept_pointer & ADDRESS;
    let present = if cpu.vmx.guest.controls.mode_based_execute() {
        RIGHTS
    } else {
        RIGHTS & !EXECUTE_USER
    };
    let mut combined = RIGHTS;
    let mut places = [0; 4];
    let mut depth = 0;
    let mut shift = 39;
    loop {
        let address = table + (guest_physical >> shift & 0x1ff) * 8;
        // No RAM there: the bus reads as ones, which is a misconfiguration.
        let place = cpu.ram.offset(address);
        let entry: u64 = place.map_or(u64::MAX, |place| cpu.ram.load(place));
        if entry & present == 0 {
            let found = Prevented {
                guest_physical,
                needed,
                permitted: 0,
                entry,
            };
            return Err(violation(cpu, found, purpose));
        }
        let leaf = shift == 12 || shift < 39 && entry & LARGE != 0;
        if misconfigured(cpu, entry, leaf, shift) {
            return Err(misconfiguration(cpu, guest_physical, purpose));
        }
        combined &= entry;
        if let (Some(slot), Some(place)) = (places.get_mut(depth), place) {
            *slot = place;
        }
        if !leaf {
            depth += 1;
            table = entry & ADDRESS;
            shift -= 9;
            continue;
        }
        if combined & needed != needed {
            let found = Prevented {
                guest_physical,
                needed,
                permitted: combined & present,
                entry,
            };
            return Err(violation(cpu, found, purpose));
        }
        let mut permitted = combined & RIGHTS;
        if flags_in_use {
            let dirty = mark(cpu, guest_physical, &places[..=depth], needed & WRITE != 0)?;
            if !dirty {
                permitted &= !WRITE;
            }
        }
        let offset = (1_u64 << shift) - 1;
        let frame = entry & ADDRESS & !offset | guest_physical & offset & !0xfff;
        return Ok((frame, permitted));
    }
}

/// Sets accessed flags on the way and the dirty flag at the end (SDM 28.3.5); gives whether the
/// latter is set. A dirty flag that becomes 1 is logged (SDM 28.3.6).
fn mark(cpu: &mut Cpu, guest_physical: u64, places: &[u64], write: bool) -> Result<bool, Raised> {
    let last = places.len().saturating_sub(1);
    let wanted = |i| {
        if i == last && write {
            ACCESSED | DIRTY
        } else {
            ACCESSED
        }
    };
    let mut missing = false;
    let mut old = 0;
    for (i, place) in places.iter().enumerate() {
        old = cpu.ram.load::<u64>(*place);
        missing |= old & wanted(i) != wanted(i);
    }
    if !missing {
        return Ok(old & DIRTY != 0);
    }
    modification_log::require_room(cpu)?;
    for (i, place) in places.iter().enumerate() {
        old = cpu.update(*place, |entry| entry | wanted(i));
    }
    if write && old & DIRTY == 0 {
        modification_log::record(cpu, guest_physical);
    }
    Ok(write || old & DIRTY != 0)
}

// SDM 28.3.3.1 EPT Misconfigurations
fn misconfigured(cpu: &Cpu, entry: u64, leaf: bool, shift: u32) -> bool {
    // Writable but not readable. Execute-only is offered.
    if entry & (READ | WRITE) == WRITE {
        return true;
    }
    let mut reserved = !cpu.model.physical_mask() & ADDRESS;
    if leaf {
        // Memory types 2, 3 and 7 are reserved.
        if matches!(entry >> 3 & 7, 2 | 3 | 7) {
            return true;
        }
        reserved |= ((1 << shift) - 1) & !0xfff;
    } else {
        reserved |= if shift == 39 { 0xf8 } else { 0x78 };
    }
    entry & reserved != 0
}

/// An access that the tables do not permit.
struct Prevented {
    guest_physical: u64,
    needed: u64,
    permitted: u64,
    /// The entry that is not present, or that maps the page.
    entry: u64,
}

/// Bit 63 of such an entry: the violation does not become a virtualization exception.
const SUPPRESS_EXCEPTION: u64 = 1 << 63;

fn linear_of(purpose: GuestPhysicalAccess) -> (u64, u64) {
    match purpose {
        GuestPhysicalAccess::Operand { linear, .. } => (linear, 1 << 7 | 1 << 8),
        GuestPhysicalAccess::PagingStructure { linear } => (linear, 1 << 7),
        GuestPhysicalAccess::PageDirectoryPointers => (0, 0),
    }
}

// SDM 28.3.3.2 EPT Violations; 27.2.1, table 27-7 Exit Qualification for EPT Violations
#[cold]
fn violation(cpu: &mut Cpu, prevented: Prevented, purpose: GuestPhysicalAccess) -> Raised {
    let (linear, validity) = linear_of(purpose);
    let Prevented {
        guest_physical,
        needed,
        permitted,
        entry,
    } = prevented;
    // Bit 6 is what bit 10 of the entries says.
    let rights = (permitted & 7) << 3 | (permitted & EXECUTE_USER) >> 4;
    let access = needed & 7 | (needed & EXECUTE_USER) >> 8;
    let qualification = access | rights | validity;
    cpu.vmx.guest.linear_address = linear;
    cpu.vmx.guest.physical_address = guest_physical;
    if entry & SUPPRESS_EXCEPTION == 0
        && let Some(raised) = virtualization_exception::convert(cpu, qualification)
    {
        return raised;
    }
    cpu.vm_exit(VmExit::qualified(ExitReason::EptViolation, qualification))
}

/// The access that violated EPT was one of a read-modify-write, which has tried to read, too (SDM
/// 27.2.1, table 27-7).
#[cold]
pub fn note_read(cpu: &mut Cpu) {
    match &mut cpu.pending {
        Pending::VmExit(exit) if exit.reason == ExitReason::EptViolation => {
            exit.qualification |= READ;
        }
        Pending::Exception(exception) => {
            let vector = exception.vector;
            virtualization_exception::note_read(cpu, vector);
        }
        _ => {}
    }
}

#[cold]
fn misconfiguration(cpu: &mut Cpu, guest_physical: u64, purpose: GuestPhysicalAccess) -> Raised {
    cpu.vmx.guest.linear_address = linear_of(purpose).0;
    cpu.vmx.guest.physical_address = guest_physical;
    cpu.vm_exit(VmExit::qualified(ExitReason::EptMisconfiguration, 0))
}
