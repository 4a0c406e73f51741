//! Delivery of exceptions and interrupts through the IDT (SDM 6.12).

use super::{Activity, Cpu, raise::Exception};

impl Cpu {
    /// Delivers an exception.
    pub fn deliver_exception(&mut self, _exception: Exception) {
        self.activity = Activity::Shutdown;
        self.look_at_events();
    }
}
