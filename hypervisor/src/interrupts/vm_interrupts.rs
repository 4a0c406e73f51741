//! Everything about interrupts that the vCPUs of one virtual machine share.

use alloc::{boxed::Box, vec::Vec};

use apic::{
    apic_base::ApicMode,
    pid_pointer_table::{ApicIdSpace, TableError},
    routing::Identity,
};

use super::{
    identity_board::IdentityBoard,
    ipi_virtualization::{Inhibition, IpiVirtualization},
    physical_interrupts::PhysicalInterrupts,
    posting::Surroundings,
    rendezvous::Rendezvous,
    turn::Turn,
    vcpu_port::VcpuPort,
    wakeup_list::WakeupLists,
};

/// The shared part of a virtual machine's interrupts. Made before its first vCPU and dropped after the
/// last: the ports hold the descriptors, which the processor reads through the PID-pointer table.
///
/// vCPU `n` has slot `n`, x2APIC ID `n` and, until the guest rewrites it, xAPIC ID `n`.
///
/// A sender looks who takes what it sends, and then posts. So what is found in a vCPU's port its local
/// APIC has taken; and a local APIC that stops taking, or that gives up an ID, waits for those who looked
/// before ([`Publication::withdrawal`]).
#[derive(Debug)]
pub struct VmInterrupts {
    around: Surroundings,
    ports: Box<[VcpuPort]>,
    identities: IdentityBoard,
    ipi_virtualization: IpiVirtualization,
    rendezvous: Rendezvous,
    publishing: Turn,
}

/// Whether senders may still be at it by what a local APIC was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawal {
    /// It takes whatever it took before.
    #[default]
    None,
    /// It takes less: hold a rendezvous, then take the vectors out of its port.
    Vectors,
}

/// An ID whose IPIs are software's business from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inhibited {
    /// The physical APIC ID.
    pub apic_id: u32,
    /// Why.
    pub reason: Inhibition,
    /// How often it was for this reason before.
    pub before: u64,
}

/// What a change of a local APIC's identity entails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "somebody may be sending by what it was"]
pub struct Publication {
    /// What senders may still be doing.
    pub withdrawal: Withdrawal,
    /// An entry of the PID-pointer table was taken away.
    pub inhibited: Option<Inhibited>,
}

