//! Counters of one processor, kept outside the reach of the software on it.

use arch::exit::{ExitReason, REASON_COUNT};
use arch::interrupt_command::{
    DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode, X2APIC_BROADCAST,
    XAPIC_BROADCAST,
};

/// What software in VMX non-root operation asked of its interrupt command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// A fixed interrupt, edge-triggered, for one physical destination: what IPI virtualization is for.
    Unicast,
    /// A fixed interrupt for the sender alone, by shorthand or by the self-IPI register.
    ToSelf,
    /// A fixed interrupt for all, or for all but the sender.
    Broadcast,
    /// A non-maskable interrupt, whatever its destination.
    NonMaskable,
    /// INIT or start-up.
    Startup,
    /// Everything else: logical destinations, lowest priority, level-triggered, reserved values.
    Other,
}

impl CommandKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Unicast,
        Self::ToSelf,
        Self::Broadcast,
        Self::NonMaskable,
        Self::Startup,
        Self::Other,
    ];

    /// As results spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::ToSelf => "self",
            Self::Broadcast => "broadcast",
            Self::NonMaskable => "nmi",
            Self::Startup => "startup",
            Self::Other => "other",
        }
    }

    /// The kind of a command. `broadcast` is the destination that means every processor.
    const fn of(command: InterruptCommand, broadcast: u32) -> Self {
        match command.delivery_mode {
            DeliveryMode::Nmi => return Self::NonMaskable,
            DeliveryMode::Init | DeliveryMode::StartUp => return Self::Startup,
            DeliveryMode::Fixed if matches!(command.trigger_mode, TriggerMode::Edge) => {}
            _ => return Self::Other,
        }
        match (command.shorthand, command.destination_mode) {
            (Shorthand::SelfOnly, _) => Self::ToSelf,
            (Shorthand::AllIncludingSelf | Shorthand::AllExcludingSelf, _) => Self::Broadcast,
            (Shorthand::None, _) if command.destination == broadcast => Self::Broadcast,
            (Shorthand::None, DestinationMode::Physical) => Self::Unicast,
            (Shorthand::None, DestinationMode::Logical) => Self::Other,
        }
    }

    /// The kind of a command written to the two memory-mapped registers.
    pub const fn of_xapic(low: u32, high: u32) -> Self {
        Self::of(InterruptCommand::from_xapic(low, high), XAPIC_BROADCAST)
    }

    /// The kind of a command written to the MSR.
    pub const fn of_x2apic(value: u64) -> Self {
        Self::of(InterruptCommand::from_x2apic(value), X2APIC_BROADCAST)
    }
}

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
    /// Interrupt commands of software in VMX non-root operation that caused a VM exit, by
    /// [`CommandKind`].
    pub commands_exited: [u64; CommandKind::ALL.len()],
    /// VM exits for an external interrupt with the vector at which the posted-interrupt descriptor of
    /// the virtual processor that was running says it is notified: the receiver had to leave.
    pub notifications_exited: u64,
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
            commands_exited: [0; CommandKind::ALL.len()],
            notifications_exited: 0,
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

    /// Counts an interrupt command that causes a VM exit.
    pub(crate) fn count_command(&mut self, kind: CommandKind) {
        if let Some(count) = self.commands_exited.get_mut(kind as usize) {
            *count += 1;
        }
    }

    /// Interrupt commands of a kind that caused a VM exit.
    pub fn commands_exited_of(&self, kind: CommandKind) -> u64 {
        self.commands_exited
            .get(kind as usize)
            .copied()
            .unwrap_or(0)
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
        let mut commands_exited = self.commands_exited;
        for (mine, theirs) in commands_exited.iter_mut().zip(other.commands_exited) {
            *mine = with(*mine, theirs);
        }
        Self {
            exits,
            commands_exited,
            notifications_exited: with(self.notifications_exited, other.notifications_exited),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_command_decides_its_kind() {
        for (low, kind) in [
            (0x0000_00fd, CommandKind::Unicast),
            (0x0000_40fd, CommandKind::Unicast),
            (0x0000_80fd, CommandKind::Other),
            (0x0000_08fd, CommandKind::Other),
            (0x0000_01fd, CommandKind::Other),
            (0x0000_0402, CommandKind::NonMaskable),
            (0x000c_0402, CommandKind::NonMaskable),
            (0x0000_4500, CommandKind::Startup),
            (0x0000_0699, CommandKind::Startup),
            (0x0004_00f6, CommandKind::ToSelf),
            (0x0008_00fb, CommandKind::Broadcast),
            (0x000c_00fb, CommandKind::Broadcast),
        ] {
            assert_eq!(CommandKind::of_xapic(low, 1 << 24), kind, "{low:#x}");
            assert_eq!(
                CommandKind::of_x2apic(1 << 32 | u64::from(low)),
                kind,
                "{low:#x}"
            );
        }
        assert_eq!(
            CommandKind::of_xapic(0xfd, 0xff00_0000),
            CommandKind::Broadcast
        );
        assert_eq!(CommandKind::of_x2apic(0xff_0000_00fd), CommandKind::Unicast);
        let all = 0xffff_ffff_0000_00fd;
        assert_eq!(CommandKind::of_x2apic(all), CommandKind::Broadcast);
    }

    #[test]
    fn counts_go_where_their_kind_is() {
        let mut counters = Counters::default();
        for (number, kind) in CommandKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            for _ in 0..=number {
                counters.count_command(kind);
            }
        }
        let twice = counters.plus(&counters);
        for (kind, once) in CommandKind::ALL.into_iter().zip(1..) {
            assert_eq!(counters.commands_exited_of(kind), once);
            assert_eq!(twice.commands_exited_of(kind), 2 * once);
            assert_eq!(twice.since(&counters).commands_exited_of(kind), once);
        }
    }
}
