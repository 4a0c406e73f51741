//! IA32_APIC_BASE and the modes of a local APIC (SDM 10.4.3 Enabling or disabling the local APIC,
//! 10.12.5 x2APIC state transitions).

use arch::msr::apic_base::{BSP, DEFAULT_ADDRESS, ENABLE, EXTD};

/// The access faults: #GP(0) for the instruction that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

impl core::fmt::Display for GeneralProtection {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("the access raises a general-protection exception")
    }
}

impl core::error::Error for GeneralProtection {}

/// What IA32_APIC_BASE makes of the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicMode {
    /// EN = 0, EXTD = 0: as if the processor had none.
    Disabled,
    /// EN = 1, EXTD = 0: registers in a page of memory, 8-bit IDs.
    Xapic,
    /// EN = 1, EXTD = 1: registers in MSRs 800H to 8FFH, 32-bit IDs.
    X2apic,
}

/// A legal value of IA32_APIC_BASE: never EXTD without EN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicBase(u64);

impl ApicBase {
    /// The value after power-up or RESET: xAPIC mode at FEE00000H.
    pub const fn after_reset(bootstrap: Processor) -> Self {
        let flag = match bootstrap {
            Processor::Bootstrap => BSP,
            Processor::Application => 0,
        };
        Self(DEFAULT_ADDRESS | ENABLE | flag)
    }

    /// The MSR's value.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Bits 10 and 11.
    pub const fn mode(self) -> ApicMode {
        match (self.0 & ENABLE != 0, self.0 & EXTD != 0) {
            (true, false) => ApicMode::Xapic,
            (true, true) => ApicMode::X2apic,
            (false, _) => ApicMode::Disabled,
        }
    }

    /// Physical address of the register page, whatever the mode.
    pub const fn page_address(self) -> u64 {
        self.0 & !0xfff
    }

    /// What the MSR becomes when software writes `value`.
    ///
    /// # Errors
    /// A reserved bit or one beyond the physical-address width, EXTD without EN, EXTD on a
    /// processor without x2APIC, and the transitions x2APIC to xAPIC and disabled to x2APIC.
    // SDM 10.12.5 x2APIC State Transitions, figure "Local x2APIC State Transitions".
    pub const fn after_write(
        self,
        value: u64,
        physical_address_width: u32,
        x2apic_supported: bool,
    ) -> Result<Self, GeneralProtection> {
        let address_bits = if physical_address_width < 64 {
            (1 << physical_address_width) - 1
        } else {
            u64::MAX
        };
        let writable =
            address_bits & !0xfff | BSP | ENABLE | if x2apic_supported { EXTD } else { 0 };
        if value & !writable != 0 || value & EXTD != 0 && value & ENABLE == 0 {
            return Err(GeneralProtection);
        }
        let next = Self(value);
        match (self.mode(), next.mode()) {
            (ApicMode::X2apic, ApicMode::Xapic) | (ApicMode::Disabled, ApicMode::X2apic) => {
                Err(GeneralProtection)
            }
            _ => Ok(next),
        }
    }
}

/// Which processor of the system this is, for the BSP flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Processor {
    /// The one that runs first.
    Bootstrap,
    /// One that waits for a start-up IPI.
    Application,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: u32 = 39;

    fn base(bits: u64) -> u64 {
        DEFAULT_ADDRESS | bits
    }

    #[test]
    fn every_transition_is_as_the_figure_says() {
        let states = [
            (ApicMode::Disabled, 0),
            (ApicMode::Xapic, ENABLE),
            (ApicMode::X2apic, ENABLE | EXTD),
        ];
        for (from, from_bits) in states {
            for (to, to_bits) in states {
                let legal = !matches!(
                    (from, to),
                    (ApicMode::X2apic, ApicMode::Xapic) | (ApicMode::Disabled, ApicMode::X2apic)
                );
                let result = ApicBase(base(from_bits)).after_write(base(to_bits), WIDTH, true);
                assert_eq!(result.is_ok(), legal, "{from:?} to {to:?}");
                if let Ok(next) = result {
                    assert_eq!(next.mode(), to);
                }
            }
            let invalid = ApicBase(base(from_bits)).after_write(base(EXTD), WIDTH, true);
            assert_eq!(
                invalid,
                Err(GeneralProtection),
                "{from:?} to EXTD without EN"
            );
        }
    }

    #[test]
    fn reserved_bits_fault_one_at_a_time() {
        let reset = ApicBase::after_reset(Processor::Bootstrap);
        assert_eq!(reset.value(), 0xfee0_0900);
        for bit in 0..64 {
            let value = reset.value() ^ (1 << bit);
            let legal = matches!(bit, 8 | 10 | 11) || (12..WIDTH).contains(&bit);
            assert_eq!(
                reset.after_write(value, WIDTH, true).is_ok(),
                legal,
                "bit {bit}"
            );
        }
        assert!(
            reset
                .after_write(base(ENABLE | EXTD), WIDTH, false)
                .is_err()
        );
        assert!(reset.after_write(base(ENABLE | 1 << 63), 64, true).is_ok());
    }

    #[test]
    fn the_page_moves() {
        let reset = ApicBase::after_reset(Processor::Application);
        let moved = reset
            .after_write(0x1_2345_6000 | ENABLE, WIDTH, true)
            .unwrap();
        assert_eq!(moved.page_address(), 0x1_2345_6000);
        assert_eq!(moved.mode(), ApicMode::Xapic);
    }
}
