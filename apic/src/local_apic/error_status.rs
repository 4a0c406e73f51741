//! The error status register (SDM 10.5.3 Error Handling).

use arch::apic_register::{ERROR_STATUS, LVT_ERROR, LVT_MASKED};
use arch::interrupt_command::TriggerMode;

use super::LocalApic;
use crate::register_page::RegisterPage;

/// A bit of ESR that current processors set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicError {
    /// A lowest-priority command on a processor without them.
    RedirectableIpi,
    /// A command with a vector below 16.
    SendIllegalVector,
    /// An interrupt received or generated locally with a vector below 16.
    ReceiveIllegalVector,
    /// Access to a reserved register, in xAPIC mode.
    IllegalRegister,
}

impl ApicError {
    /// The bit.
    pub const fn bit(self) -> u32 {
        match self {
            Self::RedirectableIpi => 1 << 4,
            Self::SendIllegalVector => 1 << 5,
            Self::ReceiveIllegalVector => 1 << 6,
            Self::IllegalRegister => 1 << 7,
        }
    }
}

impl<P: RegisterPage> LocalApic<P> {
    /// Notes an error, to be seen after the next write of ESR, and raises the error interrupt.
    // SDM 10.5.3 Error Handling: the interrupt comes when an error bit is set. From that, a second
    // error of a kind before ESR is written sets nothing and raises no second interrupt.
    pub(super) fn record_error(&mut self, error: ApicError) {
        if self.errors & error.bit() != 0 {
            return;
        }
        self.errors |= error.bit();
        let entry = self.page.read(LVT_ERROR);
        if entry & LVT_MASKED != 0 {
            return;
        }
        let vector = entry as u8;
        if vector < 16 {
            // The entry itself is the next error; its interrupt cannot be delivered either.
            self.errors |= ApicError::ReceiveIllegalVector.bit();
        } else {
            self.request(vector, TriggerMode::Edge);
        }
    }

    /// A write of ESR: latches what happened since the last one.
    pub(super) fn latch_errors(&mut self) {
        self.page.write(ERROR_STATUS, self.errors);
        self.errors = 0;
    }
}
