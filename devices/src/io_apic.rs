//! The I/O APIC (82093AA), with the EOI register of its version 20H.

use crate::Line;
use crate::interrupt_message::{InterruptMessage, InterruptMessages};
use arch::interrupt_command::{DeliveryMode, DestinationMode, TriggerMode};

/// Number of interrupt input pins.
pub const PINS: usize = 24;
/// Where PCs map the registers.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// Size of the register window in bytes.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Offset of the register-select register.
pub const REGISTER_SELECT: u64 = 0x00;
/// Offset of the window on the selected register.
pub const REGISTER_WINDOW: u64 = 0x10;
/// Offset of the EOI register (version 20H only).
pub const END_OF_INTERRUPT: u64 = 0x40;

const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION_TABLE: u8 = 0x10;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const TRIGGER_LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
/// Bits of a redirection entry that exist: 63:56 and 16:0.
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;

/// What the version register says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 11H: the 82093AA; level interrupts end by EOI broadcast alone.
    V11,
    /// 20H: has an EOI register.
    V20,
}

impl Version {
    /// Bits 7:0 of the version register.
    pub const fn number(self) -> u8 {
        match self {
            Self::V11 => 0x11,
            Self::V20 => 0x20,
        }
    }
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    id: u8,
    version: Version,
    select: u8,
    entries: [u64; PINS],
    lines: [Line; PINS],
}

impl IoApic {
    /// An I/O APIC after reset: every pin masked, entries otherwise 0.
    pub const fn new(id: u8, version: Version) -> Self {
        Self {
            id: id & 0x0f,
            version,
            select: 0,
            entries: [MASKED; PINS],
            lines: [Line::Deasserted; PINS],
        }
    }

