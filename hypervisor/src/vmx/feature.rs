//! The features of VT-x that the hypervisor knows, as a table: what the processor must allow, what
//! else must be in use, and what each is for.

use super::capability::Capabilities;
use arch::vmx_control::{entry, ept_vpid_capability, exit, pin, primary, secondary, tertiary};
use core::fmt;

/// A set of control bits in one of the control fields, or capabilities of EPT and VPID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Pin-based controls.
    Pin(u32),
    /// Primary processor-based controls.
    Primary(u32),
    /// Secondary processor-based controls.
    Secondary(u32),
    /// Tertiary processor-based controls.
    Tertiary(u64),
    /// VM-exit controls.
    Exit(u32),
    /// VM-entry controls.
    Entry(u32),
    /// Bits of IA32_VMX_EPT_VPID_CAP.
    EptVpid(u64),
}

impl Needs {
    fn met_by(self, has: &Capabilities) -> bool {
        match self {
            Self::Pin(bits) => has.pin.allows(u64::from(bits)),
            Self::Primary(bits) => has.primary.allows(u64::from(bits)),
            Self::Secondary(bits) => has.secondary.allows(u64::from(bits)),
            Self::Tertiary(bits) => has.tertiary.allows(bits),
            Self::Exit(bits) => has.exit.allows(u64::from(bits)),
            Self::Entry(bits) => has.entry.allows(u64::from(bits)),
            Self::EptVpid(bits) => has.ept_vpid & bits == bits,
        }
    }
}

/// Whether the hypervisor can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Necessity {
    /// It cannot.
    Required,
    /// It can.
    Optional,
}

/// A row of the capability table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The feature.
    pub feature: Feature,
    /// Name in `#ph capability` lines.
    pub name: &'static str,
    /// Whether the hypervisor can do without.
    pub necessity: Necessity,
    /// What the processor must allow.
    pub needs: &'static [Needs],
    /// What else must be in use; earlier rows only.
    pub builds_on: &'static [Feature],
    /// What it is for.
    pub purpose: &'static str,
}

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $necessity:ident,
        [$($needs:expr),*], [$($on:ident),*], $purpose:literal;)*) => {
        /// A feature of VT-x, in the order of the capability table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Feature {
            $($(#[$doc])* $variant,)*
        }

        /// The capability table.
        pub const TABLE: &[Row] = &[$(Row {
            feature: Feature::$variant,
            name: $name,
            necessity: Necessity::$necessity,
            needs: &[$($needs),*],
            builds_on: &[$(Feature::$on),*],
            purpose: $purpose,
        },)*];
    };
}

