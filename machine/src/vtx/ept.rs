//! Extended page tables (SDM 28.3 The extended page-table mechanism).

use arch::exit::ExitReason;

use super::{GuestPhysicalAccess, VmExit, apic_access::paging_structure_exit, apic_access_page};
use crate::cpu::{Cpu, paging::Place, raise::Raised, tlb::Access};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
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
    if !cpu.vmx.ept_in_use {
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
    let ept_pointer = cpu.vmx.controls.ept_pointer;
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
        Access::Execute => EXECUTE,
    };
    let cached = *cpu.vmx.ept_cache.slot(guest_physical);
    if cached.tag == guest_physical & !0xfff | 1
        && cached.ept_pointer == ept_pointer
        && cached.permitted & needed == needed
    {
        return Ok(found(cached.frame, guest_physical, cached.permitted));
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
    Ok(found(frame, guest_physical, permitted))
}

fn found(frame: u64, guest_physical: u64, permitted: u64) -> HostPhysical {
    HostPhysical {
        physical: frame | guest_physical & 0xfff,
        read: permitted & READ != 0,
        write: permitted & WRITE != 0,
        execute: permitted & EXECUTE != 0,
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
    let ept_pointer = cpu.vmx.controls.ept_pointer;
    let flags_in_use = ept_pointer & ACCESSED_DIRTY != 0;
    // SDM 28.3.2: guest-physical addresses beyond 48 bits cannot be translated by four levels.
    if guest_physical >> 48 != 0 {
        return Err(violation(cpu, guest_physical, needed, 0, purpose));
    }
    let mut table = ept_pointer & ADDRESS;
    let mut combined = READ | WRITE | EXECUTE;
    let mut places = [0; 4];
    let mut depth = 0;
    let mut shift = 39;
    loop {
        let address = table + (guest_physical >> shift & 0x1ff) * 8;
        // No RAM there: the bus reads as ones, which is a misconfiguration.
        let place = cpu.ram.offset(address);
        let entry: u64 = place.map_or(u64::MAX, |place| cpu.ram.load(place));
        if entry & 7 == 0 {
            return Err(violation(cpu, guest_physical, needed, 0, purpose));
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
            return Err(violation(cpu, guest_physical, needed, combined, purpose));
        }
        let mut permitted = combined & 7;
        if flags_in_use {
            let dirty = mark(cpu, &places[..=depth], needed & WRITE != 0);
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
/// latter is set.
fn mark(cpu: &Cpu, places: &[u64], write: bool) -> bool {
    let mut dirty = false;
    for (i, place) in places.iter().enumerate() {
        let last = i + 1 == places.len();
        let bits = if last && write {
            ACCESSED | DIRTY
        } else {
            ACCESSED
        };
        if let Some(entry) = cpu.ram.atomic_u64(*place) {
            let mut value = entry.load(std::sync::atomic::Ordering::SeqCst);
            if value & bits != bits {
                value = entry.fetch_or(bits, std::sync::atomic::Ordering::SeqCst) | bits;
            }
            dirty = last && value & DIRTY != 0;
        }
    }
    dirty
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

fn linear_of(purpose: GuestPhysicalAccess) -> (u64, u64) {
    match purpose {
        GuestPhysicalAccess::Operand { linear } => (linear, 1 << 7 | 1 << 8),
        GuestPhysicalAccess::PagingStructure { linear } => (linear, 1 << 7),
        GuestPhysicalAccess::PageDirectoryPointers => (0, 0),
    }
}

// SDM 28.3.3.2 EPT Violations; 27.2.1, table 27-7 Exit Qualification for EPT Violations
#[cold]
fn violation(
    cpu: &mut Cpu,
    guest_physical: u64,
    needed: u64,
    permitted: u64,
    purpose: GuestPhysicalAccess,
) -> Raised {
    let (linear, validity) = linear_of(purpose);
    cpu.vmx.guest_linear = linear;
    cpu.vmx.guest_physical = guest_physical;
    cpu.vm_exit(VmExit::qualified(
        ExitReason::EptViolation,
        needed | (permitted & 7) << 3 | validity,
    ))
}

#[cold]
fn misconfiguration(cpu: &mut Cpu, guest_physical: u64, purpose: GuestPhysicalAccess) -> Raised {
    cpu.vmx.guest_linear = linear_of(purpose).0;
    cpu.vmx.guest_physical = guest_physical;
    cpu.vm_exit(VmExit::qualified(ExitReason::EptMisconfiguration, 0))
}
