//! Everything about interrupts that the vCPUs of one virtual machine share.

use alloc::{boxed::Box, vec::Vec};

use apic::{
    apic_base::ApicMode,
    pid_pointer_table::{ApicIdSpace, TableError},
    routing::Identity,
    sync::{Ordering, fence},
};

use super::{
    identity_board::{ApicPage, IdentityBoard},
    ipi_virtualization::{Inhibition, IpiVirtualization, Refresh},
    physical_interrupts::PhysicalInterrupts,
    posting::Surroundings,
    vcpu_port::VcpuPort,
    wakeup_list::WakeupLists,
};

/// The shared part of a virtual machine's interrupts. Made before its first vCPU and dropped after the
/// last: the ports hold the descriptors, which the processor reads through the PID-pointer table.
///
/// vCPU `n` has slot `n`, x2APIC ID `n` and, until the guest rewrites it, xAPIC ID `n`.
#[derive(Debug)]
pub struct VmInterrupts {
    around: Surroundings,
    ports: Box<[VcpuPort]>,
    identities: IdentityBoard,
    ipi_virtualization: IpiVirtualization,
}

impl VmInterrupts {
    /// For `vcpus` vCPUs on the processors of `host`. `inhibitions` are the reasons against IPI
    /// virtualization that hold from the start.
    ///
    /// # Errors
    /// More APIC IDs than a PID-pointer table has entries.
    pub fn new(
        vcpus: u32,
        host: PhysicalInterrupts,
        apic_ids: ApicIdSpace,
        physical_address_width: u32,
        inhibitions: &[Inhibition],
    ) -> Result<Self, TableError> {
        let ports: Vec<VcpuPort> = (0..vcpus).map(VcpuPort::new).collect();
        let processors = u32::try_from(host.processors()).unwrap_or(u32::MAX);
        Ok(Self {
            around: Surroundings {
                lists: WakeupLists::new(processors, vcpus),
                host,
            },
            ports: ports.into_boxed_slice(),
            identities: IdentityBoard::new(vcpus),
            ipi_virtualization: IpiVirtualization::new(
                vcpus.saturating_sub(1),
                apic_ids,
                physical_address_width,
                inhibitions,
            )?,
        })
    }

    /// Vectors, destinations, wakeup lists.
    pub const fn around(&self) -> &Surroundings {
        &self.around
    }

    /// The ports, by vCPU.
    pub fn ports(&self) -> &[VcpuPort] {
        &self.ports
    }

    /// One port.
    #[inline]
    pub fn port(&self, vcpu: u32) -> Option<&VcpuPort> {
        self.ports.get(vcpu as usize)
    }

    /// What the local APICs answer to.
    pub const fn identities(&self) -> &IdentityBoard {
        &self.identities
    }

    /// The PID-pointer table and the plan.
    pub const fn ipi_virtualization(&self) -> &IpiVirtualization {
        &self.ipi_virtualization
    }

    /// A vCPU's mode, IDs, logical ID, software enable or page changed: tells the senders, and inhibits
    /// or resumes IPI virtualization accordingly.
    pub fn publish(&self, vcpu: u32, identity: &Identity, page: ApicPage) -> Refresh {
        self.identities.publish(vcpu, identity, page);
        let mut refresh = Refresh::None;
        // Two vCPUs may do this at once. Each ends with a look that agrees with what it set, so the
        // last one to set has seen the other's line.
        loop {
            // After the line, or the change below, is visible.
            fence(Ordering::SeqCst);
            let wanted = self.reasons();
            for (reason, holds) in wanted {
                let changed = if holds {
                    self.ipi_virtualization.inhibit(reason)
                } else {
                    self.ipi_virtualization.resume(reason)
                };
                if changed == Refresh::EveryVcpu {
                    refresh = changed;
                }
            }
            fence(Ordering::SeqCst);
            if self.reasons() == wanted {
                return refresh;
            }
        }
    }

