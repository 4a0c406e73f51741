//! The physical vectors that this hypervisor sends between its processors, and how a processor is
//! addressed.

use alloc::boxed::Box;

use apic::posted_interrupt::Notification;

/// The physical vectors with a meaning to this hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalVectors {
    /// NV of a loaded vCPU, and the VMCS's posted-interrupt notification vector. Its handler in root
    /// mode does nothing: requests are taken before every VM entry.
    pub active: u8,
    /// NV of a blocked vCPU: the handler walks the processor's wakeup list.
    pub wakeup: u8,
    /// Forces an exit or ends the idle sleep, to look at the mailbox and the run queue. Not
    /// [`Self::active`]: posted-interrupt processing would swallow that without an exit (SDM 30.6).
    pub kick: u8,
}

/// F2H, F1H and F0H: the three highest below the spurious vectors.
pub const VECTORS: PhysicalVectors = PhysicalVectors {
    active: 0xf2,
    wakeup: 0xf1,
    kick: 0xf0,
};

/// Vectors and the processors' physical destinations.
#[derive(Clone, Debug)]
pub struct PhysicalInterrupts {
    vectors: PhysicalVectors,
    destinations: Box<[u32]>,
}

impl PhysicalInterrupts {
    /// `destinations[p]` is the raw NDST of processor `p`: its x2APIC ID if the physical local APICs
    /// are in x2APIC mode, else its xAPIC ID in bits 15:8 (SDM 30.6, "Format of posted-interrupt
    /// descriptor").
    pub const fn new(vectors: PhysicalVectors, destinations: Box<[u32]>) -> Self {
        Self {
            vectors,
            destinations,
        }
    }

    /// The vectors.
    pub const fn vectors(&self) -> PhysicalVectors {
        self.vectors
    }

    /// Processors.
    pub fn processors(&self) -> usize {
        self.destinations.len()
    }

    /// The raw NDST of a processor; processor 0's for a number that does not exist, so that an
    /// interrupt is never sent to an address that nobody answers.
    pub fn destination(&self, processor: u32) -> u32 {
        self.destinations
            .get(processor as usize)
            .or(self.destinations.first())
            .copied()
            .unwrap_or(0)
    }

    /// What notifies a vCPU that runs on `processor`.
    pub fn active(&self, processor: u32) -> Notification {
        self.to(self.vectors.active, processor)
    }

    /// What wakes a vCPU that is blocked on `processor`.
    pub fn wakeup(&self, processor: u32) -> Notification {
        self.to(self.vectors.wakeup, processor)
    }

    /// What makes `processor` look at its mailbox and queue.
    pub fn kick(&self, processor: u32) -> Notification {
        self.to(self.vectors.kick, processor)
    }

    fn to(&self, vector: u8, processor: u32) -> Notification {
        Notification {
            vector,
            destination: self.destination(processor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_vectors_are_apart_and_go_where_they_should() {
        let host = PhysicalInterrupts::new(VECTORS, Box::new([0x0000, 0x0500]));
        assert_eq!(
            (host.active(1).vector, host.active(1).destination),
            (0xf2, 0x500)
        );
        assert_eq!(
            (host.wakeup(1).vector, host.wakeup(0).destination),
            (0xf1, 0)
        );
        assert_eq!(
            host.kick(9).destination,
            0,
            "never an address without owner"
        );
        // SDM 30.6: only the notification vector is swallowed by posted-interrupt processing.
        let v = host.vectors();
        assert!(v.active != v.kick && v.active != v.wakeup && v.kick != v.wakeup);
        assert_eq!(host.processors(), 2);
    }
}
