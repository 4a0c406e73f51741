//! The interruption-information fields of the VMCS (SDM 24.8.3 VM-entry controls for event
//! injection, 24.9.2 Information for VM exits due to vectored events).

/// Interruption type (bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterruptionType {
    /// 0: external interrupt.
    ExternalInterrupt,
    /// 1: reserved.
    Reserved,
    /// 2: non-maskable interrupt.
    NonMaskable,
    /// 3: hardware exception.
    HardwareException,
    /// 4: INT n.
    SoftwareInterrupt,
    /// 5: INT1.
    PrivilegedSoftwareException,
    /// 6: INT3 or INTO.
    SoftwareException,
    /// 7: other event (entry: pending MTF).
    Other,
}

impl InterruptionType {
    /// Decodes the three bits; bits above are ignored.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::ExternalInterrupt,
            1 => Self::Reserved,
            2 => Self::NonMaskable,
            3 => Self::HardwareException,
            4 => Self::SoftwareInterrupt,
            5 => Self::PrivilegedSoftwareException,
            6 => Self::SoftwareException,
            _ => Self::Other,
        }
    }

    /// The three bits.
    pub const fn bits(self) -> u32 {
        self as u32
    }
}

/// A 32-bit interruption-information field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct InterruptionInformation(pub u32);

impl InterruptionInformation {
    /// Bit 31: the field is valid.
    pub const VALID: u32 = 1 << 31;
    /// Bit 11: an error code is delivered / was delivered.
    pub const ERROR_CODE: u32 = 1 << 11;
    /// Bit 12 on exit: NMI unblocking due to IRET.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;

    /// A valid field.
    pub const fn new(vector: u8, kind: InterruptionType, error_code: bool) -> Self {
        Self(Self::VALID | vector as u32 | kind.bits() << 8 | (error_code as u32) << 11)
    }

    /// Bits 7:0.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Bits 10:8.
    pub const fn interruption_type(self) -> InterruptionType {
        InterruptionType::from_bits(self.0 >> 8)
    }

    /// Bit 11.
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE != 0
    }

    /// Bit 31.
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }
}