impl VmInterrupts {
    /// For `vcpus` vCPUs on the processors of `host`.
    ///
    /// # Errors
    /// More APIC IDs than a PID-pointer table has entries.
    pub fn new(
        vcpus: u32,
        host: PhysicalInterrupts,
        apic_ids: ApicIdSpace,
        physical_address_width: u32,
    ) -> Result<Self, TableError> {
        let ports: Vec<VcpuPort> = (0..vcpus).map(VcpuPort::new).collect();
        let processors = u32::try_from(host.processors()).unwrap_or(u32::MAX);
        Ok(Self {
            rendezvous: Rendezvous::new(host.processors()),
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
            )?,
            publishing: Turn::default(),
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

    /// The PID-pointer table.
    pub const fn ipi_virtualization(&self) -> &IpiVirtualization {
        &self.ipi_virtualization
    }

    /// Where the processors meet.
    pub const fn rendezvous(&self) -> &Rendezvous {
        &self.rendezvous
    }

    /// A vCPU's mode, IDs, logical ID or software enable changed: tells the senders, the processor's IPI
    /// virtualization among them.
    pub fn publish(&self, vcpu: u32, identity: &Identity) -> Publication {
        let turn = self.publishing.take();
        let Some(before) = self.identities.identity(vcpu) else {
            return Publication::default();
        };
        self.identities.publish(vcpu, identity);
        let mut withdrawn = None;
        let (old, new) = (before.physical_id(), identity.physical_id());
        for apic_id in [old, new.filter(|id| Some(*id) != old)]
            .into_iter()
            .flatten()
        {
            let taker = self.only_taker(apic_id);
            let was = self.ipi_virtualization.assign(apic_id, taker);
            if was.is_some() && was != taker {
                withdrawn = Some(apic_id);
            }
        }
        drop(turn);
        let stops = before.takes_fixed() && !identity.takes_fixed();
        Publication {
            withdrawal: if stops || withdrawn.is_some() {
                Withdrawal::Vectors
            } else {
                Withdrawal::None
            },
            inhibited: withdrawn.map(|apic_id| {
                let reason = Self::reason(apic_id, identity);
                Inhibited {
                    apic_id,
                    reason,
                    before: self.ipi_virtualization.count(reason),
                }
            }),
        }
    }

    /// The vCPU that alone takes a fixed interrupt sent to a physical ID, as the board says now.
    fn only_taker(&self, apic_id: u32) -> Option<u32> {
        let mut takers = (0u32..)
            .zip(self.identities.identities())
            .filter(|(_, each)| each.takes_fixed() && each.physical_id() == Some(apic_id));
        match (takers.next(), takers.next()) {
            (Some((vcpu, _)), None) => Some(vcpu),
            _ => None,
        }
    }

    /// Why `apic_id` lost its entry when a vCPU became `identity`.
    fn reason(apic_id: u32, identity: &Identity) -> Inhibition {
        if identity.mode == ApicMode::Disabled {
            Inhibition::ApicDisabled
        } else if !identity.software_enabled {
            Inhibition::SoftwareDisabled
        } else if identity.physical_id() == Some(apic_id) {
            // It is enabled and answers, so it is not the only one.
            Inhibition::ApicIdShared
        } else {
            Inhibition::XapicIdRewritten
        }
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
        let vm = VmInterrupts::new(vcpus, host, ApicIdSpace::Xapic, 39).unwrap();
        for id in 0..vcpus {
            vm.ipi_virtualization()
                .add_vcpu(id, descriptor(id))
                .unwrap();
            let _ = vm.publish(id, &identity(id, mode));
            let port = vm.port(id).unwrap();
            let _ = port.start();
            let _ = port.load(id, &vm.around().host);
        }
        vm
    }

    /// Where a vCPU's descriptor would be.
    pub(crate) fn descriptor(id: u32) -> u64 {
        0x1_0000 + 64 * u64::from(id)
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
    use super::bench::{descriptor, identity, vm};
    use super::*;

    fn entries(vm: &VmInterrupts, ids: u32) -> Vec<Option<u64>> {
        (0..ids)
            .map(|id| vm.ipi_virtualization().look_up(0x41, id).ok())
            .collect()
    }

    fn reason(publication: Publication) -> Option<(u32, Inhibition)> {
        let inhibited = publication.inhibited?;
        assert_eq!(publication.withdrawal, Withdrawal::Vectors);
        Some((inhibited.apic_id, inhibited.reason))
    }

    #[test]
    fn a_rewritten_xapic_id_moves_its_entry() {
        let vm = vm(3, ApicMode::Xapic);
        let all = [0, 1, 2].map(|id| Some(descriptor(id)));
        assert_eq!(entries(&vm, 3), all);
        let with_id = |xapic_id| Identity {
            xapic_id,
            ..identity(1, ApicMode::Xapic)
        };
        // To one that nobody has, beyond the table.
        let published = vm.publish(1, &with_id(9));
        assert_eq!(reason(published), Some((1, Inhibition::XapicIdRewritten)));
        assert_eq!(entries(&vm, 3), [all[0], None, all[2]]);
        assert_eq!(vm.publish(1, &with_id(1)), Publication::default());
        assert_eq!(entries(&vm, 3), all);
        // To one that another has: both take it, so software sends.
        let published = vm.publish(1, &with_id(2));
        assert_eq!(reason(published), Some((2, Inhibition::ApicIdShared)));
        assert_eq!(entries(&vm, 3), [all[0], None, None]);
        // The other gives it up: it is the one's alone.
        let gives_up = Identity {
            xapic_id: 1,
            ..identity(2, ApicMode::Xapic)
        };
        assert_eq!(vm.publish(2, &gives_up), Publication::default());
        assert_eq!(entries(&vm, 3), [all[0], all[2], all[1]], "exchanged");
        assert_eq!(vm.ipi_virtualization().taker(2), Some(1));
    }

    /// SDM 10.4.7.2, 10.4.3: senders exit, and what was under way is waited for.
    #[test]
    fn a_disabled_apic_has_no_entry() {
        for mode in [ApicMode::Xapic, ApicMode::X2apic] {
            let vm = vm(2, mode);
            let enabled = identity(1, mode);
            let software_disabled = Identity {
                software_enabled: false,
                ..enabled
            };
            let disabled = Identity {
                mode: ApicMode::Disabled,
                software_enabled: false,
                ..enabled
            };
            for (off, why) in [
                (software_disabled, Inhibition::SoftwareDisabled),
                (disabled, Inhibition::ApicDisabled),
            ] {
                assert_eq!(reason(vm.publish(1, &off)), Some((1, why)));
                assert_eq!(entries(&vm, 2), [Some(descriptor(0)), None]);
                assert_eq!(vm.publish(1, &off), Publication::default(), "already");
                assert_eq!(vm.publish(1, &enabled), Publication::default());
                assert_eq!(entries(&vm, 2)[1], Some(descriptor(1)));
            }
        }
    }

    /// Software may be sending to one that has no entry, too.
    #[test]
    fn one_that_shares_its_id_is_waited_for_when_it_is_disabled() {
        let vm = vm(2, ApicMode::Xapic);
        let shared = Identity {
            xapic_id: 0,
            ..identity(1, ApicMode::Xapic)
        };
        let _ = vm.publish(1, &shared);
        assert_eq!(vm.ipi_virtualization().taker(0), None);
        let off = Identity {
            software_enabled: false,
            ..shared
        };
        let published = vm.publish(1, &off);
        assert_eq!(
            (published.withdrawal, published.inhibited),
            (Withdrawal::Vectors, None)
        );
        assert_eq!(vm.ipi_virtualization().taker(0), Some(0), "alone again");
    }

    /// B5 number 5: a reboot that passes through the disabled state leaves nothing behind.
    #[test]
    fn b5_05_an_inhibition_is_not_latched() {
        let vm = vm(2, ApicMode::X2apic);
        for mode in [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic] {
            let _ = vm.publish(1, &identity(1, mode));
        }
        assert_eq!(vm.ipi_virtualization().taker(1), Some(1));
        assert_eq!(entries(&vm, 2)[1], Some(descriptor(1)));
    }

    /// B5 number 6: a mode the guest is entitled to (no x2APIC, or x2APIC physical) is no reason to
    /// inhibit; neither is the way there, one vCPU after another.
    #[test]
    fn b5_06_ordinary_modes_do_not_inhibit() {
        let vm = vm(4, ApicMode::Xapic);
        for id in 0..4 {
            assert_eq!(
                vm.publish(id, &identity(id, ApicMode::X2apic)),
                Publication::default()
            );
            assert!(entries(&vm, 4).iter().all(Option::is_some));
        }
    }

    #[test]
    fn an_id_that_xapic_cannot_express_is_no_reason_while_modes_are_split() {
        let vm = vm(300, ApicMode::X2apic);
        assert_eq!(
            vm.publish(1, &identity(1, ApicMode::Xapic)),
            Publication::default()
        );
        for id in (0..300).filter(|id| *id != 0xff) {
            assert_eq!(vm.ipi_virtualization().taker(id), Some(id));
        }
        assert_eq!(vm.ipi_virtualization().taker(0xff), None, "the broadcast");
    }
}
