//! What becomes of the bytes that the machine's serial port transmits.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::report_lines::ReportLine;

/// Console text kept for error messages, in bytes; older text is dropped.
const MOST_TEXT: usize = 1 << 16;
/// Report lines kept; a run of ours has about a hundred, and a guest may write as many as it likes.
const MOST_LINES: usize = 4096;
/// A line longer than this is cut there.
const LONGEST_LINE: usize = 4096;

/// What is done with each whole line as it arrives.
pub type OnLine = Box<dyn FnMut(&str, Option<&ReportLine>) + Send>;

struct State {
    line: Vec<u8>,
    reports: Vec<ReportLine>,
    text: String,
    on_line: OnLine,
    /// Bytes go here as they come: the terminal of an interactive run.
    raw: Option<Box<dyn Write + Send>>,
}

/// A console that collects report lines. Clones share it.
#[derive(Clone)]
pub struct Console(Arc<Mutex<State>>);

impl Console {
    /// A console that shows each whole line to `on_line`.
    pub fn new(on_line: OnLine) -> Self {
        Self::with_raw(on_line, None)
    }

    /// A console that also copies every byte to `raw`.
    pub fn with_raw(on_line: OnLine, raw: Option<Box<dyn Write + Send>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            line: Vec::new(),
            reports: Vec::new(),
            text: String::new(),
            on_line,
            raw,
        })))
    }

    /// The report lines so far.
    pub fn reports(&self) -> Vec<ReportLine> {
        self.lock().reports.clone()
    }

    /// The last console text, report lines included.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = line.trim_end_matches('\r');
        if self.text.len() + line.len() > MOST_TEXT {
            let half = self.text.len() / 2;
            let cut = (half..=self.text.len()).find(|i| self.text.is_char_boundary(*i));
            self.text.drain(..cut.unwrap_or(0));
        }
        self.text.push_str(line);
        self.text.push('\n');
        let report = ReportLine::parse(line);
        (self.on_line)(line, report.as_ref());
        if let Some(report) = report
            && self.reports.len() < MOST_LINES
        {
            self.reports.push(report);
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if let Some(raw) = &mut state.raw {
            raw.write_all(bytes)?;
        }
        for byte in bytes {
            if *byte == b'\n' || state.line.len() >= LONGEST_LINE {
                state.end_line();
            }
            if *byte != b'\n' {
                state.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.lock().raw {
            Some(raw) => raw.flush(),
            None => Ok(()),
        }
    }
}
