//! The end of a run: a status for whoever started the machine.

use super::console;
use super::instructions::{halt_forever, out_8};

/// How the run ended; the value goes to QEMU's isa-debug-exit port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The guest reported success.
    GuestSucceeded = 0x10,
    /// The guest reported a failed check.
    GuestFailed = 0x11,
    /// A VM entry failed.
    EntryFailure = 0x12,
    /// The processor lacks what the hypervisor cannot do without.
    NoVtx = 0x13,
    /// Anything else.
    Other = 0x14,
}

/// QEMU's isa-debug-exit; our machine has it too.
const DEBUG_EXIT: u16 = 0xf4;
/// Bochs's shutdown port.
const BOCHS_SHUTDOWN: u16 = 0x8900;

/// Ends the run: lets the console drain, tells the debug-exit port, Bochs, and then halts.
pub fn stop(status: Status) -> ! {
    console::drain();
    out_8(DEBUG_EXIT, status as u8);
    for byte in b"Shutdown" {
        out_8(BOCHS_SHUTDOWN, *byte);
    }
    halt_forever()
}
