//! The `posthaste` program, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a run of the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit status; `None` if a signal ended it.
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) output: String,
    /// Error stream.
    pub(crate) errors: String,
}

impl Ended {
    /// Without what the error stream said about progress, which is indented or the run's title.
    pub(crate) fn without_progress(mut self) -> Self {
        let lines = self.errors.lines();
        let errors = lines.filter(|line| line.starts_with("posthaste: "));
        self.errors = errors.collect::<Vec<_>>().join("\n");
        self
    }
}

/// Runs a `posthaste` program.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> Ended {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    Ended {
        status: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs the program of this build.
pub(crate) fn posthaste(arguments: &[&str]) -> Ended {
    run(Path::new(env!("CARGO_BIN_EXE_posthaste")), arguments)
}

/// A file for one test, removed when it is dropped.
pub(crate) struct TemporaryFile(PathBuf);

impl TemporaryFile {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // What stays behind is in the target directory.
        let _ = std::fs::remove_file(&self.0);
    }
}