features! {
    /// Extended page tables with 4-level walks in write-back memory.
    Ept, "ept", Required,
        [Needs::Primary(primary::ACTIVATE_SECONDARY_CONTROLS), Needs::Secondary(secondary::ENABLE_EPT),
         Needs::EptVpid(ept_vpid_capability::PAGE_WALK_4 | ept_vpid_capability::MEMORY_TYPE_WB)],
        [], "guest memory";
    /// Real mode and unpaged mode without emulation.
    UnrestrictedGuest, "unrestricted_guest", Required,
        [Needs::Secondary(secondary::UNRESTRICTED_GUEST)], [Ept], "guest start-up in real mode";
    /// External-interrupt exits that say the vector.
    AcknowledgeInterrupt, "acknowledge_interrupt_on_exit", Required,
        [Needs::Pin(pin::EXTERNAL_INTERRUPT_EXITING | pin::NMI_EXITING),
         Needs::Exit(exit::ACKNOWLEDGE_INTERRUPT | exit::HOST_ADDRESS_SPACE_SIZE)], [],
        "interrupts by exit";
    /// The guest has an IA32_EFER of its own.
    Efer, "load_efer", Required,
        [Needs::Exit(exit::SAVE_EFER | exit::LOAD_EFER), Needs::Entry(entry::LOAD_EFER)], [],
        "the guest's paging mode";
    /// MSR bitmaps.
    MsrBitmap, "msr_bitmap", Required, [Needs::Primary(primary::USE_MSR_BITMAPS)], [],
        "guest access to its own MSRs";
    /// I/O bitmaps.
    IoBitmap, "io_bitmap", Required, [Needs::Primary(primary::USE_IO_BITMAPS)], [],
        "device emulation";
    /// The guest has an IA32_PAT of its own.
    Pat, "load_pat", Optional,
        [Needs::Exit(exit::SAVE_PAT | exit::LOAD_PAT), Needs::Entry(entry::LOAD_PAT)], [],
        "the guest's memory types";
    /// The processor tracks the blocking of virtual NMIs.
    VirtualNmis, "virtual_nmis", Optional,
        [Needs::Pin(pin::VIRTUAL_NMIS), Needs::Primary(primary::NMI_WINDOW_EXITING)], [],
        "NMIs for guests";
    /// 2-MByte EPT pages.
    Ept2M, "ept_2m_pages", Optional, [Needs::EptVpid(ept_vpid_capability::PAGE_2M)], [Ept],
        "fewer TLB misses";
    /// 1-GByte EPT pages.
    Ept1G, "ept_1g_pages", Optional, [Needs::EptVpid(ept_vpid_capability::PAGE_1G)], [Ept],
        "fewer TLB misses";
    /// Accessed and dirty flags in EPT.
    EptAccessedDirty, "ept_accessed_dirty", Optional,
        [Needs::EptVpid(ept_vpid_capability::ACCESSED_DIRTY)], [Ept], "dirty tracking";
    /// Address-space tags.
    Vpid, "vpid", Optional,
        [Needs::Secondary(secondary::ENABLE_VPID),
         Needs::EptVpid(ept_vpid_capability::INVVPID | ept_vpid_capability::INVVPID_SINGLE
            | ept_vpid_capability::INVVPID_ALL)], [],
        "TLB entries that outlive an exit";
    /// RDTSCP and RDPID in the guest.
    Rdtscp, "rdtscp", Optional, [Needs::Secondary(secondary::ENABLE_RDTSCP)], [],
        "the guest's RDTSCP";
    /// The VMX-preemption timer.
    PreemptionTimer, "preemption_timer", Optional, [Needs::Pin(pin::PREEMPTION_TIMER), Needs::Exit(exit::SAVE_PREEMPTION_TIMER)], [],
        "time slices without an interrupt";
    /// CR8 and the TPR in the virtual-APIC page.
    TprShadow, "tpr_shadow", Optional, [Needs::Primary(primary::USE_TPR_SHADOW)], [],
        "task priority without exits";
    /// The APIC-access page.
    VirtualizeApicAccesses, "virtualize_apic_accesses", Optional,
        [Needs::Secondary(secondary::VIRTUALIZE_APIC_ACCESSES)], [TprShadow], "xAPIC guests";
    /// x2APIC MSRs in the virtual-APIC page.
    VirtualizeX2apicMode, "virtualize_x2apic_mode", Optional,
        [Needs::Secondary(secondary::VIRTUALIZE_X2APIC_MODE)], [TprShadow], "x2APIC guests";
    /// Reads of the APIC from the virtual-APIC page.
    ApicRegisterVirtualization, "apic_register_virtualization", Optional,
        [Needs::Secondary(secondary::APIC_REGISTER_VIRTUALIZATION)], [TprShadow],
        "APIC reads without exits";
    /// Delivery and EOI of virtual interrupts by the processor.
    VirtualInterruptDelivery, "virtual_interrupt_delivery", Optional,
        [Needs::Secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY)], [TprShadow],
        "interrupts and EOI without exits";
    /// Interrupts posted into a running guest.
    PostedInterrupts, "posted_interrupts", Optional,
        [Needs::Pin(pin::PROCESS_POSTED_INTERRUPTS)], [VirtualInterruptDelivery],
        "receiving interrupts without exits";
    /// IPIs posted by the sender's processor.
    IpiVirtualization, "ipi_virtualization", Optional,
        [Needs::Primary(primary::ACTIVATE_TERTIARY_CONTROLS),
         Needs::Tertiary(tertiary::IPI_VIRTUALIZATION)],
        [VirtualizeApicAccesses, VirtualizeX2apicMode, ApicRegisterVirtualization, PostedInterrupts],
        "sending IPIs without exits";
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(u32);

