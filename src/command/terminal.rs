//! The terminal in raw mode, and the way back on every way out.
//!
//! Keys then arrive one by one and belong to the guest, Ctrl-C among them. Output stays as it was, so
//! that messages of our own still begin at the left.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError, TryLockError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings to go back to, while the terminal is raw.
static SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on standard input, raw as long as this lives.
#[derive(Debug)]
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Makes it raw.
    pub(super) fn enter() -> io::Result<Self> {
        restore_on_panic();
        let terminal = io::stdin();
        let settings = tcgetattr(&terminal)?;
        let mut raw = settings.clone();
        raw.make_raw();
        raw.output_modes = settings.output_modes;
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        // What was typed before is the guest's as well.
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Goes back to the settings from before, if the terminal is raw.
pub(super) fn restore() {
    let mut settings = match SETTINGS.try_lock() {
        Ok(settings) => settings,
        Err(TryLockError::Poisoned(error)) => error.into_inner(),
        // Somebody else is at it.
        Err(TryLockError::WouldBlock) => return,
    };
    if let Some(settings) = settings.take() {
        // A terminal that went away needs nothing more.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

/// A panic aborts the process as ever, but after the terminal is itself.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
    });
}

/// Whether the last byte that a console wrote to the standard output ended no line.
static MID_LINE: AtomicBool = AtomicBool::new(false);

/// Standard output as a console's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConsoleOutput {
    /// A person looks: every byte at once, for a prompt ends no line.
    EveryByte,
    /// Lines.
    Lines,
}

impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        if *self == Self::EveryByte {
            out.flush()?;
        }
        if let Some(last) = bytes.last() {
            MID_LINE.store(*last != b'\n', Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Ends the line that a console left on the terminal, so that a message of ours begins one.
pub(super) fn end_line() {
    let mut out = io::stdout();
    if MID_LINE.swap(false, Ordering::Relaxed) && out.is_terminal() {
        // A terminal that went away shows no message either.
        let _ = out.write_all(b"\n").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use std::process::{Command, Stdio};

    /// Makes this test the one that panics.
    const PANIC: &str = "POSTHASTE_TEST_PANIC_ON_TERMINAL";

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        if std::env::var_os(PANIC).is_some() {
            let before = format!("{:?}", tcgetattr(io::stdin()).unwrap());
            let terminal = RawTerminal::enter().unwrap();
            let raw = format!("{:?}", tcgetattr(io::stdin()).unwrap());
            println!("raw: {}", raw != before);
            // As an abort does, this does not drop it.
            std::mem::forget(terminal);
            panic!("as asked");
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let inside = ioctl_tiocgptpeer(&terminal, flags).unwrap();
        let settings = || format!("{:?}", tcgetattr(&terminal).unwrap());
        let before = settings();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--exact"])
            .arg("command::terminal::tests::a_panic_leaves_the_terminal_as_it_was")
            .env(PANIC, "1")
            .stdin(Stdio::from(inside.try_clone().unwrap()))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("raw: true"), "{output:?}");
        assert_eq!(settings(), before);
    }
}
