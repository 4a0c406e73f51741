//! The interrupt command register (SDM 10.6.1 Interrupt command register, 10.12.9 ICR operation in
//! x2APIC mode).

/// How an interrupt is to be delivered (ICR bits 10:8, LVT bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// To every destination, with the given vector.
    Fixed,
    /// To the destination that runs at the lowest priority.
    LowestPriority,
    /// System-management interrupt.
    Smi,
    /// A value the manual reserves: 011b in the ICR (remote read on old processors).
    Reserved,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// INIT, or INIT level de-assert.
    Init,
    /// Start-up; the vector is the page where the processor starts.
    StartUp,
    /// External interrupt (8259), in LVT entries and I/O APIC entries only.
    ExternalInterrupt,
}

impl DeliveryMode {
    /// Decodes the three bits; bits above the low three are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExternalInterrupt,
        }
    }

    /// The three bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::Reserved => 3,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::StartUp => 6,
            Self::ExternalInterrupt => 7,
        }
    }
}

/// How the destination field is read (ICR bit 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationMode {
    /// An APIC ID.
    Physical,
    /// A message destination address matched against logical IDs.
    Logical,
}

/// Destination shorthand (ICR bits 19:18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// The destination field says.
    None,
    /// The sender alone.
    SelfOnly,
    /// Every processor.
    AllIncludingSelf,
    /// Every processor but the sender.
    AllExcludingSelf,
}

/// Trigger mode (ICR bit 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TriggerMode {
    /// Edge.
    Edge,
    /// Level.
    Level,
}

/// Delivery status (bit 12): "busy". Reserved in x2APIC mode.
pub const DELIVERY_STATUS: u64 = 1 << 12;
/// Level (bit 14): 1 asserts, 0 de-asserts; matters for INIT only.
pub const LEVEL_ASSERT: u64 = 1 << 14;
/// Bits of the low word whose setting makes WRMSR 830H fault: 31:20, 17:16, 13 (SDM 10.12.9).
pub const X2APIC_RESERVED: u64 = 0xfff3_2000;
/// The x2APIC destination that means every processor.
pub const X2APIC_BROADCAST: u32 = 0xffff_ffff;
/// The xAPIC destination that means every processor.
pub const XAPIC_BROADCAST: u32 = 0xff;

/// A decoded interrupt command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterruptCommand {
    /// Bits 7:0.
    pub vector: u8,
    /// Bits 10:8.
    pub delivery_mode: DeliveryMode,
    /// Bit 11.
    pub destination_mode: DestinationMode,
    /// Bit 14 is 1.
    pub assert: bool,
    /// Bit 15.
    pub trigger_mode: TriggerMode,
    /// Bits 19:18.
    pub shorthand: Shorthand,
    /// Bits 63:56 in xAPIC mode (0..=255), bits 63:32 in x2APIC mode.
    pub destination: u32,
}

impl InterruptCommand {
    /// Decodes the low word; `destination` is given already cut out of the high word.
    pub const fn decode(low: u32, destination: u32) -> Self {
        Self {
            vector: low as u8,
            delivery_mode: DeliveryMode::from_bits((low >> 8) as u8),
            destination_mode: if low >> 11 & 1 != 0 {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            assert: low >> 14 & 1 != 0,
            trigger_mode: if low >> 15 & 1 != 0 {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
            shorthand: match low >> 18 & 3 {
                0 => Shorthand::None,
                1 => Shorthand::SelfOnly,
                2 => Shorthand::AllIncludingSelf,
                _ => Shorthand::AllExcludingSelf,
            },
            destination,
        }
    }

    /// Decodes the two xAPIC words; the destination is bits 31:24 of `high`.
    pub const fn from_xapic(low: u32, high: u32) -> Self {
        Self::decode(low, high >> 24)
    }

    /// Decodes the 64-bit x2APIC register.
    pub const fn from_x2apic(value: u64) -> Self {
        Self::decode(value as u32, (value >> 32) as u32)
    }

    /// The low word: everything but the destination, with delivery status 0.
    pub const fn low(self) -> u32 {
        let shorthand = match self.shorthand {
            Shorthand::None => 0,
            Shorthand::SelfOnly => 1,
            Shorthand::AllIncludingSelf => 2,
            Shorthand::AllExcludingSelf => 3,
        };
        self.vector as u32
            | (self.delivery_mode.bits() as u32) << 8
            | (matches!(self.destination_mode, DestinationMode::Logical) as u32) << 11
            | (self.assert as u32) << 14
            | (matches!(self.trigger_mode, TriggerMode::Level) as u32) << 15
            | shorthand << 18
    }

    /// The 64-bit x2APIC register.
    pub const fn to_x2apic(self) -> u64 {
        self.low() as u64 | (self.destination as u64) << 32
    }
}
