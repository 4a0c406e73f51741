//! The local vector table and the interrupts it makes (SDM 10.5.1 Local vector table).

use arch::apic_register::{
    LVT_CMCI, LVT_ERROR, LVT_LINT0, LVT_LINT1, LVT_MASKED, LVT_PERFORMANCE, LVT_THERMAL, LVT_TIMER,
};
use arch::interrupt_command::{DeliveryMode, TriggerMode};

use super::timer::TimerMode;
use super::{Acceptance, Effect, LocalApic, LocalInterrupt};
use crate::apic_base::ApicMode;
use crate::mailbox::ExternalInterrupt;
use crate::register_page::RegisterPage;

/// Bits 12 (delivery status) and 14 (remote IRR): read-only, so writing them is no error.
pub(super) const READ_ONLY: u32 = 1 << 12 | REMOTE_REQUEST;
const REMOTE_REQUEST: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const VECTOR: u32 = 0xff;
const VECTOR_AND_MODE: u32 = 0x7ff;
const POLARITY: u32 = 1 << 13;

/// A local interrupt source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalVector {
    /// Corrected machine-check errors.
    CorrectedMachineCheck,
    /// The timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// Overflow of a performance counter.
    Performance,
    /// The pin LINT0, by convention the 8259's output.
    Lint0,
    /// The pin LINT1, by convention NMI.
    Lint1,
    /// A bit set in ESR.
    Error,
}

impl LocalVector {
    /// Page offset of the entry.
    pub const fn offset(self) -> u32 {
        match self {
            Self::CorrectedMachineCheck => LVT_CMCI,
            Self::Timer => LVT_TIMER,
            Self::Thermal => LVT_THERMAL,
            Self::Performance => LVT_PERFORMANCE,
            Self::Lint0 => LVT_LINT0,
            Self::Lint1 => LVT_LINT1,
            Self::Error => LVT_ERROR,
        }
    }

    pub(super) const fn from_offset(offset: u32) -> Option<Self> {
        Some(match offset {
            LVT_CMCI => Self::CorrectedMachineCheck,
            LVT_TIMER => Self::Timer,
            LVT_THERMAL => Self::Thermal,
            LVT_PERFORMANCE => Self::Performance,
            LVT_LINT0 => Self::Lint0,
            LVT_LINT1 => Self::Lint1,
            LVT_ERROR => Self::Error,
            _ => return None,
        })
    }

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CorrectedMachineCheck,
        Self::Timer,
        Self::Thermal,
        Self::Performance,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
    ];

    /// The bits that software can write.
    // SDM 10.5.1, figure "Local Vector Table (LVT)".
    pub(super) const fn writable(self, tsc_deadline: bool) -> u32 {
        LVT_MASKED
            | match self {
                Self::Timer if tsc_deadline => VECTOR | 3 << 17,
                Self::Timer => VECTOR | 1 << 17,
                Self::Error => VECTOR,
                Self::CorrectedMachineCheck | Self::Thermal | Self::Performance => VECTOR_AND_MODE,
                Self::Lint0 | Self::Lint1 => VECTOR_AND_MODE | POLARITY | LEVEL,
            }
    }
}

impl<P: RegisterPage> LocalApic<P> {
    /// The source signals (for a line: its edge, or that its level is asserted).
    pub fn signal(&mut self, source: LocalVector) -> LocalInterrupt {
        let entry = self.page.read(source.offset());
        let absent = source == LocalVector::CorrectedMachineCheck
            && !self.configuration.features.corrected_machine_check;
        if entry & LVT_MASKED != 0 || self.mode() == ApicMode::Disabled || absent {
            return LocalInterrupt::Masked;
        }
        if source == LocalVector::Performance {
            // SDM 10.5.1, "Mask": taking the interrupt masks its entry.
            self.page.write(source.offset(), entry | LVT_MASKED);
        }
        let mode = match source {
            LocalVector::Timer | LocalVector::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits((entry >> 8) as u8),
        };
        match mode {
            DeliveryMode::Fixed => LocalInterrupt::Fixed(self.signal_fixed(source, entry)),
            DeliveryMode::Smi => LocalInterrupt::SystemManagement,
            DeliveryMode::Nmi => LocalInterrupt::NonMaskable,
            DeliveryMode::Init => LocalInterrupt::Init,
            DeliveryMode::ExternalInterrupt => LocalInterrupt::ExternalInterrupt,
            DeliveryMode::LowestPriority | DeliveryMode::Reserved | DeliveryMode::StartUp => {
                LocalInterrupt::Masked
            }
        }
    }

    fn signal_fixed(&mut self, source: LocalVector, entry: u32) -> Acceptance {
        // SDM 10.5.1: LINT1 cannot be level-triggered, whatever its bit 15 says.
        if source != LocalVector::Lint0 || entry & LEVEL == 0 {
            return self.accept(entry as u8, TriggerMode::Edge);
        }
        if self.lint0_accepted {
            return Acceptance::Coalesced;
        }
        let acceptance = self.accept(entry as u8, TriggerMode::Level);
        if matches!(acceptance, Acceptance::Accepted | Acceptance::Coalesced) {
            self.lint0_accepted = true;
            self.page.write(LVT_LINT0, entry | REMOTE_REQUEST);
        }
        acceptance
    }

    /// Whether the 8259's interrupt reaches the processor: by LINT0 programmed for it, or directly
    /// while the local APIC is disabled.
    // SDM 10.4.3: disabled, LINT0 is the processor's INTR pin.
    pub fn passes_external_interrupts(&self) -> bool {
        let entry = self.page.read(LVT_LINT0);
        self.mode() == ApicMode::Disabled
            || entry & LVT_MASKED == 0
                && DeliveryMode::from_bits((entry >> 8) as u8) == DeliveryMode::ExternalInterrupt
    }

    /// Whether the processor takes the 8259's interrupt: its line as far as LINT0 passes it, and
    /// messages in any case.
    pub fn takes(&self, external: ExternalInterrupt) -> bool {
        external.message || external.line && self.passes_external_interrupts()
    }

    /// A level-triggered interrupt ended.
    pub(super) fn clear_remote_request(&mut self, vector: u8) {
        let entry = self.page.read(LVT_LINT0);
        if self.lint0_accepted && entry as u8 == vector {
            self.lint0_accepted = false;
            self.page.write(LVT_LINT0, entry & !REMOTE_REQUEST);
        }
    }

    pub(super) fn write_entry(&mut self, source: LocalVector, value: u32) -> Effect {
        let writable = source.writable(self.configuration.features.tsc_deadline);
        let mut entry = value & writable;
        if !self.is_software_enabled() {
            // SDM 10.4.7.2: the mask bits are set and cannot be cleared.
            entry |= LVT_MASKED;
        }
        if source == LocalVector::Lint0 {
            if entry & LEVEL == 0 {
                self.lint0_accepted = false;
            } else if self.lint0_accepted {
                entry |= REMOTE_REQUEST;
            }
        }
        self.page.write(source.offset(), entry);
        if source == LocalVector::Timer {
            self.set_timer_mode(TimerMode::from_entry(entry));
            Effect::TimerChanged
        } else {
            Effect::LocalVectorTableChanged
        }
    }

    /// Software-disabling masks every entry.
    pub(super) fn mask_all_entries(&mut self) {
        for source in LocalVector::ALL {
            let absent = source == LocalVector::CorrectedMachineCheck
                && !self.configuration.features.corrected_machine_check;
            if !absent {
                let entry = self.page.read(source.offset());
                self.page.write(source.offset(), entry | LVT_MASKED);
            }
        }
    }
}
