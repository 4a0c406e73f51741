//! The local APIC of one processor (SDM chapter 10 Advanced Programmable Interrupt Controller).
//!
//! Its architectural registers live in a [`RegisterPage`]; what the page cannot hold (mode, timer,
//! errors not yet latched) lives beside it. Nothing that a register write depends on is read back
//! from that register: on an APIC-write VM exit the page already holds the new value, and the
//! hypervisor then calls [`LocalApic::write_register`] with it.

mod effect;
mod error_status;
mod local_vector_table;
mod priority;
mod register_access;
mod timer;

#[cfg(test)]
mod tests;

use core::num::NonZeroU32;

use arch::apic_register::{
    DESTINATION_FORMAT, ID, LOGICAL_DESTINATION, LVT_CMCI, LVT_ERROR, LVT_LINT0, LVT_LINT1,
    LVT_MASKED, LVT_PERFORMANCE, LVT_THERMAL, LVT_TIMER, SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE,
    VERSION,
};
use arch::interrupt_command::DeliveryMode;

pub use self::effect::{Acceptance, Effect, EndOfInterruptBroadcast, LocalInterrupt};
pub use self::error_status::ApicError;
pub use self::local_vector_table::LocalVector;
use self::timer::Timer;
pub use self::timer::TimerMode;
use crate::apic_base::{ApicBase, ApicMode, GeneralProtection, Processor};
use crate::register_page::{OwnedPage, RegisterPage};
use crate::routing::Identity;

/// High half of the 64-bit ICR of x2APIC mode, where the virtual-APIC page has it (SDM 30.1.1).
const X2APIC_COMMAND_HIGH: u32 = 0x304;

/// Bits 7:0 of the version register: an integrated APIC (SDM 10.4.8 Local APIC Version Register).
pub const VERSION_NUMBER: u8 = 0x14;

/// What this local APIC offers; CPUID has to say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// x2APIC mode (CPUID.1:ECX\[21\]).
    pub x2apic: bool,
    /// TSC-deadline timer (CPUID.1:ECX\[24\]).
    pub tsc_deadline: bool,
    /// Suppression of EOI broadcasts (version register bit 24).
    pub end_of_interrupt_suppression: bool,
    /// The LVT entry for corrected machine checks.
    pub corrected_machine_check: bool,
    /// Interrupt commands with lowest-priority delivery; otherwise they are the "redirectable IPI"
    /// error.
    pub lowest_priority_commands: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self {
        x2apic: true,
        tsc_deadline: true,
        end_of_interrupt_suppression: true,
        corrected_machine_check: true,
        lowest_priority_commands: true,
    };
}

/// What never changes about one local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The initial APIC ID; its low 8 bits are the xAPIC ID at reset.
    pub x2apic_id: u32,
    /// Bootstrap or application processor.
    pub processor: Processor,
    /// MAXPHYADDR in bits, for IA32_APIC_BASE.
    pub physical_address_width: u32,
    /// TSC ticks in one count of the timer at a divide value of 1.
    pub tsc_ticks_per_timer_count: NonZeroU32,
    /// The shortest time between two interrupts of the timer in periodic mode, in TSC ticks; 0 on silicon.
    pub shortest_timer_period: u64,
    /// What it offers.
    pub features: Features,
}

/// A local APIC. Every `now` is in ticks of the TSC that its software reads.
#[derive(Clone, Debug)]
pub struct LocalApic<P> {
    page: P,
    configuration: Configuration,
    base: ApicBase,
    timer: Timer,
    /// Errors since the last write of ESR.
    errors: u32,
    /// Remote IRR of LINT0: a level-triggered interrupt was accepted and has not ended.
    lint0_accepted: bool,
    /// Bit `w` is clear only if word `w` of IRR is zero, given that the page is exclusive.
    request_words: u8,
}

impl LocalApic<OwnedPage> {
    /// A local APIC with a page of its own, as after power-up.
    pub fn new(configuration: Configuration) -> Self {
        Self::with_page(OwnedPage::new(), configuration)
    }
}

impl<P: RegisterPage> LocalApic<P> {
    /// A local APIC over `page`, whose registers it sets as after power-up.
    pub fn with_page(page: P, configuration: Configuration) -> Self {
        let mut apic = Self {
            page,
            configuration,
            base: ApicBase::after_reset(configuration.processor),
            timer: Timer::new(
                configuration.tsc_ticks_per_timer_count,
                configuration.shortest_timer_period,
            ),
            errors: 0,
            lint0_accepted: false,
            request_words: 0,
        };
        apic.reset();
        apic
    }

    /// What it was made with.
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The register page.
    pub const fn page(&self) -> &P {
        &self.page
    }

    /// The register page, to change behind the local APIC's back, as posted-interrupt processing
    /// does.
    pub const fn page_mut(&mut self) -> &mut P {
        self.request_words = 0xff;
        &mut self.page
    }

