//! What the benchmarks share: the host's time between two texts on a serial port.

#[path = "../../tests/peers/bochs_run.rs"]
pub(crate) mod bochs_run;

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use machine::platform::{Outcome, Platform};

/// A serial port's text, and when it came to the two texts that are waited for.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    begin_text: &'static str,
    end_text: &'static str,
    /// Everything so far.
    pub(crate) text: String,
    searched: usize,
    begin: Option<Instant>,
    end: Option<Instant>,
}

impl Watch {
    /// Time runs from the end of the line with `begin_text` to `end_text` somewhere after it.
    pub(crate) fn new(begin_text: &'static str, end_text: &'static str) -> Self {
        Self {
            begin_text,
            end_text,
            text: String::new(),
            searched: 0,
            begin: None,
            end: None,
        }
    }

    /// More of the text.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.text.push_str(&String::from_utf8_lossy(bytes));
        let now = Instant::now();
        if self.begin.is_none() {
            let rest = &self.text[self.searched..];
            let line = rest.find(self.begin_text);
            if let Some(end) = line.and_then(|at| Some(at + rest[at..].find('\n')?)) {
                self.begin = Some(now);
                self.searched += end + 1;
            } else {
                // A text that has come in part is found when the rest of its line has come.
                self.searched += rest.rfind('\n').map_or(0, |at| at + 1);
            }
        }
        if self.begin.is_some() && self.end.is_none() {
            let rest = &self.text[self.searched..];
            if rest.contains(self.end_text) {
                self.end = Some(now);
            } else {
                self.searched += rest.rfind('\n').map_or(0, |at| at + 1);
            }
        }
    }

    /// Whether the first text has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.begin.is_some()
    }

    /// Whether both texts have come.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// The time between them.
    pub(crate) fn seconds(&self) -> Result<f64, String> {
        match (self.begin, self.end) {
            (Some(begin), Some(end)) => Ok((end - begin).as_secs_f64()),
            _ => Err(format!(
                "{:?} and {:?} did not both come:\n{}",
                self.begin_text, self.end_text, self.text
            )),
        }
    }
}

/// When the machine under the console is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopAt {
    /// At the first text.
    Begin,
    /// At the second.
    End,
    /// Not by the console.
    Never,
}

struct Inner {
    watch: Watch,
    stop_at: StopAt,
    platform: Option<Arc<Platform>>,
}

/// A console of the machine that is watched.
#[derive(Clone)]
pub(crate) struct Watched(Arc<Mutex<Inner>>);

impl Watched {
    pub(crate) fn new(watch: Watch, stop_at: StopAt) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            watch,
            stop_at,
            platform: None,
        })))
    }

    /// What is to be stopped.
    pub(crate) fn connect(&self, platform: &Arc<Platform>) {
        self.lock().platform = Some(platform.clone());
    }

    /// What came so far.
    pub(crate) fn watch(&self) -> Watch {
        self.lock().watch.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        inner.watch.push(bytes);
        let stop = match inner.stop_at {
            StopAt::Begin => inner.watch.has_begun(),
            StopAt::End => inner.watch.is_over(),
            StopAt::Never => false,
        };
        if let (true, Some(platform)) = (stop, &inner.platform) {
            platform.stop(Outcome::PowerOff);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A CD image that boots by GRUB's commands, with files in its `/boot`.
pub(crate) fn iso(
    directory: &Path,
    commands: &str,
    files: &[(&str, &[u8])],
) -> Result<std::path::PathBuf, String> {
    let tree = directory.join("tree");
    let iso = directory.join("boot.iso");
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(tree.join("boot/grub")).map_err(failed)?;
    for (name, bytes) in files {
        std::fs::write(tree.join("boot").join(name), bytes).map_err(failed)?;
    }
    let menu = format!("set timeout=0\nmenuentry boot {{\n{commands}\n boot\n}}\n");
    std::fs::write(tree.join("boot/grub/grub.cfg"), menu).map_err(failed)?;
    let output = Command::new("grub-mkrescue")
        .args(["-d", "/usr/lib/grub/i386-pc", "-o"])
        .args([&iso, &tree])
        .args(["--fonts=", "--locales=", "--themes="])
        .output()
        .map_err(|error| format!("grub-mkrescue: {error}; cargo xtask test installs it"))?;
    if output.status.success() {
        Ok(iso)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
