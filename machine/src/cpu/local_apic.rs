//! The processor and its local APIC: accesses, interrupts in both directions, the timer.

use apic::apic_base::ApicMode;
use apic::local_apic::{Effect, EndOfInterruptBroadcast};
use apic::mailbox::Taken;
use apic::non_maskable::Handling;
use arch::interrupt_command::InterruptCommand;
use arch::msr;

use super::{Cpu, raise::Raised};
use crate::platform::Sent;
use crate::trace::Event;

/// Where the vector of a deliverable interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptSource {
    /// The local APIC.
    LocalApic,
    /// The 8259, past the local APIC or through an LVT entry in ExtINT mode.
    Legacy,
}

impl Cpu {
    /// The time-stamp counter that software reads, without TSC offsetting.
    pub fn time_stamp_counter(&self) -> u64 {
        self.now().wrapping_add(self.msrs.tsc_adjust)
    }

    /// Offset in the local APIC's page, if `physical` lies there and the page responds.
    #[inline]
    pub fn apic_page_at(&self, physical: u64) -> Option<u32> {
        let base = self.apic.base();
        if base.mode() != ApicMode::Xapic {
            return None;
        }
        let offset = physical.wrapping_sub(base.page_address());
        (offset < 0x1000).then_some(offset as u32)
    }

