//! `posthaste compare`: the same guest with IPI virtualization off and on.

use std::process::ExitCode;

use clap::Args;

use super::run::GuestOptions;
use super::{CommandError, demonstration, print};
use crate::guest_run::Switch;
use crate::table;

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    guest: GuestOptions,
}

/// Runs the guest twice.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let mut results = Vec::new();
    for ipi_virtualization in [Switch::Off, Switch::On] {
        let run = options.guest.guest_run(ipi_virtualization)?;
        results.push(demonstration::show(&run)?);
    }
    if options.guest.json {
        return demonstration::print_json(results);
    }
    print(&format!(
        "\n{}\n\n{}",
        table::summary(&results),
        table::exits(&results)
    ))?;
    Ok(ExitCode::SUCCESS)
}
