//! Which control bits a vCPU runs with: a fixed part, a part per feature in use, and a part that
//! depends on how its local APIC is virtualized at the moment.

use super::capability::{Allowed, Capabilities};
use super::feature::{Feature, FeatureSet};
use arch::vmx_control::{entry, exit, pin, primary, secondary, tertiary};

/// The mode of a virtual local APIC, as far as the processor's help is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAssistance {
    /// None: the APIC is disabled, or software has taken over (inhibited).
    Inhibited,
    /// For a memory-mapped APIC.
    Xapic,
    /// For an MSR-based APIC.
    X2apic,
}

/// Which parts of APIC virtualization a vCPU runs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApicPlan {
    /// "Use TPR shadow".
    pub tpr_shadow: bool,
    /// "Virtualize APIC accesses".
    pub apic_accesses: bool,
    /// "Virtualize x2APIC mode".
    pub x2apic_mode: bool,
    /// "APIC-register virtualization".
    pub registers: bool,
    /// "Virtual-interrupt delivery".
    pub delivery: bool,
    /// "Process posted interrupts".
    pub posted: bool,
    /// "IPI virtualization".
    pub ipi: bool,
}

impl ApicPlan {
    /// The plan for `assistance` with the features in use. Delivery by the processor needs the
    /// processor to see the guest's EOI, so it builds on the access virtualization of the mode.
    pub fn new(features: FeatureSet, assistance: ApicAssistance) -> Self {
        let access = match assistance {
            ApicAssistance::Inhibited => return Self::default(),
            ApicAssistance::Xapic => features.contains(Feature::VirtualizeApicAccesses),
            ApicAssistance::X2apic => features.contains(Feature::VirtualizeX2apicMode),
        };
        let delivery = access && features.contains(Feature::VirtualInterruptDelivery);
        let posted = delivery && features.contains(Feature::PostedInterrupts);
        Self {
            tpr_shadow: features.contains(Feature::TprShadow),
            apic_accesses: access && assistance == ApicAssistance::Xapic,
            x2apic_mode: access && assistance == ApicAssistance::X2apic,
            registers: access && features.contains(Feature::ApicRegisterVirtualization),
            delivery,
            posted,
            ipi: posted && features.contains(Feature::IpiVirtualization),
        }
    }
}

/// Values of the control fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: u32,
    /// Tertiary processor-based controls, if the processor can activate them.
    pub tertiary: u64,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
}

/// Bits wanted whatever the features: required ones are checked by the capability table, the
/// others are dropped where the processor does not allow them.
const PIN: u32 = pin::EXTERNAL_INTERRUPT_EXITING | pin::NMI_EXITING;
const PRIMARY: u32 = primary::HLT_EXITING
    | primary::MWAIT_EXITING
    | primary::MONITOR_EXITING
    | primary::RDPMC_EXITING
    | primary::USE_TSC_OFFSETTING
    | primary::USE_IO_BITMAPS
    | primary::USE_MSR_BITMAPS
    | primary::ACTIVATE_SECONDARY_CONTROLS;
const SECONDARY: u32 = secondary::ENABLE_EPT | secondary::UNRESTRICTED_GUEST;
const EXIT: u32 = exit::HOST_ADDRESS_SPACE_SIZE
    | exit::ACKNOWLEDGE_INTERRUPT
    | exit::SAVE_DEBUG_CONTROLS
    | exit::SAVE_EFER
    | exit::LOAD_EFER;
const ENTRY: u32 = entry::LOAD_DEBUG_CONTROLS | entry::LOAD_EFER;

/// Bits that come with a feature in use, by field.
const PER_FEATURE: &[(Feature, Controls)] = &[
    (
        Feature::Pat,
        with_exit_entry(exit::SAVE_PAT | exit::LOAD_PAT, entry::LOAD_PAT),
    ),
    (Feature::VirtualNmis, with_pin(pin::VIRTUAL_NMIS)),
    (Feature::Vpid, with_secondary(secondary::ENABLE_VPID)),
    (Feature::Rdtscp, with_secondary(secondary::ENABLE_RDTSCP)),
];

const NONE: Controls = Controls {
    pin: 0,
    primary: 0,
    secondary: 0,
    tertiary: 0,
    exit: 0,
    entry: 0,
};

const fn with_pin(pin: u32) -> Controls {
    Controls { pin, ..NONE }
}

const fn with_secondary(secondary: u32) -> Controls {
    Controls { secondary, ..NONE }
}

const fn with_exit_entry(exit: u32, entry: u32) -> Controls {
    Controls {
        exit,
        entry,
        ..NONE
    }
}

impl Controls {
    /// The controls of a vCPU: `(wanted & allowed1) | must_be_1` in every field.
    pub fn new(capabilities: &Capabilities, features: FeatureSet, apic: ApicPlan) -> Self {
        let mut wanted = Self {
            pin: PIN,
            primary: PRIMARY,
            secondary: SECONDARY,
            tertiary: 0,
            exit: EXIT,
            entry: ENTRY,
        };
        for (feature, bits) in PER_FEATURE {
            if features.contains(*feature) {
                wanted.add(bits);
            }
        }
        wanted.add(&Self::of_apic(apic));
        Self {
            pin: clamp(capabilities.pin, wanted.pin),
            primary: clamp(capabilities.primary, wanted.primary),
            secondary: clamp(capabilities.secondary, wanted.secondary),
            tertiary: capabilities.tertiary.clamp(wanted.tertiary),
            exit: clamp(capabilities.exit, wanted.exit),
            entry: clamp(capabilities.entry, wanted.entry),
        }
    }

