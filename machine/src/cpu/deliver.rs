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
        loop {
            if crate::vtx::exceptions::intercept(self, &event) {
                break;
            }
            self.note_event(&event);
            self.delivering = Some(event);
            let Err(_raised) = self.deliver_through_table(&event) else {
                break;
            };
            if event.source.is_software() {
                self.set_rip(self.instruction_start);
            }
            match self.pending {
                Pending::Exception(second) => {
                    let second = Self::with_external_bit(&event, second);
                    match combine(&event, &second) {
                        Combined::Serial if in_series == LONGEST_SERIES => {
                            self.series = Some((event, second));
                            break;
                        }
                        Combined::Serial => {
                            in_series += 1;
                            event = second;
                        }
                        Combined::DoubleFault => {
                            self.delivering = None;
                            event = Exception {
                                vector: vector::DOUBLE_FAULT,
                                error_code: Some(0),
                                detail: 0,
                                source: Source::Fault,
                            };
                        }
                        Combined::TripleFault => {
                            self.delivering = None;
                            self.triple_fault();
                            break;
                        }
                    }
                }
                Pending::VmExit(exit) => {
                    crate::vtx::exit(self, exit);
                    break;
                }
                Pending::Again => break,
                Pending::Shutdown => {
                    self.activity = Activity::Shutdown;
                    break;
                }
            }
        }
        self.delivering = None;
        self.delivering_length = 0;
        self.inhibit = Inhibit::None;
        // Whatever trap the interrupted instruction owed: the handler runs with TF clear.
        self.trap_suppressed = true;
        self.look_at_events();
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

    /// What an event leaves behind before its handler runs: CR2, DR6, NMI blocking.
    fn note_event(&mut self, event: &Exception) {
        if matches!(event.source, Source::Fault | Source::Trap) {
            let rip = self.rip();
            self.trace(Event::Exception {
                vector: event.vector,
                rip,
            });
        }
        match (event.source, event.vector) {
            (Source::Fault, vector::PAGE_FAULT) => self.cr2 = event.detail,
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

    /// RFLAGS as delivery of `event` saves it: RF is set for faults, except instruction breakpoints,
    /// and for interrupts and traps between the iterations of a string instruction (SDM 17.3.1.1
    /// Instruction-breakpoint exception condition).
    pub fn saved_rflags(&self, event: &Exception) -> u64 {
        if event.source == Source::Fault && event.vector != vector::DEBUG
            || self.between_iterations()
        {
            self.rflags() | rflags::RF
        } else {
            self.rflags()
        }
    }

    fn deliver_through_table(&mut self, event: &Exception) -> Result<(), Raised> {
        if !self.protected_mode() {
            self.deliver_real_mode(event)?;
        } else if self.ia32e_mode() {
            self.deliver_64_bit(event)?;
        } else {
            self.deliver_protected_mode(event)?;
        }
        self.activity = Activity::Active;
        Ok(())
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
