//! What falls due while vCPUs run: time slices, timers of sleeping vCPUs and of devices, wakeups.

use super::Hypervisor;
use crate::host::instructions::read_time_stamp;
use crate::host::processor::{Processor, note};
use crate::host::{non_maskable, time};
use crate::interrupts::blocking::{handle_deadlines, handle_wakeup_vector, next_deadline};
use crate::interrupts::vcpu_port::NO_DEADLINE;
use crate::scheduler::ProcessorNumber;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::feature::Feature;
use crate::vmx::vmcs::{Vmcs, VmxError};

/// How long a processor with the preemption timer goes without a look at its queue, in nanoseconds.
const LOOK_AROUND: u64 = 1_000_000;

/// A device time that does not come.
const NEVER: u64 = u64::MAX;

impl Hypervisor {
    /// Looks at what interrupts have noted, with a vCPU loaded; `Some` if it has to leave.
    #[cold]
    #[inline(never)]
    pub fn service(
        &self,
        vcpu: &mut VirtualProcessor,
        vmcs: &mut impl Vmcs,
        processor: &Processor,
    ) -> Result<Option<Leave>, VmxError> {
        let notes = processor.take_notes();
        if self.vm.is_ending() {
            return Ok(Some(Leave::Ending));
        }
        if notes & note::WAKEUP != 0 {
            self.wake_up(processor);
        }
        if notes & note::SERIAL != 0 {
            self.take_input(processor);
        }
        non_maskable::say_first();
        let now = read_time_stamp();
        let own = vcpu
            .apic
            .expire(now.wrapping_add(vcpu.tsc_offset))
            .map(|deadline| deadline.wrapping_sub(vcpu.tsc_offset));
        let shared = self.service_timers(processor, now);
        let number = ProcessorNumber(processor.number);
        let scheduler = self.scheduler.lock();
        if scheduler.slice_is_over(number, now) {
            return Ok(Some(Leave::Preempted));
        }
        let slice = scheduler.slice_end(number);
        drop(scheduler);
        let slice = self.arm_preemption_timer(slice, now, vmcs)?;
        time::arm([own, shared, slice].into_iter().flatten().min());
        Ok(None)
    }

    /// Lets the VMX-preemption timer end the time slice, if it is in use; gives back what is left for
    /// the processor's own timer to do.
    fn arm_preemption_timer(
        &self,
        slice: Option<u64>,
        now: u64,
        vmcs: &mut impl Vmcs,
    ) -> Result<Option<u64>, VmxError> {
        if !self.features.contains(Feature::PreemptionTimer) {
            return Ok(slice);
        }
        // Somebody may be queued behind this vCPU later, and the kick that says so may come late:
        // Bochs 2.7 holds external interrupts back while a guest that was entered with IF = 0 does not
        // change it. So look around now and then in any case.
        let end = slice.unwrap_or_else(|| now.saturating_add(time::ticks(LOOK_AROUND)));
        // SDM 26.5.1: it counts down by 1 each time this bit of the TSC changes.
        let shift = self.capabilities.preemption_timer_shift();
        let count = (end.saturating_sub(now) >> shift) + 1;
        vmcs.write(
            arch::vmcs::PREEMPTION_TIMER_VALUE,
            u32::try_from(count).unwrap_or(u32::MAX),
        )?;
        Ok(None)
    }

    /// The wakeup vector came.
    pub(super) fn wake_up(&self, processor: &Processor) {
        let around = self.vm.interrupts.around();
        handle_wakeup_vector(
            processor.number,
            &around.lists,
            &around.host,
            |slot| self.port_of(slot),
            |slot| self.queue(slot, processor),
        );
    }

    /// Timers that do not belong to the vCPU that runs: of vCPUs that sleep here, and the devices' on
    /// the boot processor. When to look again.
    pub(super) fn service_timers(&self, processor: &Processor, now: u64) -> Option<u64> {
        let around = self.vm.interrupts.around();
        handle_deadlines(
            processor.number,
            now,
            &around.lists,
            &around.host,
            |slot| self.port_of(slot),
            |slot| self.queue(slot, processor),
        );
        let sleeping = next_deadline(processor.number, &around.lists, |slot| self.port_of(slot));
        let sleeping = (sleeping != NO_DEADLINE).then_some(sleeping);
        if processor.number != 0 {
            return sleeping;
        }
        let next = self
            .advance_devices(processor)
            .map(|left| now.saturating_add(time::ticks(left).max(1)));
        [sleeping, next].into_iter().flatten().min()
    }

    /// Runs the devices to now, unless they have nothing to do; gives the nanoseconds until they have.
    fn advance_devices(&self, processor: &Processor) -> Option<u64> {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let context = self.context(processor);
        if context.now >= devices.quiet_until {
            let line = &mut devices.line;
            let act = |effect| self.act(effect, line, processor);
            devices.platform.advance(context, act);
            let events = [
                devices.platform.next_event(context.now),
                devices.line.advance(context.now),
            ];
            let next = events.into_iter().flatten().min();
            devices.quiet_until = next.unwrap_or(NEVER);
        }
        let next = devices.quiet_until;
        (next != NEVER).then(|| next.saturating_sub(context.now))
    }
}
