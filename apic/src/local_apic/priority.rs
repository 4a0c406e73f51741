//! Acceptance, priorities, dispatch and end of interrupts (SDM 10.8 Handling interrupts).

use arch::apic_register::{
    PROCESSOR_PRIORITY, SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE, TASK_PRIORITY,
};
use arch::interrupt_command::TriggerMode;

use super::{Acceptance, ApicError, Effect, EndOfInterruptBroadcast, LocalApic};
use crate::apic_base::{ApicMode, GeneralProtection};
use crate::register_page::{
    RegisterPage, VectorBank, clear_vector, highest_vector, page_processor_priority, set_vector,
    test_vector,
};

/// Suppress EOI broadcasts (SVR bit 12).
const SUPPRESS_BROADCAST: u32 = 1 << 12;

impl<P: RegisterPage> LocalApic<P> {
    /// Enabled globally and by the spurious-interrupt vector register.
    pub fn is_software_enabled(&self) -> bool {
        self.mode() != ApicMode::Disabled
            && self.page.read(SPURIOUS_VECTOR) & SPURIOUS_VECTOR_ENABLE != 0
    }

    /// A fixed interrupt arrives.
    // SDM 10.8.4 Interrupt Acceptance for Fixed Interrupts.
    pub fn accept(&mut self, vector: u8, trigger_mode: TriggerMode) -> Acceptance {
        if self.is_software_enabled() {
            self.complete_reception(vector, trigger_mode)
        } else {
            Acceptance::Ignored
        }
    }

    /// A fixed interrupt arrives whose reception was under way before the local APIC may have been
    /// software-disabled.
    // SDM 10.4.7.2 Local APIC State After It Has Been Software Disabled: the reception of any IPIs that
    // are in progress when the APIC is disabled is completed first.
    pub fn complete_reception(&mut self, vector: u8, trigger_mode: TriggerMode) -> Acceptance {
        if vector < 16 {
            self.record_error(ApicError::ReceiveIllegalVector);
            Acceptance::IllegalVector
        } else if self.request(vector, trigger_mode) {
            Acceptance::Accepted
        } else {
            Acceptance::Coalesced
        }
    }

    /// Puts a legal vector into IRR and its trigger mode into TMR; true if it was not there.
    pub(super) fn request(&mut self, vector: u8, trigger_mode: TriggerMode) -> bool {
        match trigger_mode {
            TriggerMode::Edge => clear_vector(&mut self.page, VectorBank::TriggerMode, vector),
            TriggerMode::Level => set_vector(&mut self.page, VectorBank::TriggerMode, vector),
        };
        self.request_words |= 1 << (vector / 32);
        set_vector(&mut self.page, VectorBank::InterruptRequest, vector)
    }

    /// The vector that the processor would get now, if it takes interrupts: the highest in IRR,
    /// if its class is above that of the processor priority.
    // A software-disabled local APIC keeps what is pending, to be handled by the processor
    // (SDM 10.4.7.2).
    #[inline]
    pub fn deliverable(&self) -> Option<u8> {
        if P::EXCLUSIVE && self.request_words == 0 {
            return None;
        }
        self.deliverable_of_page()
    }

    fn deliverable_of_page(&self) -> Option<u8> {
        let vector = highest_vector(&self.page, VectorBank::InterruptRequest)?;
        let above = vector >> 4 > page_processor_priority(&self.page) >> 4;
        (above && self.mode() != ApicMode::Disabled).then_some(vector)
    }

    /// The processor acknowledges: what is deliverable moves from IRR to ISR. `None` means that
    /// there is nothing any more, and the processor gets [`Self::spurious_vector`].
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        clear_vector(&mut self.page, VectorBank::InterruptRequest, vector);
        let word = vector / 32;
        let offset = VectorBank::InterruptRequest.offset() + u32::from(word) * 16;
        if self.page.read(offset) == 0 {
            self.request_words &= !(1 << word);
        }
        set_vector(&mut self.page, VectorBank::InService, vector);
        self.update_processor_priority();
        Some(vector)
    }

    /// The vector for an acknowledgement that finds nothing (SDM 10.9 Spurious interrupt). It
    /// does not enter ISR.
    pub fn spurious_vector(&self) -> u8 {
        self.page.read(SPURIOUS_VECTOR) as u8
    }

    /// The highest vector in service.
    pub fn in_service(&self) -> Option<u8> {
        highest_vector(&self.page, VectorBank::InService)
    }

    /// EOI: the highest vector in service ends.
    pub(super) fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service() else {
            return Effect::None;
        };
        clear_vector(&mut self.page, VectorBank::InService, vector);
        self.update_processor_priority();
        self.ended(vector)
    }

    /// What follows from the end of `vector`, already out of ISR: for the VM exit of a virtualized
    /// EOI.
    pub fn ended(&mut self, vector: u8) -> Effect {
        let level = test_vector(&self.page, VectorBank::TriggerMode, vector);
        if level {
            self.clear_remote_request(vector);
        }
        let suppressed = self.configuration.features.end_of_interrupt_suppression
            && self.page.read(SPURIOUS_VECTOR) & SUPPRESS_BROADCAST != 0;
        Effect::EndOfInterrupt {
            vector,
            trigger_mode: if level {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
            broadcast: if level && !suppressed {
                EndOfInterruptBroadcast::Sent
            } else {
                EndOfInterruptBroadcast::Withheld
            },
        }
    }

    /// The task-priority register.
    pub fn task_priority(&self) -> u8 {
        self.page.read(TASK_PRIORITY) as u8
    }

    /// Replaces the task priority.
    pub fn set_task_priority(&mut self, priority: u8) -> Effect {
        self.page.write(TASK_PRIORITY, u32::from(priority));
        self.update_processor_priority();
        Effect::PriorityChanged
    }

    /// CR8.
    // SDM 10.8.6 Task Priority in IA-32e Mode.
    pub fn cr8(&self) -> u64 {
        u64::from(self.task_priority() >> 4)
    }

    /// MOV to CR8.
    ///
    /// # Errors
    /// A bit above the low four is set.
    pub fn write_cr8(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value > 15 {
            return Err(GeneralProtection);
        }
        Ok(self.set_task_priority((value as u8) << 4))
    }

    /// The processor-priority register.
    pub fn processor_priority(&self) -> u8 {
        page_processor_priority(&self.page)
    }

    // SDM 10.8.3.1, figure "Arbitration Priority Register": APR from TPR, ISRV and IRRV.
    // The AND of TPR and ISRV is as printed there, in editions 8.6.2.4 and 10.6.2.4 alike.
    pub(super) fn arbitration_priority(&self) -> u8 {
        let task = self.task_priority();
        let in_service = self.in_service().unwrap_or(0) & 0xf0;
        let requested =
            highest_vector(&self.page, VectorBank::InterruptRequest).unwrap_or(0) & 0xf0;
        if task & 0xf0 >= requested && task & 0xf0 > in_service {
            task
        } else {
            (task & in_service).max(requested)
        }
    }

    /// Keeps PPR in the page current, for readers of the page.
    fn update_processor_priority(&mut self) {
        let priority = page_processor_priority(&self.page);
        self.page.write(PROCESSOR_PRIORITY, u32::from(priority));
    }

    /// The bits of SVR that can be written.
    pub(super) const fn spurious_vector_bits(&self) -> u32 {
        0xff | SPURIOUS_VECTOR_ENABLE
            | if self.configuration.features.end_of_interrupt_suppression {
                SUPPRESS_BROADCAST
            } else {
                0
            }
    }
}
