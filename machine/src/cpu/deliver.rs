//! Delivery of exceptions and interrupts: what becomes of an event, and of a fault while it is being
//! delivered (SDM 6.12 Exception and interrupt handling, 6.15 Interrupt 8).

use arch::control_register::rflags;
use arch::exception as vector;
use arch::exit::ExitReason;

use super::{
    Activity, Cpu, Inhibit,
    breakpoint::debugctl,
    raise::{Exception, Pending, Raised, Source},
};
use crate::trace::Event;
use crate::vtx::VmExit;

/// Exceptions one after the other in the delivery of one event before the run is looked at. A handler's
/// stack whose misalignment raises #AC each time that it is delivered has no end to them: processors
/// take no other event then.
const LONGEST_SERIES: u64 = 16;
/// DR6.BD: a MOV to or from a debug register was found by general detect.
const DEBUG_REGISTER_ACCESS: u64 = 1 << 13;
/// DR7.GD: general detect.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

impl Source {
    /// INT n, INT3, INTO and INT1: on delivery RIP is that of the next instruction, and a fault
    /// goes back to the instruction itself.
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::SoftwareException | Self::PrivilegedSoftwareException
        )
    }

    /// Whether the gate's DPL is checked (SDM 6.12.1.1).
    pub const fn checks_gate_privilege(self) -> bool {
        matches!(self, Self::SoftwareInterrupt | Self::SoftwareException)
    }
}

/// The classes of SDM table 6-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: &Exception) -> Class {
    match (event.source, event.vector) {
        (Source::Fault | Source::Trap, number) => match number {
            vector::DIVIDE_ERROR
            | vector::INVALID_TSS
            | vector::SEGMENT_NOT_PRESENT
            | vector::STACK_FAULT
            | vector::GENERAL_PROTECTION
            | vector::CONTROL_PROTECTION => Class::Contributory,
            vector::PAGE_FAULT | vector::VIRTUALIZATION => Class::PageFault,
            vector::DOUBLE_FAULT => Class::DoubleFault,
            _ => Class::Benign,
        },
        _ => Class::Benign,
    }
}

/// What a second exception makes of the first (SDM table 6-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combined {
    /// The second is handled; the first occurs again, if at all, when its instruction does.
    Serial,
    /// Both become #DF.
    DoubleFault,
    /// The processor shuts down.
    TripleFault,
}

fn combine(first: &Exception, second: &Exception) -> Combined {
    match (class(first), class(second)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => Combined::TripleFault,
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => Combined::DoubleFault,
        _ => Combined::Serial,
    }
}

impl Cpu {
    /// Delivers an exception.
    pub fn deliver_exception(&mut self, exception: Exception) {
        self.deliver_event(exception);
    }

    /// Delivers an event of any source: exceptions, software and external interrupts, NMIs. For
    /// those of [`Source::is_software`] RIP is that of the next instruction and
    /// [`instruction_start`](Cpu::instruction_start) that of the instruction; for all others RIP is
    /// what the handler returns to.
    ///
    /// [`Cpu::delivering`] holds the event meanwhile, so that a fault or a VM exit on the way can
    /// tell what it interrupted (SDM 27.2.4 Information for VM exits during event delivery).
    pub fn deliver_event(&mut self, event: Exception) {
        self.delivering = None;
        self.delivering_length = if event.source.is_software() {
            self.rip().wrapping_sub(self.instruction_start) as u8
        } else {
            0
        };
        self.deliver_series(event);
    }

    /// Goes on with a series of exceptions that has had no end so far. Each counts as an instruction, so
    /// that slices and runs end.
    pub(super) fn continue_series(&mut self) {
        if let Some((first, second)) = self.series.take() {
            self.instructions += LONGEST_SERIES.min(self.remaining());
            self.delivering = Some(first);
            self.deliver_series(second);
        }
    }

    fn deliver_series(&mut self, event: Exception) {
        let mut event = event;
        let mut in_series = 0;
        if !crate::vtx::exceptions::intercept(self, &event) {
            while let Some(next) = self.try_to_deliver(event, &mut in_series) {
                event = next;
            }
        }
        self.delivering = None;
        self.delivering_length = 0;
        self.vmx.guest.injecting = false;
        // Whatever trap the interrupted instruction owed: the handler runs with TF clear.
        self.trap_suppressed = true;
        crate::vtx::events::after_delivery(self);
        self.look_at_events();
    }

