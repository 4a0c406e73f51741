//! `posthaste compare`: the same guest with IPI virtualization off and on.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output_file::OutputFile;
use super::run::{GuestOptions, buffered, say_unimplemented};
use super::standard_output::print;
use super::{CommandError, demonstration, exit_status};
use crate::guest_run::Switch;
use crate::{plot, table};

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    /// Draw the comparison as an SVG picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Runs the guest twice.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let picture = options.plot.as_deref();
    let picture = picture
        .map(|path| OutputFile::create("write the picture to", path))
        .transpose()?;
    let file = options.guest.console.file()?;
    let mut results = Vec::new();
    let mut status = ExitCode::SUCCESS;
    for ipi_virtualization in [Switch::Off, Switch::On] {
        let run = options.guest.guest_run(ipi_virtualization)?;
        let file = file.as_ref().map(File::try_clone).transpose();
        let file = file.map_err(CommandError::Output)?;
        let watch = options.guest.console.panic_watch();
        let finished = demonstration::show(&run, file.map(buffered), &watch)?;
        say_unimplemented(&options.guest.name(), &finished.report.unimplemented);
        if let Some(value) = finished.exit_value() {
            status = exit_status::of_guest(value);
        }
        results.push(finished.result);
    }
    if let (Some(file), [off, on]) = (picture, results.as_slice()) {
        file.write(plot::comparison(&options.guest.name(), off, on).as_bytes())?;
    }
    if options.guest.json {
        demonstration::print_json(results)?;
        return Ok(status);
    }
    print(&format!(
        "\n{}\n\n{}",
        table::summary(&results),
        table::exits(&results)
    ))?;
    Ok(status)
}
