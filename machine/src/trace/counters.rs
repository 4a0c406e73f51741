//! Counters of one processor, kept outside the reach of the software on it.

use arch::exit::{ExitReason, REASON_COUNT};

/// What happened on one processor since the machine was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// VM exits by basic reason, failed VM entries among them.
    pub exits: [u64; REASON_COUNT],
    /// VM entries that succeeded.
    pub entries: u64,
    /// Instructions retired in VMX non-root operation.
    pub guest_instructions: u64,
    /// IPIs posted by IPI virtualization, by the sender (SDM 30.1.6).
    pub ipis_virtualized: u64,
    /// Self-IPIs virtualized (SDM 30.1.5).
    pub self_ipis_virtualized: u64,
    /// Notification IPIs sent by IPI virtualization.
    pub notifications_sent: u64,
    /// Notifications that led to posted-interrupt processing (SDM 30.6).
    pub notifications_processed: u64,
    /// Virtual interrupts delivered (SDM 30.2.2).
    pub virtual_interrupts: u64,
    /// EOIs virtualized (SDM 30.1.4).
    pub eois_virtualized: u64,
    /// Writes of the physical interrupt command register from VMX non-root operation: a bug of the
    /// hypervisor.
    pub physical_icr_writes_by_guest: u64,
    /// Interrupt commands that the local APIC executed.
    pub interrupt_commands: u64,
    /// Interrupts acknowledged at the local APIC or the 8259.
    pub interrupts: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: [0; REASON_COUNT],
            entries: 0,
            guest_instructions: 0,
            ipis_virtualized: 0,
            self_ipis_virtualized: 0,
            notifications_sent: 0,
            notifications_processed: 0,
            virtual_interrupts: 0,
            eois_virtualized: 0,
            physical_icr_writes_by_guest: 0,
            interrupt_commands: 0,
            interrupts: 0,
        }
    }
}

impl Counters {
    /// Counts a VM exit.
    pub fn count_exit(&mut self, reason: ExitReason) {
        if let Some(count) = self.exits.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// VM exits with `reason`.
    pub fn exits_with(&self, reason: ExitReason) -> u64 {
        self.exits.get(reason as usize).copied().unwrap_or(0)
    }

    /// All VM exits.
    pub fn total_exits(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// Combines two sets of counters field by field.
    fn combine(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let mut exits = self.exits;
        for (mine, theirs) in exits.iter_mut().zip(other.exits) {
            *mine = with(*mine, theirs);
        }
        Self {
            exits,
            entries: with(self.entries, other.entries),
            guest_instructions: with(self.guest_instructions, other.guest_instructions),
            ipis_virtualized: with(self.ipis_virtualized, other.ipis_virtualized),
            self_ipis_virtualized: with(self.self_ipis_virtualized, other.self_ipis_virtualized),
            notifications_sent: with(self.notifications_sent, other.notifications_sent),
            notifications_processed: with(
                self.notifications_processed,
                other.notifications_processed,
            ),
            virtual_interrupts: with(self.virtual_interrupts, other.virtual_interrupts),
            eois_virtualized: with(self.eois_virtualized, other.eois_virtualized),
            physical_icr_writes_by_guest: with(
                self.physical_icr_writes_by_guest,
                other.physical_icr_writes_by_guest,
            ),
            interrupt_commands: with(self.interrupt_commands, other.interrupt_commands),
            interrupts: with(self.interrupts, other.interrupts),
        }
    }

    /// The sum of two sets.
    pub fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::wrapping_add)
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        self.combine(earlier, u64::wrapping_sub)
    }
}

/// The counters of one processor at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The counters.
    pub counters: Counters,
    /// Instructions retired, root and non-root.
    pub instructions: u64,
    /// Virtual time in nanoseconds.
    pub time: u64,
}
