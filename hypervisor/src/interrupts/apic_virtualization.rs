//! How much of a vCPU's local APIC the processor virtualizes now, and what that makes of its controls
//! and of the MSR bitmap for 800H to 8FFH (SDM 30.1 Virtual APIC state, 30.4, 30.5).

use apic::apic_base::ApicMode;
use arch::{
    msr::{X2APIC_FIRST, X2APIC_LAST},
    vmx_control::{pin, primary, secondary, tertiary},
};

use super::ipi_virtualization::IpiPlan;

/// What may be used for virtual APICs: what the processor has, less what a boot option switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApicFeatures {
    /// "Use TPR shadow".
    pub tpr_shadow: bool,
    /// "Virtualize APIC accesses".
    pub apic_accesses: bool,
    /// "Virtualize x2APIC mode".
    pub x2apic_mode: bool,
    /// "APIC-register virtualization".
    pub register_virtualization: bool,
    /// "Virtual-interrupt delivery".
    pub virtual_interrupt_delivery: bool,
    /// "Process posted interrupts".
    pub posted_interrupts: bool,
}

impl ApicFeatures {
    /// All of them.
    pub const ALL: Self = Self {
        tpr_shadow: true,
        apic_accesses: true,
        x2apic_mode: true,
        register_virtualization: true,
        virtual_interrupt_delivery: true,
        posted_interrupts: true,
    };

    /// Whether IPI virtualization has what it stands on, so that it removes exits rather than adding
    /// ways to lose interrupts: sender and receiver both in hardware.
    pub const fn carry_ipi_virtualization(self) -> bool {
        self.tpr_shadow
            && self.apic_accesses
            && self.x2apic_mode
            && self.register_virtualization
            && self.virtual_interrupt_delivery
            && self.posted_interrupts
    }
}

/// The controls of one vCPU that concern its local APIC, in its present mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicControls {
    /// "Use TPR shadow".
    pub tpr_shadow: bool,
    /// "Virtualize APIC accesses".
    pub apic_accesses: bool,
    /// "Virtualize x2APIC mode".
    pub x2apic_mode: bool,
    /// "APIC-register virtualization".
    pub register_virtualization: bool,
    /// "Virtual-interrupt delivery".
    pub virtual_interrupt_delivery: bool,
    /// "Process posted interrupts".
    pub posted_interrupts: bool,
    /// "IPI virtualization".
    pub ipi_virtualization: bool,
}

impl ApicControls {
    /// The controls for a mode, as far as the features go. Every combination this gives passes the
    /// VM-entry checks (SDM 26.2.1.1).
    pub const fn new(features: ApicFeatures, mode: ApicMode, plan: IpiPlan) -> Self {
        let shadow = features.tpr_shadow;
        // SDM 26.2.1.1: without the TPR shadow none of the others may be 1, and the two ways to
        // virtualize accesses exclude each other.
        let (apic_accesses, x2apic_mode) = match mode {
            ApicMode::Disabled => (false, false),
            // Without the shadow an access still exits as an APIC access.
            ApicMode::Xapic => (features.apic_accesses, false),
            ApicMode::X2apic => (false, shadow && features.x2apic_mode),
        };
        // A disabled local APIC takes no interrupt, so nothing may be delivered behind its back. And
        // without virtualized accesses EOI would be in software while delivery is not.
        let hardware = shadow && (apic_accesses || x2apic_mode);
        let delivery = hardware && features.virtual_interrupt_delivery;
        Self {
            tpr_shadow: shadow,
            apic_accesses,
            x2apic_mode,
            register_virtualization: hardware && features.register_virtualization,
            virtual_interrupt_delivery: delivery,
            posted_interrupts: delivery && features.posted_interrupts,
            // SDM 30.1.6; A4: in xAPIC mode without register virtualization the guest's write of the
            // destination would exit anyway.
            ipi_virtualization: delivery
                && features.carry_ipi_virtualization()
                && matches!(plan, IpiPlan::Virtualize),
        }
    }

    /// Bits of the pin-based controls, out of [`Self::PIN_MASK`].
    pub const fn pin_bits(self) -> u32 {
        bit(self.posted_interrupts, pin::PROCESS_POSTED_INTERRUPTS)
    }

    /// Bits of the primary controls, out of [`Self::PRIMARY_MASK`]. Without the TPR shadow CR8 would be
    /// the physical task priority, so its accesses exit.
    pub const fn primary_bits(self) -> u32 {
        bit(self.tpr_shadow, primary::USE_TPR_SHADOW)
            | bit(
                !self.tpr_shadow,
                primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING,
            )
    }

    /// Bits of the secondary controls, out of [`Self::SECONDARY_MASK`].
    pub const fn secondary_bits(self) -> u32 {
        bit(self.apic_accesses, secondary::VIRTUALIZE_APIC_ACCESSES)
            | bit(self.x2apic_mode, secondary::VIRTUALIZE_X2APIC_MODE)
            | bit(
                self.register_virtualization,
                secondary::APIC_REGISTER_VIRTUALIZATION,
            )
            | bit(
                self.virtual_interrupt_delivery,
                secondary::VIRTUAL_INTERRUPT_DELIVERY,
            )
    }

