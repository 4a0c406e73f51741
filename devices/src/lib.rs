//! The devices of a PC as state machines.
//!
//! A device takes accesses and the time (nanoseconds since power-on, never decreasing) and returns
//! effects; it owns no thread, no clock and none of the RAM. In the machine these are the silicon, in
//! the hypervisor they are what a guest sees.
//!
//! Citations name the data sheet: "82093AA" (I/O APIC), "8259A", "8254", "MC146818A", "PC16550D",
//! and "ACPI" for chapter 4 of the ACPI specification, revision 6.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi_power;
pub mod crt_controller;
pub mod debug_port;
pub mod firmware_configuration;
pub mod interrupt_message;
pub mod io_apic;
pub mod pc;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod reset_control;
pub mod rtc;
pub mod rtc_calendar;
pub mod test_device;
pub mod test_memory;
pub mod uart;

/// The state of an interrupt line.
///
/// Polarity is settled where the line is wired: a device says whether it asks for service, not
/// which voltage that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Line {
    /// No request.
    #[default]
    Deasserted,
    /// A request.
    Asserted,
}

impl Line {
    /// `Asserted` when `condition` holds.
    pub const fn asserted_if(condition: bool) -> Self {
        if condition {
            Self::Asserted
        } else {
            Self::Deasserted
        }
    }

    /// Whether the line is asserted.
    pub const fn is_asserted(self) -> bool {
        matches!(self, Self::Asserted)
    }
}

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The number of whole periods of a clock of `frequency` Hz in `nanoseconds`, saturating.
pub(crate) const fn ticks(nanoseconds: u64, frequency: u32) -> u64 {
    let ticks = nanoseconds as u128 * frequency as u128 / SECOND as u128;
    if ticks > u64::MAX as u128 {
        u64::MAX
    } else {
        ticks as u64
    }
}

/// The first nanosecond at which `tick` periods of a clock of `frequency` Hz have passed, saturating.
pub(crate) const fn tick_time(tick: u64, frequency: u32) -> u64 {
    let time = (tick as u128 * SECOND as u128).div_ceil(frequency as u128);
    if time > u64::MAX as u128 {
        u64::MAX
    } else {
        time as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tick_time_is_the_first_nanosecond_of_its_tick() {
        for frequency in [32_768, 1_193_182, 3_579_545] {
            for tick in [1, 2, 3, 1000, 123_456_789] {
                let time = tick_time(tick, frequency);
                assert_eq!(ticks(time, frequency), tick);
                assert_eq!(ticks(time - 1, frequency), tick - 1);
            }
        }
    }

    #[test]
    fn the_end_of_time_saturates() {
        assert_eq!(tick_time(u64::MAX, 32_768), u64::MAX);
        assert!(ticks(u64::MAX, 3_579_545) < u64::MAX);
    }
}
