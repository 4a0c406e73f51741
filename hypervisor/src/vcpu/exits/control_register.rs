//! Accesses to CR0, CR4 and CR8 that exit.

use super::{Context, Next, Outcome, advance, general_protection};
use crate::vcpu::guest_state::{CR0_HOST_OWNED, CR4_GUEST, real_cr0};
use crate::vcpu::run::flush_translations;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::memory::GuestPhysical;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, efer};
use arch::vmcs;
use arch::vmx_control::entry;

/// Exit qualification (SDM 28.2.1, table "Exit Qualification for Control-Register Accesses").
pub(super) fn access(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    let register = (qualification >> 8 & 15) as usize;
    let value = match register {
        RSP => vmcs.read(vmcs::GUEST_RSP)?,
        _ => vcpu.registers.0[register],
    };
    let accepted = match (qualification >> 4 & 3, qualification & 15) {
        (0, 0) => {
            flush_translations(vcpu, context.hypervisor)?;
            write_cr0(value, vmcs, context)?
        }
        (0, 4) => {
            flush_translations(vcpu, context.hypervisor)?;
            write_cr4(value, vmcs)?
        }
        (0, 8) => match vcpu.apic.write_cr8(value) {
            Ok(effect) => {
                super::follow_up(effect, vcpu, vmcs, context)?;
                true
            }
            Err(_) => false,
        },
        (1, 8) => {
            let value = vcpu.apic.cr8();
            match register {
                RSP => vmcs.write(vmcs::GUEST_RSP, value)?,
                _ => vcpu.registers.0[register] = value,
            }
            true
        }
        // CLTS: TS is the guest's, so only the read shadow can have made this exit.
        (2, _) => {
            let cr0 = vmcs.read(vmcs::GUEST_CR0)?;
            vmcs.write(vmcs::GUEST_CR0, cr0 & !cr0::TS)?;
            true
        }
        // LMSW: sets PE, MP, EM and TS, and cannot clear PE.
        (3, _) => {
            let source = qualification >> 16 & 0xffff;
            let seen = seen_cr0(vmcs)?;
            let pe = seen & cr0::PE;
            write_cr0(seen & !0xf | source & 0xf | pe, vmcs, context)?
        }
        _ => return super::simple::unexpected(28, vcpu, vmcs, context),
    };
    if !accepted {
        return general_protection(vcpu);
    }
    advance(vmcs)?;
    Ok(Next::Resume)
}

/// CR0 as the guest reads it.
fn seen_cr0(vmcs: &impl Vmcs) -> Result<u64, VmxError> {
    let real = vmcs.read(vmcs::GUEST_CR0)?;
    let shadow = vmcs.read(vmcs::CR0_READ_SHADOW)?;
    Ok(real & !CR0_HOST_OWNED | shadow & CR0_HOST_OWNED)
}

/// MOV to CR0. `Ok(false)`: #GP(0).
// SDM volume 2, MOV - Move to/from Control Registers; 4.1.2 Paging-mode enabling; 9.8.5.
fn write_cr0(value: u64, vmcs: &mut impl Vmcs, context: Context) -> Result<bool, VmxError> {
    let old = seen_cr0(vmcs)?;
    let value = value | cr0::ET;
    let set = |bit: u64| value & bit != 0;
    if value >> 32 != 0 || set(cr0::PG) && !set(cr0::PE) || set(cr0::NW) && !set(cr0::CD) {
        return Ok(false);
    }
    let mut efer_value = vmcs.read(vmcs::GUEST_EFER)?;
    let cr4_value = vmcs.read(vmcs::GUEST_CR4)?;
    let was_paging = old & cr0::PG != 0;
    if set(cr0::PG) && !was_paging {
        if efer_value & efer::LME != 0 {
            // CS.L must be 0 (bit 13 of the access rights), and PAE on.
            let code = vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)?;
            if cr4_value & cr4::PAE == 0 || code >> 13 & 1 != 0 {
                return Ok(false);
            }
            efer_value |= efer::LMA;
        } else if cr4_value & cr4::PAE != 0 && !load_page_directory_pointers(vmcs, context)? {
            return Ok(false);
        }
    } else if !set(cr0::PG) && was_paging {
        let code = vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)?;
        if efer_value & efer::LMA != 0 && code >> 13 & 1 != 0 {
            return Ok(false);
        }
        efer_value &= !efer::LMA;
    }
    vmcs.write(vmcs::GUEST_EFER, efer_value)?;
    let controls = vmcs.read(vmcs::ENTRY_CONTROLS)?;
    let wanted = if efer_value & efer::LMA != 0 {
        controls | entry::IA32E_MODE_GUEST
    } else {
        controls & !entry::IA32E_MODE_GUEST
    };
    if wanted != controls {
        vmcs.write(vmcs::ENTRY_CONTROLS, wanted)?;
    }
    vmcs.write(vmcs::CR0_READ_SHADOW, value)?;
    vmcs.write(vmcs::GUEST_CR0, real_cr0(value))?;
    Ok(true)
}

/// PAE paging takes its four page-directory-pointer-table entries when it is turned on (SDM 4.4.1).
fn load_page_directory_pointers(vmcs: &mut impl Vmcs, context: Context) -> Result<bool, VmxError> {
    let table = vmcs.read(vmcs::GUEST_CR3)? & 0xffff_ffe0;
    let fields = [
        vmcs::GUEST_PDPTE_0,
        vmcs::GUEST_PDPTE_1,
        vmcs::GUEST_PDPTE_2,
        vmcs::GUEST_PDPTE_3,
    ];
    for (index, field) in (0u64..).zip(fields) {
        let address = GuestPhysical(table + index * 8);
        let Ok(entry) = context.hypervisor.vm.memory.read_u64(address) else {
            return Ok(false);
        };
        // Bits 2:1 and 8:5 are reserved.
        if entry & 1 != 0 && entry & 0x1e6 != 0 {
            return Ok(false);
        }
        vmcs.write(field, entry)?;
    }
    Ok(true)
}

/// MOV to CR4 that changes a bit the guest may not change.
fn write_cr4(value: u64, vmcs: &mut impl Vmcs) -> Result<bool, VmxError> {
    if value & !CR4_GUEST != 0 {
        return Ok(false);
    }
    vmcs.write(vmcs::GUEST_CR4, value | cr4::VMXE)?;
    Ok(true)
}
