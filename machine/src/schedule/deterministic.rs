//! The deterministic schedule: one host thread, seeded.
//!
//! Time goes round by round. In a round every processor that has something to do executes a slice
//! of seeded length, one after the other; each instruction moves the common time by one part in as
//! many as there are such processors. So the time-stamp counter never runs backwards, from
//! whichever processor it is read, and each processor executes about one instruction a tick.
//! When all wait, time skips to the next event; if somebody sits at a keyboard, no faster than the
//! host's clock, and what is typed ends the wait.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arch::control_register::rflags;

use super::{Clock, Share};
use crate::cpu::{Activity, Cpu, Processor, Stop};
use crate::platform::{Outcome, Platform, Waited};

/// Shortest slice in instructions.
const SHORTEST: u64 = 64;
/// Slices are shorter than this.
const LONGEST: u64 = 512;
/// What a turn in which no processor executes anything counts toward the limit, in instructions;
/// about what it costs the host. Software that sleeps for good under a timer that ticks would
/// otherwise never reach the limit.
const IDLE_TURN: u64 = 64;

/// The schedule's state.
#[derive(Clone, Debug)]
pub struct Deterministic {
    time: u64,
    fraction: u64,
    parts: u64,
    random: u64,
    /// Instructions after which the run ends.
    limit: u64,
}

impl Deterministic {
    /// A schedule at time 0 whose interleaving follows from `seed`; the run ends after `limit`
    /// instructions of all processors together.
    pub fn new(seed: u64, limit: u64) -> Self {
        Self {
            time: 0,
            fraction: 0,
            parts: 1,
            random: seed ^ 0x5851_f42d_4c95_7f2d,
            limit,
        }
    }

    /// Runs until the machine stops; gives how it ended.
    pub fn run(&mut self, platform: &Platform, processors: &mut [Processor]) -> Outcome {
        let (mut before, mut idle) = (None, 0_u64);
        loop {
            if let Some(outcome) = platform.outcome() {
                return outcome;
            }
            let executed: u64 = processors.iter().map(|p| p.cpu.instructions).sum();
            if before.replace(executed) == Some(executed) {
                idle += IDLE_TURN;
            }
            if executed.saturating_add(idle) >= self.limit {
                platform.stop(Outcome::Limit {
                    instructions: executed,
                });
                continue;
            }
            if self.time >= platform.next_device_event.load(Ordering::Relaxed) {
                platform.advance_devices(self.time);
            }
            let ready = processors.iter().filter(|p| self.is_ready(&p.cpu)).count();
            if ready == 0 {
                if !self.skip_idle_time(platform, processors) {
                    platform.stop(Outcome::Deadlock);
                }
                continue;
            }
            self.round(platform, processors, ready as u64);
        }
    }

    /// Whether a processor has something to do now.
    fn is_ready(&self, cpu: &Cpu) -> bool {
        cpu.activity == Activity::Active
            || cpu.attention()
            || self.wake_time(cpu) <= self.time
            || cpu.monitor_triggered()
    }

    /// When a waiting processor's own timers wake it.
    fn wake_time(&self, cpu: &Cpu) -> u64 {
        cpu.next_own_event().unwrap_or(u64::MAX)
    }

    fn round(&mut self, platform: &Platform, processors: &mut [Processor], ready: u64) {
        // What had passed of a tick keeps its length when the parts change.
        self.fraction = self.fraction * ready / self.parts;
        self.parts = ready;
        let first = (self.next_random() % processors.len().max(1) as u64) as usize;
        let (before, after) = processors.split_at_mut(first);
        for processor in after.iter_mut().chain(before) {
            if self.is_ready(&processor.cpu) {
                self.slice(platform, processor);
                if platform.stopped() {
                    return;
                }
            }
        }
    }

    fn slice(&mut self, platform: &Platform, processor: &mut Processor) {
        let length = SHORTEST + self.next_random() % (LONGEST - SHORTEST);
        let cpu = &mut processor.cpu;
        let share = Share {
            start: self.time,
            fraction: self.fraction,
            instructions: cpu.instructions,
            parts: self.parts,
        };
        cpu.clock = Clock::Deterministic(share);
        cpu.slice_end = cpu.instructions + length;
        let device = platform.next_device_event.load(Ordering::Relaxed);
        for event in [cpu.next_own_event(), Some(device)].into_iter().flatten() {
            let end = cpu.clock.instructions_until(event, cpu.instructions);
            cpu.slice_end = cpu.slice_end.min(end.max(cpu.instructions + 1));
        }
        cpu.check_events = true;
        match processor.run() {
            Stop::Idle => super::heed_shutdown(platform, &processor.cpu),
            Stop::SliceEnd | Stop::MachineStopped => {}
        }
        (self.time, self.fraction) = share.time(processor.cpu.instructions);
    }

    /// Moves time to the next event; false if there is none.
    fn skip_idle_time(&mut self, platform: &Platform, processors: &[Processor]) -> bool {
        let device = platform.next_device_event.load(Ordering::Relaxed);
        let own = processors.iter().map(|p| self.wake_time(&p.cpu)).min();
        let next = device.min(own.unwrap_or(u64::MAX));
        let mut until = next;
        if platform.has_keyboard() {
            if next == u64::MAX && !could_hear(platform, processors) {
                return false;
            }
            let wait =
                (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(self.time)));
            if let Waited::Interrupted(after) = platform.wait_for_input(wait) {
                let passed = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
                until = self.time.saturating_add(passed).min(next);
            }
        } else if next == u64::MAX {
            return false;
        }
        if until > self.time {
            self.time = until;
            self.fraction = 0;
        }
        true
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Whether a key could wake a processor: software takes what is typed, and a processor waits for
/// interrupts. In VMX non-root operation RFLAGS.IF does not say whether they end the wait.
fn could_hear(platform: &Platform, processors: &[Processor]) -> bool {
    let waits = |cpu: &Cpu| {
        cpu.activity == Activity::Halted && (cpu.vmx.non_root || cpu.rflags() & rflags::IF != 0)
    };
    platform.listens() && processors.iter().any(|processor| waits(&processor.cpu))
}
