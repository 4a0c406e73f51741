//! The deterministic schedule: one host thread, seeded.
//!
//! Time goes round by round. In a round every processor that has something to do executes a slice
//! of seeded length, one after the other; a slice ends after any instruction. If only one has something to
//! do, its slice goes on until another one has, and a seeded length beyond what woke that one. Each instruction moves the common time by one part in as
//! many as there are such processors. So the time-stamp counter never runs backwards, from
//! whichever processor it is read, and each processor executes about one instruction a tick.
//! A processor that accesses a device waits for the answer while the others go on.
//! When all wait, time skips to the next event; if somebody sits at a keyboard, no faster than the
//! host's clock, and what is typed ends the wait.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arch::control_register::rflags;

use super::{Clock, Share};
use crate::cpu::{Activity, Cpu, EndOfSlice, Processor, Stop};
use crate::platform::{Outcome, Platform, Waited};

/// Most slices have at least so many instructions,
const SHORTEST: u64 = 64;
/// and fewer than these. They end between two blocks, where it costs least.
const LONGEST: u64 = 600;
/// One slice in so many is shorter than all of those and ends after any instruction: software on another
/// processor then sees what a few instructions leave half done.
const SHORT_ONE_IN: u64 = 8;
/// A slice of the only processor that has something to do may be so long,
const LONGEST_ALONE: u64 = 1 << 16;
/// or so long if its stores may wake another from MWAIT, which is seen when the slice is over.
const LONGEST_WATCHED: u64 = 1 << 10;
/// What a round in which no processor executes anything counts in instructions; about what it costs
/// the host.
const IDLE_ROUND: u64 = 64;

/// The schedule's state.
#[derive(Clone, Debug)]
pub struct Deterministic {
    time: u64,
    fraction: u64,
    parts: u64,
    random: u64,
    /// Whose turn it is next,
    next: usize,
    /// and how many have not had theirs in this round.
    left: usize,
    /// A slice that was begun and is not over.
    slice: Option<Slice>,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    processor: usize,
    share: Share,
}

