//! The whole: from a booted machine to guests on processors.

mod device_access;
mod ending;
mod machine_memory;
mod processor_loop;
pub mod report;
mod start;
mod timers;
pub mod virtual_machine;
pub mod vmx_operation;

pub use self::device_access::Direction;
pub use self::ending::Ending;
pub use self::start::{
    Boot, announce, disabled_features, run_application_processor, run_boot_processor,
};

use alloc::boxed::Box;
use core::num::NonZeroU32;
use core::sync::atomic::AtomicU32;

use apic::posted_interrupt::Notification;
use spin::Mutex;

use self::virtual_machine::VirtualMachine;
use crate::host::instructions::read_time_stamp;
use crate::host::processor::Processor;
use crate::host::{console, local_apic, machine_check, time};
use crate::interrupts::posting::{Sender, Signal};
use crate::interrupts::vcpu_port::VcpuPort;
use crate::interrupts::virtual_apic::Arrivals;
use crate::interrupts::vm_interrupts::{Publication, Withdrawal};
use crate::say;
use crate::scheduler::{PlacementAction, Scheduler, VcpuSlot};
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::configuration::{Configuration, NotificationSuppression, Sabotage};
use crate::vm::devices::AccessContext;
use crate::vmx::capability::Capabilities;
use crate::vmx::feature::{Feature, FeatureSet};

/// The hypervisor, once everything is set up.
#[derive(Debug)]
pub struct Hypervisor {
    /// What the command line asks for.
    pub configuration: Configuration,
    /// What the processor offers.
    pub capabilities: Capabilities,
    /// What is in use of it.
    pub features: FeatureSet,
    /// The virtual machine.
    pub vm: VirtualMachine,
    scheduler: Mutex<Scheduler>,
    /// Physical APIC IDs by processor number.
    processors: Box<[u32]>,
    /// Processors that have left the run loop for good.
    finished: AtomicU32,
}

/// Frequency of a guest's APIC timer before its divider, in Hz.
pub fn apic_timer_hertz() -> u64 {
    let ticks = u64::from(tsc_ticks_per_timer_count().get());
    time::tsc_hertz() / ticks
}

/// TSC ticks to one tick of the guest's APIC timer: about 100 MHz.
fn tsc_ticks_per_timer_count() -> NonZeroU32 {
    let ratio = (time::tsc_hertz() / 100_000_000).clamp(1, 1000) as u32;
    NonZeroU32::new(ratio).unwrap_or(NonZeroU32::MIN)
}

impl Hypervisor {
    /// What is to be wrong on purpose.
    pub fn sabotage(&self) -> Option<Sabotage> {
        self.configuration.sabotage
    }

    /// Whether notifications are suppressed while a vCPU's processor is in root mode.
    pub fn suppresses_in_root(&self) -> bool {
        self.configuration.notification_suppression == NotificationSuppression::WhileInRoot
    }

    fn port_of(&self, slot: u32) -> Option<&VcpuPort> {
        self.vm.interrupts.port(slot)
    }

    fn context<'a>(&'a self, processor: &Processor) -> AccessContext<'a> {
        AccessContext {
            vm: &self.vm.interrupts,
            sender: Sender {
                processor: processor.number,
            },
            now: self.device_time(),
        }
    }

    /// Nanoseconds since the virtual machine was made.
    fn device_time(&self) -> u64 {
        time::nanoseconds(read_time_stamp().wrapping_sub(self.vm.start_time))
    }

    /// Makes the bootstrap vCPU ready.
    fn start(&self, processor: &Processor) {
        if let Some(port) = self.port_of(0) {
            let _ = port.start();
            self.queue(0, processor);
        }
    }

    /// Does what a sender has to do.
    #[inline]
    pub fn signal(&self, signal: Signal, processor: &Processor) {
        match signal {
            Signal::None => {}
            Signal::Send(notification) => send(notification),
            Signal::Queue(slot) => self.queue(slot, processor),
        }
    }

    /// A vCPU can run: gives it to a processor.
    fn queue(&self, slot: u32, processor: &Processor) {
        let placement = self.scheduler.lock().make_ready(VcpuSlot(slot));
        let Ok(placement) = placement else {
            // Only its own processor or its waker brings a vCPU back, and there is one of them.
            return;
        };
        if placement.action == PlacementAction::Interrupt {
            if placement.processor.0 == processor.number {
                processor.note_timer();
            } else {
                self.kick(placement.processor.0);
            }
        }
    }

    fn kick(&self, processor: u32) {
        send(self.vm.interrupts.around().host.kick(processor));
    }

    /// The virtual machine ends: every processor leaves its vCPU.
    pub fn end(&self, ending: Ending) {
        self.end_after(ending, || {});
    }

    /// The same, after the first to end it has said `last_words`.
    fn end_after(&self, ending: Ending, last_words: impl FnOnce()) {
        if self.vm.begin_ending(ending.encode()) {
            last_words();
            for number in 0..self.processors.len() as u32 {
                self.kick(number);
            }
        }
    }

    /// A machine check came while a guest ran.
    pub fn end_for_machine_check(&self, processor: &Processor) {
        self.end_after(Ending::MachineCheck, || {
            console::with_writer(|out| {
                let _ = machine_check::write(out, processor.number);
            });
        });
    }

    /// What the local APIC of `vcpu`, which runs on this processor, answers to has changed: says what that
    /// inhibits, waits until nobody is sending by what it was, and deals with what came until then.
    pub fn settle(
        &self,
        publication: Publication,
        arrivals: Arrivals,
        vcpu: &mut VirtualProcessor,
        processor: &Processor,
    ) {
        if let Some(inhibited) = publication.inhibited
            && inhibited.before == 0
            && self.features.contains(Feature::IpiVirtualization)
        {
            say!(
                "posthaste: vcpu {}: IPIs to APIC ID {} are left to software: {}; more of this kind are only counted",
                vcpu.number,
                inhibited.apic_id,
                inhibited.reason.name()
            );
        }
        if publication.withdrawal == Withdrawal::None {
            return;
        }
        let rendezvous = self.vm.interrupts.rendezvous();
        let round = rendezvous.begin(processor.number);
        for number in rendezvous.missing(&round) {
            self.kick(number);
        }
        rendezvous.wait(round);
        if let Some(port) = self.port_of(vcpu.number) {
            vcpu.apic.settle(port, arrivals);
        }
    }
}

/// Sends a physical interrupt.
#[inline]
fn send(notification: Notification) {
    // NDST has an xAPIC's ID in bits 15:8.
    let destination = match local_apic::mode() {
        local_apic::Mode::X2apic => notification.destination,
        local_apic::Mode::Xapic => notification.destination >> 8,
    };
    local_apic::send(destination, u32::from(notification.vector));
}
