//! The parallel schedule: a host thread per processor, the host's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{Budget, Clock, SharedClock};
use crate::cpu::{Activity, Processor, Stop};
use crate::platform::{Outcome, Platform, lock};

/// Longest sleep; a bound on how late a thread sees something that woke nobody.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Longest sleep of a processor in MWAIT, which a store wakes.
const LONGEST_MONITORED_SLEEP: Duration = Duration::from_micros(50);
/// Longest time between looks at the devices, in nanoseconds.
const LONGEST_LOOK: u64 = 1_000_000;
/// So often must the thread of the devices find every processor waiting for good, one look after the
/// other, until it is believed.
const LOOKS_AT_A_DEADLOCK: u32 = 20;
/// Instructions between looks at the time.
const SLICE: u64 = 20_000;

/// Runs until the machine stops; gives how it ended. The run ends when the processors together have
/// executed exactly `limit` instructions since they were built. Software that sleeps for good under a timer
/// that ticks is stopped as well: nanoseconds in which all sleep are counted by themselves, up to as many.
pub fn run(platform: &Platform, processors: &mut [Processor], limit: u64) -> Outcome {
    let executed: u64 = processors.iter().map(|p| p.cpu.instructions).sum();
    let shared = &Shared {
        clock: Arc::new(SharedClock::new(processors.len())),
        budget: Budget::new(limit.saturating_sub(executed)),
        limit,
        idlers: Idlers::default(),
    };
    thread::scope(|scope| {
        for processor in processors.iter_mut() {
            scope.spawn(move || run_processor(platform, processor, shared));
        }
        run_devices(platform, shared);
    });
    platform.outcome().unwrap_or(Outcome::Deadlock)
}

/// What the threads of a run share.
#[derive(Debug)]
struct Shared {
    clock: Arc<SharedClock>,
    budget: Budget,
    limit: u64,
    idlers: Idlers,
}

/// How many processors have nothing to do.
#[derive(Debug, Default)]
struct Idlers {
    /// Their threads sleep.
    sleeping: AtomicUsize,
    /// They have executed nothing since they went to wait for something from elsewhere: no time wakes
    /// them.
    waiting_for_good: AtomicUsize,
}

fn run_processor(platform: &Platform, processor: &mut Processor, shared: &Shared) {
    let Shared {
        clock,
        budget,
        limit,
        idlers,
    } = shared;
    let index = processor.cpu.index;
    processor.cpu.clock = Clock::Shared(clock.clone());
    let mut waits_for_good = false;
    loop {
        clock.look(index, platform);
        if clock.is_held() {
            // Somebody else needs the host's processor more.
            thread::yield_now();
        }
        // The device takes at least its time to answer. That is too short to sleep.
        if clock.now() < processor.cpu.busy_until {
            std::hint::spin_loop();
            if !platform.stopped() {
                continue;
            }
        }
        let cpu = &mut processor.cpu;
        cpu.slice_end = cpu.instructions + SLICE;
        if let Some(event) = cpu.next_own_event() {
            let end = cpu.clock.instructions_until(event, cpu.instructions);
            cpu.slice_end = cpu.slice_end.min(end);
        }
        cpu.check_events = true;
        let before = cpu.instructions;
        let portion = budget.take(SLICE);
        cpu.run_end = before.saturating_add(portion);
        let stop = processor.run();
        budget.settle(portion, processor.cpu.instructions - before);
        if budget.unused() == 0 {
            platform.stop(Outcome::Limit {
                instructions: *limit,
            });
        }
        if waits_for_good && processor.cpu.instructions != before {
            waits_for_good = false;
            idlers.waiting_for_good.fetch_sub(1, Ordering::Relaxed);
        }
        match stop {
            Stop::MachineStopped => return,
            Stop::SliceEnd => {}
            // Others have what is left, or nothing is and the machine stops.
            Stop::RunEnd => thread::yield_now(),
            Stop::Idle => {
                super::heed_shutdown(platform, &processor.cpu);
                let due = processor.cpu.next_own_event();
                if waits_for_good != due.is_none() {
                    waits_for_good = due.is_none();
                    if waits_for_good {
                        idlers.waiting_for_good.fetch_add(1, Ordering::Relaxed);
                    } else {
                        idlers.waiting_for_good.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                let now = processor.cpu.now();
                let longest = if processor.cpu.monitor.is_waiting() {
                    LONGEST_MONITORED_SLEEP
                } else {
                    LONGEST_SLEEP
                };
                let sleep = due.map_or(longest, |due| {
                    Duration::from_nanos(due.saturating_sub(now)).min(longest)
                });
                let Some(inbox) = platform.inboxes.get(index) else {
                    return;
                };
                let guard = lock(&inbox.sleeping);
                // Whoever posts raises attention first and then takes this lock to wake us.
                if !inbox.mailbox.attention() && !sleep.is_zero() {
                    idlers.sleeping.fetch_add(1, Ordering::Relaxed);
                    clock.rest(index, due, platform);
                    drop(inbox.wake.wait_timeout(guard, sleep));
                    idlers.sleeping.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        if processor.cpu.activity == Activity::Shutdown && platform.stopped() {
            return;
        }
    }
}

/// Runs the devices' own events on the thread that started the machine.
/// Software that sleeps for good reaches the limit by the time that passes.
fn run_devices(platform: &Platform, shared: &Shared) {
    let Shared {
        clock,
        budget,
        limit,
        idlers,
    } = shared;
    let (mut last, mut idle) = (0, 0_u64);
    let mut deadlocked = 0;
    while !platform.stopped() {
        clock.pace(platform);
        let now = clock.now();
        // Who sits at a keyboard decides how long nothing happens.
        if idlers.sleeping.load(Ordering::Relaxed) == platform.processors()
            && !platform.has_keyboard()
        {
            idle = idle.saturating_add(now - last);
        }
        last = now;
        if idle >= *limit {
            platform.stop(Outcome::Limit {
                instructions: limit - budget.unused().min(*limit),
            });
        }
        let next = platform.next_device_event.load(Ordering::Relaxed);
        deadlocked = if next == u64::MAX && is_deadlocked(platform, idlers) {
            deadlocked + 1
        } else {
            0
        };
        if deadlocked >= LOOKS_AT_A_DEADLOCK {
            platform.stop(Outcome::Deadlock);
        }
        if next <= now {
            platform.advance_devices(now);
        } else {
            // Software may arm a device at any time: look at least every millisecond.
            thread::sleep(Duration::from_nanos((next - now).min(LONGEST_LOOK)));
        }
    }
}

/// Whether no processor has anything to do, waits for a time, or was told something.
fn is_deadlocked(platform: &Platform, idlers: &Idlers) -> bool {
    let mut inboxes = platform.inboxes.iter();
    idlers.waiting_for_good.load(Ordering::Relaxed) == platform.processors()
        && !platform.has_keyboard()
        && !inboxes.any(|inbox| inbox.mailbox.attention())
}
