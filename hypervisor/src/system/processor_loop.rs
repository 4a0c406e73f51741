//! What each processor does: runs the vCPUs that the scheduler gives it, idles, and comes to an end.
#![allow(unsafe_code, reason = "takes vCPUs from the scheduler")]

use core::sync::atomic::Ordering;

use super::{Ending, Hypervisor, report};
use crate::host::instructions::{halt_forever, read_time_stamp, wait_for_interrupt};
use crate::host::processor::{Processor, note};
use crate::host::shutdown::{self, Status};
use crate::host::{non_maskable, time};
use crate::interrupts::blocking::SleepOutcome;
use crate::interrupts::vcpu_port::NO_DEADLINE;
use crate::say;
use crate::scheduler::{Departure, ProcessorNumber, VcpuSlot};
use crate::vcpu::run::{self, Failure, Leave};

impl Hypervisor {
    /// What a processor does for ever.
    pub(super) fn run(&self, processor: &'static Processor) -> ! {
        let number = ProcessorNumber(processor.number);
        let mut loaded: Option<u32> = None;
        let rendezvous = self.vm.interrupts.rendezvous();
        rendezvous.come_back(processor.number);
        // Look at the timers first.
        processor.note_timer();
        loop {
            rendezvous.pass(processor.number);
            if self.vm.is_ending() {
                self.finish(processor)
            }
            let picked = self.scheduler.lock().pick(number, read_time_stamp());
            let Ok(Some(slot)) = picked else {
                self.idle(processor);
                continue;
            };
            if let Err((slot, failure)) = self.run_vcpu(slot.0, &mut loaded, processor) {
                // It ends its virtual machine, and nothing else: the processor goes on.
                self.end_after(Ending::EntryFailure, || {
                    report::entry_failure(self, slot, processor.number, &failure);
                });
            }
        }
    }

    /// Nothing to run: looks at the notes, or waits for an interrupt.
    fn idle(&self, processor: &Processor) {
        let notes = processor.take_notes();
        non_maskable::say_first();
        if notes & note::WAKEUP != 0 {
            self.wake_up(processor);
        }
        if notes & note::SERIAL != 0 {
            self.take_input(processor);
        }
        if notes != 0 {
            let deadline = self.service_timers(processor, read_time_stamp());
            time::arm(deadline);
            return;
        }
        let rendezvous = self.vm.interrupts.rendezvous();
        rendezvous.leave(processor.number);
        wait_for_interrupt();
        rendezvous.come_back(processor.number);
    }

    /// Runs vCPU `slot` until it leaves.
    fn run_vcpu(
        &self,
        slot: u32,
        loaded: &mut Option<u32>,
        processor: &'static Processor,
    ) -> Result<(), (u32, Failure)> {
        let number = ProcessorNumber(processor.number);
        let around = self.vm.interrupts.around();
        // SAFETY: the scheduler has just given it to this processor.
        let vcpu = unsafe { self.vm.vcpu(slot) };
        let (Some(vcpu), Some(port)) = (vcpu, self.port_of(slot)) else {
            return Ok(());
        };
        let failed = |failure| (slot, failure);
        if *loaded != Some(slot) {
            run::load(vcpu, self, processor).map_err(failed)?;
            *loaded = Some(slot);
        }
        // Whatever was posted meanwhile is received before the entry.
        let _ = port.load(processor.number, &around.host);
        processor.note_timer();
        let leave = run::run(vcpu, port, self, processor).map_err(failed)?;
        let deadline = vcpu
            .apic
            .apic()
            .timer_deadline()
            .map_or(NO_DEADLINE, |due| due.wrapping_sub(vcpu.tsc_offset));
        // A vCPU with a processor of its own stays loaded there.
        if !self.is_pinned() {
            run::unload(vcpu, processor).map_err(failed)?;
            *loaded = None;
        }
        port.set_deadline(deadline);
        processor.note_timer();
        let mut scheduler = self.scheduler.lock();
        // From here on another processor may have the vCPU.
        let outcome = match leave {
            Leave::Ending => return Ok(()),
            Leave::Preempted => {
                port.preempt();
                let _ = scheduler.depart(number, Departure::Preempted);
                return Ok(());
            }
            // The scheduler's lock keeps a waker from queueing it before it has departed.
            Leave::Sleep(wake_on) => {
                let _ = scheduler.depart(number, Departure::Waiting);
                port.block(processor.number, wake_on, &around.lists, &around.host)
            }
            Leave::WaitForSipi => {
                let _ = scheduler.depart(number, Departure::Waiting);
                port.wait_for_sipi(processor.number, &around.host)
            }
        };
        if outcome == SleepOutcome::Resume {
            // It was never off this processor; the next pick finds it.
            let _ = scheduler.make_ready(VcpuSlot(slot));
        }
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.vm.vcpu_count() as usize <= self.processors.len()
    }

    /// The end of this processor's work. The boot processor reports when all have come here.
    fn finish(&self, processor: &Processor) -> ! {
        self.vm.interrupts.rendezvous().leave(processor.number);
        self.finished.fetch_add(1, Ordering::AcqRel);
        if processor.number != 0 {
            halt_forever()
        }
        for _ in 0..1000 {
            if self.finished.load(Ordering::Acquire) as usize == self.processors.len() {
                break;
            }
            time::spin(1_000_000);
        }
        self.vm.devices.lock().line.finish();
        report::inhibitions(self);
        report::exits(self);
        report::non_maskable_interrupts();
        let (status, end) = match self.vm.ending().map(Ending::decode) {
            Some(Ending::GuestExit(status)) => {
                say!("#ph guest-exit status={status}");
                match status {
                    0x10 => (Status::GuestSucceeded, "guest-exit"),
                    0x11 => (Status::GuestFailed, "guest-exit"),
                    _ => (Status::Other, "guest-exit"),
                }
            }
            Some(Ending::PowerOff) => (Status::GuestSucceeded, "guest-power-off"),
            Some(Ending::Reset) => {
                say!("posthaste: the guest reset its machine");
                (Status::Other, "guest-reset")
            }
            Some(Ending::EntryFailure) => (Status::EntryFailure, "entry-failure"),
            Some(Ending::MachineCheck) => (Status::Other, "machine-check"),
            Some(Ending::GuestCrashed) | None => (Status::Other, "guest-crashed"),
        };
        say!("#ph stop reason={end}");
        shutdown::stop(status)
    }
}
