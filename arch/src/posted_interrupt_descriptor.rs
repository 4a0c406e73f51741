//! The posted-interrupt descriptor (SDM 30.6 Posted-interrupt processing, table "Format of
//! posted-interrupt descriptor"): 64 bytes, aligned to 64.

/// Size and alignment in bytes.
pub const SIZE: usize = 64;
/// Byte offset of the posted-interrupt requests (PIR): 256 bits, bit `v` requests vector `v`.
pub const REQUESTS: usize = 0;
/// Byte offset of the 64-bit control word: ON, SN, NV and NDST.
pub const CONTROL: usize = 32;

/// The 64-bit word at byte 32 (descriptor bits 319:256).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Control(pub u64);

impl Control {
    /// ON, outstanding notification (descriptor bit 256).
    pub const OUTSTANDING_NOTIFICATION: u64 = 1 << 0;
    /// SN, suppress notification (descriptor bit 257).
    pub const SUPPRESS_NOTIFICATION: u64 = 1 << 1;

    /// ON.
    pub const fn outstanding_notification(self) -> bool {
        self.0 & Self::OUTSTANDING_NOTIFICATION != 0
    }

    /// SN.
    pub const fn suppress_notification(self) -> bool {
        self.0 & Self::SUPPRESS_NOTIFICATION != 0
    }

    /// NV, the physical vector of the notification (descriptor bits 279:272).
    pub const fn notification_vector(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// NDST, the raw physical destination (descriptor bits 319:288).
    pub const fn notification_destination(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same word with ON set or cleared.
    pub const fn with_outstanding_notification(self, on: bool) -> Self {
        Self(self.0 & !Self::OUTSTANDING_NOTIFICATION | on as u64)
    }

    /// The same word with SN set or cleared.
    pub const fn with_suppress_notification(self, on: bool) -> Self {
        Self(self.0 & !Self::SUPPRESS_NOTIFICATION | (on as u64) << 1)
    }

    /// The same word with another NV.
    pub const fn with_notification_vector(self, vector: u8) -> Self {
        Self(self.0 & !(0xff << 16) | (vector as u64) << 16)
    }

    /// The same word with another raw NDST.
    pub const fn with_notification_destination(self, destination: u32) -> Self {
        Self(self.0 & 0xffff_ffff | (destination as u64) << 32)
    }
}

/// NDST for a physical local APIC in xAPIC mode: the 8-bit ID in bits 15:8.
pub const fn xapic_destination(apic_id: u8) -> u32 {
    (apic_id as u32) << 8
}
