//! COM1, phase marks and the end of the run.

use super::instruction::{in_byte, out_byte, out_doubleword, stop};
use core::fmt::{self, Write};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
/// Transmitter holding register empty.
const THRE: u8 = 1 << 5;
/// Transmitter empty: the last bit has left.
const TEMT: u8 = 1 << 6;

/// The serial console.
pub(super) struct Console;

impl Console {
    /// 115,200 baud, 8 data bits, no interrupts.
    pub(super) fn initialize() {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 3)] {
            out_byte(COM1 + register, value);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in_byte(LINE_STATUS) & THRE == 0 {}
            out_byte(COM1, byte);
        }
        Ok(())
    }
}

/// Writes a line to the console. Only the boot processor, or one that stops the run, writes.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // Writing to the console cannot fail.
        let _ = writeln!($crate::image::console::Console, $($argument)*);
    }};
}
pub(super) use say;

/// Where a phase begins and ends, for the machine's counters.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Begin,
    End,
}

/// Marks a phase by number.
pub(super) fn mark(mark: Mark, phase: u8) {
    let word = match mark {
        Mark::Begin => 0x0100_0000,
        Mark::End => 0x0200_0000,
    };
    out_doubleword(0xf5, word | u32::from(phase));
}

/// How the run ended, as the byte at port F4H.
#[derive(Clone, Copy)]
pub(super) enum Status {
    Success = 0x10,
    CheckFailed = 0x11,
    /// It could not run, or an exception or a panic ended it.
    Error = 0x12,
}

/// Ends the run.
pub(super) fn exit(status: Status) -> ! {
    while in_byte(LINE_STATUS) & TEMT == 0 {}
    out_byte(0xf4, status as u8);
    // Bochs' way to end.
    for byte in b"Shutdown" {
        out_byte(0x8900, *byte);
    }
    stop()
}
