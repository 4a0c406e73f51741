//! The command on a pseudo-terminal, as a person has it: the test sees its output and types.
#![allow(
    dead_code,
    reason = "each test binary uses its own part of this module"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcgetattr;

/// How long a text may take to appear, and the command to end: a boot takes seconds, but not on a slow
/// host with other work.
const PATIENCE: Duration = Duration::from_secs(3000);

/// What came out so far, and whether nothing more will.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    over: bool,
}

type Shared = Arc<(Mutex<Output>, Condvar)>;

/// A command that runs on a pseudo-terminal of its own.
pub(crate) struct Session {
    child: Child,
    terminal: File,
    settings: String,
    output: Shared,
    reader: JoinHandle<()>,
    /// Where the next text is looked for.
    seen: usize,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Everything that came out.
    pub(crate) output: String,
}

/// The settings of a terminal, for comparison.
fn settings(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

impl Session {
    /// Starts `posthaste` with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let inside = File::from(ioctl_tiocgptpeer(&terminal, flags).unwrap());
        let terminal = File::from(terminal);
        let settings = settings(&terminal);
        let stream = || Stdio::from(inside.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(arguments)
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let output = Shared::default();
        let shared = output.clone();
        let mut source = terminal.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let (output, changed) = &*shared;
            let mut bytes = [0; 4096];
            loop {
                // At the end nobody has the inside open any more, which is an error.
                let length = source.read(&mut bytes).unwrap_or(0);
                let mut output = output.lock().unwrap();
                output.bytes.extend(&bytes[..length]);
                output.over = length == 0;
                changed.notify_all();
                if output.over {
                    return;
                }
            }
        });
        Self {
            child,
            terminal,
            settings,
            output,
            reader,
            seen: 0,
        }
    }

    /// Waits until `text` comes out, after what was waited for before.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        let (output, changed) = &*self.output;
        let mut output = output.lock().unwrap();
        loop {
            let new = &output.bytes[self.seen..];
            let found = new.windows(text.len()).position(|at| at == text.as_bytes());
            if let Some(at) = found {
                self.seen += at + text.len();
                return;
            }
            let rest = PATIENCE.saturating_sub(start.elapsed());
            if output.over || rest.is_zero() {
                let _ = self.child.kill();
                let output = String::from_utf8_lossy(&output.bytes);
                panic!("no {text:?} after byte {} of {output:?}", self.seen);
            }
            output = changed.wait_timeout(output, rest).unwrap().0;
        }
    }

    /// Types.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Whether the terminal's settings are other than before.
    pub(crate) fn is_changed(&self) -> bool {
        settings(&self.terminal) != self.settings
    }

    /// Sends the command a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let number = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(number).unwrap(), signal).unwrap();
    }

    /// Waits until the command has ended. The terminal must be as it was.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let start = Instant::now();
        let (shared, changed) = &*self.output;
        let mut output = shared.lock().unwrap();
        while !output.over {
            let rest = PATIENCE.saturating_sub(start.elapsed());
            if rest.is_zero() {
                let _ = self.child.kill();
                let output = String::from_utf8_lossy(&output.bytes);
                panic!("it did not end: {output:?}");
            }
            output = changed.wait_timeout(output, rest).unwrap().0;
        }
        let text = String::from_utf8_lossy(&output.bytes).into_owned();
        drop(output);
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        assert_eq!(settings(&self.terminal), self.settings, "{text}");
        Ended {
            status,
            output: text,
        }
    }
}
