//! The tests with Debian's kernels alone.

use crate::linux_guest;
use crate::runner::{cargo, tests};

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What the test command has too.
    Bounded,
    /// Both kernels in every way, 20 seeds, an hour of virtual time.
    All,
}

/// Boots Debian's kernels on the machine and as guests.
pub(crate) fn run(extent: Extent) -> Result<(), String> {
    linux_guest::prepare()?;
    let features = match extent {
        Extent::Bounded => "peers",
        Extent::All => "peers,linux-matrix",
    };
    let mut command = cargo(&[
        "test",
        "--release",
        "--package",
        "posthaste",
        "--test",
        "peers",
    ]);
    command.args(["--features", features, "--", "--show-output", "linux_"]);
    let tested = tests(command)?;
    println!("{}", tested.summary);
    Ok(())
}
