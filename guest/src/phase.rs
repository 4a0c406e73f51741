//! The phases of the run.

/// One kind of interrupt that the guest sends and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Ping-pong between running processors.
    Unicast,
    /// To a processor in HLT.
    Halted,
    /// Everybody to everybody, and same-vector merging.
    Storm,
    /// A processor to itself.
    SelfIpi,
    /// Logical destinations.
    Logical,
    /// Shorthands and the physical broadcast.
    Broadcast,
    /// Non-maskable interrupts.
    Nmi,
    /// Lowest-priority delivery.
    Lowest,
    /// Targets that raise their task priority.
    Tpr,
    /// Illegal values in the interrupt command register.
    Illegal,
    /// A rewritten xAPIC ID.
    XapicId,
    /// A local APIC that is disabled for a while.
    Disabled,
    /// The local APIC timer in the middle of a storm.
    Timer,
    /// No interrupts: work for a comparison of speed. Only on demand.
    Compute,
}

impl Phase {
    /// All that send interrupts, in the order in which they run.
    pub const ALL: [Self; 13] = [
        Self::Unicast,
        Self::Halted,
        Self::Storm,
        Self::SelfIpi,
        Self::Logical,
        Self::Broadcast,
        Self::Nmi,
        Self::Lowest,
        Self::Tpr,
        Self::Illegal,
        Self::XapicId,
        Self::Disabled,
        Self::Timer,
    ];

    /// Those, and what runs only on demand.
    pub const KNOWN: [Self; 14] = {
        let mut known = [Self::Compute; 14];
        let mut index = 0;
        while index < Self::ALL.len() {
            known[index] = Self::ALL[index];
            index += 1;
        }
        known
    };

    /// The name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Halted => "halted",
            Self::Storm => "storm",
            Self::SelfIpi => "self",
            Self::Logical => "logical",
            Self::Broadcast => "broadcast",
            Self::Nmi => "nmi",
            Self::Lowest => "lowest",
            Self::Tpr => "tpr",
            Self::Illegal => "illegal",
            Self::XapicId => "xapic_id",
            Self::Disabled => "disabled",
            Self::Timer => "timer",
            Self::Compute => "compute",
        }
    }

    /// The number in the phase marks, from 1.
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// The phase of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::KNOWN.into_iter().find(|phase| phase.name() == name)
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSet(u16);

impl PhaseSet {
    /// No phase.
    pub const NONE: Self = Self(0);
    /// Every phase that sends interrupts.
    pub const ALL: Self = Self((1 << Phase::ALL.len()) - 1);

    /// With `phase`.
    #[must_use]
    pub const fn with(self, phase: Phase) -> Self {
        Self(self.0 | 1 << phase as u8)
    }

    /// Whether `phase` is in the set.
    pub const fn contains(self, phase: Phase) -> bool {
        self.0 >> phase as u8 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_and_names_are_found() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(phase.number()), index + 1);
            assert_eq!(Phase::from_name(phase.name()), Some(phase));
            assert!(PhaseSet::ALL.contains(phase));
            assert!(!PhaseSet::NONE.contains(phase));
            assert!(PhaseSet::NONE.with(phase).contains(phase));
        }
        assert_eq!(Phase::from_name("Unicast"), None);
        assert_eq!(Phase::from_name("compute"), Some(Phase::Compute));
        assert_eq!(Phase::Compute.number(), 14);
        assert!(!PhaseSet::ALL.contains(Phase::Compute));
    }
}