    /// Delivers `event`, or gives the exception that is to be delivered instead. `None` if there is none,
    /// because the handler is entered, the guest is left or the processor has shut down.
    fn try_to_deliver(&mut self, event: Exception, in_series: &mut u64) -> Option<Exception> {
        self.note_event(&event);
        // SDM 27.1: a VM exit on the way finds what the event has changed already, unless it causes the
        // exit directly: no blocking by STI or MOV SS, and the active state.
        self.inhibit = Inhibit::None;
        self.activity = Activity::Active;
        self.delivering = Some(event);
        let Err(_raised) = self.deliver_through_table(&event) else {
            return None;
        };
        if event.source.is_software() {
            self.set_rip(self.instruction_start);
        }
        match self.pending {
            Pending::Exception(second) => {
                self.vmx.guest.injecting = false;
                let second = Self::with_external_bit(&event, second);
                self.meet_second(event, second, in_series)
            }
            Pending::VmExit(exit) => {
                crate::vtx::exit(self, exit);
                None
            }
            Pending::Again => None,
            Pending::Shutdown => {
                self.activity = Activity::Shutdown;
                None
            }
        }
    }

    /// What is to be delivered when `second` has occurred in the delivery of `first`. The exception bitmap is
    /// looked at for each exception by itself, before the two are combined: for the second, and for the
    /// double fault that they may become, which is then no exit during delivery (SDM 25.2, 27.2.4).
    fn meet_second(
        &mut self,
        first: Exception,
        second: Exception,
        in_series: &mut u64,
    ) -> Option<Exception> {
        if crate::vtx::exceptions::intercept(self, &second) {
            return None;
        }
        match combine(&first, &second) {
            Combined::Serial if *in_series == LONGEST_SERIES => {
                self.series = Some((first, second));
                None
            }
            Combined::Serial => {
                *in_series += 1;
                Some(second)
            }
            Combined::DoubleFault => {
                self.note_page_fault(&second);
                self.delivering = None;
                let double_fault = Exception {
                    vector: vector::DOUBLE_FAULT,
                    error_code: Some(0),
                    detail: 0,
                    source: Source::Fault,
                };
                let intercepted = crate::vtx::exceptions::intercept(self, &double_fault);
                (!intercepted).then_some(double_fault)
            }
            Combined::TripleFault => {
                self.note_page_fault(&second);
                self.delivering = None;
                self.triple_fault();
                None
            }
        }
    }

    /// The processor shuts down until INIT or reset (SDM 6.15, "Interrupt 8").
    pub fn triple_fault(&mut self) {
        if self.vmx.non_root {
            return crate::vtx::exit(self, VmExit::new(ExitReason::TripleFault));
        }
        self.activity = Activity::Shutdown;
        self.look_at_events();
    }

    /// Bit 0 of the error code of a fault during delivery tells whether the event came from outside
    /// the program (SDM 6.13).
    fn with_external_bit(first: &Exception, mut second: Exception) -> Exception {
        let selector_code = matches!(
            second.vector,
            vector::INVALID_TSS
                | vector::SEGMENT_NOT_PRESENT
                | vector::STACK_FAULT
                | vector::GENERAL_PROTECTION
        );
        if selector_code && !first.source.checks_gate_privilege() {
            second.error_code = second.error_code.map(|code| code | 1);
        }
        second
    }

    /// CR2 gets the address of each page fault, even of one that becomes a double or a triple fault (SDM
    /// 6.15, "Interrupt 14").
    fn note_page_fault(&mut self, event: &Exception) {
        if event.source == Source::Fault
            && event.vector == vector::PAGE_FAULT
            && !self.vmx.guest.injecting
        {
            self.cr2 = event.detail;
        }
    }

