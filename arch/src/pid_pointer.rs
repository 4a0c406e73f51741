//! Entries of the PID-pointer table (SDM 30.1.6 IPI virtualization). "PID" is the manual's
//! abbreviation of posted-interrupt descriptor; elsewhere this project spells it out.

/// One 8-byte entry, indexed by virtual APIC ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PidPointerEntry(pub u64);

impl PidPointerEntry {
    /// Size in bytes.
    pub const SIZE: u64 = 8;
    /// The entry points to a descriptor.
    pub const VALID: u64 = 1 << 0;
    /// Bits 5:0 together must be 000001b.
    pub const LOW_BITS: u64 = 0x3f;

    /// An entry for the descriptor at physical address `descriptor`; its low six bits are dropped.
    pub const fn new(descriptor: u64) -> Self {
        Self(descriptor & !Self::LOW_BITS | Self::VALID)
    }

    /// The descriptor's address, if the processor would use the entry: bits 5:0 are 000001b and no
    /// bit at or above `physical_address_width` is set.
    pub const fn descriptor(self, physical_address_width: u32) -> Option<u64> {
        if self.0 & Self::LOW_BITS != Self::VALID
            || physical_address_width < 64 && self.0 >> physical_address_width != 0
        {
            None
        } else {
            Some(self.0 & !Self::LOW_BITS)
        }
    }
}
