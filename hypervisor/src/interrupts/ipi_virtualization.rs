//! IPI virtualization of one virtual machine: the PID-pointer table (SDM 30.1.6 IPI Virtualization).
//!
//! The table is made before the first vCPU, sized to the highest APIC ID, and lives as long as the
//! virtual machine. The processor knows nothing of a local APIC that is disabled or of one whose ID was
//! rewritten: it posts to whatever descriptor an entry names. So an entry is valid exactly while one vCPU,
//! and no other, takes a fixed interrupt sent to that physical ID. A sender that finds it invalid exits,
//! and software does what is right; the rest of the table, and every vCPU's controls, stay as they are.
//!
//! Software's short way for the common unicast looks at the same answer, so that there is one.

use alloc::{boxed::Box, vec::Vec};

use apic::{
    pid_pointer_table::{ApicIdSpace, PidPointerTable, Refusal, TableError, entry_for},
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Why IPIs to a physical APIC ID are left to software for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Inhibition {
    /// The vCPU's local APIC is software-disabled (spurious-interrupt vector register bit 8), by its own
    /// doing or by INIT.
    SoftwareDisabled,
    /// The vCPU disabled its local APIC (IA32_APIC_BASE bit 11).
    ApicDisabled,
    /// The vCPU wrote another ID into its xAPIC ID register.
    XapicIdRewritten,
    /// Several vCPUs answer to the ID.
    ApicIdShared,
}

impl Inhibition {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::SoftwareDisabled,
        Self::ApicDisabled,
        Self::XapicIdRewritten,
        Self::ApicIdShared,
    ];

    /// The reason in reports: no spaces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SoftwareDisabled => "software-disabled",
            Self::ApicDisabled => "apic-disabled",
            Self::XapicIdRewritten => "xapic-id-rewritten",
            Self::ApicIdShared => "apic-id-shared",
        }
    }
}

/// The PID-pointer table and who is behind its entries.
#[derive(Debug)]
pub struct IpiVirtualization {
    entries: Box<[AtomicU64]>,
    /// By physical APIC ID: the number of the vCPU, plus 1, that alone takes a fixed interrupt sent there;
    /// 0 if it is not one.
    takers: Box<[AtomicU32]>,
    /// By vCPU: the physical address of its descriptor; 0 for none.
    descriptors: Box<[AtomicU64]>,
    apic_ids: ApicIdSpace,
    physical_address_width: u32,
    inhibited: [AtomicU64; Inhibition::ALL.len()],
}

