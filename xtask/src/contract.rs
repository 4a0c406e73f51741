//! The documents that say what software finds.

use crate::runner::{cargo, succeed};

/// Makes the test that compares the documents with the code write them.
pub(crate) fn run() -> Result<(), String> {
    let mut command = cargo(&["test", "--package", "posthaste", "--test", "contract"]);
    command
        .args(["--profile", "checked"])
        .env("POSTHASTE_WRITE_CONTRACT", "1");
    succeed(command)
}