    /// What an event leaves behind before its handler runs: CR2, DR6, NMI blocking.
    fn note_event(&mut self, event: &Exception) {
        if matches!(event.source, Source::Fault | Source::Trap) {
            let rip = self.rip();
            self.trace(Event::Exception {
                vector: event.vector,
                rip,
            });
        }
        self.note_page_fault(event);
        match (event.source, event.vector) {
            // SDM 26.6.1.1: event injection modifies neither DR6 nor DR7 nor IA32_DEBUGCTL.
            (_, vector::DEBUG) if self.vmx.guest.injecting => {}
            (Source::Fault | Source::Trap, vector::DEBUG) => {
                // SDM 17.2.3: B0 to B3 are replaced, the others only ever set.
                self.dr[6] = self.dr[6] & !0xf | event.detail;
                self.dr[7] &= !DR7_GENERAL_DETECT;
                self.msrs.debugctl &= !debugctl::DEFINED;
            }
            (Source::PrivilegedSoftwareException, vector::DEBUG) if event.detail != 0 => {
                self.dr[6] = self.dr[6] & !0xf | event.detail;
            }
            (Source::NonMaskableInterrupt, _) => crate::vtx::intercept::block_nmi(self),
            _ => {}
        }
    }

    /// Whether the processor is between two iterations of a repeated string instruction.
    pub fn between_iterations(&self) -> bool {
        self.paused_iteration == Some((self.instructions, self.rip()))
    }

    /// RFLAGS as delivery of `event` saves it (SDM 17.3.1.1 Instruction-breakpoint exception condition): RF
    /// is 1 for faults but instruction breakpoints, and for interrupts and traps between the iterations of a
    /// string instruction; it is 0 for software interrupts, which have ended what it covers. VM entry
    /// injects events with the RF that the guest has (26.6.1.1).
    pub fn saved_rflags(&self, event: &Exception) -> u64 {
        let flags = self.rflags();
        let instruction_breakpoint =
            event.vector == vector::DEBUG && event.detail & DEBUG_REGISTER_ACCESS == 0;
        if self.vmx.guest.injecting {
            flags
        } else if event.source.is_software() {
            flags & !rflags::RF
        } else if event.source == Source::Fault && !instruction_breakpoint
            || self.between_iterations()
        {
            flags | rflags::RF
        } else {
            flags
        }
    }

    fn deliver_through_table(&mut self, event: &Exception) -> Result<(), Raised> {
        if !self.protected_mode() {
            self.deliver_real_mode(event)
        } else if self.ia32e_mode() {
            self.deliver_64_bit(event)
        } else {
            self.deliver_protected_mode(event)
        }
    }

    /// A fault whose error code names the IDT entry `number`.
    #[cold]
    pub(super) fn gate_fault(&mut self, vector: u8, number: u8) -> Raised {
        self.fault(vector, Some(u32::from(number) << 3 | 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(vector: u8) -> Exception {
        Exception {
            vector,
            error_code: None,
            detail: 0,
            source: Source::Fault,
        }
    }

    // SDM table 6-5: conditions for generating a double fault.
    #[test]
    fn pairs_of_exceptions_combine_as_the_table_says() {
        use Combined::{DoubleFault, Serial, TripleFault};
        let benign = fault(vector::INVALID_OPCODE);
        let table = [
            (vector::INVALID_OPCODE, [Serial, Serial, Serial]),
            (vector::GENERAL_PROTECTION, [Serial, DoubleFault, Serial]),
            (vector::DIVIDE_ERROR, [Serial, DoubleFault, Serial]),
            (vector::PAGE_FAULT, [Serial, DoubleFault, DoubleFault]),
            (vector::DOUBLE_FAULT, [Serial, TripleFault, TripleFault]),
        ];
        for (first, expected) in table {
            let seconds = [
                benign,
                fault(vector::STACK_FAULT),
                fault(vector::PAGE_FAULT),
            ];
            for (second, wanted) in seconds.iter().zip(expected) {
                assert_eq!(combine(&fault(first), second), wanted, "{first} {second:?}");
            }
        }
        let software = Exception {
            source: Source::SoftwareInterrupt,
            ..fault(vector::GENERAL_PROTECTION)
        };
        assert_eq!(combine(&software, &fault(vector::PAGE_FAULT)), Serial);
        assert_eq!(
            combine(&software, &fault(vector::GENERAL_PROTECTION)),
            Serial
        );
    }
}
