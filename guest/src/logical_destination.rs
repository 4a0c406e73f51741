//! Logical APIC IDs and which of them a message addresses (SDM 10.6.2.2 Logical destination
//! mode, 10.12.10 Determining IPI destination in x2APIC mode).

use crate::command_line::ApicMode;

/// How logical IDs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalModel {
    /// xAPIC: one bit a processor, 8 processors.
    Flat,
    /// xAPIC: 15 clusters of 4 processors.
    Cluster,
    /// x2APIC: 65,536 clusters of 16 processors; the ID follows from the APIC ID.
    X2apic,
}

impl LogicalModel {
    /// The models of an APIC mode.
    pub const fn of(mode: ApicMode) -> &'static [Self] {
        match mode {
            ApicMode::Xapic => &[Self::Flat, Self::Cluster],
            ApicMode::X2apic => &[Self::X2apic],
        }
    }

    /// The destination format register's value; the x2APIC mode has no such register.
    pub const fn destination_format(self) -> Option<u32> {
        match self {
            Self::Flat => Some(0xffff_ffff),
            Self::Cluster => Some(0x0fff_ffff),
            Self::X2apic => None,
        }
    }

    /// The logical ID of a processor: 8 bits in xAPIC mode, 32 in x2APIC mode. 0: it has none, all
    /// are taken.
    pub const fn id(self, index: usize, apic_id: u32) -> u32 {
        match self {
            Self::Flat => {
                if index < 8 {
                    1 << index
                } else {
                    0
                }
            }
            Self::Cluster => {
                if index < 60 {
                    ((index / 4) << 4 | 1 << (index % 4)) as u32
                } else {
                    0
                }
            }
            // SDM 10.12.10.2 Deriving logical x2APIC ID from the local x2APIC ID
            Self::X2apic => (apic_id >> 4) << 16 | 1 << (apic_id & 0xf),
        }
    }

    /// The part of an ID that names the cluster; the rest has a bit a processor.
    pub const fn cluster_mask(self) -> u32 {
        match self {
            Self::Flat => 0,
            Self::Cluster => 0xf0,
            Self::X2apic => 0xffff_0000,
        }
    }

    /// The part of an ID that has a bit a processor.
    pub const fn member_mask(self) -> u32 {
        match self {
            Self::Flat => 0xff,
            Self::Cluster => 0x0f,
            Self::X2apic => 0xffff,
        }
    }

    /// The message that means every processor.
    pub const fn broadcast(self) -> u32 {
        match self {
            Self::Flat | Self::Cluster => 0xff,
            Self::X2apic => 0xffff_ffff,
        }
    }

    /// Whether a message destination addresses the processor of logical ID `id`.
    pub const fn addresses(self, message: u32, id: u32) -> bool {
        message == self.broadcast()
            || (message & self.cluster_mask() == id & self.cluster_mask()
                && message & id & self.member_mask() != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::LogicalModel::{Cluster, Flat, X2apic};

    #[test]
    fn ids() {
        assert_eq!(
            [0, 1, 7, 8].map(|index| Flat.id(index, 99)),
            [1, 2, 0x80, 0]
        );
        assert_eq!(
            [0, 3, 4, 59, 60].map(|index| Cluster.id(index, 99)),
            [0x01, 0x08, 0x11, 0xe8, 0]
        );
        assert_eq!(
            [0, 15, 16, 0x123].map(|id| X2apic.id(99, id)),
            [1, 0x8000, 0x1_0001, 0x12_0008]
        );
    }

    #[test]
    fn a_message_addresses_its_cluster_s_members() {
        for (model, message, id, addressed) in [
            (Flat, 0b0110, 0b0010, true),
            (Flat, 0b0110, 0b1000, false),
            (Flat, 0xff, 0, true),
            (Flat, 0b0110, 0, false),
            (Cluster, 0x13, 0x12, true),
            (Cluster, 0x13, 0x14, false),
            (Cluster, 0x13, 0x22, false),
            (Cluster, 0xff, 0x22, true),
            (X2apic, 0x1_0003, 0x1_0002, true),
            (X2apic, 0x1_0003, 0x1_0004, false),
            (X2apic, 0x1_0003, 0x2_0002, false),
            (X2apic, 0xffff_ffff, 0x2_0002, true),
        ] {
            assert_eq!(
                model.addresses(message, id),
                addressed,
                "{model:?} {message:#x} {id:#x}"
            );
        }
    }
}
