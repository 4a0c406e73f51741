//! What is looked at between instructions (SDM 6.9 Priority among concurrent events).

use super::{Activity, Cpu, Stop};
use crate::platform::Notice;

impl Cpu {
    /// Whether somebody else put something before this processor.
    #[inline(always)]
    pub fn attention(&self) -> bool {
        self.platform
            .inboxes
            .get(self.index)
            .is_some_and(|inbox| inbox.mailbox.attention())
    }

    /// The virtual time of the next event that this processor causes itself, whatever it does
    /// meanwhile.
    pub fn next_own_event(&self) -> Option<u64> {
        self.apic_timer_time()
    }

    /// Deals with what arrived and with what the last instruction made possible. Gives a reason to
    /// leave the loop, if there is one.
    pub fn process_events(&mut self) -> Option<Stop> {
        self.check_events = false;
        if self.platform.stopped() {
            return Some(Stop::MachineStopped);
        }
        if self.attention() {
            self.take_inbox();
        }
        self.run_apic_timer();
        match self.activity {
            Activity::Active => None,
            Activity::Halted | Activity::Shutdown | Activity::WaitForStartUp => Some(Stop::Idle),
        }
    }

    fn take_inbox(&mut self) {
        let platform = self.platform.clone();
        let Some(inbox) = platform.inboxes.get(self.index) else {
            return;
        };
        let taken = inbox.mailbox.take();
        for notice in platform.take_notices(self.index) {
            match notice {
                Notice::StaleCode(frame) => self.stale_code.push(frame),
                Notice::KeptCode(frame) => self.tlb.forbid_writes(frame),
                Notice::Mark(number) => {
                    let snapshot = self.snapshot();
                    platform.fill_mark(number, self.index, snapshot);
                }
            }
        }
        self.receive(&taken);
    }
}
