//! The physical local APIC of the processor that runs this code: x2APIC mode where there is one.
#![allow(unsafe_code, reason = "programs the processor's own local APIC")]

use super::instructions::{cpuid, out_8, read_msr, write_msr};
use arch::{apic_register, msr};
use core::sync::atomic::{AtomicU64, Ordering};

const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const DELIVERY_PENDING: u32 = 1 << 12;

/// How processors address one another; every processor is in the same mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Memory-mapped, 8-bit IDs.
    Xapic,
    /// MSRs, 32-bit IDs.
    X2apic,
}

/// Address of the register page in xAPIC mode; 0 means x2APIC mode.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// Mode of this processor's local APIC, as [`initialize`] left it.
#[inline]
pub fn mode() -> Mode {
    if PAGE.load(Ordering::Relaxed) == 0 {
        Mode::X2apic
    } else {
        Mode::Xapic
    }
}

/// Whether the timer can be armed with a TSC value.
pub fn has_tsc_deadline() -> bool {
    cpuid(1, 0).ecx & 1 << 24 != 0
}

/// Enables this processor's local APIC, in x2APIC mode if it has one, with spurious vector FFH and
/// every local interrupt masked.
pub fn initialize() {
    let base = read_msr(msr::IA32_APIC_BASE);
    // A processor that firmware left in x2APIC mode cannot go back; one without it cannot go there.
    if cpuid(1, 0).ecx & 1 << 21 != 0 {
        // SAFETY: the APIC's registers are not memory of this program.
        unsafe { write_msr(msr::IA32_APIC_BASE, base | BASE_ENABLE) };
        // SAFETY: as above; xAPIC to x2APIC is a legal change of mode (SDM 10.12.5).
        unsafe { write_msr(msr::IA32_APIC_BASE, base | BASE_ENABLE | BASE_X2APIC) };
        PAGE.store(0, Ordering::Relaxed);
    } else {
        PAGE.store(base & 0xf_ffff_f000, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { write_msr(msr::IA32_APIC_BASE, base | BASE_ENABLE) };
    }
    write(
        apic_register::SPURIOUS_VECTOR,
        0xff | apic_register::SPURIOUS_VECTOR_ENABLE,
    );
    for register in [
        apic_register::LVT_TIMER,
        apic_register::LVT_LINT0,
        apic_register::LVT_LINT1,
        apic_register::LVT_ERROR,
    ] {
        write(register, apic_register::LVT_MASKED);
    }
    write(apic_register::TASK_PRIORITY, 0);
}

/// Masks the platform's two 8259s: firmware's interrupts are not for the hypervisor.
pub fn mask_8259() {
    for port in [0x21, 0xa1] {
        out_8(port, 0xff);
    }
}

/// Reads the 32-bit register at `offset`.
#[inline]
pub fn read(offset: u32) -> u32 {
    match PAGE.load(Ordering::Relaxed) {
        0 => read_msr(msr::X2APIC_FIRST + (offset >> 4)) as u32,
        // SAFETY: the APIC page is identity-mapped, and `offset` is one of `apic_register`'s.
        page => unsafe { ((page + u64::from(offset)) as *const u32).read_volatile() },
    }
}

/// Writes the 32-bit register at `offset`.
#[inline]
pub fn write(offset: u32, value: u32) {
    match PAGE.load(Ordering::Relaxed) {
        // SAFETY: local APIC registers do not change what memory means.
        0 => unsafe { write_msr(msr::X2APIC_FIRST + (offset >> 4), u64::from(value)) },
        // SAFETY: as `read`.
        page => unsafe { ((page + u64::from(offset)) as *mut u32).write_volatile(value) },
    }
}

/// This processor's physical APIC ID.
pub fn id() -> u32 {
    match mode() {
        Mode::X2apic => read(apic_register::ID),
        Mode::Xapic => read(apic_register::ID) >> 24,
    }
}

/// Ends the interrupt in service.
#[inline]
pub fn end_of_interrupt() {
    write(apic_register::END_OF_INTERRUPT, 0);
}

/// Sends the command `low` (an ICR low word) to the processor with physical ID `destination`.
#[inline]
pub fn send(destination: u32, low: u32) {
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // WRMSR 830H does not wait for earlier stores (SDM 10.12.3); whoever is interrupted is
            // to see what was written before.
            core::sync::atomic::fence(Ordering::SeqCst);
            // SAFETY: an interrupt command does not change what memory means here.
            unsafe {
                write_msr(
                    msr::IA32_X2APIC_ICR,
                    u64::from(destination) << 32 | u64::from(low),
                );
            }
        }
        _ => {
            write(apic_register::INTERRUPT_COMMAND_HIGH, destination << 24);
            write(apic_register::INTERRUPT_COMMAND, low);
            while read(apic_register::INTERRUPT_COMMAND) & DELIVERY_PENDING != 0 {
                core::hint::spin_loop();
            }
        }
    }
}

/// Sends fixed interrupt `vector` to this processor.
pub fn send_self(vector: u8) {
    send(id(), u32::from(vector));
}
