//! The exit statuses. Odd ones are a guest's, so that ours are even: docs/usage.md has the table.

use std::process::ExitCode;

/// How a command ended that no guest's value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Nothing was run: an option, a file or a tool is not as it should be.
    NotRun = 2,
    /// The run ended otherwise than by the guest's own orderly end.
    RunEnded = 4,
    /// The run's result is not what Posthaste promises: a fault of its own.
    NotAsPromised = 6,
    /// Something that the run gave could not be written.
    NotWritten = 8,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// The status for a value that a guest wrote to port F4H, as with QEMU's isa-debug-exit: always odd.
pub(super) fn of_guest(value: u8) -> ExitCode {
    ExitCode::from(value << 1 | 1)
}
