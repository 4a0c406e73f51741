//! Ends the process when a case takes too long: a hang cannot be caught like a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Looks at a case before it counts as hung; a second each. A case takes milliseconds, and a slow host
/// with other work not a thousand times as long.
const PATIENCE: u64 = 1200;
/// The number of no case.
const DONE: u64 = u64::MAX;

/// A thread that watches the case that runs.
pub struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// Starts watching the cases of the test `name`.
    pub fn new(name: &str) -> Self {
        let current = Arc::new(AtomicU64::new(0));
        let (watched, name) = (current.clone(), name.to_owned());
        thread::spawn(move || {
            let (mut last, mut looks) = (0, 0);
            loop {
                thread::sleep(Duration::from_secs(1));
                let seed = watched.load(Ordering::Relaxed);
                if seed == DONE {
                    return;
                }
                looks = if seed == last { looks + 1 } else { 0 };
                last = seed;
                if looks == PATIENCE {
                    eprintln!("{name}: seed {seed} hangs");
                    std::process::abort();
                }
            }
        });
        Self(current)
    }

    /// The case with this seed begins.
    pub fn begin(&self, seed: u64) {
        self.0.store(seed, Ordering::Relaxed);
    }

    /// All cases ended.
    pub fn end(&self) {
        self.0.store(DONE, Ordering::Relaxed);
    }
}
