//! The MSR bitmap (SDM 25.6.9 MSR-bitmap address): everything exits unless it is passed through.

use crate::interrupts::apic_virtualization::X2apicMsrPlan;
use arch::msr;

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// One 4-KByte bitmap.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct MsrBitmap([u8; 4096]);

impl Default for MsrBitmap {
    fn default() -> Self {
        Self::new()
    }
}

impl MsrBitmap {
    /// Every access exits.
    pub const fn new() -> Self {
        Self([0xff; 4096])
    }

    /// Byte and bit of an access; `None` for an MSR that the bitmap does not cover (it always
    /// exits).
    fn place(msr: u32, access: Access) -> Option<(usize, u8)> {
        let (base, index) = match msr {
            0..=0x1fff => (0, msr),
            0xc000_0000..=0xc000_1fff => (1024, msr & 0x1fff),
            _ => return None,
        };
        let base = match access {
            Access::Read => base,
            Access::Write => base + 2048,
        };
        Some((base + index as usize / 8, 1 << (index % 8)))
    }

    /// Lets the guest do `access` to `msr`.
    pub fn pass(&mut self, msr: u32, access: Access) {
        if let Some((byte, bit)) = Self::place(msr, access) {
            self.0[byte] &= !bit;
        }
    }

    /// Makes `access` to `msr` exit.
    pub fn intercept(&mut self, msr: u32, access: Access) {
        if let Some((byte, bit)) = Self::place(msr, access) {
            self.0[byte] |= bit;
        }
    }

    /// Whether `access` to `msr` exits.
    pub fn intercepts(&self, msr: u32, access: Access) -> bool {
        Self::place(msr, access).is_none_or(|(byte, bit)| self.0[byte] & bit != 0)
    }

    /// Sets what a guest may do to MSRs 800H to 8FFH. What the plan does not pass exits: it would be
    /// the physical APIC's register, which no guest may reach.
    pub fn set_x2apic(&mut self, plan: &X2apicMsrPlan) {
        for register in msr::X2APIC_FIRST..=msr::X2APIC_LAST {
            self.set(register, Access::Read, plan.read_passes(register));
            self.set(register, Access::Write, plan.write_passes(register));
        }
    }

    /// Passes through what the policy for guest MSRs passes.
    pub fn set_policy(&mut self, policy: &[crate::vm::msr::Line]) {
        use crate::vm::msr::Access::PassThrough;
        for line in policy {
            for register in line.first..=line.last {
                self.set(register, Access::Read, line.read == PassThrough);
                self.set(register, Access::Write, line.write == PassThrough);
            }
        }
    }

    fn set(&mut self, msr: u32, access: Access, pass: bool) {
        if pass {
            self.pass(msr, access);
        } else {
            self.intercept(msr, access);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupts::apic_virtualization::{ApicControls, ApicFeatures, LocalApicState};
    use apic::apic_base::ApicMode;

    #[test]
    fn places_are_the_manuals() {
        for (msr, access, byte) in [
            (0, Access::Read, 0),
            (0x1fff, Access::Read, 1023),
            (0xc000_0000, Access::Read, 1024),
            (0x830, Access::Write, 2048 + 0x106),
            (0xc000_1fff, Access::Write, 4095),
        ] {
            let mut bitmap = MsrBitmap::new();
            bitmap.pass(msr, access);
            assert_eq!(
                bitmap.0.iter().position(|b| *b != 0xff),
                Some(byte),
                "{msr:#x}"
            );
            assert!(!bitmap.intercepts(msr, access));
            bitmap.intercept(msr, access);
            assert!(bitmap.intercepts(msr, access));
        }
        assert!(MsrBitmap::new().intercepts(0x4000_0000, Access::Read));
    }

    fn planned(features: ApicFeatures, mode: ApicMode) -> MsrBitmap {
        let mut bitmap = MsrBitmap::new();
        // Whatever was open before.
        bitmap.0[0x100..0x120].fill(0);
        bitmap.0[0x900..0x920].fill(0);
        let state = LocalApicState::enabled(mode);
        bitmap.set_x2apic(&ApicControls::new(features, state).x2apic_msrs());
        bitmap
    }

    #[test]
    fn the_icr_is_only_open_while_the_processor_virtualizes_ipis() {
        let all = ApicFeatures::ALL;
        let without = ApicFeatures {
            ipi_virtualization: false,
            ..all
        };
        for (features, mode, exits) in [
            (all, ApicMode::X2apic, false),
            (without, ApicMode::X2apic, true),
            (all, ApicMode::Xapic, true),
            (all, ApicMode::Disabled, true),
            (ApicFeatures::default(), ApicMode::X2apic, true),
        ] {
            let bitmap = planned(features, mode);
            assert_eq!(bitmap.intercepts(0x830, Access::Write), exits);
        }
    }

    #[test]
    fn policy_and_plan_do_not_touch_each_other() {
        let mut bitmap = planned(ApicFeatures::ALL, ApicMode::X2apic);
        bitmap.set_policy(crate::vm::msr::POLICY);
        assert!(!bitmap.intercepts(0xc000_0102, Access::Write));
        assert!(!bitmap.intercepts(0x830, Access::Write));
        assert!(bitmap.intercepts(0x1b, Access::Read));
        assert!(bitmap.intercepts(0x48, Access::Write));
    }
}
