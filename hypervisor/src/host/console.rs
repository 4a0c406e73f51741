//! The serial console on COM1. One `say!` is one lock, so lines of several processors never mix.

use super::instructions::{in_8, out_8};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

const COM1: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const RECEIVED_DATA: u8 = 1 << 0;
const MODEM_CONTROL: u16 = COM1 + 4;
/// Data terminal ready, request to send, and OUT2, which on a PC lets the interrupt through.
const READY_WITH_INTERRUPTS: u8 = 0x0b;
const LINE_STATUS: u16 = COM1 + 5;
const DATA_READY: u8 = 1 << 0;
/// What a port reads as where there is no UART.
const ABSENT: u8 = 0xff;
const TRANSMITTER_HOLDING_EMPTY: u8 = 1 << 5;
const TRANSMITTER_EMPTY: u8 = 1 << 6;

static BUSY: AtomicBool = AtomicBool::new(false);
/// Whether a guest has written part of a line; who holds the console knows.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Programs COM1 for 115200 8N1 with FIFOs, interrupts off.
pub fn initialize() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 3)] {
        out_8(COM1 + register, value);
    }
}

/// Lets COM1 raise an interrupt when a byte arrives.
pub fn listen() {
    out_8(MODEM_CONTROL, READY_WITH_INTERRUPTS);
    out_8(INTERRUPT_ENABLE, RECEIVED_DATA);
}

/// Takes a byte that has arrived.
pub fn receive() -> Option<u8> {
    let status = in_8(LINE_STATUS);
    (status != ABSENT && status & DATA_READY != 0).then(|| in_8(COM1))
}

/// Waits until the last byte has left the transmitter.
pub fn drain() {
    for _ in 0..1_000_000u32 {
        if in_8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            return;
        }
    }
}

fn put(byte: u8) {
    // A missing UART reads FFH, a stuck one must not hang the hypervisor.
    for _ in 0..1_000_000u32 {
        if in_8(LINE_STATUS) & TRANSMITTER_HOLDING_EMPTY != 0 {
            break;
        }
    }
    out_8(COM1, byte);
}

struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn lock() {
    while BUSY
        .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        core::hint::spin_loop();
    }
}

/// Prints `arguments`, whole lines; what [`say!`](crate::say) calls.
pub fn print(arguments: fmt::Arguments) {
    with_writer(|out| {
        // Com1 never fails.
        let _ = out.write_fmt(arguments);
    });
}

/// Runs `body`, which writes whole lines, with the console to itself. They begin lines of their own
/// whatever a guest has written: its prompt must not hide a report.
pub fn with_writer(body: impl FnOnce(&mut dyn Write)) {
    lock();
    if IN_LINE.swap(false, Ordering::Relaxed) {
        put(b'\r');
        put(b'\n');
    }
    body(&mut Com1);
    BUSY.store(false, Ordering::Release);
}

/// Writes bytes as they are: what a guest sends to its own serial port.
pub fn put_guest_bytes(bytes: &[u8]) {
    lock();
    bytes.iter().for_each(|byte| put(*byte));
    if let Some(last) = bytes.last() {
        IN_LINE.store(*last != b'\n', Ordering::Relaxed);
    }
    BUSY.store(false, Ordering::Release);
}

/// Takes the console from whoever holds it: only before stopping for good.
pub fn force_unlock() {
    BUSY.store(false, Ordering::Release);
}

/// Prints one line on the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::host::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
