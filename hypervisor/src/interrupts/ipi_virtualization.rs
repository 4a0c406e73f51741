//! IPI virtualization of one virtual machine: the PID-pointer table, when the feature may be on, and
//! what each vCPU's controls must be now (SDM 30.1.6 IPI Virtualization).
//!
//! The table is made before the first vCPU, sized to the highest APIC ID, and lives as long as the
//! virtual machine. Its entries are set when vCPUs are created, by one 64-bit store each, and stay:
//! turning the feature off is a change of the vCPUs' controls, not of the table.
//!
//! A change of plan is a new generation. Every vCPU compares the generation before each entry and, if
//! it is behind, refreshes its tertiary controls and MSR bitmap before it enters. Whoever changes the
//! plan then demands attention of every vCPU, so that those in guest mode come out.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use apic::{
    pid_pointer_table::{ApicIdSpace, PidPointerTable, Refusal, TableError},
    sync::{AtomicU64, Ordering},
};

/// Why IPI virtualization, and with it every hardware help that identifies a vCPU by its APIC ID, must
/// stay off for a while or for good. A set, because several may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Inhibition {
    /// The processor does not have it.
    Unsupported,
    /// The boot switch or the virtual machine's own is off.
    SwitchedOff,
    /// No APIC virtualization to build on: without it the guest would write the physical ICR.
    NoApicVirtualization,
    /// A guest wrote another ID into its xAPIC ID register, so table positions are wrong.
    XapicIdRewritten,
    /// A vCPU disabled its local APIC (IA32_APIC_BASE bit 11): it must receive nothing.
    ApicDisabled,
    /// A vCPU moved its APIC page away from where the APIC-access page is mapped.
    ApicPageMoved,
    /// Some vCPUs are in xAPIC mode and some in x2APIC mode with IDs that xAPIC cannot express.
    ModesSplit,
    /// The hypervisor itself asked for it (a debugger, a test).
    Requested,
}

impl Inhibition {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Unsupported,
        Self::SwitchedOff,
        Self::NoApicVirtualization,
        Self::XapicIdRewritten,
        Self::ApicDisabled,
        Self::ApicPageMoved,
        Self::ModesSplit,
        Self::Requested,
    ];

    /// The reason in reports: no spaces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::SwitchedOff => "switched-off",
            Self::NoApicVirtualization => "no-apic-virtualization",
            Self::XapicIdRewritten => "xapic-id-rewritten",
            Self::ApicDisabled => "apic-disabled",
            Self::ApicPageMoved => "apic-page-moved",
            Self::ModesSplit => "modes-split",
            Self::Requested => "requested",
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// The reasons that hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inhibitions(u64);

impl Inhibitions {
    /// No reason holds.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a reason holds.
    pub const fn contains(self, reason: Inhibition) -> bool {
        self.0 & reason.bit() != 0
    }

    /// The reasons, in the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = Inhibition> {
        Inhibition::ALL
            .into_iter()
            .filter(move |reason| self.contains(*reason))
    }
}

impl fmt::Display for Inhibitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, reason) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(reason.name())?;
        }
        Ok(())
    }
}

/// What a vCPU's controls must be with regard to IPI virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpiPlan {
    /// Tertiary control "IPI virtualization" is 1. In x2APIC mode WRMSR 830H passes through.
    Virtualize,
    /// The control is 0. WRMSR 830H is intercepted: passed through it would be the physical ICR
    /// (SDM 30.5 Virtualizing MSR-Based APIC Accesses).
    Software,
}

/// A plan and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedPlan {
    /// What the controls must be.
    pub plan: IpiPlan,
    /// Counts the changes; never the same for two different plans of one virtual machine.
    pub generation: u64,
}

/// What the caller has to do after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "vCPUs in guest mode still run by the old plan"]
pub enum Refresh {
    /// Nothing changed for the vCPUs.
    None,
    /// Demand attention of every vCPU of the virtual machine, and, where the new plan is
    /// [`IpiPlan::Software`], wait until each has left guest mode before anything relies on it.
    EveryVcpu,
}

