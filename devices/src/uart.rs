//! The 16550 serial port (PC16550D).
//!
//! Transmission takes no time: a byte written leaves at once, so none is ever lost and the
//! transmitter is always empty. The character time-out of the receive FIFO likewise has passed at
//! once: bytes below the trigger level are announced as a time-out.

use crate::Line;

/// I/O port of COM1; its interrupt is IRQ 4.
pub const COM1: u16 = 0x3f8;
/// Number of ports the device claims.
pub const PORTS: u16 = 8;
/// Crystal divided by 16, the baud rate at divisor 1.
pub const BASE_BAUD: u32 = 115_200;

const FIFO_SIZE: usize = 16;

const IER_MASK: u8 = 0x0f;
const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIME_OUT: u8 = 0x0c;
const IIR_FIFOS_ENABLED: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

const LCR_DIVISOR_ACCESS: u8 = 1 << 7;

const MCR_MASK: u8 = 0x1f;
const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;

const MSR_DELTA_CTS: u8 = 1 << 0;
const MSR_DELTA_DSR: u8 = 1 << 1;
const MSR_TRAILING_RI: u8 = 1 << 2;
const MSR_DELTA_DCD: u8 = 1 << 3;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// What the other end of the cable drives: it is there and ready.
const CABLE: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// A 16550.
#[derive(Clone, Debug)]
pub struct Uart {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    modem_delta: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    transmitter_empty_pending: bool,
    fifo: [u8; FIFO_SIZE],
    head: usize,
    length: usize,
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// A UART after reset, its cable plugged in.
    pub const fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_delta: 0,
            scratch: 0,
            divisor: 12,
            overrun: false,
            transmitter_empty_pending: false,
            fifo: [0; FIFO_SIZE],
            head: 0,
            length: 0,
        }
    }

    /// Reads the register at `offset` (0..=7) from the base port.
    pub fn read(&mut self, offset: u16) -> u8 {
        match (offset & 7, self.divisor_access()) {
            (0, true) => self.divisor as u8,
            (1, true) => (self.divisor >> 8) as u8,
            (0, false) => self.pop(),
            (1, false) => self.interrupt_enable,
            (2, _) => self.read_interrupt_identification(),
            (3, _) => self.line_control,
            (4, _) => self.modem_control,
            (5, _) => self.read_line_status(),
            (6, _) => {
                let status = self.modem_status() | self.modem_delta;
                self.modem_delta = 0;
                status
            }
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset` (0..=7) from the base port; the result is the byte that
    /// went out on the line, if one did.
    #[must_use = "a transmitted byte must reach the console"]
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        match (offset & 7, self.divisor_access()) {
            (0, true) => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            (1, true) => self.divisor = (self.divisor & 0x00ff) | u16::from(value) << 8,
            (0, false) => return self.transmit(value),
            (1, false) => {
                let enabled = value & !self.interrupt_enable;
                self.interrupt_enable = value & IER_MASK;
                // PC16550D 8.6: enabling the THRE interrupt while the holding register is empty
                // raises it.
                if enabled & IER_TRANSMITTER_EMPTY != 0 {
                    self.transmitter_empty_pending = true;
                }
            }
            (2, _) => self.write_fifo_control(value),
            (3, _) => self.line_control = value,
            (4, _) => self.write_modem_control(value),
            (7, _) => self.scratch = value,
            // Line and modem status are for reading.
            _ => {}
        }
        None
    }

    /// A byte arrives on the line. In loop-back the receiver is disconnected and the byte is lost;
    /// when there is no room it is lost and the overrun error is set. Ask
    /// [`Self::receive_capacity`] first to lose none.
    pub fn receive(&mut self, byte: u8) {
        if self.modem_control & MCR_LOOP == 0 {
            self.push(byte);
        }
    }

    /// How many bytes [`Self::receive`] would take now without loss.
    pub fn receive_capacity(&self) -> usize {
        if self.modem_control & MCR_LOOP != 0 {
            return 0;
        }
        self.capacity().saturating_sub(self.length)
    }

    /// Nanoseconds that a byte takes on the line: ten bits at the programmed rate.
    pub fn byte_time(&self) -> u64 {
        10 * crate::SECOND / u64::from(self.baud().max(1))
    }

    /// Whether the received-data interrupt is enabled.
    pub fn receive_interrupt_enabled(&self) -> bool {
        self.interrupt_enable & IER_RECEIVED != 0
    }

    /// The interrupt request line. On a PC, OUT2 gates it; in loop-back OUT2 is inactive.
    pub fn interrupt_line(&self) -> Line {
        let gate = self.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        Line::asserted_if(gate && self.pending() != IIR_NONE)
    }

    /// The baud rate that software programmed, for display.
    pub fn baud(&self) -> u32 {
        BASE_BAUD
            .checked_div(u32::from(self.divisor))
            .unwrap_or(BASE_BAUD)
    }

    fn divisor_access(&self) -> bool {
        self.line_control & LCR_DIVISOR_ACCESS != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_control & FCR_ENABLE != 0 {
            FIFO_SIZE
        } else {
            1
        }
    }

    /// PC16550D 8.4: the trigger level of the receive FIFO, FCR bits 7:6.
    fn trigger_level(&self) -> usize {
        if self.fifo_control & FCR_ENABLE == 0 {
            return 1;
        }
        match self.fifo_control >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// PC16550D table IV: the pending interrupt of the highest priority.
    fn pending(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && self.length >= self.trigger_level() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.length > 0 {
            IIR_TIME_OUT
        } else if enabled(IER_TRANSMITTER_EMPTY) && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_delta != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn read_interrupt_identification(&mut self) -> u8 {
        let pending = self.pending();
        // PC16550D table IV: reading IIR, if it is the source, resets the THRE interrupt.
        if pending == IIR_TRANSMITTER_EMPTY {
            self.transmitter_empty_pending = false;
        }
        let fifos = if self.fifo_control & FCR_ENABLE != 0 {
            IIR_FIFOS_ENABLED
        } else {
            0
        };
        pending | fifos
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = LSR_TRANSMITTER_EMPTY;
        if self.length > 0 {
            status |= LSR_DATA_READY;
        }
        if self.overrun {
            status |= LSR_OVERRUN;
        }
        // PC16550D 8.3: reading the register resets the overrun indication.
        self.overrun = false;
        status
    }

    fn write_fifo_control(&mut self, value: u8) {
        // PC16550D 8.4 bit 0: changing the mode clears the FIFOs; bit 0 must be 1 for the other
        // bits to be programmed.
        let changed = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if changed || value & FCR_ENABLE != 0 && value & FCR_CLEAR_RECEIVER != 0 {
            self.length = 0;
        }
        self.fifo_control = if value & FCR_ENABLE != 0 {
            value & 0xc9
        } else {
            0
        };
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_status();
        self.modem_control = value & MCR_MASK;
        let after = self.modem_status();
        let changed = before ^ after;
        for (line, delta) in [
            (MSR_CTS, MSR_DELTA_CTS),
            (MSR_DSR, MSR_DELTA_DSR),
            (MSR_DCD, MSR_DELTA_DCD),
        ] {
            if changed & line != 0 {
                self.modem_delta |= delta;
            }
        }
        // PC16550D 8.8 bit 2: the ring indicator's trailing edge alone counts.
        if before & MSR_RI != 0 && after & MSR_RI == 0 {
            self.modem_delta |= MSR_TRAILING_RI;
        }
    }

    /// The modem lines; PC16550D 8.7 bit 4: in loop-back the four control outputs are connected
    /// to the four inputs.
    fn modem_status(&self) -> u8 {
        if self.modem_control & MCR_LOOP == 0 {
            return CABLE;
        }
        [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ]
        .into_iter()
        .filter(|(output, _)| self.modem_control & output != 0)
        .fold(0, |status, (_, input)| status | input)
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        // The holding register fills and empties in the same instant.
        self.transmitter_empty_pending = true;
        if self.modem_control & MCR_LOOP != 0 {
            self.push(byte);
            return None;
        }
        Some(byte)
    }

    fn push(&mut self, byte: u8) {
        let capacity = self.capacity();
        if self.length >= capacity {
            self.overrun = true;
            // PC16550D 8.3 bit 1: without FIFOs the new character replaces the old one; with them
            // the shift register is overwritten and the FIFO is kept.
            if capacity > 1 {
                return;
            }
            self.length = 0;
        }
        let tail = (self.head + self.length) % FIFO_SIZE;
        if let Some(slot) = self.fifo.get_mut(tail) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn pop(&mut self) -> u8 {
        if self.length == 0 {
            return 0;
        }
        let byte = self.fifo.get(self.head).copied().unwrap_or(0);
        self.head = (self.head + 1) % FIFO_SIZE;
        self.length -= 1;
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(uart: &mut Uart, offset: u16, value: u8) {
        assert_eq!(uart.write(offset, value), None);
    }

    #[test]
    fn every_byte_written_goes_out() {
        let mut uart = Uart::new();
        for byte in 0..=255 {
            assert_eq!(uart.read(5) & 0x60, 0x60);
            assert_eq!(uart.write(0, byte), Some(byte));
        }
    }

    #[test]
    fn divisor_latch_hides_data_and_enable() {
        let mut uart = Uart::new();
        set(&mut uart, 1, 0x05);
        set(&mut uart, 3, 0x83);
        set(&mut uart, 0, 1);
        set(&mut uart, 1, 0);
        assert_eq!((uart.read(0), uart.read(1), uart.baud()), (1, 0, 115_200));
        set(&mut uart, 0, 0);
        assert_eq!(uart.baud(), 115_200);
        set(&mut uart, 3, 0x03);
        assert_eq!((uart.read(1), uart.read(3)), (0x05, 0x03));
    }

    #[test]
    fn received_data_interrupts_at_the_trigger_level() {
        let mut uart = Uart::new();
        set(&mut uart, 2, 0x81);
        set(&mut uart, 1, IER_RECEIVED);
        set(&mut uart, 4, MCR_OUT2);
        assert_eq!(uart.read(2), 0xc1);
        uart.receive(b'a');
        assert_eq!(uart.read(2), 0xcc);
        for _ in 0..7 {
            uart.receive(b'b');
        }
        assert_eq!(uart.read(2), 0xc4);
        assert_eq!(uart.interrupt_line(), Line::Asserted);
        assert_eq!(uart.read(5) & 1, 1);
        assert_eq!(uart.read(0), b'a');
        for _ in 0..7 {
            assert_eq!(uart.read(0), b'b');
        }
        assert_eq!(uart.read(5) & 1, 0);
        assert_eq!(uart.read(2), 0xc1);
        assert_eq!(uart.interrupt_line(), Line::Deasserted);
    }

    #[test]
    fn overrun_is_reported_once() {
        let mut uart = Uart::new();
        set(&mut uart, 2, 1);
        set(&mut uart, 1, IER_LINE_STATUS);
        assert_eq!(uart.receive_capacity(), 16);
        for byte in 0..17 {
            uart.receive(byte);
        }
        assert_eq!(uart.receive_capacity(), 0);
        assert_eq!(uart.read(2), 0xc6);
        assert_eq!(uart.read(5) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(5) & LSR_OVERRUN, 0);
        assert_eq!(uart.read(0), 0);
        // Without FIFOs the newer character wins.
        set(&mut uart, 2, 0);
        uart.receive(1);
        uart.receive(2);
        assert_eq!(uart.read(5) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(0), 2);
    }

    #[test]
    fn transmitter_empty_interrupt_ends_by_reading_its_identification() {
        let mut uart = Uart::new();
        set(&mut uart, 4, MCR_OUT2);
        set(&mut uart, 1, IER_TRANSMITTER_EMPTY);
        assert_eq!(uart.interrupt_line(), Line::Asserted);
        assert_eq!(uart.read(2), IIR_TRANSMITTER_EMPTY);
        assert_eq!(uart.read(2), IIR_NONE);
        assert_eq!(uart.write(0, b'x'), Some(b'x'));
        assert_eq!(uart.read(2), IIR_TRANSMITTER_EMPTY);
        assert_eq!(uart.interrupt_line(), Line::Deasserted);
        // Enabling it again raises it again.
        set(&mut uart, 1, 0);
        set(&mut uart, 1, IER_TRANSMITTER_EMPTY);
        assert_eq!(uart.interrupt_line(), Line::Asserted);
        set(&mut uart, 4, 0);
        assert_eq!(uart.interrupt_line(), Line::Deasserted);
    }

    #[test]
    fn loop_back_connects_outputs_to_inputs() {
        let mut uart = Uart::new();
        assert_eq!(uart.read(6), CABLE);
        set(&mut uart, 4, MCR_LOOP | MCR_RTS | MCR_OUT2);
        assert_eq!(uart.read(6), MSR_CTS | MSR_DCD | MSR_DELTA_DSR);
        assert_eq!(uart.read(6), MSR_CTS | MSR_DCD);
        set(&mut uart, 4, MCR_LOOP | MCR_OUT1);
        assert_eq!(uart.read(6), MSR_RI | MSR_DELTA_CTS | MSR_DELTA_DCD);
        set(&mut uart, 4, MCR_LOOP);
        assert_eq!(uart.read(6), MSR_TRAILING_RI);
        set(&mut uart, 0, b'l');
        uart.receive(b'z');
        assert_eq!(uart.receive_capacity(), 0);
        assert_eq!(uart.read(0), b'l');
        assert_eq!(uart.read(5) & LSR_DATA_READY, 0);
    }

    #[test]
    fn scratch_keeps_and_mode_change_clears() {
        let mut uart = Uart::new();
        set(&mut uart, 7, 0x5a);
        assert_eq!(uart.read(7), 0x5a);
        set(&mut uart, 2, 1);
        uart.receive(1);
        set(&mut uart, 2, 0);
        assert_eq!(uart.read(5) & LSR_DATA_READY, 0);
    }
}
