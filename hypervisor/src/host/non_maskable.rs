//! Non-maskable interrupts of the machine. The hypervisor asks for none, so each is somebody else's, a
//! button or a watchdog: it is counted, said once, and the work goes on.

use super::instructions::in_8;
use crate::say;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// NMIs that came while a processor was in root mode; the stub of vector 2 counts (`image/exceptions.s`).
/// It does nothing else, for the code interrupted may hold any lock and any register.
#[allow(unsafe_code, reason = "the stub names it")]
#[unsafe(no_mangle)]
static NON_MASKABLE_INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Whether the first was said.
static SAID: AtomicBool = AtomicBool::new(false);

/// System control port B, whose bits 7 and 6 say that a bus or a memory error raised the NMI.
const SYSTEM_CONTROL_PORT_B: u16 = 0x61;

/// An NMI made a guest exit.
pub fn note() {
    NON_MASKABLE_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// How many there were.
pub fn count() -> u64 {
    NON_MASKABLE_INTERRUPTS.load(Ordering::Relaxed)
}

/// Says that there was one, the first time that this finds one.
#[inline]
pub fn say_first() {
    if count() != 0 && !SAID.swap(true, Ordering::Relaxed) {
        let status = in_8(SYSTEM_CONTROL_PORT_B);
        say!(
            "posthaste: a non-maskable interrupt that nobody asked for (port 61H is {status:02X}H); going on"
        );
    }
}