/// IPI virtualization of one virtual machine.
#[derive(Debug)]
pub struct IpiVirtualization {
    entries: Box<[AtomicU64]>,
    apic_ids: ApicIdSpace,
    physical_address_width: u32,
    /// Bits 15:0 the inhibitions, the rest the generation: one word, so that both are read together.
    word: AtomicU64,
    changes: AtomicU64,
}

const GENERATION_SHIFT: u32 = 16;
const INHIBITIONS: u64 = (1 << GENERATION_SHIFT) - 1;

impl IpiVirtualization {
    /// The table for APIC IDs up to `highest_apic_id`, every entry invalid, and the reasons that hold
    /// from the start. The boxed slice must be physically contiguous, as the hypervisor's heap is.
    ///
    /// # Errors
    /// The ID needs more than 65 536 entries.
    pub fn new(
        highest_apic_id: u32,
        apic_ids: ApicIdSpace,
        physical_address_width: u32,
        from_the_start: &[Inhibition],
    ) -> Result<Self, TableError> {
        let count = (highest_apic_id as usize).saturating_add(1);
        // SDM 24.6.21: the last index is a 16-bit field.
        if count > 1 << 16 {
            return Err(TableError::Length { entries: count });
        }
        let entries: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let inhibitions = from_the_start.iter().fold(0, |set, r| set | r.bit());
        Ok(Self {
            entries: entries.into_boxed_slice(),
            apic_ids,
            physical_address_width,
            word: AtomicU64::new(1 << GENERATION_SHIFT | inhibitions),
            changes: AtomicU64::new(0),
        })
    }

    fn table(&self) -> Result<PidPointerTable<'_>, TableError> {
        PidPointerTable::new(&self.entries, self.apic_ids, self.physical_address_width)
    }

    /// The entries: their address, translated, is the VMCS field "PID-pointer table address".
    pub fn entries(&self) -> &[AtomicU64] {
        &self.entries
    }

    /// The VMCS field "last PID-pointer index".
    pub fn last_index(&self) -> u16 {
        u16::try_from(self.entries.len().saturating_sub(1)).unwrap_or(u16::MAX)
    }

    /// Names a vCPU's descriptor, at physical address `descriptor`, in the table, by one store. At
    /// creation of the vCPU, once. ID FFH never gets an entry in a virtual machine that offers xAPIC:
    /// the processor would take the broadcast for it (SDM 30.1.6 knows no broadcast).
    ///
    /// # Errors
    /// The ID is beyond the table or the broadcast, or the address is not one a descriptor can have.
    pub fn add_vcpu(&self, apic_id: u32, descriptor: u64) -> Result<(), TableError> {
        self.table()?.set(apic_id, descriptor)
    }

    /// What the processor would find: for the dump and for tests.
    ///
    /// # Errors
    /// Why it would exit instead.
    pub fn look_up(&self, vector: u8, apic_id: u32) -> Result<u64, Refusal> {
        match self.table() {
            Ok(table) => table.look_up(vector, apic_id),
            Err(_) => Err(Refusal::UnusableEntry { entry: 0 }),
        }
    }

    /// A reason begins to hold.
    pub fn inhibit(&self, reason: Inhibition) -> Refresh {
        self.change(|set| set | reason.bit())
    }

    /// A reason no longer holds.
    pub fn resume(&self, reason: Inhibition) -> Refresh {
        self.change(|set| set & !reason.bit())
    }

    fn change(&self, change: impl Fn(u64) -> u64) -> Refresh {
        let mut old = self.word.load(Ordering::SeqCst);
        loop {
            let before = old & INHIBITIONS;
            let after = change(before);
            if before == after {
                return Refresh::None;
            }
            let turned = (before == 0) != (after == 0);
            let generation = (old >> GENERATION_SHIFT).wrapping_add(u64::from(turned));
            let new = generation << GENERATION_SHIFT | after;
            let exchanged =
                self.word
                    .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
            match exchanged {
                Ok(_) if turned => {
                    self.changes.fetch_add(1, Ordering::SeqCst);
                    return Refresh::EveryVcpu;
                }
                Ok(_) => return Refresh::None,
                Err(now) => old = now,
            }
        }
    }

    /// The reasons that hold now.
    pub fn inhibitions(&self) -> Inhibitions {
        Inhibitions(self.word.load(Ordering::SeqCst) & INHIBITIONS)
    }

    /// How often the plan changed since the virtual machine was made.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// What the controls of every vCPU must be now.
    pub fn plan(&self) -> NumberedPlan {
        let word = self.word.load(Ordering::SeqCst);
        NumberedPlan {
            plan: if word & INHIBITIONS == 0 {
                IpiPlan::Virtualize
            } else {
                IpiPlan::Software
            },
            generation: word >> GENERATION_SHIFT,
        }
    }
}

