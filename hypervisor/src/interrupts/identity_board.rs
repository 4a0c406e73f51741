//! What each vCPU's local APIC answers to, where senders on other processors can read it.
//!
//! Each vCPU publishes its own line, whole words at a time, when the guest changes its mode, IDs or
//! software enable. It is for `apic::routing`; the common case of a unicast is answered by
//! [`IpiVirtualization::taker`](super::ipi_virtualization::IpiVirtualization::taker).

use alloc::{boxed::Box, vec::Vec};

use apic::{
    apic_base::ApicMode,
    routing::Identity,
    sync::{AtomicU64, Ordering},
};

const SOFTWARE_ENABLED: u64 = 1 << 2;

#[derive(Debug)]
struct Line {
    /// Bits 1:0 mode, 2 software-enabled, 15:8 xAPIC ID, 63:32 x2APIC ID.
    identity: AtomicU64,
    /// LDR and, above, DFR.
    logical: AtomicU64,
    priority: AtomicU64,
}

/// One line per vCPU.
#[derive(Debug)]
pub struct IdentityBoard {
    lines: Box<[Line]>,
}

const fn mode_bits(mode: ApicMode) -> u64 {
    match mode {
        ApicMode::Disabled => 0,
        ApicMode::Xapic => 1,
        ApicMode::X2apic => 2,
    }
}

impl IdentityBoard {
    /// Lines for `vcpus` vCPUs as they are after reset: xAPIC mode, software-disabled, the x2APIC ID of
    /// vCPU `n` is `n`.
    pub fn new(vcpus: u32) -> Self {
        let lines: Vec<Line> = (0..vcpus)
            .map(|id| Line {
                identity: AtomicU64::new(
                    mode_bits(ApicMode::Xapic) | u64::from(id & 0xff) << 8 | u64::from(id) << 32,
                ),
                logical: AtomicU64::new(0xffff_ffff << 32),
                priority: AtomicU64::new(0),
            })
            .collect();
        Self {
            lines: lines.into_boxed_slice(),
        }
    }

    /// vCPUs.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no vCPU.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Replaces a vCPU's line; by its owner only.
    pub fn publish(&self, vcpu: u32, identity: &Identity) {
        let Some(line) = self.lines.get(vcpu as usize) else {
            return;
        };
        let enabled = if identity.software_enabled {
            SOFTWARE_ENABLED
        } else {
            0
        };
        line.logical.store(
            u64::from(identity.logical_destination) | u64::from(identity.destination_format) << 32,
            Ordering::SeqCst,
        );
        line.identity.store(
            mode_bits(identity.mode)
                | enabled
                | u64::from(identity.xapic_id) << 8
                | u64::from(identity.x2apic_id) << 32,
            Ordering::SeqCst,
        );
        self.publish_priority(vcpu, identity.priority);
    }

    /// Updates the processor priority that lowest-priority arbitration sees. It may be a little old:
    /// the processor changes VPPR without an exit.
    #[inline]
    pub fn publish_priority(&self, vcpu: u32, priority: u8) {
        if let Some(line) = self.lines.get(vcpu as usize) {
            line.priority.store(priority.into(), Ordering::Relaxed);
        }
    }

    /// One line.
    pub fn identity(&self, vcpu: u32) -> Option<Identity> {
        self.lines.get(vcpu as usize).map(Self::decode)
    }

    fn decode(line: &Line) -> Identity {
        let word = line.identity.load(Ordering::SeqCst);
        let logical = line.logical.load(Ordering::SeqCst);
        Identity {
            x2apic_id: (word >> 32) as u32,
            xapic_id: (word >> 8) as u8,
            mode: match word & 3 {
                0 => ApicMode::Disabled,
                1 => ApicMode::Xapic,
                _ => ApicMode::X2apic,
            },
            logical_destination: logical as u32,
            destination_format: (logical >> 32) as u32,
            software_enabled: word & SOFTWARE_ENABLED != 0,
            priority: line.priority.load(Ordering::Relaxed) as u8,
        }
    }

    /// All lines, into a buffer that the caller keeps, so that a broadcast allocates once per vCPU.
    pub fn snapshot(&self, into: &mut Vec<Identity>) {
        into.clear();
        into.extend(self.lines.iter().map(Self::decode));
    }

    /// All lines, one after another.
    pub fn identities(&self) -> impl Iterator<Item = Identity> {
        self.lines.iter().map(Self::decode)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_read() {
        let board = IdentityBoard::new(3);
        assert_eq!((board.len(), board.is_empty()), (3, false));
        let born = board.identity(2).unwrap();
        assert_eq!(
            (born.mode, born.x2apic_id, born.xapic_id),
            (ApicMode::Xapic, 2, 2)
        );
        assert!(!born.software_enabled);
        for mode in [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic] {
            let identity = Identity {
                x2apic_id: 2,
                xapic_id: 0xab,
                mode,
                logical_destination: 0x8765_4321,
                destination_format: 0x0fff_ffff,
                software_enabled: true,
                priority: 0x7c,
            };
            board.publish(2, &identity);
            assert_eq!(board.identity(2), Some(identity));
        }
        let mut all = Vec::new();
        board.snapshot(&mut all);
        assert_eq!(all.len(), 3);
        assert_eq!(board.identity(3), None);
    }
}
