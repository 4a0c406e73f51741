//! The interrupt messages between local APICs and from devices.

use apic::routing::{
    Delivery, Destination, Identity, InterruptMessage, route_command, route_message,
};
use arch::interrupt_command::InterruptCommand;

use super::{Platform, lock};

/// Whether an interrupt command reached anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// At least one processor took it.
    Accepted,
    /// Nobody did.
    Unaccepted,
}

impl Platform {
    /// Publishes what routing must know of processor `index`.
    pub fn set_identity(&self, index: usize, identity: Identity) {
        if let Some(place) = lock(&self.identities).get_mut(index) {
            *place = identity;
        }
    }

    /// Sends the interrupt command of processor `sender`.
    pub fn send_command(&self, command: InterruptCommand, sender: usize) -> Sent {
        let identities = lock(&self.identities);
        let recipients = route_command(command, sender, &identities);
        let delivery = recipients.delivery();
        let mut sent = Sent::Unaccepted;
        for index in recipients {
            self.post(index, delivery);
            sent = Sent::Accepted;
        }
        sent
    }

    /// Sends a message of an I/O APIC.
    pub fn send_message(&self, message: devices::interrupt_message::InterruptMessage) {
        let message = InterruptMessage {
            vector: message.vector,
            delivery_mode: message.delivery_mode,
            destination_mode: message.destination_mode,
            destination: Destination::Xapic(message.destination as u8),
            trigger_mode: message.trigger_mode,
        };
        let identities = lock(&self.identities);
        let recipients = route_message(message, &identities);
        let delivery = recipients.delivery();
        for index in recipients {
            self.post(index, delivery);
        }
    }

    fn post(&self, index: usize, delivery: Delivery) {
        let Some(inbox) = self.inboxes.get(index) else {
            return;
        };
        let mailbox = &inbox.mailbox;
        match delivery {
            Delivery::Fixed {
                vector,
                trigger_mode,
            } => mailbox.post_vector(vector, trigger_mode),
            Delivery::NonMaskable => mailbox.post_non_maskable(),
            Delivery::SystemManagement => mailbox.post_system_management(),
            Delivery::Init => mailbox.post_init(),
            Delivery::StartUp { vector } => mailbox.post_start_up(vector),
            Delivery::ExternalInterrupt => mailbox.post_external_message(),
        };
        self.note_posted();
        self.wake(index);
    }
}
