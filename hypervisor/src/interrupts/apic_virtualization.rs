//! How much of a vCPU's local APIC the processor virtualizes now, and what that makes of its controls
//! and of the MSR bitmap for 800H to 8FFH (SDM 30.1 Virtual APIC state, 30.4, 30.5).

use apic::apic_base::ApicMode;
use arch::{
    msr::{X2APIC_FIRST, X2APIC_LAST},
    vmx_control::{pin, primary, secondary, tertiary},
};

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
    /// "IPI virtualization"; only with all the others, so that it removes exits rather than adding ways to
    /// lose interrupts: sender and receiver both in hardware, in either mode.
    pub ipi_virtualization: bool,
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
        ipi_virtualization: true,
    };
}

/// Where a vCPU's xAPIC page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicPage {
    /// At FEE00000H, where the APIC-access page is mapped.
    InPlace,
    /// Somewhere else: accesses there exit as EPT violations, and FEE00000H is none of its local APIC's.
    Moved,
}

/// Whether a local APIC takes fixed interrupts (SDM 10.4.7.2 Local APIC State After It Has Been Software
/// Disabled).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftwareState {
    /// Bit 8 of the spurious-interrupt vector register is 1.
    Enabled,
    /// It is 0.
    Disabled,
}

/// What of a local APIC decides how it is virtualized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicState {
    /// The mode.
    pub mode: ApicMode,
    /// The place of the page, in xAPIC mode.
    pub page: ApicPage,
    /// Whether it takes fixed interrupts.
    pub software: SoftwareState,
}