    /// Bits of the tertiary controls, out of [`Self::TERTIARY_MASK`].
    pub const fn tertiary_bits(self) -> u64 {
        if self.ipi_virtualization {
            tertiary::IPI_VIRTUALIZATION
        } else {
            0
        }
    }

    /// The pin-based controls this decides.
    pub const PIN_MASK: u32 = pin::PROCESS_POSTED_INTERRUPTS;
    /// The primary controls this decides.
    pub const PRIMARY_MASK: u32 =
        primary::USE_TPR_SHADOW | primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING;
    /// The secondary controls this decides.
    pub const SECONDARY_MASK: u32 = secondary::VIRTUALIZE_APIC_ACCESSES
        | secondary::VIRTUALIZE_X2APIC_MODE
        | secondary::APIC_REGISTER_VIRTUALIZATION
        | secondary::VIRTUAL_INTERRUPT_DELIVERY;
    /// The tertiary controls this decides.
    pub const TERTIARY_MASK: u64 = tertiary::IPI_VIRTUALIZATION;

    /// Which accesses to MSRs 800H to 8FFH do not exit.
    pub const fn x2apic_msrs(self) -> X2apicMsrPlan {
        let mut plan = X2apicMsrPlan::ALL_EXIT;
        if !self.x2apic_mode {
            // Passed through they would reach the physical local APIC (SDM 30.5).
            return plan;
        }
        plan = plan.pass_read(0x808).pass_write(0x808);
        if self.register_virtualization {
            let mut msr = X2APIC_FIRST;
            while msr <= X2APIC_LAST {
                if reads_from_page(msr) {
                    plan = plan.pass_read(msr);
                }
                msr += 1;
            }
        }
        if self.virtual_interrupt_delivery {
            plan = plan.pass_write(0x80b).pass_write(0x83f);
            if self.register_virtualization {
                // Only virtual-interrupt delivery keeps VPPR current (SDM 30.1.3).
                plan = plan.pass_read(0x80a);
            }
        }
        if self.ipi_virtualization {
            plan = plan.pass_write(0x830);
        }
        plan
    }
}

const fn bit(on: bool, mask: u32) -> u32 {
    if on { mask } else { 0 }
}

/// Whether a read of an x2APIC MSR may be answered from the virtual-APIC page: it is readable, and the
/// page always has its value. Not so the processor priority (see above) and the timer's current count.
/// The processor would answer for reserved and write-only registers too, which must fault.
// SDM 10.12.1.2, table "Local APIC Register Address Map Supported by x2APIC".
const fn reads_from_page(msr: u32) -> bool {
    matches!(
        msr,
        0x802 | 0x803 | 0x808 | 0x80d | 0x80f | 0x810..=0x828 | 0x830 | 0x832..=0x838 | 0x83e
    )
}

/// Which accesses to MSRs 800H to 8FFH pass without an exit: bit `m % 64` of element `m / 64` for MSR
/// 800H + m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X2apicMsrPlan {
    /// RDMSR.
    pub reads: [u64; 4],
    /// WRMSR.
    pub writes: [u64; 4],
}

impl X2apicMsrPlan {
    /// Every access exits.
    pub const ALL_EXIT: Self = Self {
        reads: [0; 4],
        writes: [0; 4],
    };

    const fn pass_read(mut self, msr: u32) -> Self {
        let index = msr - X2APIC_FIRST;
        self.reads[(index / 64) as usize] |= 1 << (index % 64);
        self
    }

    const fn pass_write(mut self, msr: u32) -> Self {
        let index = msr - X2APIC_FIRST;
        self.writes[(index / 64) as usize] |= 1 << (index % 64);
        self
    }

    /// Whether RDMSR passes.
    pub fn read_passes(&self, msr: u32) -> bool {
        Self::test(&self.reads, msr)
    }

    /// Whether WRMSR passes.
    pub fn write_passes(&self, msr: u32) -> bool {
        Self::test(&self.writes, msr)
    }

