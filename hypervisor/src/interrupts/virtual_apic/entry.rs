//! What the next VM entry needs to know of the virtual APIC.

use apic::mailbox::ExternalInterrupt;
use apic::register_page::{RegisterPage, VectorBank, highest_vector};
use arch::apic_register::PROCESSOR_PRIORITY;

use super::VirtualApic;

/// Whether the guest would take an external interrupt at its next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestInterruptibility {
    /// RFLAGS.IF = 1, no blocking by STI or MOV SS, and the entry injects nothing else.
    Open,
    /// One of these does not hold.
    Blocked,
}

/// How an interrupt that the processor does not deliver by itself gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// Nothing to inject: interrupt-window exiting is 0.
    None,
    /// Inject this vector as an external interrupt; it is in service already.
    Vector(u8),
    /// Acknowledge the 8259 and inject the vector it gives as an external interrupt.
    ExternalInterrupt,
    /// Interrupt-window exiting is 1: one waits until the guest can take it (SDM 24.6.2).
    OpenWindow,
}

/// What to load before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct EntryState {
    /// Guest interrupt status (SVI high, RVI low), if it must be written: with virtual-interrupt
    /// delivery, after software touched VIRR or VISR.
    pub interrupt_status: Option<u16>,
    /// TPR threshold, if it changed.
    pub tpr_threshold: Option<u32>,
    /// The EOI-exit bitmap, if it changed: bit `v % 64` of element `v / 64`.
    pub end_of_interrupt_exits: Option<[u64; 4]>,
    /// What to inject.
    pub injection: Injection,
}

/// A 256-bit register as four words.
pub(super) fn bank<P: RegisterPage>(page: &P, bank: VectorBank) -> [u64; 4] {
    core::array::from_fn(|i| {
        let low = bank.offset() + i as u32 * 32;
        u64::from(page.read(low)) | u64::from(page.read(low + 16)) << 32
    })
}

impl<P: RegisterPage> VirtualApic<P> {
    /// Computes what the next entry loads, and takes into service what it injects. Last before the
    /// entry, after [`VirtualApic::receive`]: what is reported here must be done.
    ///
    /// `external_interrupt` is what of the 8259's interrupt there is for this vCPU.
    #[inline]
    pub fn prepare_entry(
        &mut self,
        interruptibility: GuestInterruptibility,
        external_interrupt: ExternalInterrupt,
    ) -> EntryState {
        let external = self.apic.takes(external_interrupt);
        if self.controls.virtual_interrupt_delivery {
            self.prepare_with_delivery(interruptibility, external)
        } else {
            self.prepare_without_delivery(interruptibility, external)
        }
    }

    fn prepare_with_delivery(
        &mut self,
        interruptibility: GuestInterruptibility,
        external: bool,
    ) -> EntryState {
        let injection = match (external, interruptibility) {
            (false, _) => Injection::None,
            (true, GuestInterruptibility::Open) => Injection::ExternalInterrupt,
            (true, GuestInterruptibility::Blocked) => Injection::OpenWindow,
        };
        let mut state = EntryState {
            interrupt_status: None,
            tpr_threshold: self.change_threshold(0),
            end_of_interrupt_exits: None,
            injection,
        };
        if self.dirty {
            self.dirty = false;
            let page = self.apic.page();
            // SDM 30.1.2: RVI is the highest requested, SVI the highest in service.
            let requested = highest_vector(page, VectorBank::InterruptRequest).unwrap_or(0);
            let in_service = highest_vector(page, VectorBank::InService).unwrap_or(0);
            state.interrupt_status = Some(u16::from_le_bytes([requested, in_service]));
            // A level-triggered interrupt ends with a message to the I/O APIC, so its EOI exits.
            let exits = bank(page, VectorBank::TriggerMode);
            if exits != self.end_of_interrupt_exits {
                self.end_of_interrupt_exits = exits;
                state.end_of_interrupt_exits = Some(exits);
            }
        }
        state
    }

    fn prepare_without_delivery(
        &mut self,
        interruptibility: GuestInterruptibility,
        external: bool,
    ) -> EntryState {
        self.dirty = true;
        let deliverable = self.apic.deliverable();
        let injection = match (external || deliverable.is_some(), interruptibility) {
            (false, _) => Injection::None,
            (true, GuestInterruptibility::Blocked) => Injection::OpenWindow,
            // The 8259 first: it is not subject to the task priority.
            (true, GuestInterruptibility::Open) if external => Injection::ExternalInterrupt,
            (true, GuestInterruptibility::Open) => self
                .apic
                .acknowledge()
                .map_or(Injection::None, Injection::Vector),
        };
        // One was injected and another waits behind it: it needs the window as soon as the guest can.
        let threshold = if self.controls.tpr_shadow {
            self.threshold()
        } else {
            0
        };
        EntryState {
            interrupt_status: None,
            tpr_threshold: self.change_threshold(threshold),
            end_of_interrupt_exits: None,
            injection,
        }
    }

    /// Whether another interrupt is deliverable besides the one just injected, so that the window has
    /// to be opened all the same.
    pub fn another_waits(&self) -> bool {
        !self.controls.virtual_interrupt_delivery && self.apic.deliverable().is_some()
    }

    /// The task-priority class below which an interrupt becomes deliverable: of one that VTPR holds
    /// back and nothing in service does (SDM 30.1.4, 24.6.8 "TPR threshold"). It is never above VTPR's
    /// class, as VM entry demands.
    fn threshold(&self) -> u32 {
        let page = self.apic.page();
        let Some(vector) = highest_vector(page, VectorBank::InterruptRequest) else {
            return 0;
        };
        let requested = vector >> 4;
        let in_service = highest_vector(page, VectorBank::InService).unwrap_or(0) >> 4;
        if requested > in_service && requested <= self.apic.task_priority() >> 4 {
            requested.into()
        } else {
            0
        }
    }

    fn change_threshold(&mut self, threshold: u32) -> Option<u32> {
        if threshold == self.threshold {
            return None;
        }
        self.threshold = threshold;
        Some(threshold)
    }

    /// The processor priority, for lowest-priority arbitration: kept in the page by virtual-interrupt
    /// delivery, else computed.
    pub fn processor_priority(&self) -> u8 {
        if self.controls.virtual_interrupt_delivery {
            self.apic.page().read(PROCESSOR_PRIORITY) as u8
        } else {
            self.apic.processor_priority()
        }
    }
}