    /// Reads the 32-bit register at `offset` of the window; unclaimed offsets read as 0.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            REGISTER_SELECT => u32::from(self.select),
            REGISTER_WINDOW => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset` of the window.
    pub fn write(&mut self, offset: u64, value: u32) -> InterruptMessages {
        match offset {
            REGISTER_SELECT => {
                self.select = value as u8;
                InterruptMessages::none()
            }
            REGISTER_WINDOW => self.write_selected(value),
            END_OF_INTERRUPT if self.version == Version::V20 => self.end_of_interrupt(value as u8),
            _ => InterruptMessages::none(),
        }
    }

    /// Sets the level of an input pin. Pins beyond 23 do not exist and are ignored.
    pub fn set_pin(&mut self, pin: usize, line: Line) -> InterruptMessages {
        let mut messages = InterruptMessages::none();
        let (Some(entry), Some(state)) = (self.entries.get(pin), self.lines.get_mut(pin)) else {
            return messages;
        };
        let rising = line.is_asserted() && !state.is_asserted();
        *state = line;
        if is_level(*entry) {
            self.deliver_level(pin, &mut messages);
        } else if rising && entry & MASKED == 0 {
            // 82093AA 3.2.4 bit 16: an edge on a masked pin is ignored, not held pending.
            messages.push(message(*entry));
        }
        messages
    }

    /// A local APIC ended a level-triggered interrupt: `vector` was broadcast to the I/O APICs.
    pub fn end_of_interrupt(&mut self, vector: u8) -> InterruptMessages {
        let mut messages = InterruptMessages::none();
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else {
                break;
            };
            // 82093AA 3.2.4 bit 14: an EOI message resets it.
            if *entry as u8 == vector && is_level(*entry) && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                self.deliver_level(pin, &mut messages);
            }
        }
        messages
    }

    /// The raw redirection entry of a pin, for inspection.
    pub fn redirection_entry(&self, pin: usize) -> Option<u64> {
        self.entries.get(pin).copied()
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            // The ID and the arbitration ID are in bits 27:24.
            ID | ARBITRATION => u32::from(self.id) << 24,
            VERSION => (PINS as u32 - 1) << 16 | u32::from(self.version.number()),
            index => match self.entry_of(index) {
                Some((pin, shift)) => self
                    .entries
                    .get(pin)
                    .map_or(0, |entry| (entry >> shift) as u32),
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) -> InterruptMessages {
        let mut messages = InterruptMessages::none();
        if self.select == ID {
            self.id = (value >> 24) as u8 & 0x0f;
            return messages;
        }
        let Some((pin, shift)) = self.entry_of(self.select) else {
            return messages;
        };
        let Some(entry) = self.entries.get_mut(pin) else {
            return messages;
        };
        let half = 0xffff_ffff_u64 << shift;
        let written = (*entry & !half) | (u64::from(value) << shift);
        *entry = (written & WRITABLE) | (*entry & READ_ONLY);
        if !is_level(*entry) {
            // Remote IRR has no meaning for edge; software that lacks an EOI register ends a stuck
            // level interrupt by a detour through edge.
            *entry &= !REMOTE_IRR;
        }
        self.deliver_level(pin, &mut messages);
        messages
    }

    /// The pin and the shift of its half that register `index` names.
    fn entry_of(&self, index: u8) -> Option<(usize, u32)> {
        let offset = usize::from(index.checked_sub(REDIRECTION_TABLE)?);
        (offset < 2 * PINS).then_some((offset / 2, if offset % 2 == 0 { 0 } else { 32 }))
    }

    /// Sends a level-triggered pin's message if it is asserted, unmasked and not in service.
    fn deliver_level(&mut self, pin: usize, messages: &mut InterruptMessages) {
        let (Some(entry), Some(line)) = (self.entries.get_mut(pin), self.lines.get(pin)) else {
            return;
        };
        if is_level(*entry) && *entry & (MASKED | REMOTE_IRR) == 0 && line.is_asserted() {
            // 82093AA 3.2.4 bit 14: set when the local APICs accept the level interrupt.
            *entry |= REMOTE_IRR;
            messages.push(message(*entry));
        }
    }
}

/// Whether the pin behaves as level-triggered. 82093AA 3.2.4 bits 10:8: SMI, NMI, INIT and ExtINT
/// are edge-triggered whatever bit 15 says.
fn is_level(entry: u64) -> bool {
    entry & TRIGGER_LEVEL != 0
        && matches!(
            DeliveryMode::from_bits((entry >> 8) as u8),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        )
}

fn message(entry: u64) -> InterruptMessage {
    InterruptMessage {
        vector: entry as u8,
        delivery_mode: DeliveryMode::from_bits((entry >> 8) as u8),
        destination_mode: if entry >> 11 & 1 != 0 {
            DestinationMode::Logical
        } else {
            DestinationMode::Physical
        },
        destination: (entry >> 56) as u32,
        trigger_mode: if is_level(entry) {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Line::{Asserted, Deasserted};

    fn set_entry(apic: &mut IoApic, pin: u8, entry: u64) -> usize {
        apic.write(REGISTER_SELECT, u32::from(REDIRECTION_TABLE + 2 * pin + 1))
            .count()
            + apic.write(REGISTER_WINDOW, (entry >> 32) as u32).count()
            + apic
                .write(REGISTER_SELECT, u32::from(REDIRECTION_TABLE + 2 * pin))
                .count()
            + apic.write(REGISTER_WINDOW, entry as u32).count()
    }

    fn read(apic: &mut IoApic, index: u8) -> u32 {
        assert_eq!(apic.write(REGISTER_SELECT, u32::from(index)).count(), 0);
        apic.read(REGISTER_WINDOW)
    }

    #[test]
    fn identification_registers() {
        let mut apic = IoApic::new(5, Version::V20);
        assert_eq!(read(&mut apic, ID), 0x0500_0000);
        assert_eq!(read(&mut apic, ARBITRATION), 0x0500_0000);
        // 82093AA 3.2.2: maximum redirection entry in 23:16 is 17H for 24 pins.
        assert_eq!(read(&mut apic, VERSION), 0x0017_0020);
        assert_eq!(read(&mut apic, 0x10), 0x0001_0000);
        assert_eq!(read(&mut apic, 0x40), 0);
        assert_eq!(read(&mut apic, 0xff), 0);
        assert_eq!(
            read(&mut IoApic::new(0, Version::V11), VERSION),
            0x0017_0011
        );
    }

    #[test]
    fn edge_pin_sends_once_a_rise() {
        let mut apic = IoApic::new(0, Version::V20);
        set_entry(&mut apic, 2, 0x0300_0000_0000_0830);
        let sent: [Option<InterruptMessage>; 2] = {
            let mut m = apic.set_pin(2, Asserted);
            [m.next(), m.next()]
        };
        assert_eq!(
            sent,
            [
                Some(InterruptMessage {
                    vector: 0x30,
                    delivery_mode: DeliveryMode::Fixed,
                    destination_mode: DestinationMode::Logical,
                    destination: 3,
                    trigger_mode: TriggerMode::Edge,
                }),
                None
            ]
        );
        assert_eq!(apic.set_pin(2, Asserted).count(), 0);
        assert_eq!(apic.set_pin(2, Deasserted).count(), 0);
        assert_eq!(apic.set_pin(2, Asserted).count(), 1);
        assert_eq!(apic.end_of_interrupt(0x30).count(), 0);
    }

    #[test]
    fn masked_edge_is_lost_masked_level_is_held() {
        let mut apic = IoApic::new(0, Version::V20);
        set_entry(&mut apic, 1, MASKED | 0x31);
        assert_eq!(apic.set_pin(1, Asserted).count(), 0);
        assert_eq!(set_entry(&mut apic, 1, 0x31), 0);
        set_entry(&mut apic, 9, MASKED | TRIGGER_LEVEL | 0x39);
        assert_eq!(apic.set_pin(9, Asserted).count(), 0);
        assert_eq!(set_entry(&mut apic, 9, TRIGGER_LEVEL | 0x39), 1);
    }

    #[test]
    fn level_pin_waits_for_the_end_of_interrupt() {
        let mut apic = IoApic::new(0, Version::V20);
        set_entry(&mut apic, 9, TRIGGER_LEVEL | 0x39);
        set_entry(&mut apic, 10, TRIGGER_LEVEL | 0x39);
        assert_eq!(apic.set_pin(9, Asserted).count(), 1);
        assert_eq!(apic.set_pin(10, Asserted).count(), 1);
        assert_eq!(read(&mut apic, 0x10 + 18) as u64 & REMOTE_IRR, REMOTE_IRR);
        assert_eq!(apic.set_pin(9, Deasserted).count(), 0);
        assert_eq!(apic.set_pin(9, Asserted).count(), 0);
        assert_eq!(apic.end_of_interrupt(0x38).count(), 0);
        // Both pins share the vector and are still asserted.
        assert_eq!(apic.end_of_interrupt(0x39).count(), 2);
        assert_eq!(apic.set_pin(9, Deasserted).count(), 0);
        assert_eq!(apic.write(END_OF_INTERRUPT, 0x39).count(), 1);
        assert_eq!(apic.set_pin(10, Deasserted).count(), 0);
        assert_eq!(apic.write(END_OF_INTERRUPT, 0x39).count(), 0);
        assert_eq!(read(&mut apic, 0x10 + 20) as u64 & REMOTE_IRR, 0);
    }

    #[test]
    fn version_11_has_no_end_of_interrupt_register() {
        let mut apic = IoApic::new(0, Version::V11);
        set_entry(&mut apic, 9, TRIGGER_LEVEL | 0x39);
        assert_eq!(apic.set_pin(9, Asserted).count(), 1);
        assert_eq!(apic.write(END_OF_INTERRUPT, 0x39).count(), 0);
        // The detour through edge clears remote IRR.
        set_entry(&mut apic, 9, MASKED | 0x39);
        assert_eq!(set_entry(&mut apic, 9, TRIGGER_LEVEL | 0x39), 1);
    }

    #[test]
    fn status_bits_cannot_be_written() {
        let mut apic = IoApic::new(0, Version::V20);
        set_entry(&mut apic, 0, !0);
        assert_eq!(apic.redirection_entry(0), Some(0xff00_0000_0001_afff));
    }

    #[test]
    fn absent_pins_and_offsets_are_ignored() {
        let mut apic = IoApic::new(0, Version::V20);
        assert_eq!(apic.set_pin(PINS, Asserted).count(), 0);
        assert_eq!(apic.write(0x44, !0).count(), 0);
        assert_eq!(apic.read(0x44), 0);
    }

    #[test]
    fn nmi_is_edge_whatever_the_trigger_bit_says() {
        let mut apic = IoApic::new(0, Version::V20);
        set_entry(&mut apic, 3, TRIGGER_LEVEL | 0x400);
        let sent = apic.set_pin(3, Asserted).next().unwrap();
        assert_eq!(sent.delivery_mode, DeliveryMode::Nmi);
        assert_eq!(sent.trigger_mode, TriggerMode::Edge);
        assert_eq!(apic.set_pin(3, Deasserted).count(), 0);
        assert_eq!(apic.set_pin(3, Asserted).count(), 1);
    }
}
