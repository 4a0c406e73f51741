//! Privileged instructions that are not VMX instructions, one function each.
//!
//! Reads and port accesses are safe functions: they move no memory, and one that the processor
//! refuses raises an exception that ends in a report. Whatever can change what memory means
//! (control registers, MSRs, descriptor tables) is `unsafe`.
#![allow(unsafe_code, reason = "each function is one privileged instruction")]

pub use core::arch::x86_64::CpuidResult;
use core::arch::{asm, global_asm};

/// CPUID with leaf `leaf` and sub-leaf `subleaf`.
#[inline]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// IN AL, DX.
#[inline]
pub fn in_8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: IN touches no memory of this program; the ports used belong to the hypervisor.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// OUT DX, AL.
#[inline]
pub fn out_8(port: u16, value: u8) {
    // SAFETY: OUT touches no memory; no device here is set up for DMA through ports.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// IN EAX, DX.
#[inline]
pub fn in_32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as `in_8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// RDMSR. An MSR that does not exist raises #GP, which is reported and stops the processor.
#[inline]
pub fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDMSR changes nothing but EDX:EAX.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

global_asm!(
    // A function of the MSR's number and of where its value goes; gives 0 if the processor refuses.
    ".globl probe_msr_entry",
    "probe_msr_entry:",
    "mov ecx, edi",
    ".globl probe_msr_read",
    "probe_msr_read:",
    "rdmsr",
    "mov [rsi], eax",
    "mov [rsi + 4], edx",
    "mov eax, 1",
    "ret",
    ".globl probe_msr_refused",
    "probe_msr_refused:",
    "xor eax, eax",
    "ret",
);

unsafe extern "C" {
    fn probe_msr_entry(msr: u32, value: *mut u64) -> u32;
    static probe_msr_read: u8;
    static probe_msr_refused: u8;
}

/// RDMSR of an MSR that should exist, but that simulated processors are known to lack: `None` if it raises #GP.
pub fn probe_msr(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: it writes `value` alone. If RDMSR raises #GP, the handler goes on at `probe_msr_refused`
    // with the same registers and stack.
    let read = unsafe { probe_msr_entry(msr, &raw mut value) };
    (read != 0).then_some(value)
}

/// Where to go on if the exception at `rip` is the #GP of [`probe_msr`].
pub fn after_refused_probe(rip: u64) -> Option<u64> {
    (rip == &raw const probe_msr_read as u64).then_some(&raw const probe_msr_refused as u64)
}

/// WRMSR.
///
/// # Safety
/// The write must not change the meaning of memory or code in use.
#[inline]
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// RDTSC.
#[inline]
pub fn read_time_stamp() -> u64 {
    // SAFETY: RDTSC only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! control_register {
    ($read:ident, $write:ident, $register:literal) => {
        #[doc = concat!("Reads ", $register, ".")]
        #[inline]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register has no effect.
            unsafe {
                asm!(concat!("mov {}, ", $register), out(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", $register, ".")]
        ///
        /// # Safety
        /// The code and data in use must mean the same before and after.
        #[inline]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!("mov ", $register, ", {}"), in(reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
control_register!(read_cr0, write_cr0, "cr0");
control_register!(read_cr2, write_cr2, "cr2");
control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");
control_register!(read_dr0, write_dr0, "dr0");
control_register!(read_dr1, write_dr1, "dr1");
control_register!(read_dr2, write_dr2, "dr2");
control_register!(read_dr3, write_dr3, "dr3");
control_register!(read_dr6, write_dr6, "dr6");

/// CLI, then HLT for ever.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts masked only an NMI, SMI or INIT ends the HLT, and then it repeats.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Lets one interrupt in: STI, HLT, CLI. An interrupt that is already pending ends the HLT, for STI
/// blocks it until HLT has begun.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: handlers run on their own IST stacks and return with every register restored.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// Lets pending interrupts in without halting: STI, NOP, CLI.
#[inline]
pub fn take_pending_interrupts() {
    // SAFETY: as `wait_for_interrupt`.
    unsafe { asm!("sti", "nop", "cli") }
}

/// FXSAVE64 to `area`.
///
/// # Safety
/// `area` must be 512 writable bytes, 16-byte aligned.
#[inline]
pub unsafe fn fxsave(area: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) }
}

/// FXRSTOR64 from `area`.
///
/// # Safety
/// `area` must hold what FXSAVE64 stored (or a valid initial image), 16-byte aligned, and the
/// caller must not rely on SSE registers across the call.
#[inline]
pub unsafe fn fxrstor(area: *const u8) {
    // SAFETY: the caller's promise; every XMM register is declared clobbered.
    unsafe {
        asm!("fxrstor64 [{}]", in(reg) area,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack, preserves_flags));
    }
}

/// CLTS: clears CR0.TS.
#[inline]
pub fn clear_task_switched() {
    // SAFETY: TS only decides whether SSE instructions raise #NM.
    unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) }
}
