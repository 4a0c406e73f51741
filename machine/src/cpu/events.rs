//! What is looked at between instructions (SDM 6.9 Priority among concurrent events).

use std::sync::atomic::Ordering;

use arch::control_register::rflags;
use arch::exception as vector;

use super::{
    Activity, Cpu, Inhibit, Stop,
    raise::{Exception, Source},
    state::Reset,
};
use crate::kernel_entry;
use crate::platform::Notice;
use crate::schedule::Clock;
use crate::vtx::{self, events::Processed};

impl Cpu {
    /// Whether somebody else put something before this processor.
    #[inline(always)]
    pub fn attention(&self) -> bool {
        self.inbox.mailbox.attention()
    }

    /// The virtual time of the next event that this processor causes itself, whatever it does
    /// meanwhile.
    pub fn next_own_event(&self) -> Option<u64> {
        let timers = match (
            self.apic_timer_time(),
            self.vmx.guest.preemption_timer.deadline(),
        ) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match (timers, self.monitor.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The platform was asked for something: looks at events before the next instruction if that put
    /// something before this processor, and ends the slice in time for the devices' next event and for a
    /// processor that got something to do.
    pub fn heed_platform(&mut self) {
        if let Clock::Deterministic(_) = self.clock {
            let event = self.platform.next_device_event.load(Ordering::Relaxed);
            let mut end = self.clock.instructions_until(event, self.instructions);
            if self.platform.take_posted() {
                end = end.min(self.instructions.saturating_add(self.turn));
            }
            if end < self.slice_end {
                self.end_slice_at(end);
                self.look_at_events();
            }
        }
        if self.attention() {
            self.look_at_events();
        }
    }

    /// Deals with what arrived and with what the last instruction made possible. Gives a reason to
    /// leave the loop, if there is one.
    pub fn process_events(&mut self) -> Option<Stop> {
        self.check_events = false;
        self.trap_suppressed = false;
        if self.platform.stopped() {
            self.check_events = true;
            return Some(Stop::MachineStopped);
        }
        if self.attention() {
            self.take_inbox();
        }
        self.run_apic_timer();
        self.run_monitor();
        if self.vmx.non_root {
            // Every event may leave the guest or wake it; then the next one is looked at.
            while self.vmx.non_root && vtx::events::process(self) == Processed::Something {}
            if self.vmx.non_root {
                self.take_instruction_breakpoint();
            } else {
                self.check_events = true;
            }
        } else {
            self.take_root_events();
        }
        self.trap_suppressed = false;
        match self.activity {
            Activity::Active => None,
            Activity::Halted | Activity::Shutdown | Activity::WaitForStartUp => {
                // Nothing may execute until an event changes that.
                self.check_events = true;
                Some(Stop::Idle)
            }
        }
    }

    /// Events outside VMX non-root operation.
    fn take_root_events(&mut self) {
        self.take_init();
        match self.activity {
            Activity::Active | Activity::Halted => self.take_interrupt(),
            Activity::WaitForStartUp => self.take_start_up(),
            Activity::Shutdown => self.start_up_pending = None,
        }
    }

    fn take_inbox(&mut self) {
        let platform = self.platform.clone();
        let taken = self.inbox.mailbox.take();
        for notice in platform.take_notices(self.index) {
            match notice {
                Notice::Code(notice) => self.told(notice),
                Notice::Mark(number) => {
                    let snapshot = self.snapshot();
                    platform.fill_mark(number, self.index, snapshot);
                }
                // Without power a processor stands still; whatever reaches it until it wakes is lost then.
                Notice::Suspend => {
                    self.power_up();
                    self.activity = Activity::WaitForStartUp;
                }
                Notice::Wake(vector) => {
                    self.power_up();
                    kernel_entry::initialize(self);
                    self.begin_at_waking_vector(vector);
                }
            }
        }
        self.receive(&taken);
    }

    /// INIT (SDM 8.4.2, 10.4.7.3): the bootstrap processor starts at the reset vector, the others
    /// wait for a start-up IPI. An INIT and a start-up IPI taken from the mailbox together came in
    /// that order.
    fn take_init(&mut self) {
        // SDM 23.8: INIT is blocked in VMX root operation.
        if !self.init_pending || self.vmx.on {
            return;
        }
        let start_up = self.start_up_pending;
        self.reset(Reset::Init);
        self.apic.init();
        self.publish_identity();
        if self.index != 0 {
            self.activity = Activity::WaitForStartUp;
            self.start_up_pending = start_up;
        }
    }

    fn take_start_up(&mut self) {
        if let Some(vector) = self.start_up_pending.take() {
            self.start_up(vector);
        }
    }

    /// NMIs and maskable interrupts. A start-up IPI outside the wait-for-SIPI state is lost.
    fn take_interrupt(&mut self) {
        self.start_up_pending = None;
        if self.take_non_maskable_interrupt() || self.take_maskable_interrupt() {
            return;
        }
        self.take_instruction_breakpoint();
    }

    fn take_instruction_breakpoint(&mut self) {
        if self.activity == Activity::Active
            && self.breakpoints_enabled()
            && let Some(detail) = self.instruction_breakpoint()
        {
            self.deliver_event(Exception {
                vector: vector::DEBUG,
                error_code: None,
                detail,
                source: Source::Fault,
            });
        }
    }

    fn take_non_maskable_interrupt(&mut self) -> bool {
        if !self.nmi_pending.is_pending() || self.nmi_blocked || self.inhibit != Inhibit::None {
            return false;
        }
        self.nmi_pending.take();
        self.activity = Activity::Active;
        self.deliver_event(Exception {
            vector: vector::NON_MASKABLE_INTERRUPT,
            error_code: None,
            detail: 0,
            source: Source::NonMaskableInterrupt,
        });
        true
    }

    fn take_maskable_interrupt(&mut self) -> bool {
        if self.system_flags & rflags::IF == 0 || self.inhibit != Inhibit::None {
            return false;
        }
        let Some(source) = self.deliverable_interrupt() else {
            return false;
        };
        let vector = self.acknowledge_interrupt(source);
        self.activity = Activity::Active;
        self.deliver_event(Exception {
            vector,
            error_code: None,
            detail: 0,
            source: Source::ExternalInterrupt,
        });
        true
    }
}
