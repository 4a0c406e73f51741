//! Signals that end processes: they end the run, whose trace and statistics are then written, and the process
//! ends by the signal as ever. A second one does not wait.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};

use machine::platform::{Outcome, Platform};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use super::terminal;

/// What ends a process unless it says otherwise. SIGQUIT is for a process that is stuck, and never waits.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// The first signal that came; 0 if none did.
static CAUGHT: AtomicI32 = AtomicI32::new(0);
/// The machine whose run a signal ends.
static RUNNING: Mutex<Option<Weak<Platform>>> = Mutex::new(None);

/// From now on signals end this machine's run first.
pub(super) fn end_run_of(machine: &Arc<Platform>) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(machine));
    // Whoever came just before meant this run too.
    if CAUGHT.load(Ordering::SeqCst) != 0 {
        machine.stop(Outcome::Stopped);
    }
}

/// Catches the signals.
///
/// # Errors
/// The host refuses a handler or a thread.
pub(super) fn catch() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| done = start());
    done
}

fn start() -> io::Result<()> {
    let mut signals = Signals::new(ENDING)?;
    std::thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            let first = CAUGHT.swap(signal, Ordering::SeqCst) == 0;
            let running = RUNNING
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .and_then(Weak::upgrade);
            match running {
                Some(machine) if first && signal != SIGQUIT => machine.stop(Outcome::Stopped),
                _ => end_by(signal),
            }
        }
    })?;
    Ok(())
}

/// The name of the signal that ended the run, if one did.
pub(super) fn caught() -> Option<&'static str> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal_name(signal).unwrap_or("a signal")),
    }
}

/// Ends the process by the signal that came, if one did: everything else is done.
pub(super) fn end_as_signalled() {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => {}
        signal => end_by(signal),
    }
}

fn end_by(signal: i32) {
    terminal::restore();
    // It does not come back for these.
    let _ = emulate_default_handler(signal);
}