impl IpiVirtualization {
    /// The table for APIC IDs up to `highest_apic_id`, every entry invalid. The boxed slice must be
    /// physically contiguous, as the hypervisor's heap is.
    ///
    /// # Errors
    /// The ID needs more than 65 536 entries.
    pub fn new(
        highest_apic_id: u32,
        apic_ids: ApicIdSpace,
        physical_address_width: u32,
    ) -> Result<Self, TableError> {
        let count = (highest_apic_id as usize).saturating_add(1);
        // SDM 24.6.21: the last index is a 16-bit field.
        if count > 1 << 16 {
            return Err(TableError::Length { entries: count });
        }
        let words = || -> Vec<AtomicU64> { (0..count).map(|_| AtomicU64::new(0)).collect() };
        let takers: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
        Ok(Self {
            entries: words().into_boxed_slice(),
            takers: takers.into_boxed_slice(),
            descriptors: words().into_boxed_slice(),
            apic_ids,
            physical_address_width,
            inhibited: core::array::from_fn(|_| AtomicU64::new(0)),
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

    /// Says where vCPU `vcpu` has its descriptor: at creation of the vCPU, once, before it takes
    /// interrupts. A vCPU without one never gets an entry.
    ///
    /// # Errors
    /// There is no such vCPU, or the address is not one a descriptor can have.
    pub fn add_vcpu(&self, vcpu: u32, descriptor: u64) -> Result<(), TableError> {
        entry_for(descriptor, self.physical_address_width)?;
        let slot = self
            .descriptors
            .get(vcpu as usize)
            .ok_or(TableError::NoSuchEntry {
                apic_id: vcpu,
                last: self.last_index(),
            })?;
        slot.store(descriptor, Ordering::SeqCst);
        Ok(())
    }

    /// From now on `vcpu` alone, or with `None` nobody alone, takes a fixed interrupt sent to `apic_id`;
    /// gives back who did before. One caller at a time. ID FFH never gets an entry in a virtual machine that
    /// offers xAPIC: the processor would take the broadcast for it (SDM 30.1.6 knows no broadcast).
    pub fn assign(&self, apic_id: u32, vcpu: Option<u32>) -> Option<u32> {
        if apic_id == 0xff && self.apic_ids == ApicIdSpace::Xapic {
            return None;
        }
        let taker = self.takers.get(apic_id as usize)?;
        let descriptor = vcpu
            .and_then(|vcpu| self.descriptors.get(vcpu as usize))
            .map_or(0, |descriptor| descriptor.load(Ordering::SeqCst));
        if let Ok(table) = self.table() {
            // Both were checked: the ID is within the table, the address is one of `add_vcpu`'s.
            let _ = match descriptor {
                0 => table.invalidate(apic_id),
                _ => table.set(apic_id, descriptor),
            };
        }
        let encoded = vcpu.map_or(0, |vcpu| vcpu + 1);
        taker.swap(encoded, Ordering::SeqCst).checked_sub(1)
    }

    /// The vCPU that alone takes a fixed interrupt sent to the physical ID `apic_id`. `None`: nobody or
    /// several, or the ID is beyond the table; then software has to route.
    #[inline]
    pub fn taker(&self, apic_id: u32) -> Option<u32> {
        let taker = self.takers.get(apic_id as usize)?;
        taker.load(Ordering::Acquire).checked_sub(1)
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

    /// Counts that an entry was taken away for `reason`; how often that was so before.
    pub fn count(&self, reason: Inhibition) -> u64 {
        self.counter(reason)
            .map_or(0, |counter| counter.fetch_add(1, Ordering::Relaxed))
    }

    /// How often an entry was taken away for `reason`.
    pub fn inhibited(&self, reason: Inhibition) -> u64 {
        self.counter(reason)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn counter(&self, reason: Inhibition) -> Option<&AtomicU64> {
        self.inhibited.get(reason as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const WIDTH: u32 = 39;

    fn machine(highest: u32) -> IpiVirtualization {
        let vm = IpiVirtualization::new(highest, ApicIdSpace::Xapic, WIDTH).unwrap();
        for vcpu in 0..=highest {
            vm.add_vcpu(vcpu, descriptor(vcpu)).unwrap();
        }
        vm
    }

    fn descriptor(vcpu: u32) -> u64 {
        0x1000 + 64 * u64::from(vcpu)
    }

    #[test]
    fn the_table_is_sized_to_the_highest_apic_id() {
        for (highest, last) in [(0, 0), (3, 3), (254, 254), (65_535, 65_535)] {
            let vm = IpiVirtualization::new(highest, ApicIdSpace::Xapic, WIDTH).unwrap();
            assert_eq!(
                (vm.last_index(), vm.entries().len()),
                (last, highest as usize + 1)
            );
        }
        assert!(IpiVirtualization::new(65_536, ApicIdSpace::X2apic, WIDTH).is_err());
    }

    #[test]
    fn an_entry_is_valid_while_one_vcpu_takes_what_is_sent_there() {
        let vm = machine(3);
        let nothing = Err(Refusal::UnusableEntry { entry: 0 });
        assert_eq!((vm.look_up(0x41, 2), vm.taker(2)), (nothing, None));
        assert_eq!(vm.assign(2, Some(2)), None);
        assert_eq!(
            (vm.look_up(0x41, 2), vm.taker(2)),
            (Ok(descriptor(2)), Some(2))
        );
        assert_eq!(
            vm.entries()[2].load(Ordering::SeqCst),
            descriptor(2) | 1,
            "address and valid bit at once"
        );
        assert_eq!(vm.assign(2, Some(1)), Some(2), "another took its ID on");
        assert_eq!(
            (vm.look_up(0x41, 2), vm.taker(2)),
            (Ok(descriptor(1)), Some(1))
        );
        assert_eq!(vm.assign(2, None), Some(1));
        assert_eq!((vm.look_up(0x41, 2), vm.taker(2)), (nothing, None));
        assert_eq!(vm.assign(4, Some(1)), None, "beyond the table");
        assert_eq!(vm.taker(4), None);
        assert!(vm.add_vcpu(4, 0x1000).is_err());
        assert!(vm.add_vcpu(1, 0x1020).is_err());
        assert!(vm.add_vcpu(1, 1 << WIDTH).is_err());
    }

    /// SDM 30.1.6 knows no broadcast: it would be taken for a unicast to ID 255.
    #[test]
    fn index_ffh_is_never_valid_while_xapic_is_offered() {
        let vm = machine(300);
        assert_eq!(vm.assign(0xff, Some(0xff)), None);
        assert_eq!(vm.taker(0xff), None);
        assert!(vm.look_up(0x41, 0xff).is_err());
        vm.assign(0x100, Some(0x100));
        assert_eq!(vm.look_up(0x41, 0x100), Ok(descriptor(0x100)));
        let x2apic = IpiVirtualization::new(300, ApicIdSpace::X2apic, WIDTH).unwrap();
        x2apic.add_vcpu(0xff, 0x1000).unwrap();
        x2apic.assign(0xff, Some(0xff));
        assert_eq!(x2apic.look_up(0x41, 0xff), Ok(0x1000));
    }

    #[test]
    fn each_reason_is_counted_by_itself() {
        let vm = machine(0);
        for (index, reason) in Inhibition::ALL.into_iter().enumerate() {
            for before in 0..=index as u64 {
                assert_eq!(vm.count(reason), before, "{}", reason.name());
            }
        }
        let counts = Inhibition::ALL.map(|reason| vm.inhibited(reason));
        assert_eq!(counts, [1, 2, 3, 4]);
    }
}
