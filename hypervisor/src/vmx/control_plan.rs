//! Which control bits a vCPU runs with: a fixed part, a part per feature in use, and a part that
//! depends on how its local APIC is virtualized at the moment.

use super::capability::{Allowed, Capabilities};
use super::feature::{Feature, FeatureSet};
use crate::interrupts::apic_virtualization::{ApicControls, ApicFeatures};
use arch::vmx_control::{entry, exit, pin, primary, secondary};

/// The features in use that concern virtual APICs.
pub const fn apic_features(features: FeatureSet) -> ApicFeatures {
    ApicFeatures {
        tpr_shadow: features.contains(Feature::TprShadow),
        apic_accesses: features.contains(Feature::VirtualizeApicAccesses),
        x2apic_mode: features.contains(Feature::VirtualizeX2apicMode),
        register_virtualization: features.contains(Feature::ApicRegisterVirtualization),
        virtual_interrupt_delivery: features.contains(Feature::VirtualInterruptDelivery),
        posted_interrupts: features.contains(Feature::PostedInterrupts),
        ipi_virtualization: features.contains(Feature::IpiVirtualization),
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
    // SDM 27.2.1.2: neither without the other.
    (
        Feature::PreemptionTimer,
        Controls {
            pin: pin::PREEMPTION_TIMER,
            exit: exit::SAVE_PREEMPTION_TIMER,
            ..NONE
        },
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
    pub fn new(capabilities: &Capabilities, features: FeatureSet, apic: ApicControls) -> Self {
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

    /// The bits of APIC virtualization, and what they need.
    const fn of_apic(apic: ApicControls) -> Self {
        Self {
            pin: apic.pin_bits(),
            primary: apic.primary_bits()
                | if apic.tertiary_bits() != 0 {
                    primary::ACTIVATE_TERTIARY_CONTROLS
                } else {
                    0
                },
            secondary: apic.secondary_bits(),
            tertiary: apic.tertiary_bits(),
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
    use crate::interrupts::apic_virtualization::LocalApicState;
    use crate::vmx::feature::{negotiate, tests::everything};
    use apic::apic_base::ApicMode;
    use arch::vmx_control::tertiary;

    fn controls(off: &[Feature], mode: ApicMode) -> Controls {
        let mut disabled = FeatureSet::EMPTY;
        off.iter().for_each(|feature| disabled.insert(*feature));
        let features = negotiate(&everything(), disabled);
        let apic = ApicControls::new(apic_features(features), LocalApicState::enabled(mode));
        Controls::new(&everything(), features, apic)
    }

    #[test]
    fn what_must_be_1_is_1_and_what_may_not_is_0() {
        let mut processor = everything();
        processor.pin = Allowed::from_halves(0x0000_0009_0000_0016);
        let none = ApicControls::new(
            ApicFeatures::default(),
            LocalApicState::enabled(ApicMode::Disabled),
        );
        let features = negotiate(&processor, FeatureSet::EMPTY);
        let controls = Controls::new(&processor, features, none);
        assert_eq!(controls.pin, 0x1f);
        assert_ne!(controls.primary & primary::CR8_LOAD_EXITING, 0);
    }

    #[test]
    fn ipi_virtualization_activates_the_tertiary_controls() {
        let on = controls(&[], ApicMode::X2apic);
        assert_eq!(on.tertiary, tertiary::IPI_VIRTUALIZATION);
        assert_ne!(on.primary & primary::ACTIVATE_TERTIARY_CONTROLS, 0);
        assert_ne!(on.pin & pin::PROCESS_POSTED_INTERRUPTS, 0);
        for off in [
            controls(&[Feature::IpiVirtualization], ApicMode::X2apic),
            controls(&[], ApicMode::Disabled),
            controls(&[Feature::PostedInterrupts], ApicMode::Xapic),
        ] {
            assert_eq!(off.tertiary, 0);
            assert_eq!(off.primary & primary::ACTIVATE_TERTIARY_CONTROLS, 0);
        }
    }

    /// What is said to be in use is on in an enabled local APIC of either mode, and what is not is off in
    /// both.
    #[test]
    fn ipi_virtualization_is_in_use_exactly_if_its_control_can_be_1() {
        let parts = [
            Feature::TprShadow,
            Feature::VirtualizeApicAccesses,
            Feature::VirtualizeX2apicMode,
            Feature::ApicRegisterVirtualization,
            Feature::VirtualInterruptDelivery,
            Feature::PostedInterrupts,
            Feature::IpiVirtualization,
        ];
        for set in 0..1u32 << parts.len() {
            let off: Vec<Feature> = (0..parts.len())
                .filter(|part| set >> part & 1 != 0)
                .map(|part| parts[part])
                .collect();
            let mut disabled = FeatureSet::EMPTY;
            off.iter().for_each(|feature| disabled.insert(*feature));
            let used = negotiate(&everything(), disabled).contains(Feature::IpiVirtualization);
            assert_eq!(used, set == 0, "{off:?}");
            for mode in [ApicMode::Xapic, ApicMode::X2apic] {
                let on = controls(&off, mode).tertiary & tertiary::IPI_VIRTUALIZATION != 0;
                assert_eq!(on, used, "{off:?} {mode:?}");
            }
        }
    }

    #[test]
    fn optional_features_bring_their_bits() {
        let all = controls(&[], ApicMode::Xapic);
        let less = controls(
            &[Feature::Vpid, Feature::VirtualNmis, Feature::Pat],
            ApicMode::Xapic,
        );
        assert_eq!(all.secondary & !less.secondary, secondary::ENABLE_VPID);
        assert_eq!(all.pin & !less.pin, pin::VIRTUAL_NMIS);
        assert_eq!(all.exit & !less.exit, exit::SAVE_PAT | exit::LOAD_PAT);
        assert_eq!(all.entry & !less.entry, entry::LOAD_PAT);
    }
}