impl FeatureSet {
    /// No feature.
    pub const EMPTY: Self = Self(0);

    /// Whether `feature` is in the set.
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 >> feature as u32 & 1 != 0
    }

    /// Adds `feature`.
    pub const fn insert(&mut self, feature: Feature) {
        self.0 |= 1 << feature as u32;
    }

    /// Takes `feature` out.
    pub const fn remove(&mut self, feature: Feature) {
        self.0 &= !(1 << feature as u32);
    }
}

/// Why a feature is used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is in use.
    InUse,
    /// The processor does not allow it.
    ProcessorLacksIt,
    /// The command line turned it off.
    TurnedOff,
    /// It builds on a feature that is not in use.
    Without(&'static str),
}

impl fmt::Display for Reason {
    /// One word, as the `#ph` lines need it.
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::InUse => formatter.write_str("in-use"),
            Self::ProcessorLacksIt => formatter.write_str("processor-lacks-it"),
            Self::TurnedOff => formatter.write_str("turned-off-by-option"),
            Self::Without(name) => write!(formatter, "without-{name}"),
        }
    }
}

/// One feature's outcome.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Its row.
    pub row: &'static Row,
    /// Whether the processor has it.
    pub processor_has: bool,
    /// Whether and why it is used or not.
    pub reason: Reason,
}

fn row_name(feature: Feature) -> &'static str {
    TABLE
        .iter()
        .find(|row| row.feature == feature)
        .map_or("?", |row| row.name)
}

/// Judges every row in order, so that a feature is only used where all it builds on is.
pub fn judge(
    capabilities: &Capabilities,
    disabled: FeatureSet,
) -> impl Iterator<Item = Verdict> + '_ {
    let mut in_use = FeatureSet::EMPTY;
    TABLE.iter().map(move |row| {
        let processor_has = row.needs.iter().all(|needs| needs.met_by(capabilities));
        let missing = row.builds_on.iter().find(|on| !in_use.contains(**on));
        let reason = if !processor_has {
            Reason::ProcessorLacksIt
        } else if disabled.contains(row.feature) {
            Reason::TurnedOff
        } else if let Some(on) = missing {
            Reason::Without(row_name(*on))
        } else {
            in_use.insert(row.feature);
            Reason::InUse
        };
        Verdict {
            row,
            processor_has,
            reason,
        }
    })
}

/// The features in use.
pub fn negotiate(capabilities: &Capabilities, disabled: FeatureSet) -> FeatureSet {
    let mut used = FeatureSet::EMPTY;
    for verdict in judge(capabilities, disabled) {
        if verdict.reason == Reason::InUse {
            used.insert(verdict.row.feature);
        }
    }
    used
}

/// The first required feature that is not in use.
pub fn missing_requirement(capabilities: &Capabilities) -> Option<Verdict> {
    judge(capabilities, FeatureSet::EMPTY).find(|verdict| {
        verdict.row.necessity == Necessity::Required && verdict.reason != Reason::InUse
    })
}

