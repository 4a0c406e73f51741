//! The device that test programs written for QEMU raise interrupt lines and see I/O accesses with (QEMU,
//! `hw/misc/pc-testdev.c`): ports that keep what is written, and a port for each interrupt line. Its
//! memory, which keeps what is written too, is [`crate::test_memory`].

use crate::Line;
use crate::io_apic::PINS;

/// First port of the data that accesses of every size share.
const DATA: u16 = 0xe0;
/// First port of the data that is accessed byte by byte.
const BYTES: u16 = 0xe8;
/// Ports of either.
const DATA_PORTS: u16 = 4;
/// The page that a write names was to be dropped from caches; there are none.
const FLUSH: u16 = 0xe4;
/// The port of interrupt request 0; others follow.
const LINES: u16 = 0x2000;

/// Guest-physical address of its memory.
pub const MEMORY: u64 = 0xff00_0000;
/// Bytes of it.
pub const MEMORY_SIZE: usize = 0x1_0000;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// A byte of the shared data.
    Data(usize),
    /// Nothing happens.
    Flush,
    /// An interrupt request.
    Request(u8),
}

impl Port {
    fn of(port: u16) -> Option<Self> {
        let within = |first: u16, count: u16| port.checked_sub(first).filter(|it| *it < count);
        if let Some(place) = within(DATA, DATA_PORTS).or_else(|| within(BYTES, DATA_PORTS)) {
            Some(Self::Data(place.into()))
        } else if within(FLUSH, DATA_PORTS).is_some() {
            Some(Self::Flush)
        } else {
            within(LINES, PINS as u16).map(|number| Self::Request(number as u8))
        }
    }
}

/// The device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestDevice {
    data: [u8; DATA_PORTS as usize],
    requests: u32,
}

impl TestDevice {
    /// The device after reset.
    pub const fn new() -> Self {
        Self {
            data: [0; DATA_PORTS as usize],
            requests: 0,
        }
    }

    /// Whether a port is one of these.
    pub fn claims(port: u16) -> bool {
        Port::of(port).is_some()
    }

    /// Reads a byte.
    pub fn read(&self, port: u16) -> u8 {
        match Port::of(port) {
            Some(Port::Data(place)) => self.data.get(place).copied().unwrap_or(0),
            Some(Port::Flush | Port::Request(_)) | None => 0,
        }
    }

    /// Writes a byte; gives the interrupt request whose line it drives, if it does.
    #[must_use = "the line has to be driven"]
    pub fn write(&mut self, port: u16, value: u8) -> Option<(u8, Line)> {
        match Port::of(port)? {
            Port::Data(place) => {
                if let Some(byte) = self.data.get_mut(place) {
                    *byte = value;
                }
                None
            }
            Port::Flush => None,
            Port::Request(number) => {
                let line = Line::asserted_if(value != 0);
                self.requests = self.requests & !(1 << number) | u32::from(value != 0) << number;
                Some((number, line))
            }
        }
    }

    /// How it drives an interrupt request's line.
    pub const fn line(&self, request: u8) -> Line {
        Line::asserted_if(self.requests >> (request & 31) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_ports_keep_what_is_written() {
        let mut device = TestDevice::new();
        assert_eq!(device.write(0xe0, 0x11), None);
        assert_eq!(device.write(0xe3, 0x44), None);
        assert_eq!(device.write(0xe4, 0x99), None);
        assert_eq!(
            [0xe0, 0xe1, 0xe3].map(|port| device.read(port)),
            [0x11, 0, 0x44]
        );
        assert_eq!(device.read(0xe8), 0x11);
        for port in [0xdf, 0xec, 0x1fff, 0x2018] {
            assert!(!TestDevice::claims(port), "{port:#x}");
        }
    }

    #[test]
    fn each_request_has_a_port() {
        let mut device = TestDevice::new();
        assert_eq!(device.write(0x200e, 1), Some((14, Line::Asserted)));
        assert_eq!(device.write(0x2017, 0xff), Some((23, Line::Asserted)));
        assert!(device.line(14).is_asserted() && !device.line(15).is_asserted());
        assert_eq!(device.write(0x200e, 0), Some((14, Line::Deasserted)));
        assert!(!device.line(14).is_asserted());
    }
}
