//! Files that the command writes. They are opened before anything runs, so that no result is lost for a place that
//! cannot be written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use machine::platform::lock;
use machine::trace::EventSink;

use super::CommandError;

/// A file to be written.
#[derive(Debug)]
pub(super) struct OutputFile {
    what: &'static str,
    path: PathBuf,
    file: File,
}

impl OutputFile {
    /// Creates it, or empties it.
    pub(super) fn create(what: &'static str, path: &Path) -> Result<Self, CommandError> {
        match File::create(path) {
            Ok(file) => Ok(Self {
                what,
                path: path.to_owned(),
                file,
            }),
            Err(source) => Err(CommandError::File {
                what,
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The file, for whoever deals with its errors.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Writes all there is.
    pub(super) fn write(mut self, content: &[u8]) -> Result<(), CommandError> {
        self.file
            .write_all(content)
            .map_err(|source| CommandError::Written {
                what: self.what,
                path: self.path,
                source,
            })
    }
}

/// The file that a run's events go to, a line each as they happen: time in nanoseconds, processor, event.
#[derive(Debug)]
pub(super) struct TraceFile {
    path: PathBuf,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug)]
struct Lines {
    file: BufWriter<File>,
    failed: Option<std::io::Error>,
}

impl TraceFile {
    /// Creates it, or empties it.
    pub(super) fn create(path: &Path) -> Result<Self, CommandError> {
        let OutputFile { path, file, .. } = OutputFile::create("write the trace to", path)?;
        Ok(Self {
            path,
            lines: Arc::new(Mutex::new(Lines {
                file: BufWriter::new(file),
                failed: None,
            })),
        })
    }

    /// Where the machine puts its events.
    pub(super) fn sink(&self) -> EventSink {
        let lines = self.lines.clone();
        EventSink::new(move |time, processor, event| {
            let mut lines = lock(&lines);
            if lines.failed.is_none() {
                lines.failed = writeln!(lines.file, "{time} {processor} {event}").err();
            }
        })
    }

    /// The run is over: what is still in memory is written, and what could not be written is said.
    pub(super) fn finish(self) -> Result<(), CommandError> {
        let mut lines = lock(&self.lines);
        let failed = lines.failed.take().or_else(|| lines.file.flush().err());
        failed.map_or(Ok(()), |source| {
            Err(CommandError::Written {
                what: "write the trace to",
                path: self.path.clone(),
                source,
            })
        })
    }
}
