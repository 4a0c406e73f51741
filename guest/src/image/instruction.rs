//! Single instructions that Rust has no word for.
#![allow(
    unsafe_code,
    reason = "wraps privileged instructions; the image owns the whole processor"
)]

use super::processor::{FAULTS, RECOVERY};
use core::arch::{
    asm,
    x86_64::{__cpuid_count, CpuidResult},
};

/// `OUT` of a byte.
pub(super) fn out_byte(port: u16, value: u8) {
    // SAFETY: no device that this image programs reaches memory by itself.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// `OUT` of a doubleword.
pub(super) fn out_doubleword(port: u16, value: u32) {
    // SAFETY: as for `out_byte`. Not `nomem`: a phase mark must stay where it is written.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
    }
}

/// `IN` of a byte.
pub(super) fn in_byte(port: u16) -> u8 {
    let value: u8;
    // SAFETY: reading a port of the serial interface changes no memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// `RDMSR` of a register that exists.
pub(super) fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers read registers that CPUID or the APIC's mode promises; reading changes
    // nothing.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// `WRMSR` of a register that exists.
pub(super) fn write_msr(register: u32, value: u64) {
    // SAFETY: callers write APIC, timer and GS-base registers, which change no memory that Rust
    // knows. Not `nomem`: an interrupt that the write sends must follow earlier stores.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// The processor answered with a general-protection exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GeneralProtection;

/// `WRMSR` that may fault.
pub(super) fn try_write_msr(register: u32, value: u64) -> Result<(), GeneralProtection> {
    let faulted: u64;
    // SAFETY: as for `write_msr`; the #GP handler continues at the address in `RECOVERY`, which is
    // the label here, with the registers as they were.
    unsafe {
        asm!(
            "mov qword ptr gs:[{faults}], 0",
            "lea {scratch}, [rip + 2f]",
            "mov gs:[{recovery}], {scratch}",
            "wrmsr",
            "2:",
            "mov qword ptr gs:[{recovery}], 0",
            "mov {scratch}, gs:[{faults}]",
            scratch = out(reg) faulted,
            faults = const FAULTS,
            recovery = const RECOVERY,
            in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
        );
    }
    if faulted == 0 {
        Ok(())
    } else {
        Err(GeneralProtection)
    }
}

/// `MOV` to the 32-bit register at an address in the local APIC's page.
pub(super) fn write_register(address: u64, value: u32) {
    // SAFETY: the address lies in the local APIC's page, which no Rust object occupies.
    unsafe {
        asm!("mov dword ptr [{address}], {value:e}", address = in(reg) address,
             value = in(reg) value, options(nostack, preserves_flags));
    }
}

/// `MOV` from the 32-bit register at an address in the local APIC's page.
pub(super) fn read_register(address: u64) -> u32 {
    let value: u32;
    // SAFETY: as for `write_register`.
    unsafe {
        asm!("mov {value:e}, dword ptr [{address}]", address = in(reg) address,
             value = out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// `STI`.
pub(super) fn enable_interrupts() {
    // SAFETY: the handlers touch nothing but the processor's own counters and APIC.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// `CLI`.
pub(super) fn disable_interrupts() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

/// `STI; HLT; CLI`: sleeps until an interrupt, however early it comes (SDM 6.8.1: the instruction
/// after STI is still protected).
pub(super) fn sleep() {
    // SAFETY: as for `enable_interrupts`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// `CLI; HLT` for ever.
pub(super) fn stop() -> ! {
    loop {
        // SAFETY: ends this processor's part for good.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

/// `RDTSC`.
pub(super) fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has it, and CR4.TSD is 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// `MFENCE`: what was stored is seen before what follows, even before an x2APIC's WRMSR, which
/// orders nothing by itself (SDM 10.12.3 MSR access in x2APIC mode).
pub(super) fn fence() {
    // SAFETY: SSE2 is enabled.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// `CPUID`.
pub(super) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// `MOV` from CR8.
pub(super) fn read_cr8() -> u64 {
    let value: u64;
    // SAFETY: reading the task priority changes nothing.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// `MOV` to CR8.
pub(super) fn write_cr8(priority: u64) {
    // SAFETY: only delays or admits interrupts; callers pass 0 to 15.
    unsafe { asm!("mov cr8, {}", in(reg) priority, options(nostack, preserves_flags)) };
}
