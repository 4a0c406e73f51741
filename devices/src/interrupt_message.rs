//! The message by which an I/O APIC or a device asks a local APIC for an interrupt.

use arch::interrupt_command::{DeliveryMode, DestinationMode, TriggerMode};

/// One interrupt message on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterruptMessage {
    /// The vector; meaningless for NMI, SMI, INIT and external interrupts.
    pub vector: u8,
    /// How to deliver it.
    pub delivery_mode: DeliveryMode,
    /// How to read `destination`.
    pub destination_mode: DestinationMode,
    /// Eight bits: an APIC ID (255 is everyone) or a logical destination.
    pub destination: u32,
    /// Level-triggered messages come back as an EOI broadcast.
    pub trigger_mode: TriggerMode,
}

const EMPTY: InterruptMessage = InterruptMessage {
    vector: 0,
    delivery_mode: DeliveryMode::Fixed,
    destination_mode: DestinationMode::Physical,
    destination: 0,
    trigger_mode: TriggerMode::Edge,
};

/// The messages one access caused, in the order of their pins; iterate to send them.
#[derive(Clone, Debug)]
#[must_use = "the caller delivers interrupt messages"]
pub struct InterruptMessages {
    list: [InterruptMessage; super::io_apic::PINS],
    next: usize,
    end: usize,
}

impl InterruptMessages {
    /// No message.
    pub const fn none() -> Self {
        Self {
            list: [EMPTY; super::io_apic::PINS],
            next: 0,
            end: 0,
        }
    }

    /// Appends a message; an access causes at most one for each pin, so there is room.
    pub(crate) fn push(&mut self, message: InterruptMessage) {
        if let Some(slot) = self.list.get_mut(self.end) {
            *slot = message;
            self.end += 1;
        }
    }
}

impl Iterator for InterruptMessages {
    type Item = InterruptMessage;

    fn next(&mut self) -> Option<InterruptMessage> {
        if self.next >= self.end {
            return None;
        }
        let message = self.list.get(self.next).copied();
        self.next += 1;
        message
    }
}
