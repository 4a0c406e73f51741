//! CR0, CR3, CR4 and IA32_EFER as the guest writes them (SDM volume 2, MOV - Move to/from control
//! registers; 4.1 Paging modes and control bits; 2.2.1 Extended Feature Enable Register).

use super::is_64_bit;
use super::page_directory_pointers;
use crate::vm::memory::{FrameAccess, GuestMemory};
use crate::vm::msr::{Paging, checked_efer};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, efer};
use arch::segment::rights;
use arch::vmcs;
use arch::vmx_control::entry::IA32E_MODE_GUEST;

/// CR0 bits that the guest sees as it wrote them, while the real ones are what VMX wants: NE must be
/// 1 (SDM A.7), and caching is the hypervisor's business.
pub const CR0_HOST_OWNED: u64 = cr0::NE | cr0::CD | cr0::NW;

/// The bits of CR0 that exist; the others stay 0 whatever is written.
const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// CR4 bits that a guest may set.
pub const CR4_GUEST: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::SMEP
    | cr4::SMAP;

/// CR4 bits that the guest sees as it wrote them while the real ones are the hypervisor's: those that it
/// may not set, and MCE, without which a machine check in the guest would shut the processor down.
pub const CR4_HOST_OWNED: u64 = !CR4_GUEST | cr4::MCE;

/// CR3 bit 63 as written with CR4.PCIDE: nothing is invalidated. It is not kept.
const PRESERVE: u64 = 1 << 63;
/// CR3 bits 11:0, the process-context identifier with CR4.PCIDE.
const PROCESS_CONTEXT: u64 = 0xfff;

/// What the rules need to know of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorLimits {
    /// The bits of CR4 that may be 1 (IA32_VMX_CR4_FIXED1).
    pub cr4: u64,
    /// The physical-address width, which is also what the guest is told.
    pub physical_address_width: u32,
}

