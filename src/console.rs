//! What becomes of the bytes that the machine's serial port transmits.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::report_lines::{ReportLine, ReportLines};

/// Console text kept for error messages, in bytes; older text is dropped.
const MOST_TEXT: usize = 1 << 16;
/// A line longer than this is cut there.
const LONGEST_LINE: usize = 4096;

/// What is done with each whole line as it arrives.
pub type OnLine = Box<dyn FnMut(&str, Option<&ReportLine>) + Send>;

struct State {
    line: Vec<u8>,
    reports: ReportLines,
    text: String,
    on_line: OnLine,
    /// Bytes go here as they come: a file, or the terminal of an interactive run.
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
            reports: ReportLines::default(),
            text: String::new(),
            on_line,
            raw,
        })))
    }

    /// The report lines so far.
    pub fn reports(&self) -> Vec<ReportLine> {
        self.lock().reports.kept()
    }

    /// The last console text, report lines included.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Nothing more comes: what there is of a line is one.
    pub fn finish(&self) {
        let mut state = self.lock();
        if !state.line.is_empty() {
            state.end_line();
        }
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
        if let Some(report) = report {
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

/// What a report line begins with.
const REPORT: &[u8] = b"#ph ";

/// Passes everything on but report lines, as soon as it is clear that a line is none.
#[derive(Debug)]
pub struct WithoutReports<W> {
    out: W,
    line: Place,
}

/// Where in a line the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// All bytes of it so far, this many, could begin a report.
    Undecided(usize),
    /// It is shown.
    Shown,
    /// It is a report.
    Hidden,
}

impl<W: Write> WithoutReports<W> {
    /// Passes on to `out`.
    pub const fn new(out: W) -> Self {
        Self {
            out,
            line: Place::Undecided(0),
        }
    }

    fn pass(&mut self, byte: u8) -> io::Result<()> {
        match self.line {
            Place::Undecided(length) if REPORT.get(length) == Some(&byte) => {
                self.line = if length + 1 == REPORT.len() {
                    Place::Hidden
                } else {
                    Place::Undecided(length + 1)
                };
                return Ok(());
            }
            Place::Undecided(length) => {
                self.out.write_all(REPORT.get(..length).unwrap_or(&[]))?;
                self.line = Place::Shown;
            }
            Place::Shown | Place::Hidden => {}
        }
        if self.line == Place::Shown {
            self.out.write_all(&[byte])?;
        }
        if byte == b'\n' {
            self.line = Place::Undecided(0);
        }
        Ok(())
    }
}

impl<W: Write> Write for WithoutReports<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().try_for_each(|byte| self.pass(*byte))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_hidden_and_prompts_are_shown_at_once() {
        let shown = |text: &str| {
            let mut filter = WithoutReports::new(Vec::new());
            filter.write_all(text.as_bytes()).unwrap();
            String::from_utf8(filter.out).unwrap()
        };
        assert_eq!(shown("a\r\n#ph exits x=1\r\nb\n"), "a\r\nb\n");
        assert_eq!(shown("#ph x\n\n#ph y\n~ # "), "\n~ # ");
        assert_eq!(shown("# "), "# ");
        assert_eq!(shown("#phase\nb #ph c"), "#phase\nb #ph c");
        assert_eq!(shown("#p"), "", "it may become one");
    }
}
