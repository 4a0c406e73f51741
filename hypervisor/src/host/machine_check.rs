//! The machine-check architecture (SDM 15 Machine-check architecture). A machine check ends everything, in
//! root mode and in a guest alike: nothing here can tell what is still whole.
#![allow(unsafe_code, reason = "enables the banks")]

use super::instructions::{cpuid, probe_msr, read_msr, write_msr};
use arch::msr::{IA32_MC0_CTL, IA32_MCG_CAP, IA32_MCG_CTL, IA32_MCG_STATUS};
use core::fmt::{self, Write};

/// CPUID.1:EDX bit 14.
const CPUID_MACHINE_CHECK_ARCHITECTURE: u32 = 1 << 14;
/// IA32_MCG_CAP bits 7:0: banks; bit 8: IA32_MCG_CTL exists.
const BANKS: u64 = 0xff;
const HAS_CONTROL: u64 = 1 << 8;
/// IA32_MCi_STATUS bits 63, 59 and 58: there is an error, and MISC and ADDR hold something.
const VALID: u64 = 1 << 63;
const MISC_VALID: u64 = 1 << 59;
const ADDRESS_VALID: u64 = 1 << 58;

/// The registers of a bank, by their distance from its IA32_MCi_CTL.
const STATUS: u32 = 1;
const ADDRESS: u32 = 2;
const MISC: u32 = 3;

/// IA32_MCG_CAP. Bochs 2.7 shows the architecture in CPUID and has none of its MSRs.
fn capabilities() -> Option<u64> {
    if cpuid(1, 0).edx & CPUID_MACHINE_CHECK_ARCHITECTURE == 0 {
        return None;
    }
    probe_msr(IA32_MCG_CAP)
}

fn banks(capabilities: u64) -> impl Iterator<Item = (u32, u32)> {
    (0..(capabilities & BANKS) as u32).map(|bank| (bank, IA32_MC0_CTL + 4 * bank))
}

/// Lets this processor report errors (SDM 15.8 Machine-check initialization); CR4.MCE is set with what VMX
/// wants of CR4.
pub fn initialize() {
    let Some(capabilities) = capabilities() else {
        return;
    };
    // SAFETY: these registers exist, as IA32_MCG_CAP says, and only decide what is reported.
    unsafe {
        if capabilities & HAS_CONTROL != 0 {
            write_msr(IA32_MCG_CTL, u64::MAX);
        }
        for (_, control) in banks(capabilities) {
            write_msr(control, u64::MAX);
            write_msr(control + STATUS, 0);
        }
    }
}

/// Writes what this processor's banks hold.
pub fn write(out: &mut (impl Write + ?Sized), processor: u32) -> fmt::Result {
    let Some(capabilities) = capabilities() else {
        return writeln!(out, "posthaste: machine check on processor {processor}");
    };
    let status = read_msr(IA32_MCG_STATUS);
    writeln!(
        out,
        "posthaste: machine check on processor {processor}, IA32_MCG_STATUS {status:#x}"
    )?;
    for (bank, control) in banks(capabilities) {
        let status = read_msr(control + STATUS);
        if status & VALID == 0 {
            continue;
        }
        write!(out, "  bank {bank}: status {status:#018x}")?;
        for (valid, register, name) in [
            (ADDRESS_VALID, ADDRESS, "address"),
            (MISC_VALID, MISC, "misc"),
        ] {
            if status & valid != 0 {
                write!(out, ", {name} {:#x}", read_msr(control + register))?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
