//! Formatting, lints and the documents that come from the code.

use crate::runner::{cargo, succeed};

/// rustfmt, clippy and rustdoc, warnings denied.
pub(crate) fn run() -> Result<(), String> {
    succeed(cargo(&["fmt", "--all", "--check"]))?;
    // Everything that ships, the freestanding images included.
    succeed(cargo(&[
        "clippy",
        "--workspace",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    // The tests and benchmarks; the images have none, they vanish under `cfg(test)`.
    succeed(cargo(&[
        "clippy",
        "--workspace",
        "--all-features",
        "--lib",
        "--tests",
        "--benches",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut documents = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    documents.env("RUSTDOCFLAGS", "-Dwarnings");
    succeed(documents)
}