impl Deterministic {
    /// A schedule at time 0 whose interleaving follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            time: 0,
            fraction: 0,
            parts: 1,
            random: seed ^ 0x5851_f42d_4c95_7f2d,
            next: 0,
            left: 0,
            slice: None,
        }
    }

    /// Runs until the processors together have executed `instructions` since they were built, exactly,
    /// wherever in a slice, a block or a repeated instruction that is; then gives `None`, and another call
    /// goes on as if there had been no stop. If the machine stops before, gives how. Software that sleeps
    /// for good under a timer that ticks is stopped as well: rounds in which nothing is executed are
    /// counted by themselves, as 64 instructions each.
    pub fn run_until(
        &mut self,
        platform: &Platform,
        processors: &mut [Processor],
        instructions: u64,
    ) -> Option<Outcome> {
        let mut executed: u64 = processors.iter().map(|p| p.cpu.instructions).sum();
        let (mut before, mut idle) = (None, 0_u64);
        loop {
            if platform.stopped()
                && let Some(outcome) = platform.outcome()
            {
                return Some(outcome);
            }
            if executed >= instructions || idle >= instructions {
                return None;
            }
            match self
                .slice
                .or_else(|| self.begin_slice(platform, processors))
            {
                Some(slice) => {
                    executed += self.run(platform, processors, slice, instructions - executed);
                }
                None => {
                    if before.replace(executed) == Some(executed) {
                        idle += IDLE_ROUND;
                    }
                    self.begin_round(platform, processors);
                }
            }
        }
    }

    /// Whether a processor has something to do now.
    fn is_ready(&self, cpu: &Cpu) -> bool {
        cpu.busy_until <= self.time
            && (cpu.activity == Activity::Active
                || cpu.attention()
                || self.wake_time(cpu) <= self.time
                || cpu.monitor_triggered())
    }

    /// When time gives a processor something to do that has nothing to do now: its last instruction ends,
    /// or its own timers wake it.
    fn wake_time(&self, cpu: &Cpu) -> u64 {
        if cpu.busy_until > self.time {
            cpu.busy_until
        } else {
            cpu.next_own_event().unwrap_or(u64::MAX)
        }
    }

    /// Begins a round, or passes the time if no processor has anything to do.
    fn begin_round(&mut self, platform: &Platform, processors: &[Processor]) {
        let ready = loop {
            if self.time >= platform.next_device_event.load(Ordering::Relaxed) {
                platform.advance_devices(self.time);
            }
            let ready = processors.iter().filter(|p| self.is_ready(&p.cpu)).count();
            if ready != 0 {
                break ready;
            }
            if !self.skip_device_access(platform, processors) {
                if !self.skip_idle_time(platform, processors) {
                    platform.stop(Outcome::Deadlock);
                }
                return;
            }
        };
        // What had passed of a tick keeps its length when the parts change.
        self.fraction = self.fraction * ready as u64 / self.parts;
        self.parts = ready as u64;
        self.next = (self.next_random() % processors.len().max(1) as u64) as usize;
        self.left = processors.len();
    }

    /// Begins the slice of the next processor that has something to do; `None` if the round is over.
    fn begin_slice(&mut self, platform: &Platform, processors: &mut [Processor]) -> Option<Slice> {
        while self.left != 0 {
            let index = self.next;
            self.left -= 1;
            self.next = (index + 1) % processors.len();
            let cpu = &mut processors.get_mut(index)?.cpu;
            if !self.is_ready(cpu) {
                continue;
            }
            let share = Share {
                start: self.time,
                fraction: self.fraction,
                instructions: cpu.instructions,
                parts: self.parts,
            };
            cpu.clock = Clock::Deterministic(share);
            let (turn, end) = self.length();
            cpu.turn = turn;
            let mut length = turn;
            let mut event = platform.next_device_event.load(Ordering::Relaxed);
            if self.parts == 1
                && let Some((longest, other_event)) = self.alone(processors, index)
            {
                length = longest;
                event = event.min(other_event);
            }
            let cpu = &mut processors.get_mut(index)?.cpu;
            cpu.slice_end = cpu.instructions + length;
            cpu.end_of_slice = end;
            for event in [cpu.next_own_event(), Some(event)].into_iter().flatten() {
                let end = cpu.clock.instructions_until(event, cpu.instructions);
                cpu.end_slice_at(end.max(cpu.instructions + 1));
            }
            cpu.check_events = true;
            self.slice = Some(Slice {
                processor: index,
                share,
            });
            return self.slice;
        }
        None
    }

    /// How many instructions a slice has if nothing happens, and where it ends.
    fn length(&mut self) -> (u64, EndOfSlice) {
        let random = self.next_random();
        let (kind, length) = (random >> 32, random & 0xffff_ffff);
        if kind % SHORT_ONE_IN == 0 {
            (1 + length % SHORTEST, EndOfSlice::Exact)
        } else {
            (
                SHORTEST + length % (LONGEST - SHORTEST),
                EndOfSlice::BetweenBlocks,
            )
        }
    }

    /// Runs a slice to its end, or for `most` instructions; gives how many it was.
    fn run(
        &mut self,
        platform: &Platform,
        processors: &mut [Processor],
        slice: Slice,
        most: u64,
    ) -> u64 {
        let Some(processor) = processors.get_mut(slice.processor) else {
            return 0;
        };
        let before = processor.cpu.instructions;
        processor.cpu.run_end = before.saturating_add(most);
        let stop = processor.run();
        if stop == Stop::Idle {
            super::heed_shutdown(platform, &processor.cpu);
        }
        let instructions = processor.cpu.instructions;
        if stop != Stop::RunEnd {
            (self.time, self.fraction) = slice.share.time(instructions);
            self.slice = None;
        }
        instructions - before
    }

    /// If no processor but `index` has something to do: how long its slice may be, and when time gives
    /// another one something.
    fn alone(&self, processors: &[Processor], index: usize) -> Option<(u64, u64)> {
        let mut longest = LONGEST_ALONE;
        let mut event = u64::MAX;
        for Processor { cpu, .. } in processors {
            if cpu.index == index {
                continue;
            }
            let event_of_other = self.wake_time(cpu);
            let waits = event_of_other > self.time
                && (cpu.busy_until > self.time
                    || cpu.activity != Activity::Active && !cpu.attention());
            if !waits {
                return None;
            }
            if cpu.monitor.is_waiting() {
                longest = LONGEST_WATCHED;
            }
            event = event.min(event_of_other);
        }
        Some((longest, event))
    }

    /// The next event of a device or a processor's own, while no processor has anything to do.
    fn next_event(&self, platform: &Platform, processors: &[Processor]) -> u64 {
        let device = platform.next_device_event.load(Ordering::Relaxed);
        let own = processors.iter().map(|p| self.wake_time(&p.cpu)).min();
        device.min(own.unwrap_or(u64::MAX))
    }

    /// Moves time to the next event if a processor's last instruction still accesses a device; false if
    /// there is none.
    fn skip_device_access(&mut self, platform: &Platform, processors: &[Processor]) -> bool {
        let accesses = processors.iter().any(|p| p.cpu.busy_until > self.time);
        if accesses {
            self.go_on_at(self.next_event(platform, processors));
        }
        accesses
    }

    fn go_on_at(&mut self, time: u64) {
        if time > self.time {
            self.time = time;
            self.fraction = 0;
        }
    }

    /// Moves time to the next event; false if there is none.
    fn skip_idle_time(&mut self, platform: &Platform, processors: &[Processor]) -> bool {
        let next = self.next_event(platform, processors);
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
        self.go_on_at(until);
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
