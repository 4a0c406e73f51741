//! The standard output, where results go.
#![allow(
    unsafe_code,
    reason = "whether it was closed can only be asked before Rust's runtime puts /dev/null in its place"
)]

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::CommandError;

/// Whether the process was started without a standard output.
static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    CLOSED.store(
        rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(),
        Ordering::Relaxed,
    );
}

// SAFETY: the C runtime calls the functions in this section once, on the only thread, before it calls `main`;
// this one needs nothing of Rust's runtime, which does not exist yet, and does not unwind.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Makes sure that there is one: without it a result would be lost that may have taken hours.
pub(super) fn require() -> Result<(), CommandError> {
    if CLOSED.load(Ordering::Relaxed) {
        return Err(CommandError::NoOutput);
    }
    Ok(())
}

/// Prints a line of result; a reader that went away is not an error.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Output(error)),
        _ => Ok(()),
    }
}