/// A vCPU's knowledge of the plan: what its controls are.
#[derive(Clone, Copy, Debug, Default)]
pub struct AppliedPlan {
    generation: u64,
}

impl AppliedPlan {
    /// The plan to apply before the next entry, if it is not what the controls already are. The caller
    /// applies it before it enters; both the tertiary control and the MSR bitmap, in any order, since
    /// the guest runs neither in between (prior-art B2, "Order").
    pub fn refresh(&mut self, of: &IpiVirtualization) -> Option<IpiPlan> {
        let now = of.plan();
        if now.generation == self.generation {
            return None;
        }
        self.generation = now.generation;
        Some(now.plan)
    }

    /// Makes the next [`Self::refresh`] give the plan whatever it was: the vCPU changed its APIC mode.
    pub fn forget(&mut self) {
        self.generation = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const WIDTH: u32 = 39;

    fn machine(highest: u32, reasons: &[Inhibition]) -> IpiVirtualization {
        IpiVirtualization::new(highest, ApicIdSpace::Xapic, WIDTH, reasons).unwrap()
    }

    #[test]
    fn the_table_is_sized_to_the_highest_apic_id() {
        for (highest, last) in [(0, 0), (3, 3), (254, 254), (65_535, 65_535)] {
            let vm = machine(highest, &[]);
            assert_eq!(
                (vm.last_index(), vm.entries().len()),
                (last, highest as usize + 1)
            );
        }
        assert!(IpiVirtualization::new(65_536, ApicIdSpace::X2apic, WIDTH, &[]).is_err());
    }

    #[test]
    fn an_entry_is_valid_once_its_vcpu_exists_and_stays() {
        let vm = machine(3, &[]);
        assert_eq!(
            vm.look_up(0x41, 2),
            Err(Refusal::UnusableEntry { entry: 0 })
        );
        vm.add_vcpu(2, 0x1000).unwrap();
        assert_eq!(vm.look_up(0x41, 2), Ok(0x1000));
        assert_eq!(
            vm.entries()[2].load(Ordering::SeqCst),
            0x1001,
            "address and valid bit at once"
        );
        let _ = vm.inhibit(Inhibition::XapicIdRewritten);
        assert_eq!(
            vm.look_up(0x41, 2),
            Ok(0x1000),
            "inhibition is a matter of controls"
        );
        assert!(vm.add_vcpu(4, 0x1000).is_err());
        assert!(vm.add_vcpu(1, 0x1020).is_err());
    }

    /// ipi-virtualization A3: the xAPIC broadcast would be taken for a unicast to ID 255.
    #[test]
    fn index_ffh_is_never_valid_while_xapic_is_offered() {
        let vm = machine(300, &[]);
        assert_eq!(vm.add_vcpu(0xff, 0x1000), Err(TableError::Broadcast));
        vm.add_vcpu(0x100, 0x1000).unwrap();
        assert!(vm.look_up(0x41, 0xff).is_err());
        let x2apic = IpiVirtualization::new(300, ApicIdSpace::X2apic, WIDTH, &[]).unwrap();
        x2apic.add_vcpu(0xff, 0x1000).unwrap();
        assert_eq!(x2apic.look_up(0x41, 0xff), Ok(0x1000));
    }

    #[test]
    fn each_reason_alone_turns_it_off() {
        for reason in Inhibition::ALL {
            let vm = machine(3, &[]);
            assert_eq!(vm.plan().plan, IpiPlan::Virtualize);
            assert_eq!(vm.inhibit(reason), Refresh::EveryVcpu, "{}", reason.name());
            assert_eq!(vm.plan().plan, IpiPlan::Software);
            assert_eq!(vm.inhibitions().iter().collect::<Vec<_>>(), [reason]);
            assert_eq!(vm.inhibit(reason), Refresh::None, "already");
            assert_eq!(vm.resume(reason), Refresh::EveryVcpu);
            assert_eq!(vm.plan().plan, IpiPlan::Virtualize);
            let never = machine(3, &[reason]);
            assert_eq!(never.plan().plan, IpiPlan::Software);
        }
    }

    #[test]
    fn it_comes_back_when_the_last_reason_goes() {
        let vm = machine(3, &[]);
        assert_eq!(vm.inhibit(Inhibition::ApicDisabled), Refresh::EveryVcpu);
        assert_eq!(vm.inhibit(Inhibition::XapicIdRewritten), Refresh::None);
        assert_eq!(
            vm.inhibitions().to_string(),
            "xapic-id-rewritten,apic-disabled"
        );
        assert_eq!(vm.resume(Inhibition::ApicDisabled), Refresh::None);
        assert_eq!(vm.plan().plan, IpiPlan::Software);
        assert_eq!(vm.resume(Inhibition::XapicIdRewritten), Refresh::EveryVcpu);
        assert_eq!(vm.inhibitions().to_string(), "none");
        assert_eq!(vm.changes(), 2);
    }

    #[test]
    fn every_vcpu_refreshes_once_for_each_change() {
        let vm = machine(3, &[]);
        let mut vcpus = [AppliedPlan::default(); 3];
        for vcpu in &mut vcpus {
            assert_eq!(
                vcpu.refresh(&vm),
                Some(IpiPlan::Virtualize),
                "the first entry"
            );
            assert_eq!(vcpu.refresh(&vm), None);
        }
        let _ = vm.inhibit(Inhibition::Requested);
        assert_eq!(vcpus[0].refresh(&vm), Some(IpiPlan::Software));
        let _ = vm.resume(Inhibition::Requested);
        assert_eq!(vcpus[0].refresh(&vm), Some(IpiPlan::Virtualize));
        // The second missed both: it applies the last.
        assert_eq!(vcpus[1].refresh(&vm), Some(IpiPlan::Virtualize));
        assert_eq!(vcpus[1].refresh(&vm), None);
        vcpus[2].forget();
        assert_eq!(vcpus[2].refresh(&vm), Some(IpiPlan::Virtualize));
    }

    /// B5 number 5: a reason that arose only because a restore or a reboot passed through an
    /// intermediate state must not stay.
    #[test]
    fn b5_05_an_inhibition_is_not_latched() {
        let vm = machine(3, &[]);
        let _ = vm.inhibit(Inhibition::XapicIdRewritten);
        let _ = vm.resume(Inhibition::XapicIdRewritten);
        assert!(vm.inhibitions().is_empty());
        assert_eq!(vm.plan().plan, IpiPlan::Virtualize);
    }

    /// B5 number 11: switched off by parameter, on a processor that has it: the plan says so and the
    /// control stays 0 whatever else changes.
    #[test]
    fn b5_11_switched_off_stays_off() {
        let vm = machine(3, &[Inhibition::SwitchedOff]);
        let _ = vm.inhibit(Inhibition::ApicDisabled);
        assert_eq!(vm.resume(Inhibition::ApicDisabled), Refresh::None);
        assert_eq!(vm.plan().plan, IpiPlan::Software);
    }
}
