//! Getting a processor into VMX root operation (SDM 24.7 Enabling and entering VMX operation).
#![allow(unsafe_code, reason = "enters VMX operation")]

use crate::host::aligned_page::AlignedPage;
use crate::host::instructions::{read_cr0, read_cr4, read_msr, write_cr0, write_cr4, write_msr};
use crate::host::machine_check;
use crate::vmx::capability::Capabilities;
use crate::vmx::instructions::{Invalidation, invept, invvpid, vmxon};
use crate::vmx::vmcs::VmxError;
use arch::control_register::cr4;
use arch::msr;
use arch::vmx_control::ept_vpid_capability;

/// Bits of IA32_FEATURE_CONTROL (SDM 24.7).
const LOCK: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// Why VMX operation was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnterError {
    /// Firmware has locked VMX off.
    LockedByFirmware,
    /// VMXON failed.
    Vmx(VmxError),
}

impl core::fmt::Display for EnterError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
            Self::LockedByFirmware => formatter
                .write_str("firmware has locked VT-x off (IA32_FEATURE_CONTROL): enable it there"),
            Self::Vmx(error) => error.fmt(formatter),
        }
    }
}

/// Enters VMX root operation on this processor, for good.
pub fn enter(capabilities: &Capabilities) -> Result<(), EnterError> {
    let control = read_msr(msr::IA32_FEATURE_CONTROL);
    if control & LOCK == 0 {
        // SAFETY: permits VMXON; memory keeps its meaning.
        unsafe {
            write_msr(msr::IA32_FEATURE_CONTROL, control | LOCK | VMX_OUTSIDE_SMX);
        }
    } else if control & VMX_OUTSIDE_SMX == 0 {
        return Err(EnterError::LockedByFirmware);
    }
    let cr0 = capabilities.cr0.clamp(read_cr0());
    // A machine check with CR4.MCE 0 would be a shutdown; processors without it do not allow the bit.
    let cr4 = capabilities.cr4.clamp(read_cr4() | cr4::VMXE | cr4::MCE);
    // SAFETY: VMX wants bits that are set already (PE, PG, NE) or enable VMX; paging is unchanged, and a
    // machine check has its gate.
    unsafe {
        write_cr0(cr0);
        write_cr4(cr4);
    }
    machine_check::initialize();
    let mut region = AlignedPage::new();
    region.write_u32(0, capabilities.revision());
    let address = region.address();
    // The processor keeps it.
    core::mem::forget(region);
    // SAFETY: the region is never used for anything else.
    unsafe { vmxon(address) }.map_err(EnterError::Vmx)?;
    // Nothing that was cached before is ours (SDM 29.4.3.2).
    if capabilities.ept_vpid & ept_vpid_capability::INVEPT_ALL != 0 {
        invept(Invalidation::All).map_err(EnterError::Vmx)?;
    }
    if capabilities.ept_vpid & ept_vpid_capability::INVVPID_ALL != 0 {
        invvpid(Invalidation::All).map_err(EnterError::Vmx)?;
    }
    Ok(())
}
