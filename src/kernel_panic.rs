//! Linux's last words on the console: a kernel that panicked and stays so would keep its machine busy for
//! ever.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use machine::platform::{Outcome, Platform};

use crate::guest_run::{Finished, GuestRun, RunError};

/// What comes before the reason, behind the time.
const PANIC: &str = "Kernel panic - not syncing: ";
/// What the kernel says when it has not been told to reset the machine, and does nothing any more.
const END: &str = "---[ end Kernel panic";

/// What happens to the machine of a kernel that panicked and does nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnPanic {
    /// The run ends.
    #[default]
    End,
    /// It stays as it is.
    Stay,
}

/// Watches a console for a panic of Linux. Clones share what they saw.
#[derive(Clone, Debug)]
pub struct PanicWatch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    on_panic: OnPanic,
    reason: Mutex<Option<String>>,
    /// Weak, for the machine has the console that has this.
    machine: OnceLock<Weak<Platform>>,
}

impl PanicWatch {
    /// A watch that has seen nothing yet.
    pub fn new(on_panic: OnPanic) -> Self {
        Self(Arc::new(Shared {
            on_panic,
            reason: Mutex::default(),
            machine: OnceLock::new(),
        }))
    }

    /// The machine that the console belongs to, for its end.
    pub fn watch(&self, machine: &Arc<Platform>) {
        // A console belongs to one machine.
        let _ = self.0.machine.set(Arc::downgrade(machine));
    }

    /// Looks at a whole line of the console.
    pub fn line(&self, line: &str) {
        if line.contains(END) {
            if self.0.on_panic == OnPanic::End
                && let Some(machine) = self.0.machine.get().and_then(Weak::upgrade)
            {
                machine.stop(Outcome::Stopped);
            }
        } else if let Some((_, reason)) = line.split_once(PANIC) {
            self.lock().get_or_insert_with(|| reason.trim().to_owned());
        }
    }

    /// Why the kernel panicked, if it did.
    pub fn reason(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Judges a finished run: a panic says more than how its machine ended.
    ///
    /// # Errors
    /// The run failed.
    pub fn judge(&self, run: &GuestRun, finished: Finished) -> Result<Finished, RunError> {
        let judged = run.judge(finished);
        match self.reason() {
            Some(reason) if judged.is_err() => Err(RunError::Panicked { reason }),
            _ => judged,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::pc::Pc;
    use machine::memory::Ram;

    const LINES: [&str; 3] = [
        "[    0.4] Kernel panic - not syncing: No working init found.",
        "[    0.4] CPU: 0 PID: 1 Comm: swapper/0",
        "[    0.5] ---[ end Kernel panic - not syncing: No working init found. ]---",
    ];

    fn outcome(on_panic: OnPanic, lines: &[&str]) -> (Option<String>, Option<Outcome>) {
        let watch = PanicWatch::new(on_panic);
        let platform = Arc::new(Platform::new(
            Ram::new(1 << 20).unwrap(),
            Vec::new(),
            Pc::new(),
            Box::new(std::io::sink()),
        ));
        watch.watch(&platform);
        lines.iter().for_each(|line| watch.line(line));
        (watch.reason(), platform.outcome())
    }

    #[test]
    fn the_run_ends_when_the_kernel_has_nothing_more_to_say() {
        let reason = Some("No working init found.".to_owned());
        // It may yet reset the machine, or be left alone.
        assert_eq!(outcome(OnPanic::End, &LINES[..2]), (reason.clone(), None));
        assert_eq!(
            outcome(OnPanic::End, &LINES),
            (reason.clone(), Some(Outcome::Stopped))
        );
        assert_eq!(outcome(OnPanic::Stay, &LINES), (reason, None));
        assert_eq!(outcome(OnPanic::End, &["all is well"]), (None, None));
    }
}
