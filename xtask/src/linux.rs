//! The tests with Debian's kernels alone.

use crate::linux_guest;
use crate::runner::{cargo, tests};
use crate::test::Tier;

/// Boots Debian's kernels on the machine and as guests.
pub(crate) fn run(tier: Tier) -> Result<(), String> {
    linux_guest::prepare()?;
    let mut command = cargo(&[
        "test",
        "--release",
        "--package",
        "posthaste",
        "--package",
        "posthaste-guest",
        "--test",
        "peers",
    ]);
    command.args([
        "--features",
        tier.features(),
        "--",
        "--show-output",
        "linux_",
    ]);
    let tested = tests(command)?;
    println!("{}", tested.summary);
    Ok(())
}
