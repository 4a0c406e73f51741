//! What an access or a signal asks of whoever owns the local APIC.

use arch::interrupt_command::{InterruptCommand, TriggerMode};

/// What the caller has to do after an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Route this command (see [`routing`](crate::routing)), with this processor as sender.
    SendInterrupt(InterruptCommand),
    /// An interrupt ended; another may be deliverable.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
        /// How it was requested.
        trigger_mode: TriggerMode,
        /// Whether the I/O APICs are told.
        broadcast: EndOfInterruptBroadcast,
    },
    /// Ask [`LocalApic::timer_deadline`](super::LocalApic::timer_deadline) again.
    TimerChanged,
    /// The processor's priority changed, or an error raised its interrupt: ask what is deliverable again.
    PriorityChanged,
    /// ID, logical ID or software enable changed: publish the identity again. If the ID itself
    /// changed, IPI virtualization by the old table would be wrong (prior-art B2). Software-disabling
    /// also masks the LVT entries.
    IdentityChanged,
    /// An LVT entry changed: lines that are asserted may now pass, or no longer.
    LocalVectorTableChanged,
    /// IA32_APIC_BASE changed: ask everything again.
    BaseChanged,
}

/// Whether an EOI goes to the I/O APICs.
// SDM 10.8.5 Signaling Interrupt Servicing Completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndOfInterruptBroadcast {
    /// Yes: the interrupt was level-triggered.
    Sent,
    /// No: the interrupt was edge-triggered, or software will tell the I/O APIC itself.
    Withheld,
}

/// What became of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acceptance {
    /// Now in IRR.
    Accepted,
    /// Was in IRR already.
    Coalesced,
    /// Below 16: an error in ESR, no interrupt.
    IllegalVector,
    /// The local APIC is disabled.
    Ignored,
}

/// What a local source's signal became, by its LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum LocalInterrupt {
    /// The entry is masked, or its delivery mode is reserved.
    Masked,
    /// A fixed interrupt, already accepted or not as told.
    Fixed(Acceptance),
    /// The processor gets an NMI.
    NonMaskable,
    /// The processor gets an SMI.
    SystemManagement,
    /// The processor gets INIT.
    Init,
    /// The processor gets the 8259's interrupt.
    ExternalInterrupt,
}