impl ProcessorLimits {
    /// The bits that no physical address has.
    pub(super) const fn beyond_width(self) -> u64 {
        match u64::MAX.checked_shl(self.physical_address_width) {
            Some(bits) => bits,
            None => 0,
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// It was done.
    Yes,
    /// #GP(0), and nothing has changed.
    No,
}

/// CR0 as the guest reads it.
pub fn seen_cr0(vmcs: &impl Vmcs) -> Result<u64, VmxError> {
    let real = vmcs.read(vmcs::GUEST_CR0)?;
    let shadow = vmcs.read(vmcs::CR0_READ_SHADOW)?;
    Ok(real & !CR0_HOST_OWNED | shadow & CR0_HOST_OWNED)
}

/// CR4 as the guest reads it.
pub fn seen_cr4(vmcs: &impl Vmcs) -> Result<u64, VmxError> {
    let real = vmcs.read(vmcs::GUEST_CR4)?;
    let shadow = vmcs.read(vmcs::CR4_READ_SHADOW)?;
    Ok(real & !CR4_HOST_OWNED | shadow & CR4_HOST_OWNED)
}

/// The registers that say in which mode a guest runs, as it sees them.
pub(super) struct Modes {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
}

impl Modes {
    pub(super) fn write(&self, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
        vmcs.write(vmcs::GUEST_CR3, self.cr3)?;
        set_cr4(self.cr4, vmcs)?;
        set_cr0(self.cr0, self.efer, vmcs)
    }
}

/// Writes CR0 as the guest is to see it, and IA32_EFER with it.
fn set_cr0(seen: u64, efer: u64, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    vmcs.write(vmcs::GUEST_EFER, efer)?;
    // SDM 27.3.1.1: the control and IA32_EFER.LMA say the same.
    let controls = vmcs.read(vmcs::ENTRY_CONTROLS)?;
    let wanted = if efer & efer::LMA != 0 {
        controls | IA32E_MODE_GUEST
    } else {
        controls & !IA32E_MODE_GUEST
    };
    if wanted != controls {
        vmcs.write(vmcs::ENTRY_CONTROLS, wanted)?;
    }
    vmcs.write(vmcs::CR0_READ_SHADOW, seen)?;
    // SDM 27.3.1.1: the bits that VMX operation fixes are so.
    vmcs.write(
        vmcs::GUEST_CR0,
        (seen | cr0::NE | cr0::ET) & !(cr0::CD | cr0::NW),
    )
}

/// Writes CR4 as the guest is to see it.
fn set_cr4(seen: u64, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
    vmcs.write(vmcs::CR4_READ_SHADOW, seen)?;
    let host = vmcs.read(vmcs::HOST_CR4)?;
    vmcs.write(
        vmcs::GUEST_CR4,
        seen & !CR4_HOST_OWNED | cr4::VMXE | host & cr4::MCE,
    )
}

/// What MOV takes from a register: 32 bits outside 64-bit mode.
fn operand(value: u64, vmcs: &impl Vmcs) -> Result<u64, VmxError> {
    Ok(if is_64_bit(vmcs)? {
        value
    } else {
        value & 0xffff_ffff
    })
}

/// MOV of `value` to CR0.
pub fn write_cr0<F: FrameAccess>(
    value: u64,
    vmcs: &mut impl Vmcs,
    memory: &GuestMemory<F>,
    processor: ProcessorLimits,
) -> Result<Accepted, VmxError> {
    let value = operand(value, vmcs)?;
    let set = |bit: u64| value & bit != 0;
    if value >> 32 != 0 || set(cr0::PG) && !set(cr0::PE) || set(cr0::NW) && !set(cr0::CD) {
        return Ok(Accepted::No);
    }
    let value = value & CR0_DEFINED | cr0::ET;
    let changed = seen_cr0(vmcs)? ^ value;
    let mut efer = vmcs.read(vmcs::GUEST_EFER)?;
    let cr4 = vmcs.read(vmcs::GUEST_CR4)?;
    if !set(cr0::PG) {
        // Paging is not left from 64-bit mode, nor with process contexts.
        if changed & cr0::PG != 0 && (is_64_bit(vmcs)? || cr4 & cr4::PCIDE != 0) {
            return Ok(Accepted::No);
        }
        efer &= !efer::LMA;
    } else if efer & efer::LME != 0 {
        if changed & cr0::PG != 0 && !may_enter_ia32e_mode(cr4, vmcs)? {
            return Ok(Accepted::No);
        }
        efer |= efer::LMA;
    } else if cr4 & cr4::PAE != 0
        && changed & (cr0::PG | cr0::CD | cr0::NW) != 0
        && load_page_directory_pointers(vmcs, memory, processor)? == Accepted::No
    {
        return Ok(Accepted::No);
    }
    set_cr0(value, efer, vmcs)?;
    Ok(Accepted::Yes)
}

/// Whether CR0.PG may become 1 with IA32_EFER.LME: CR4.PAE is 1, CS.L is 0, and TR does not refer to a
/// 16-bit TSS, which an entry to IA-32e mode refuses (SDM 27.3.1.2).
fn may_enter_ia32e_mode(cr4: u64, vmcs: &impl Vmcs) -> Result<bool, VmxError> {
    // Bit 3 of a TSS's type says 32 or 64 bits (SDM 3.5 System descriptor types).
    const NOT_16_BIT: u32 = 1 << 3;
    let code = vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)?;
    let task = vmcs.read(vmcs::GUEST_TR_ACCESS_RIGHTS)?;
    Ok(cr4 & cr4::PAE != 0 && code & rights::LONG == 0 && task & NOT_16_BIT != 0)
}

fn load_page_directory_pointers<F: FrameAccess>(
    vmcs: &mut impl Vmcs,
    memory: &GuestMemory<F>,
    processor: ProcessorLimits,
) -> Result<Accepted, VmxError> {
    let table = vmcs.read(vmcs::GUEST_CR3)?;
    page_directory_pointers::load(table, vmcs, memory, processor)
}

/// MOV of `value` to CR3; it exits only where the processor cannot be told that it should not.
pub fn write_cr3<F: FrameAccess>(
    value: u64,
    vmcs: &mut impl Vmcs,
    memory: &GuestMemory<F>,
    processor: ProcessorLimits,
) -> Result<Accepted, VmxError> {
    let mut value = operand(value, vmcs)?;
    let cr4 = vmcs.read(vmcs::GUEST_CR4)?;
    if vmcs.read(vmcs::GUEST_EFER)? & efer::LMA != 0 {
        if cr4 & cr4::PCIDE != 0 {
            value &= !PRESERVE;
        }
        // SDM 4.5, table "Use of CR3 with 4-level paging".
        if value & processor.beyond_width() != 0 {
            return Ok(Accepted::No);
        }
    } else if cr4 & cr4::PAE != 0
        && vmcs.read(vmcs::GUEST_CR0)? & cr0::PG != 0
        && page_directory_pointers::load(value, vmcs, memory, processor)? == Accepted::No
    {
        return Ok(Accepted::No);
    }
    vmcs.write(vmcs::GUEST_CR3, value)?;
    Ok(Accepted::Yes)
}

/// MOV of `value` to CR4.
pub fn write_cr4<F: FrameAccess>(
    value: u64,
    vmcs: &mut impl Vmcs,
    memory: &GuestMemory<F>,
    processor: ProcessorLimits,
) -> Result<Accepted, VmxError> {
    let value = operand(value, vmcs)?;
    if value & !(CR4_GUEST & processor.cr4) != 0 {
        return Ok(Accepted::No);
    }
    let changed = seen_cr4(vmcs)? ^ value;
    if vmcs.read(vmcs::GUEST_EFER)? & efer::LMA != 0 {
        let context = vmcs.read(vmcs::GUEST_CR3)? & PROCESS_CONTEXT;
        if value & cr4::PAE == 0 || changed & value & cr4::PCIDE != 0 && context != 0 {
            return Ok(Accepted::No);
        }
    } else {
        // SDM 4.10.1: process contexts need IA-32e mode.
        if value & cr4::PCIDE != 0 {
            return Ok(Accepted::No);
        }
        // SDM 4.4.1 names the bits.
        if value & cr4::PAE != 0
            && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0
            && vmcs.read(vmcs::GUEST_CR0)? & cr0::PG != 0
            && load_page_directory_pointers(vmcs, memory, processor)? == Accepted::No
        {
            return Ok(Accepted::No);
        }
    }
    set_cr4(value, vmcs)?;
    Ok(Accepted::Yes)
}

/// WRMSR of `value` to IA32_EFER. LMA, which the entry's control must equal, stays as it is.
pub fn write_efer(value: u64, vmcs: &mut impl Vmcs) -> Result<Accepted, VmxError> {
    let current = vmcs.read(vmcs::GUEST_EFER)?;
    let paging = if vmcs.read(vmcs::GUEST_CR0)? & cr0::PG != 0 {
        Paging::On
    } else {
        Paging::Off
    };
    let Ok(checked) = checked_efer(current, value, paging) else {
        return Ok(Accepted::No);
    };
    vmcs.write(vmcs::GUEST_EFER, checked)?;
    Ok(Accepted::Yes)
}