    /// The bits of APIC virtualization.
    fn of_apic(apic: ApicPlan) -> Self {
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        Self {
            pin: bit(apic.posted, pin::PROCESS_POSTED_INTERRUPTS),
            primary: if apic.tpr_shadow {
                primary::USE_TPR_SHADOW
            } else {
                primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING
            } | bit(apic.ipi, primary::ACTIVATE_TERTIARY_CONTROLS),
            secondary: bit(apic.apic_accesses, secondary::VIRTUALIZE_APIC_ACCESSES)
                | bit(apic.x2apic_mode, secondary::VIRTUALIZE_X2APIC_MODE)
                | bit(apic.registers, secondary::APIC_REGISTER_VIRTUALIZATION)
                | bit(apic.delivery, secondary::VIRTUAL_INTERRUPT_DELIVERY),
            tertiary: if apic.ipi {
                tertiary::IPI_VIRTUALIZATION
            } else {
                0
            },
            exit: 0,
            entry: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        self.pin |= other.pin;
        self.primary |= other.primary;
        self.secondary |= other.secondary;
        self.tertiary |= other.tertiary;
        self.exit |= other.exit;
        self.entry |= other.entry;
    }
}

/// 32-bit fields have 32-bit masks.
fn clamp(allowed: Allowed, wanted: u32) -> u32 {
    allowed.clamp(u64::from(wanted)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::feature::{negotiate, tests::everything};

    fn all_features() -> FeatureSet {
        negotiate(&everything(), FeatureSet::EMPTY)
    }

    fn without(feature: Feature) -> FeatureSet {
        let mut off = FeatureSet::EMPTY;
        off.insert(feature);
        negotiate(&everything(), off)
    }

    #[test]
    fn modes_choose_their_own_access_virtualization() {
        let x2 = ApicPlan::new(all_features(), ApicAssistance::X2apic);
        assert!(x2.x2apic_mode && !x2.apic_accesses && x2.ipi);
        let x1 = ApicPlan::new(all_features(), ApicAssistance::Xapic);
        assert!(!x1.x2apic_mode && x1.apic_accesses && x1.ipi);
    }

    #[test]
    fn an_inhibited_apic_gets_no_help() {
        let plan = ApicPlan::new(all_features(), ApicAssistance::Inhibited);
        assert_eq!(plan, ApicPlan::default());
        let controls = Controls::new(&everything(), all_features(), plan);
        assert_eq!(controls.tertiary, 0);
        assert_eq!(controls.primary & primary::ACTIVATE_TERTIARY_CONTROLS, 0);
        assert_ne!(controls.primary & primary::CR8_LOAD_EXITING, 0);
        assert_eq!(controls.pin & pin::PROCESS_POSTED_INTERRUPTS, 0);
    }

    #[test]
    fn ipi_virtualization_activates_the_tertiary_controls() {
        let plan = ApicPlan::new(all_features(), ApicAssistance::X2apic);
        let controls = Controls::new(&everything(), all_features(), plan);
        assert_eq!(controls.tertiary, tertiary::IPI_VIRTUALIZATION);
        assert_ne!(controls.primary & primary::ACTIVATE_TERTIARY_CONTROLS, 0);

        let features = without(Feature::IpiVirtualization);
        let plan = ApicPlan::new(features, ApicAssistance::X2apic);
        let controls = Controls::new(&everything(), features, plan);
        assert_eq!(controls.tertiary, 0);
        assert_eq!(controls.primary & primary::ACTIVATE_TERTIARY_CONTROLS, 0);
        assert_ne!(controls.pin & pin::PROCESS_POSTED_INTERRUPTS, 0);
    }

    #[test]
    fn delivery_needs_the_access_virtualization_of_the_mode() {
        let features = without(Feature::VirtualizeX2apicMode);
        let plan = ApicPlan::new(features, ApicAssistance::X2apic);
        assert!(plan.tpr_shadow && !plan.delivery && !plan.posted && !plan.ipi);
        assert!(ApicPlan::new(features, ApicAssistance::Xapic).delivery);
    }

    #[test]
    fn entry_checks_of_apic_virtualization_hold_for_every_set_of_features() {
        // SDM 26.2.1.1 VM-execution control fields.
        for mask in 0..1u32 << 7 {
            let mut off = FeatureSet::EMPTY;
            for (bit, feature) in [
                Feature::TprShadow,
                Feature::VirtualizeApicAccesses,
                Feature::VirtualizeX2apicMode,
                Feature::ApicRegisterVirtualization,
                Feature::VirtualInterruptDelivery,
                Feature::PostedInterrupts,
                Feature::IpiVirtualization,
            ]
            .into_iter()
            .enumerate()
            {
                if mask >> bit & 1 != 0 {
                    off.insert(feature);
                }
            }
            let features = negotiate(&everything(), off);
            for assistance in [
                ApicAssistance::Inhibited,
                ApicAssistance::Xapic,
                ApicAssistance::X2apic,
            ] {
                let plan = ApicPlan::new(features, assistance);
                assert!(
                    plan.tpr_shadow
                        || !(plan.x2apic_mode || plan.registers || plan.delivery || plan.ipi)
                );
                assert!(!(plan.apic_accesses && plan.x2apic_mode));
                assert!(plan.delivery || !plan.posted);
            }
        }
    }
}
