//! Extended page tables (SDM 28.3 The extended page-table mechanism).

use super::GuestPhysicalAccess;
use crate::cpu::{Cpu, raise::Raised, tlb::Access};

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

/// Translates a guest-physical address; outside VMX non-root operation, or without EPT, it is the
/// host-physical address.
#[inline]
pub fn translate(
    _cpu: &mut Cpu,
    guest_physical: u64,
    _access: Access,
    _purpose: GuestPhysicalAccess,
) -> Result<HostPhysical, Raised> {
    Ok(HostPhysical {
        physical: guest_physical,
        read: true,
        write: true,
        execute: true,
    })
}