/// Writes the capability table: a line for people and a `#ph` line per feature.
pub fn write_table(
    out: &mut (impl fmt::Write + ?Sized),
    capabilities: &Capabilities,
    disabled: FeatureSet,
) -> fmt::Result {
    writeln!(out, "  processor  used  feature")?;
    for verdict in judge(capabilities, disabled) {
        let used = verdict.reason == Reason::InUse;
        write!(
            out,
            "  {:9}  {:4}  {} ({})",
            yes_no(verdict.processor_has),
            yes_no(used),
            verdict.row.name,
            verdict.row.purpose
        )?;
        if !used {
            write!(out, ": {}", verdict.reason)?;
        }
        writeln!(out)?;
    }
    for verdict in judge(capabilities, disabled) {
        writeln!(
            out,
            "#ph capability name={} processor={} used={} reason={}",
            verdict.row.name,
            yes_no(verdict.processor_has),
            yes_no(verdict.reason == Reason::InUse),
            verdict.reason
        )?;
    }
    Ok(())
}

const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vmx::capability::Allowed;

    pub(crate) fn everything() -> Capabilities {
        let all = Allowed::from_halves(0xffff_ffff_0000_0016);
        Capabilities {
            ept_vpid: u64::MAX,
            pin: all,
            primary: all,
            secondary: Allowed::from_halves(0xffff_ffff_0000_0000),
            tertiary: Allowed::from_mask(u64::MAX),
            exit: all,
            entry: all,
            ..Default::default()
        }
    }

    fn disabled(features: &[Feature]) -> FeatureSet {
        let mut set = FeatureSet::EMPTY;
        features.iter().for_each(|feature| set.insert(*feature));
        set
    }

    fn reason(capabilities: &Capabilities, off: FeatureSet, feature: Feature) -> Reason {
        judge(capabilities, off)
            .find(|verdict| verdict.row.feature == feature)
            .unwrap()
            .reason
    }

    #[test]
    fn rows_are_in_the_order_of_the_enum_and_build_on_earlier_ones() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.feature as usize, index);
            assert!(
                row.builds_on.iter().all(|on| *on < row.feature),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn a_processor_with_everything_uses_everything() {
        for verdict in judge(&everything(), FeatureSet::EMPTY) {
            assert_eq!(verdict.reason, Reason::InUse, "{}", verdict.row.name);
        }
        assert!(missing_requirement(&everything()).is_none());
    }

    #[test]
    fn taking_a_feature_away_takes_what_builds_on_it() {
        let off = disabled(&[Feature::TprShadow]);
        let all = everything();
        assert_eq!(reason(&all, off, Feature::TprShadow), Reason::TurnedOff);
        assert_eq!(
            reason(&all, off, Feature::VirtualInterruptDelivery),
            Reason::Without("tpr_shadow")
        );
        assert_eq!(
            reason(&all, off, Feature::IpiVirtualization),
            Reason::Without("virtualize_apic_accesses")
        );
    }

    #[test]
    fn no_tertiary_controls_means_no_ipi_virtualization_and_nothing_else() {
        let mut processor = everything();
        processor.tertiary = Allowed::default();
        for verdict in judge(&processor, FeatureSet::EMPTY) {
            let expected = if verdict.row.feature == Feature::IpiVirtualization {
                Reason::ProcessorLacksIt
            } else {
                Reason::InUse
            };
            assert_eq!(verdict.reason, expected, "{}", verdict.row.name);
        }
    }

    #[test]
    fn without_unrestricted_guest_there_is_no_start() {
        let mut processor = everything();
        processor.secondary.may_be_1 &= !u64::from(secondary::UNRESTRICTED_GUEST);
        let missing = missing_requirement(&processor).unwrap();
        assert_eq!(missing.row.feature, Feature::UnrestrictedGuest);
    }

    #[test]
    fn the_table_says_it_in_one_line_per_feature() {
        let mut text = String::new();
        write_table(
            &mut text,
            &everything(),
            disabled(&[Feature::IpiVirtualization]),
        )
        .unwrap();
        assert!(text.contains(
            "#ph capability name=ipi_virtualization processor=yes used=no reason=turned-off-by-option\n"
        ));
        assert!(text.contains("#ph capability name=ept processor=yes used=yes reason=in-use\n"));
        assert_eq!(text.matches("#ph capability").count(), TABLE.len());
    }
}
