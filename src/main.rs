//! The `posthaste` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    posthaste::command::main()
}
