//! What other processors may touch of a vCPU: its posted-interrupt descriptor, its mailbox for
//! everything that is not an edge-triggered vector, its state and the deadline of its timer.

use apic::{
    mailbox::InterruptMailbox,
    posted_interrupt::{DescriptorView, PostedInterruptDescriptor},
    sync::{AtomicU64, Ordering},
};

/// Where a vCPU is. Only [`super::blocking`] changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// Loaded on a processor, in guest mode or in root mode on its behalf.
    Running {
        /// The processor.
        processor: u32,
    },
    /// In a run queue or on its way there: preempted, woken up, or new.
    Ready,
    /// Waits for an interrupt, on a processor's wakeup list.
    Blocked {
        /// The processor.
        processor: u32,
    },
    /// Waits for a start-up IPI.
    WaitForSipi,
    /// Runs no more.
    Stopped,
}

impl VcpuState {
    pub(super) const fn encode(self) -> u64 {
        match self {
            Self::Ready => 0,
            Self::WaitForSipi => 1,
            Self::Stopped => 2,
            Self::Running { processor } => 3 | (processor as u64) << 32,
            Self::Blocked { processor } => 4 | (processor as u64) << 32,
        }
    }

    pub(super) const fn decode(word: u64) -> Self {
        let processor = (word >> 32) as u32;
        match word as u32 {
            0 => Self::Ready,
            1 => Self::WaitForSipi,
            3 => Self::Running { processor },
            4 => Self::Blocked { processor },
            _ => Self::Stopped,
        }
    }
}

/// No timer is armed.
pub const NO_DEADLINE: u64 = u64::MAX;

/// The shared part of a vCPU. It is made before the vCPU and outlives it: the processor may read the
/// descriptor as long as a PID-pointer table names it (SDM 30.1.6 IPI Virtualization).
#[derive(Debug)]
pub struct VcpuPort {
    descriptor: PostedInterruptDescriptor,
    mailbox: InterruptMailbox,
    pub(super) state: AtomicU64,
    deadline: AtomicU64,
    slot: u32,
}

impl VcpuPort {
    /// The port of a vCPU that waits for a start-up IPI; `slot` is its number in the wakeup lists and
    /// the scheduler.
    pub fn new(slot: u32) -> Self {
        Self {
            descriptor: PostedInterruptDescriptor::new(),
            mailbox: InterruptMailbox::new(),
            state: AtomicU64::new(VcpuState::WaitForSipi.encode()),
            deadline: AtomicU64::new(NO_DEADLINE),
            slot,
        }
    }

    /// The vCPU's number in the wakeup lists and the scheduler.
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// The descriptor: its address, translated, goes into the VMCS and the PID-pointer table.
    pub const fn descriptor(&self) -> &PostedInterruptDescriptor {
        &self.descriptor
    }

    /// The descriptor by its words.
    pub fn view(&self) -> DescriptorView<'_> {
        self.descriptor.view()
    }

    /// NMI, SMI, INIT, start-up, level-triggered vectors, the 8259's line.
    pub const fn mailbox(&self) -> &InterruptMailbox {
        &self.mailbox
    }

    /// Where the vCPU is, or was a moment ago.
    pub fn state(&self) -> VcpuState {
        VcpuState::decode(self.state.load(Ordering::SeqCst))
    }

    /// When the vCPU wants to be woken at the latest, in the host's time; [`NO_DEADLINE`] for never.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::SeqCst)
    }

    /// Sets the deadline; for the owner, before it blocks.
    pub fn set_deadline(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn states_survive_their_encoding() {
        for state in [
            VcpuState::Ready,
            VcpuState::WaitForSipi,
            VcpuState::Stopped,
            VcpuState::Running { processor: 0 },
            VcpuState::Running {
                processor: u32::MAX,
            },
            VcpuState::Blocked { processor: 254 },
        ] {
            assert_eq!(VcpuState::decode(state.encode()), state);
        }
    }

    #[test]
    fn a_new_port_waits_with_notifications_suppressed() {
        let port = VcpuPort::new(3);
        assert_eq!(port.state(), VcpuState::WaitForSipi);
        assert!(port.view().control().suppress_notification());
        assert_eq!((port.deadline(), port.slot()), (NO_DEADLINE, 3));
        assert_eq!(core::ptr::from_ref(port.descriptor()).addr() % 64, 0);
    }
}