    /// IA32_APIC_BASE.
    pub const fn base(&self) -> ApicBase {
        self.base
    }

    /// Disabled, xAPIC or x2APIC.
    pub const fn mode(&self) -> ApicMode {
        self.base.mode()
    }

    /// What routing needs to know, as of now.
    pub fn identity(&self) -> Identity {
        Identity::of_page(&self.page, self.mode(), self.configuration.x2apic_id)
    }

    /// WRMSR to IA32_APIC_BASE.
    ///
    /// # Errors
    /// See [`ApicBase::after_write`]; nothing changes then.
    pub fn write_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let next = self.base.after_write(
            value,
            self.configuration.physical_address_width,
            self.configuration.features.x2apic,
        )?;
        let from = self.mode();
        if next == self.base {
            return Ok(Effect::None);
        }
        self.base = next;
        match (from, next.mode()) {
            // SDM 10.12.5.1: of all the registers only the x2APIC ID survives the way through
            // the disabled state. UNCONFIRMED whether they are lost on entering or on leaving.
            (ApicMode::Xapic | ApicMode::X2apic, ApicMode::Disabled)
            | (ApicMode::Disabled, ApicMode::Xapic) => {
                self.initialize();
                self.write_reset_id();
            }
            (ApicMode::Xapic, ApicMode::X2apic) => self.enter_x2apic(),
            // The same mode, or what `after_write` has refused.
            _ => {}
        }
        Ok(Effect::BaseChanged)
    }

    /// Power-up or RESET.
    // SDM 10.4.7.1 Local APIC State After Power-Up or Reset.
    pub fn reset(&mut self) {
        self.base = ApicBase::after_reset(self.configuration.processor);
        self.initialize();
        self.write_reset_id();
    }

    /// INIT: as reset, but IA32_APIC_BASE and the APIC ID stay.
    // SDM 10.4.7.3 Local APIC State After an INIT Reset; 10.12.5.1 for x2APIC mode.
    pub fn init(&mut self) {
        self.initialize();
        if self.mode() == ApicMode::X2apic {
            self.enter_x2apic();
        }
    }

    /// After reset, virtual-wire mode, in which a PC's firmware leaves the bootstrap processor: enabled by
    /// software with spurious vector 0FH, LINT0 passes the 8259's interrupts, LINT1 is NMI.
    // MultiProcessor Specification 3.6.2.2 Virtual Wire Mode, A.3 Programming the APIC for Virtual
    // Wire Mode.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.page
            .write(SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE | 0x0f);
        for (entry, mode) in [
            (LVT_LINT0, DeliveryMode::ExternalInterrupt),
            (LVT_LINT1, DeliveryMode::Nmi),
        ] {
            self.page.write(entry, u32::from(mode.bits()) << 8);
        }
    }

    /// Every register but the ID.
    fn initialize(&mut self) {
        let id = self.page.read(ID);
        for offset in (0..0x400).step_by(4) {
            self.page.write(offset, 0);
        }
        self.page.write(ID, id);
        self.page.write(VERSION, self.version());
        self.page.write(DESTINATION_FORMAT, 0xffff_ffff);
        self.page.write(SPURIOUS_VECTOR, 0xff);
        for entry in [
            LVT_TIMER,
            LVT_THERMAL,
            LVT_PERFORMANCE,
            LVT_LINT0,
            LVT_LINT1,
            LVT_ERROR,
        ] {
            self.page.write(entry, LVT_MASKED);
        }
        if self.configuration.features.corrected_machine_check {
            self.page.write(LVT_CMCI, LVT_MASKED);
        }
        self.timer = Timer::new(
            self.configuration.tsc_ticks_per_timer_count,
            self.configuration.shortest_timer_period,
        );
        self.errors = 0;
        self.lint0_accepted = false;
        self.request_words = 0;
    }

    fn write_reset_id(&mut self) {
        self.page.write(ID, self.configuration.x2apic_id << 24);
    }

    /// The registers that x2APIC mode defines anew; all others are kept.
    // SDM 10.12.5.1 (the ID), 10.12.10.2 Deriving Logical x2APIC ID from the Local x2APIC ID.
    fn enter_x2apic(&mut self) {
        let id = self.configuration.x2apic_id;
        self.page.write(ID, id);
        self.page
            .write(LOGICAL_DESTINATION, (id >> 4) << 16 | 1 << (id & 0xf));
        self.page
            .write(arch::apic_register::INTERRUPT_COMMAND_HIGH, 0);
        self.page.write(X2APIC_COMMAND_HIGH, 0);
    }

    // SDM 10.4.8 Local APIC Version Register.
    fn version(&self) -> u32 {
        let features = self.configuration.features;
        let last_entry = if features.corrected_machine_check {
            6
        } else {
            5
        };
        u32::from(VERSION_NUMBER)
            | last_entry << 16
            | u32::from(features.end_of_interrupt_suppression) << 24
    }
}