impl LocalApicState {
    /// In `mode`, enabled, the page where it is after reset.
    pub const fn enabled(mode: ApicMode) -> Self {
        Self {
            mode,
            page: ApicPage::InPlace,
            software: SoftwareState::Enabled,
        }
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
    /// The controls for a local APIC, as far as the features go. Every combination this gives passes the
    /// VM-entry checks (SDM 26.2.1.1).
    pub const fn new(features: ApicFeatures, state: LocalApicState) -> Self {
        let shadow = features.tpr_shadow;
        // SDM 26.2.1.1: without the TPR shadow none of the others may be 1, and the two ways to
        // virtualize accesses exclude each other.
        let (apic_accesses, x2apic_mode) = match (state.mode, state.page) {
            (ApicMode::Disabled, _) | (ApicMode::Xapic, ApicPage::Moved) => (false, false),
            // Without the shadow an access still exits as an APIC access.
            (ApicMode::Xapic, ApicPage::InPlace) => (features.apic_accesses, false),
            (ApicMode::X2apic, _) => (false, shadow && features.x2apic_mode),
        };
        // Without virtualized accesses EOI would be in software while delivery is not.
        let hardware = shadow && (apic_accesses || x2apic_mode);
        // SDM 30.1.5, 30.6: the processor requests self-IPIs and posted interrupts whatever the
        // spurious-interrupt vector register says. A software-disabled local APIC accepts neither, but it
        // delivers what is pending (SDM 10.4.7.2): software does.
        let delivery = hardware
            && features.virtual_interrupt_delivery
            && matches!(state.software, SoftwareState::Enabled);
        Self {
            tpr_shadow: shadow,
            apic_accesses,
            x2apic_mode,
            register_virtualization: hardware && features.register_virtualization,
            virtual_interrupt_delivery: delivery,
            posted_interrupts: delivery && features.posted_interrupts,
            ipi_virtualization: delivery && features.ipi_virtualization,
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

    const MODES: [ApicMode; 3] = [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic];

    fn all_features() -> impl Iterator<Item = ApicFeatures> {
        (0..128u32).map(|bits| ApicFeatures {
            tpr_shadow: bits & 1 != 0,
            apic_accesses: bits & 2 != 0,
            x2apic_mode: bits & 4 != 0,
            register_virtualization: bits & 8 != 0,
            virtual_interrupt_delivery: bits & 16 != 0,
            posted_interrupts: bits & 32 != 0,
            ipi_virtualization: bits & 64 != 0,
        })
    }

    fn all_states() -> impl Iterator<Item = LocalApicState> {
        MODES.into_iter().flat_map(|mode| {
            [ApicPage::InPlace, ApicPage::Moved]
                .into_iter()
                .flat_map(move |page| {
                    [SoftwareState::Enabled, SoftwareState::Disabled].map(|software| {
                        LocalApicState {
                            mode,
                            page,
                            software,
                        }
                    })
                })
        })
    }

    fn enabled(features: ApicFeatures, mode: ApicMode) -> ApicControls {
        ApicControls::new(features, LocalApicState::enabled(mode))
    }

    /// SDM 26.2.1.1, for every set of features and state.
    #[test]
    fn every_combination_passes_the_entry_checks() {
        for features in all_features() {
            for state in all_states() {
                let c = ApicControls::new(features, state);
                if !c.tpr_shadow {
                    assert!(!c.x2apic_mode && !c.register_virtualization);
                    assert!(!c.virtual_interrupt_delivery && !c.ipi_virtualization);
                    assert_ne!(c.primary_bits() & primary::CR8_LOAD_EXITING, 0);
                }
                assert!(!(c.apic_accesses && c.x2apic_mode));
                assert!(!c.posted_interrupts || c.virtual_interrupt_delivery);
                assert!(!c.ipi_virtualization || features.ipi_virtualization);
            }
        }
    }

    /// SDM 10.4.7.2: whatever the processor would put into IRR by itself is software's business.
    #[test]
    fn nothing_is_requested_behind_the_back_of_a_disabled_apic() {
        for features in all_features() {
            for state in all_states() {
                let c = ApicControls::new(features, state);
                if state.software == SoftwareState::Disabled || state.mode == ApicMode::Disabled {
                    assert!(!c.virtual_interrupt_delivery, "self-IPIs");
                    assert!(!c.posted_interrupts && !c.ipi_virtualization);
                    assert!(!c.x2apic_msrs().write_passes(0x83f));
                }
            }
        }
        let registers = ApicControls::new(
            ApicFeatures::ALL,
            LocalApicState {
                software: SoftwareState::Disabled,
                ..LocalApicState::enabled(ApicMode::Xapic)
            },
        );
        assert!(registers.register_virtualization, "the rest stays");
    }

    #[test]
    fn where_the_page_was_is_memory_when_it_has_moved() {
        let moved = LocalApicState {
            page: ApicPage::Moved,
            ..LocalApicState::enabled(ApicMode::Xapic)
        };
        let c = ApicControls::new(ApicFeatures::ALL, moved);
        assert!(c.tpr_shadow && c.secondary_bits() == 0 && c.pin_bits() == 0);
        let x2apic = LocalApicState {
            mode: ApicMode::X2apic,
            ..moved
        };
        assert_eq!(
            ApicControls::new(ApicFeatures::ALL, x2apic),
            enabled(ApicFeatures::ALL, ApicMode::X2apic),
            "there is no page in x2APIC mode"
        );
    }

    /// Prior-art B2: passed through without APIC virtualization the guest would write the real ICR.
    #[test]
    fn the_physical_icr_is_never_within_reach() {
        for features in all_features() {
            for state in all_states() {
                let c = ApicControls::new(features, state);
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
                    let from_page = c.x2apic_mode && (msr == 0x808 || c.register_virtualization);
                    assert!(!msrs.read_passes(msr) || from_page, "read {msr:#x}");
                }
            }
        }
    }

    #[test]
    fn all_features_in_each_mode() {
        let x2apic = enabled(ApicFeatures::ALL, ApicMode::X2apic);
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

        let xapic = enabled(ApicFeatures::ALL, ApicMode::Xapic);
        assert!(xapic.ipi_virtualization && xapic.apic_accesses && !xapic.x2apic_mode);
        assert_eq!(xapic.x2apic_msrs(), X2apicMsrPlan::ALL_EXIT);

        let disabled = enabled(ApicFeatures::ALL, ApicMode::Disabled);
        assert!(disabled.tpr_shadow && disabled.secondary_bits() == 0 && disabled.pin_bits() == 0);
    }

    /// B5 number 11: switched off by an option, on a processor that has it: the control stays 0 and the
    /// ICR is intercepted, whatever else changes.
    #[test]
    fn b5_11_switched_off_stays_off() {
        let features = ApicFeatures {
            ipi_virtualization: false,
            ..ApicFeatures::ALL
        };
        for state in all_states() {
            let c = ApicControls::new(features, state);
            assert_eq!(c.tertiary_bits(), 0);
            assert!(!c.x2apic_msrs().write_passes(0x830));
        }
        let c = enabled(features, ApicMode::X2apic);
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
        let c = enabled(features, ApicMode::X2apic);
        assert!(c.register_virtualization && !c.x2apic_msrs().read_passes(0x80a));
        assert!(!c.x2apic_msrs().write_passes(0x80b) && !c.ipi_virtualization);
    }
}
