//! The VMX capability MSRs (SDM appendix A, VMX capability reporting facility).

use arch::msr;

/// Which settings of a control field the processor allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1.
    pub must_be_1: u64,
    /// Bits that may be 1.
    pub may_be_1: u64,
}

impl Allowed {
    /// From an MSR with the allowed 0-settings in its low half and the allowed 1-settings in its
    /// high half (SDM A.2 Reserved controls and default settings).
    pub const fn from_halves(msr: u64) -> Self {
        Self {
            must_be_1: msr & 0xffff_ffff,
            may_be_1: msr >> 32,
        }
    }

    /// From an MSR that is one mask of allowed 1-settings (SDM A.3.4 Tertiary processor-based
    /// VM-execution controls).
    pub const fn from_mask(msr: u64) -> Self {
        Self {
            must_be_1: 0,
            may_be_1: msr,
        }
    }

    /// The setting nearest to `wanted` that the processor allows.
    pub const fn clamp(self, wanted: u64) -> u64 {
        wanted & self.may_be_1 | self.must_be_1
    }

    /// Whether every bit of `bits` may be 1.
    pub const fn allows(self, bits: u64) -> bool {
        self.may_be_1 & bits == bits
    }
}

/// What the capability MSRs say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP; 0 when absent.
    pub ept_vpid: u64,
    /// CR0 bits that must be 1, and that may be 1.
    pub cr0: Allowed,
    /// CR4 bits that must be 1, and that may be 1.
    pub cr4: Allowed,
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub primary: Allowed,
    /// Secondary processor-based controls; nothing when they cannot be activated.
    pub secondary: Allowed,
    /// Tertiary processor-based controls; nothing when they cannot be activated.
    pub tertiary: Allowed,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
}

impl Capabilities {
    /// Reads the MSRs with `read`, and only those that the processor has.
    pub fn read(read: impl Fn(u32) -> u64) -> Self {
        let basic = read(msr::IA32_VMX_BASIC);
        // SDM A.1: bit 55 says that the TRUE registers exist.
        let true_controls = basic >> 55 & 1 != 0;
        let halves =
            |plain, true_| Allowed::from_halves(read(if true_controls { true_ } else { plain }));
        let primary = halves(
            msr::IA32_VMX_PROCBASED_CTLS,
            msr::IA32_VMX_TRUE_PROCBASED_CTLS,
        );
        let secondary = if primary.allows(SECONDARY) {
            Allowed::from_halves(read(msr::IA32_VMX_PROCBASED_CTLS2))
        } else {
            Allowed::default()
        };
        let tertiary = if primary.allows(TERTIARY) {
            Allowed::from_mask(read(msr::IA32_VMX_PROCBASED_CTLS3))
        } else {
            Allowed::default()
        };
        let fixed = |zero, one| Allowed {
            must_be_1: read(zero),
            may_be_1: read(one),
        };
        // SDM A.10: present iff EPT or VPID can be enabled.
        let has_ept_vpid = secondary.may_be_1 & EPT_OR_VPID != 0;
        Self {
            basic,
            misc: read(msr::IA32_VMX_MISC),
            ept_vpid: if has_ept_vpid {
                read(msr::IA32_VMX_EPT_VPID_CAP)
            } else {
                0
            },
            cr0: fixed(msr::IA32_VMX_CR0_FIXED0, msr::IA32_VMX_CR0_FIXED1),
            cr4: fixed(msr::IA32_VMX_CR4_FIXED0, msr::IA32_VMX_CR4_FIXED1),
            pin: halves(
                msr::IA32_VMX_PINBASED_CTLS,
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
            ),
            primary,
            secondary,
            tertiary,
            exit: halves(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS),
            entry: halves(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS),
        }
    }

    /// The VMCS revision identifier.
    pub const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// TSC ticks to one tick of the preemption timer, as a shift (SDM A.6 bits 4:0).
    pub const fn preemption_timer_shift(&self) -> u32 {
        self.misc as u32 & 31
    }
}

const SECONDARY: u64 = arch::vmx_control::primary::ACTIVATE_SECONDARY_CONTROLS as u64;
const TERTIARY: u64 = arch::vmx_control::primary::ACTIVATE_TERTIARY_CONTROLS as u64;
const EPT_OR_VPID: u64 =
    (arch::vmx_control::secondary::ENABLE_EPT | arch::vmx_control::secondary::ENABLE_VPID) as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    fn read(msrs: &[(u32, u64)]) -> (Capabilities, Vec<u32>) {
        let map: BTreeMap<u32, u64> = msrs.iter().copied().collect();
        let asked = RefCell::new(Vec::new());
        let capabilities = Capabilities::read(|msr| {
            asked.borrow_mut().push(msr);
            map.get(&msr).copied().unwrap_or(0)
        });
        (capabilities, asked.into_inner())
    }

    #[test]
    fn clamping_is_wanted_and_allowed_or_must() {
        let allowed = Allowed::from_halves(0x0000_00f6_0000_0016);
        assert_eq!(allowed.clamp(0), 0x16);
        assert_eq!(allowed.clamp(0x101), 0x16);
        assert_eq!(allowed.clamp(0xa0), 0xb6);
        assert!(allowed.allows(0xf0) && !allowed.allows(0x1f0));
        assert_eq!(Allowed::from_mask(0x10).clamp(u64::MAX), 0x10);
    }

    #[test]
    fn absent_registers_are_not_read() {
        let (capabilities, asked) = read(&[(msr::IA32_VMX_PROCBASED_CTLS, 0)]);
        assert_eq!(capabilities.secondary, Allowed::default());
        for absent in [
            msr::IA32_VMX_PROCBASED_CTLS2,
            msr::IA32_VMX_PROCBASED_CTLS3,
            msr::IA32_VMX_EPT_VPID_CAP,
            msr::IA32_VMX_TRUE_PINBASED_CTLS,
        ] {
            assert!(!asked.contains(&absent), "{absent:#x}");
        }
    }

    #[test]
    fn tertiary_controls_are_one_64_bit_mask() {
        let (capabilities, _) = read(&[
            (msr::IA32_VMX_BASIC, 1 << 55 | 0x2b),
            (
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                (SECONDARY | TERTIARY) << 32,
            ),
            (msr::IA32_VMX_PROCBASED_CTLS2, 2 << 32),
            (msr::IA32_VMX_PROCBASED_CTLS3, 0x1_0000_0010),
            (msr::IA32_VMX_EPT_VPID_CAP, 0x40),
        ]);
        assert_eq!(capabilities.tertiary.may_be_1, 0x1_0000_0010);
        assert_eq!(capabilities.tertiary.must_be_1, 0);
        assert_eq!(
            (capabilities.revision(), capabilities.ept_vpid),
            (0x2b, 0x40)
        );
    }
}
