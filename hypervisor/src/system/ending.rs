//! How a virtual machine ends.

/// How a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest wrote this to port F4H.
    GuestExit(u8),
    /// The guest switched its machine off.
    PowerOff,
    /// The guest reset its machine, as Linux does after a panic.
    Reset,
    /// The guest did what ends it: a triple fault, an access that nothing can emulate.
    GuestCrashed,
    /// The processor refused to enter the guest, or a VMX instruction failed.
    EntryFailure,
    /// A machine check.
    MachineCheck,
}

impl Ending {
    pub(super) const fn encode(self) -> u32 {
        match self {
            Self::GuestExit(status) => status as u32,
            Self::PowerOff => 0x100,
            Self::GuestCrashed => 0x101,
            Self::Reset => 0x102,
            Self::EntryFailure => 0x103,
            Self::MachineCheck => 0x104,
        }
    }

    pub(super) const fn decode(code: u32) -> Self {
        match code {
            0x100 => Self::PowerOff,
            0x101 => Self::GuestCrashed,
            0x102 => Self::Reset,
            0x103 => Self::EntryFailure,
            0x104 => Self::MachineCheck,
            status => Self::GuestExit(status as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_is_decoded_as_it_was_encoded() {
        for ending in [
            Ending::GuestExit(0),
            Ending::GuestExit(0xff),
            Ending::PowerOff,
            Ending::Reset,
            Ending::GuestCrashed,
            Ending::EntryFailure,
            Ending::MachineCheck,
        ] {
            assert_eq!(Ending::decode(ending.encode()), ending);
        }
    }
}