    fn reasons(&self) -> [(Inhibition, bool); 4] {
        let (mut rewritten, mut disabled, mut xapic, mut wide) = (false, false, false, false);
        for identity in self.identities.identities() {
            match identity.mode {
                ApicMode::Disabled => disabled = true,
                ApicMode::Xapic => {
                    xapic = true;
                    rewritten |= u32::from(identity.xapic_id) != identity.x2apic_id;
                }
                ApicMode::X2apic => wide |= identity.x2apic_id >= 0xff,
            }
        }
        [
            (Inhibition::XapicIdRewritten, rewritten),
            (Inhibition::ApicDisabled, disabled),
            (Inhibition::ModesSplit, xapic && wide),
            (Inhibition::ApicPageMoved, self.identities.any_page_moved()),
        ]
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod bench {
    use super::super::physical_interrupts::VECTORS;
    use super::*;

    /// A virtual machine of `vcpus` enabled vCPUs in one mode, on as many processors.
    pub(crate) fn vm(vcpus: u32, mode: ApicMode) -> VmInterrupts {
        let destinations: Vec<u32> = (0..vcpus).map(|p| p << 8).collect();
        let host = PhysicalInterrupts::new(VECTORS, destinations.into_boxed_slice());
        let vm = VmInterrupts::new(vcpus, host, ApicIdSpace::Xapic, 39, &[]).unwrap();
        for id in 0..vcpus {
            let _ = vm.publish(id, &identity(id, mode), ApicPage::InPlace);
            let port = vm.port(id).unwrap();
            let _ = port.start();
            let _ = port.load(id, &vm.around().host);
        }
        vm
    }

    pub(crate) fn identity(id: u32, mode: ApicMode) -> Identity {
        Identity {
            x2apic_id: id,
            xapic_id: id as u8,
            mode,
            logical_destination: match mode {
                ApicMode::X2apic => (id >> 4) << 16 | 1 << (id & 15),
                _ => 1 << (24 + id % 8),
            },
            destination_format: 0xffff_ffff,
            software_enabled: true,
            priority: 0,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::ipi_virtualization::IpiPlan;
    use super::bench::{identity, vm};
    use super::*;

    #[test]
    fn a_rewritten_xapic_id_inhibits_until_it_is_written_back() {
        let vm = vm(3, ApicMode::Xapic);
        assert_eq!(vm.ipi_virtualization().plan().plan, IpiPlan::Virtualize);
        let rewritten = Identity {
            xapic_id: 9,
            ..identity(1, ApicMode::Xapic)
        };
        assert_eq!(
            vm.publish(1, &rewritten, ApicPage::InPlace),
            Refresh::EveryVcpu
        );
        assert_eq!(
            vm.ipi_virtualization().inhibitions().to_string(),
            "xapic-id-rewritten"
        );
        // A second, then the first goes back: still one.
        let second = Identity {
            xapic_id: 8,
            ..identity(2, ApicMode::Xapic)
        };
        assert_eq!(vm.publish(2, &second, ApicPage::InPlace), Refresh::None);
        assert_eq!(
            vm.publish(1, &identity(1, ApicMode::Xapic), ApicPage::InPlace),
            Refresh::None
        );
        assert_eq!(vm.ipi_virtualization().plan().plan, IpiPlan::Software);
        assert_eq!(
            vm.publish(2, &identity(2, ApicMode::Xapic), ApicPage::InPlace),
            Refresh::EveryVcpu
        );
        assert_eq!(vm.ipi_virtualization().plan().plan, IpiPlan::Virtualize);
    }

    /// B5 number 6: a mode the guest is entitled to (no x2APIC, or x2APIC physical) is no reason to
    /// inhibit; neither is the way there, one vCPU after another.
    #[test]
    fn b5_06_ordinary_modes_do_not_inhibit() {
        let vm = vm(4, ApicMode::Xapic);
        for id in 0..4 {
            assert_eq!(
                vm.publish(id, &identity(id, ApicMode::X2apic), ApicPage::InPlace),
                Refresh::None
            );
            assert!(vm.ipi_virtualization().inhibitions().is_empty());
        }
    }

    #[test]
    fn a_disabled_apic_and_a_moved_page_inhibit() {
        let vm = vm(2, ApicMode::Xapic);
        let off = Identity {
            mode: ApicMode::Disabled,
            ..identity(1, ApicMode::Xapic)
        };
        assert_eq!(vm.publish(1, &off, ApicPage::InPlace), Refresh::EveryVcpu);
        assert_eq!(
            vm.publish(1, &identity(1, ApicMode::Xapic), ApicPage::InPlace),
            Refresh::EveryVcpu
        );
        assert_eq!(
            vm.publish(1, &identity(1, ApicMode::Xapic), ApicPage::Moved),
            Refresh::EveryVcpu
        );
        assert_eq!(
            vm.ipi_virtualization().inhibitions().to_string(),
            "apic-page-moved"
        );
    }

    #[test]
    fn an_id_that_xapic_cannot_express_inhibits_while_modes_are_split() {
        let vm = vm(300, ApicMode::X2apic);
        assert!(vm.ipi_virtualization().inhibitions().is_empty());
        let split = Identity {
            ..identity(1, ApicMode::Xapic)
        };
        assert_eq!(vm.publish(1, &split, ApicPage::InPlace), Refresh::EveryVcpu);
        assert_eq!(
            vm.ipi_virtualization().inhibitions().to_string(),
            "modes-split"
        );
    }
}
