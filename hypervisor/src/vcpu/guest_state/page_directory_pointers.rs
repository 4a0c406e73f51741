//! The page-directory-pointer-table entries of PAE paging, which the processor keeps in registers (SDM
//! 4.4.1 PDPTE registers).

use super::control_registers::{Accepted, ProcessorLimits};
use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::vmcs;

const PRESENT: u64 = 1;
/// Bits 2:1 and 8:5.
const RESERVED: u64 = 0x1e6;

/// Loads the four entries of the table at `cr3`: all of them, or none and a #GP if one that is present
/// has a reserved bit, which an entry would refuse (SDM 27.3.1.6).
pub(super) fn load<F: FrameAccess>(
    cr3: u64,
    vmcs: &mut impl Vmcs,
    memory: &GuestMemory<F>,
    processor: ProcessorLimits,
) -> Result<Accepted, VmxError> {
    let table = cr3 & 0xffff_ffe0;
    let reserved = RESERVED | processor.beyond_width();
    let mut entries = [0; 4];
    for (address, entry) in (table..).step_by(8).zip(&mut entries) {
        // Where there is no memory all bits read as 1.
        *entry = memory.read_u64(GuestPhysical(address)).unwrap_or(u64::MAX);
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return Ok(Accepted::No);
        }
    }
    for (field, entry) in [
        vmcs::GUEST_PDPTE_0,
        vmcs::GUEST_PDPTE_1,
        vmcs::GUEST_PDPTE_2,
        vmcs::GUEST_PDPTE_3,
    ]
    .into_iter()
    .zip(entries)
    {
        vmcs.write(field, entry)?;
    }
    Ok(Accepted::Yes)
}
