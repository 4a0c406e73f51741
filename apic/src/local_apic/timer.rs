//! The local APIC's timer (SDM 10.5.4 APIC timer).
//!
//! It keeps no count, only the time at which the count will be zero.

use core::num::NonZeroU32;

use arch::apic_register::TIMER_INITIAL_COUNT;

use super::{Effect, LocalApic, LocalVector};
use crate::register_page::RegisterPage;

/// How the timer runs (LVT timer entry bits 18:17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline,
    /// 11b: does not run.
    Reserved,
}

impl TimerMode {
    /// Decodes an LVT timer entry.
    pub const fn from_entry(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    ticks_per_count: NonZeroU32,
    mode: TimerMode,
    divide_shift: u32,
    initial_count: u32,
    deadline: Option<u64>,
    /// A period takes at least so many TSC ticks.
    shortest_period: u64,
}

impl Timer {
    pub(super) const fn new(ticks_per_count: NonZeroU32, shortest_period: u64) -> Self {
        Self {
            ticks_per_count,
            shortest_period,
            mode: TimerMode::OneShot,
            // Divide configuration 0 divides by 2.
            divide_shift: 1,
            initial_count: 0,
            deadline: None,
        }
    }

    /// TSC ticks for one count: at most 2^39.
    fn unit(&self) -> u64 {
        u64::from(self.ticks_per_count.get()) << self.divide_shift
    }

    fn ticks(&self, counts: u32) -> u64 {
        self.unit().saturating_mul(u64::from(counts))
    }

    /// TSC ticks from one interrupt to the next in periodic mode; `None` if there is none.
    fn period(&self) -> Option<u64> {
        (self.mode == TimerMode::Periodic && self.initial_count != 0)
            .then(|| self.ticks(self.initial_count).max(self.shortest_period))
    }

    /// During a period that was too short it stands at the initial count first.
    fn current_count(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline.filter(|_| self.mode.counts()) else {
            return 0;
        };
        let mut remaining = deadline.saturating_sub(now);
        let period = self.period();
        if let Some(period) = period.filter(|_| now >= deadline) {
            remaining = period - (now - deadline) % period;
        }
        let count = u32::try_from(remaining.div_ceil(self.unit())).unwrap_or(u32::MAX);
        match period {
            Some(_) => count.min(self.initial_count),
            None => count,
        }
    }

    fn set_initial_count(&mut self, count: u32, now: u64) {
        self.initial_count = count;
        let first = self.period().unwrap_or_else(|| self.ticks(count));
        self.deadline = (count != 0 && self.mode.counts()).then(|| now.saturating_add(first));
    }

    /// The counts that are left take the new time each.
    fn set_divide(&mut self, configuration: u32, now: u64) {
        let left = self.current_count(now);
        // SDM 10.5.4, figure "Divide Configuration Register": bits 3, 1, 0; 111b divides by 1.
        let value = configuration & 3 | configuration >> 1 & 4;
        self.divide_shift = (value + 1) & 7;
        if self.mode.counts() && self.deadline.is_some() && left != 0 {
            self.deadline = Some(now.saturating_add(self.ticks(left)));
        }
    }

    fn expire(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.deadline = self
            .period()
            .map(|period| now.saturating_add(period - (now - deadline) % period));
        true
    }
}

impl<P: RegisterPage> LocalApic<P> {
    /// How the timer runs.
    pub const fn timer_mode(&self) -> TimerMode {
        self.timer.mode
    }

    /// When to call [`Self::expire`] next; may be in the past.
    pub const fn timer_deadline(&self) -> Option<u64> {
        self.timer.deadline
    }

    /// Lets the timer fire if it is due; true if that put an interrupt into IRR or found it there.
    /// Periods that passed unseen are one interrupt.
    pub fn expire(&mut self, now: u64) -> bool {
        use super::{Acceptance, LocalInterrupt};
        self.timer.expire(now)
            && matches!(
                self.signal(LocalVector::Timer),
                LocalInterrupt::Fixed(Acceptance::Accepted | Acceptance::Coalesced)
            )
    }

    /// IA32_TSC_DEADLINE; 0 if not armed.
    pub fn tsc_deadline(&self) -> u64 {
        match self.timer.mode {
            TimerMode::TscDeadline => self.timer.deadline.unwrap_or(0),
            TimerMode::OneShot | TimerMode::Periodic | TimerMode::Reserved => 0,
        }
    }

    /// WRMSR to IA32_TSC_DEADLINE: arms, or disarms with 0. Ignored in the other modes.
    // SDM 10.5.4.1 TSC-Deadline Mode.
    pub fn write_tsc_deadline(&mut self, value: u64) -> Effect {
        if self.timer.mode != TimerMode::TscDeadline {
            return Effect::None;
        }
        self.timer.deadline = (value != 0).then_some(value);
        Effect::TimerChanged
    }

    /// Software changed the TSC by `difference`, wrapping: a running count keeps its end, a TSC
    /// deadline keeps its value.
    pub fn shift_time(&mut self, difference: u64) -> Effect {
        if self.timer.mode.counts() {
            self.timer.deadline = self
                .timer
                .deadline
                .map(|deadline| deadline.wrapping_add(difference));
        }
        Effect::TimerChanged
    }

    /// The current count, now.
    pub fn timer_count(&self, now: u64) -> u32 {
        self.timer.current_count(now)
    }

    pub(super) fn set_timer_mode(&mut self, mode: TimerMode) {
        // SDM 10.5.4.1: going to or from TSC-deadline mode disarms.
        if mode.counts() != self.timer.mode.counts() {
            self.timer.deadline = None;
            self.timer.initial_count = 0;
            self.page.write(TIMER_INITIAL_COUNT, 0);
        }
        if !mode.counts() && mode != self.timer.mode {
            self.timer.deadline = None;
        }
        self.timer.mode = mode;
    }

    pub(super) fn write_initial_count(&mut self, value: u32, now: u64) -> Effect {
        if self.timer.mode == TimerMode::TscDeadline {
            // SDM 10.5.4.1: ignored.
            self.page.write(TIMER_INITIAL_COUNT, 0);
            return Effect::None;
        }
        self.page.write(TIMER_INITIAL_COUNT, value);
        self.timer.set_initial_count(value, now);
        Effect::TimerChanged
    }

    pub(super) fn write_divide(&mut self, value: u32, now: u64) -> Effect {
        self.page.write(arch::apic_register::TIMER_DIVIDE, value);
        self.timer.set_divide(value, now);
        Effect::TimerChanged
    }
}
