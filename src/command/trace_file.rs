//! The file that a run's events go to.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use machine::trace::Event;

use super::CommandError;

/// Writes a line for each event: time in nanoseconds, processor, event.
pub(super) fn write(path: &Path, events: &[(u64, usize, Event)]) -> Result<(), CommandError> {
    let failed = |source| CommandError::File {
        what: "write the trace to",
        path: path.to_owned(),
        source,
    };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for (time, processor, event) in events {
        writeln!(file, "{time} {processor} {event}").map_err(failed)?;
    }
    file.flush().map_err(failed)
}
