//! Time that follows the host's clock and waits for processors that the host does not run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Instant;

use crate::platform::Platform;

/// How far time may be ahead of a processor that is executing or that has something to do, in
/// nanoseconds. It is less than the period of any timer that software counts in interrupts: behind a
/// longer gap interrupts merge, and software that compares two clocks finds that one of them went
/// wrong. It is more than a slice takes.
const ALLOWANCE: u64 = 500_000;
/// A processor that waits for an interrupt from elsewhere.
const RESTS: u64 = u64::MAX;

/// The clock that the processors of a parallel schedule share, in nanoseconds. When the host has other
/// work and lets one of their threads wait that has something to do, time stands still for all.
#[derive(Debug)]
pub struct SharedClock {
    start: Instant,
    /// The host's time that did not count.
    lost: AtomicU64,
    /// Time goes no further than this for now.
    ceiling: AtomicU64,
    /// The latest time that anybody was told: it never runs backwards.
    latest: AtomicU64,
    /// When each processor last looked, when it will by itself, or [`RESTS`].
    looks: Box<[AtomicU64]>,
    /// One thread at a time moves the ceiling.
    pacing: Mutex<()>,
}

impl SharedClock {
    /// A clock that starts now, for so many processors.
    pub fn new(processors: usize) -> Self {
        Self {
            start: Instant::now(),
            lost: AtomicU64::new(0),
            ceiling: AtomicU64::new(ALLOWANCE),
            latest: AtomicU64::new(0),
            looks: (0..processors).map(|_| AtomicU64::new(RESTS)).collect(),
            pacing: Mutex::new(()),
        }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.told(self.host_time())
    }

    /// The host's time without what was lost.
    fn host_time(&self) -> u64 {
        let elapsed = self.start.elapsed().as_nanos() as u64;
        elapsed.saturating_sub(self.lost.load(Ordering::Acquire))
    }

    fn told(&self, host_time: u64) -> u64 {
        let time = host_time.min(self.ceiling.load(Ordering::Acquire));
        self.latest.fetch_max(time, Ordering::AcqRel).max(time)
    }

    /// Whether time stands still, waiting for somebody.
    pub fn is_held(&self) -> bool {
        self.host_time() >= self.ceiling.load(Ordering::Acquire)
    }

    /// Processor `index` executes.
    pub fn look(&self, index: usize, platform: &Platform) {
        self.note(index, self.now());
        self.pace(platform);
    }

    /// Processor `index` does not execute until the given time, unless it is woken.
    pub fn rest(&self, index: usize, until: Option<u64>, platform: &Platform) {
        self.note(index, until.unwrap_or(RESTS));
        self.pace(platform);
    }

    fn note(&self, index: usize, time: u64) {
        if let Some(look) = self.looks.get(index) {
            look.store(time, Ordering::Release);
        }
    }

    /// Lets time go on as far as the slowest processor and the devices allow.
    pub fn pace(&self, platform: &Platform) {
        let is_woken = |index: usize| {
            let inbox = platform.inboxes.get(index);
            inbox.is_some_and(|inbox| inbox.mailbox.attention())
        };
        let device = platform.next_device_event.load(Ordering::Relaxed);
        self.pace_at(|| self.host_time(), is_woken, device);
    }

    fn pace_at(
        &self,
        host_time: impl FnOnce() -> u64,
        is_woken: impl Fn(usize) -> bool,
        device_event: u64,
    ) {
        let _pacing = match self.pacing.try_lock() {
            Ok(guard) => guard,
            // The lock guards no data that a panic could leave half done.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let host_time = host_time();
        let behind = host_time.saturating_sub(self.ceiling.load(Ordering::Acquire));
        // What went by at the ceiling does not come after it.
        self.lost.fetch_add(behind, Ordering::AcqRel);
        let now = host_time - behind;
        let mut slowest = device_event;
        for (index, look) in self.looks.iter().enumerate() {
            let mut time = look.load(Ordering::Acquire);
            // It was woken and the host has not run it yet.
            if time > now && is_woken(index) {
                // Unless it notes something itself right now.
                let _ = look.compare_exchange(time, now, Ordering::AcqRel, Ordering::Acquire);
                time = now;
            }
            slowest = slowest.min(time);
        }
        // An event that is overdue does not take back what was told.
        let ceiling = slowest.saturating_add(ALLOWANCE).max(now);
        self.ceiling.store(ceiling, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = u64::MAX;

    fn pace(clock: &SharedClock, host_time: u64) {
        clock.pace_at(|| host_time, |_| false, NEVER);
    }

    #[test]
    fn time_waits_for_a_processor_that_does_not_get_to_run() {
        let clock = SharedClock::new(2);
        clock.note(0, 1000);
        clock.note(1, 5000);
        pace(&clock, 5000);
        assert_eq!(clock.told(4000), 4000);
        // A second passes without the first processor.
        assert_eq!(clock.told(1_000_000_000), 1000 + ALLOWANCE);
        pace(&clock, 1_000_000_000);
        assert_eq!(
            clock.lost.load(Ordering::Relaxed),
            1_000_000_000 - 1000 - ALLOWANCE
        );
        clock.note(1, 1000 + ALLOWANCE);
        pace(&clock, 1000 + ALLOWANCE);
        assert_eq!(clock.told(1_000_000_000), 1000 + ALLOWANCE);
        // It looks: time goes on from where it stood.
        clock.note(0, 1000 + ALLOWANCE);
        pace(&clock, 1000 + ALLOWANCE);
        assert_eq!(clock.told(2000 + ALLOWANCE), 2000 + ALLOWANCE);
    }

    #[test]
    fn time_passes_when_all_rest_and_never_runs_backwards() {
        let clock = SharedClock::new(1);
        clock.note(0, RESTS);
        pace(&clock, 0);
        assert_eq!(clock.told(5_000_000_000), 5_000_000_000);
        clock.note(0, 5_000_000_000);
        pace(&clock, 5_000_000_000);
        assert_eq!(clock.told(4_000_000_000), 5_000_000_000);
        assert_eq!(clock.told(6_000_000_000), 5_000_000_000 + ALLOWANCE);
    }

    #[test]
    fn time_waits_for_what_is_due() {
        let clock = SharedClock::new(1);
        // A processor's timer.
        clock.note(0, 3_000_000);
        pace(&clock, 0);
        assert_eq!(clock.told(9_000_000), 3_000_000 + ALLOWANCE);
        // An event of a device.
        let clock = SharedClock::new(1);
        clock.note(0, RESTS);
        clock.pace_at(|| 0, |_| false, 2_000_000);
        assert_eq!(clock.told(9_000_000), 2_000_000 + ALLOWANCE);
        // A processor that was woken at 1,000,000 and has not looked.
        let clock = SharedClock::new(1);
        clock.note(0, RESTS);
        pace(&clock, 0);
        clock.pace_at(|| 1_000_000, |_| true, NEVER);
        assert_eq!(clock.told(9_000_000), 1_000_000 + ALLOWANCE);
    }
}