    fn test(words: &[u64; 4], msr: u32) -> bool {
        msr.checked_sub(X2APIC_FIRST).is_some_and(|index| {
            words
                .get((index / 64) as usize)
                .is_some_and(|word| word >> (index % 64) & 1 != 0)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use IpiPlan::{Software, Virtualize};

    const MODES: [ApicMode; 3] = [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic];

    fn all_features() -> impl Iterator<Item = ApicFeatures> {
        (0..64u32).map(|bits| ApicFeatures {
            tpr_shadow: bits & 1 != 0,
            apic_accesses: bits & 2 != 0,
            x2apic_mode: bits & 4 != 0,
            register_virtualization: bits & 8 != 0,
            virtual_interrupt_delivery: bits & 16 != 0,
            posted_interrupts: bits & 32 != 0,
        })
    }

    /// SDM 26.2.1.1, for every set of features, mode and plan.
    #[test]
    fn every_combination_passes_the_entry_checks() {
        for features in all_features() {
            for mode in MODES {
                for plan in [Virtualize, Software] {
                    let c = ApicControls::new(features, mode, plan);
                    if !c.tpr_shadow {
                        assert!(!c.x2apic_mode && !c.register_virtualization);
                        assert!(!c.virtual_interrupt_delivery && !c.ipi_virtualization);
                        assert_ne!(c.primary_bits() & primary::CR8_LOAD_EXITING, 0);
                    }
                    assert!(!(c.apic_accesses && c.x2apic_mode));
                    assert!(!c.posted_interrupts || c.virtual_interrupt_delivery);
                    assert!(!c.ipi_virtualization || plan == Virtualize);
                }
            }
        }
    }

    /// Prior-art B2: passed through without APIC virtualization the guest would write the real ICR.
    #[test]
    fn the_physical_icr_is_never_within_reach() {
        for features in all_features() {
            for mode in MODES {
                for plan in [Virtualize, Software] {
                    let c = ApicControls::new(features, mode, plan);
                    let msrs = c.x2apic_msrs();
                    assert_eq!(
                        msrs.write_passes(0x830),
                        c.ipi_virtualization && c.x2apic_mode
                    );
                    for msr in 0x800..=0x8ff {
                        let virtualized = match msr {
                            0x808 => c.x2apic_mode,
                            0x80b | 0x83f => c.virtual_interrupt_delivery && c.x2apic_mode,
                            0x830 => c.ipi_virtualization && c.x2apic_mode,
                            _ => false,
                        };
                        assert!(!msrs.write_passes(msr) || virtualized, "write {msr:#x}");
                        let from_page =
                            c.x2apic_mode && (msr == 0x808 || c.register_virtualization);
                        assert!(!msrs.read_passes(msr) || from_page, "read {msr:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_features_in_each_mode() {
        let x2apic = ApicControls::new(ApicFeatures::ALL, ApicMode::X2apic, Virtualize);
        assert!(x2apic.ipi_virtualization && x2apic.posted_interrupts && !x2apic.apic_accesses);
        assert_eq!(x2apic.tertiary_bits(), 1 << 4);
        assert_eq!(x2apic.secondary_bits(), 1 << 4 | 1 << 8 | 1 << 9);
        assert_eq!(
            (x2apic.pin_bits(), x2apic.primary_bits()),
            (1 << 7, 1 << 21)
        );
        let msrs = x2apic.x2apic_msrs();
        for msr in [
            0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x810, 0x827, 0x828, 0x830, 0x832, 0x837,
            0x838, 0x83e,
        ] {
            assert!(msrs.read_passes(msr), "{msr:#x}");
        }
        // Reserved, write-only, counting.
        for msr in [
            0x800, 0x804, 0x809, 0x80b, 0x80c, 0x80e, 0x829, 0x831, 0x839, 0x83f, 0x8ff,
        ] {
            assert!(!msrs.read_passes(msr), "{msr:#x}");
        }
        for msr in 0x800..=0x8ff {
            assert_eq!(
                msrs.write_passes(msr),
                matches!(msr, 0x808 | 0x80b | 0x830 | 0x83f),
                "{msr:#x}"
            );
        }
        assert!(
            !msrs.read_passes(0x7ff) && !msrs.write_passes(0x900) && !msrs.read_passes(u32::MAX)
        );

        let xapic = ApicControls::new(ApicFeatures::ALL, ApicMode::Xapic, Virtualize);
        assert!(xapic.ipi_virtualization && xapic.apic_accesses && !xapic.x2apic_mode);
        assert_eq!(xapic.x2apic_msrs(), X2apicMsrPlan::ALL_EXIT);

        let disabled = ApicControls::new(ApicFeatures::ALL, ApicMode::Disabled, Virtualize);
        assert!(disabled.tpr_shadow && disabled.secondary_bits() == 0 && disabled.pin_bits() == 0);
    }

    #[test]
    fn inhibited_the_icr_is_intercepted_and_the_control_off_together() {
        let c = ApicControls::new(ApicFeatures::ALL, ApicMode::X2apic, Software);
        assert_eq!(c.tertiary_bits(), 0);
        assert!(!c.x2apic_msrs().write_passes(0x830));
        assert!(
            c.x2apic_msrs().write_passes(0x80b),
            "the rest stays in hardware"
        );
    }

    #[test]
    fn the_processor_priority_is_read_from_the_page_only_if_kept_current() {
        let features = ApicFeatures {
            virtual_interrupt_delivery: false,
            ..ApicFeatures::ALL
        };
        let c = ApicControls::new(features, ApicMode::X2apic, Virtualize);
        assert!(c.register_virtualization && !c.x2apic_msrs().read_passes(0x80a));
        assert!(!c.x2apic_msrs().write_passes(0x80b) && !c.ipi_virtualization);
    }
}