    /// Reads 32 bits of the local APIC's page. SDM 10.4.1: registers are read by aligned 32-bit
    /// loads; the bytes between them read as 0.
    pub fn apic_page_read(&mut self, offset: u32) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        let now = self.time_stamp_counter();
        let value = self.apic.read_register(offset, now);
        // A register that does not exist raises the error interrupt.
        if self.apic.deliverable().is_some() {
            self.look_at_events();
        }
        value
    }

    /// Writes 32 bits of the local APIC's page.
    pub fn apic_page_write(&mut self, offset: u32, value: u32) {
        if offset & 0xf == 0 {
            let now = self.time_stamp_counter();
            let effect = self.apic.write_register(offset, value, now);
            self.apic_effect(effect);
        }
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    pub fn apic_msr_read(&mut self, index: u32) -> Result<u64, Raised> {
        let now = self.time_stamp_counter();
        match index {
            msr::IA32_APIC_BASE => Ok(self.apic.base().value()),
            msr::IA32_TSC_DEADLINE => Ok(self.apic.tsc_deadline()),
            _ => match self.apic.read_msr(index, now) {
                Ok(value) => Ok(value),
                Err(_) => Err(self.general_protection(0)),
            },
        }
    }

    /// WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    pub fn apic_msr_write(&mut self, index: u32, value: u64) -> Result<(), Raised> {
        let now = self.time_stamp_counter();
        let effect = match index {
            msr::IA32_APIC_BASE => self.apic.write_base(value),
            msr::IA32_TSC_DEADLINE => Ok(self.apic.write_tsc_deadline(value)),
            _ => self.apic.write_msr(index, value, now),
        };
        match effect {
            Ok(effect) => {
                self.apic_effect(effect);
                Ok(())
            }
            Err(_) => Err(self.general_protection(0)),
        }
    }

    /// CR8.
    pub fn cr8(&self) -> u64 {
        self.apic.cr8()
    }

    /// MOV to CR8; #GP(0) for a reserved bit.
    pub fn set_cr8(&mut self, value: u64) -> Result<(), Raised> {
        match self.apic.write_cr8(value) {
            Ok(effect) => {
                self.apic_effect(effect);
                Ok(())
            }
            Err(_) => Err(self.general_protection(0)),
        }
    }

    /// The time-stamp counter moved by `difference`.
    pub fn shift_apic_time(&mut self, difference: u64) {
        let effect = self.apic.shift_time(difference);
        self.apic_effect(effect);
    }

    /// Carries out what the local APIC asks for.
    fn apic_effect(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::SendInterrupt(command) => {
                if self.vmx.non_root {
                    // ipi-virtualization.md A5: the hypervisor must intercept this.
                    self.counters.physical_icr_writes_by_guest += 1;
                }
                self.send_interrupt(command);
            }
            Effect::EndOfInterrupt {
                vector, broadcast, ..
            } => {
                if broadcast == EndOfInterruptBroadcast::Sent {
                    let now = self.now();
                    self.platform.end_of_interrupt(self.index, vector, now);
                    self.heed_platform();
                }
                self.publish_identity();
                self.look_at_events();
            }
            Effect::TimerChanged => self.heed_timer(),
            Effect::PriorityChanged => {
                self.publish_identity();
                self.look_at_events();
            }
            Effect::IdentityChanged | Effect::LocalVectorTableChanged => {
                self.publish_identity();
                self.look_at_events();
            }
            Effect::BaseChanged => {
                // The page moved or vanished: translations to it, and to what it covered, are stale.
                self.tlb.flush_all();
                self.publish_identity();
                self.heed_timer();
                self.look_at_events();
            }
        }
    }

    /// Sends an interrupt command from this processor, as a write of its ICR does.
    pub fn send_interrupt(&mut self, command: InterruptCommand) -> Sent {
        self.counters.interrupt_commands += 1;
        self.trace(Event::InterruptCommand {
            low: command.low(),
            destination: command.destination,
        });
        let sent = self.platform.send_command(command, self.index);
        // Delivery status is idle at once, so that what came to the sender itself has been accepted.
        self.heed_platform();
        sent
    }

    /// Lets routing know this local APIC as it is now.
    pub fn publish_identity(&self) {
        self.platform.set_identity(self.index, self.apic.identity());
    }

    /// Ends the slice in time for the local APIC's timer.
    pub fn heed_timer(&mut self) {
        if let Some(deadline) = self.next_own_event() {
            let end = self.clock.instructions_until(deadline, self.instructions);
            self.end_slice_at(end);
            self.look_at_events();
        }
    }

    /// The virtual time at which the local APIC's timer fires.
    pub fn apic_timer_time(&self) -> Option<u64> {
        let deadline = self.apic.timer_deadline()?;
        let adjust = self.msrs.tsc_adjust;
        // A deadline before the counter's origin is in the past.
        Some(if adjust as i64 >= 0 {
            deadline.saturating_sub(adjust)
        } else {
            deadline.saturating_add(adjust.wrapping_neg())
        })
    }

    /// Lets the timer fire if it is due.
    pub fn run_apic_timer(&mut self) {
        let now = self.time_stamp_counter();
        if self
            .apic
            .timer_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.apic.expire(now);
        }
    }

    /// Accepts what the mailbox held.
    pub fn receive(&mut self, taken: &Taken) {
        for (vector, trigger_mode) in taken.vectors() {
            self.apic.accept(vector, trigger_mode);
        }
        let handling = if self.nmi_blocked {
            Handling::Yes
        } else {
            Handling::No
        };
        self.nmi_pending.accept(taken.non_maskable, handling);
        self.init_pending |= taken.init;
        if let Some(vector) = taken.start_up {
            self.start_up_pending = Some(vector);
        }
    }

    /// The interrupt that would be delivered if the processor took one now.
    pub fn deliverable_interrupt(&mut self) -> Option<InterruptSource> {
        if self.apic.deliverable().is_some() {
            return Some(InterruptSource::LocalApic);
        }
        let external = self.inbox.mailbox.external_interrupt();
        self.apic.takes(external).then_some(InterruptSource::Legacy)
    }

    /// Acknowledges the interrupt from `source` and gives its vector.
    pub fn acknowledge_interrupt(&mut self, source: InterruptSource) -> u8 {
        let vector = match source {
            InterruptSource::LocalApic => match self.apic.acknowledge() {
                Some(vector) => {
                    self.publish_identity();
                    vector
                }
                None => self.apic.spurious_vector(),
            },
            InterruptSource::Legacy => {
                self.inbox.mailbox.acknowledge_external_interrupt();
                let now = self.now();
                self.platform
                    .acknowledge_external_interrupt(self.index, now)
            }
        };
        self.counters.interrupts += 1;
        self.trace(Event::Interrupt { vector });
        vector
    }
}
