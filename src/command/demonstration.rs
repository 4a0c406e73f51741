//! The demonstration: the embedded guest, in both APIC modes, IPI virtualization off and on.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use machine::machine::Schedule;

use super::progress::Progress;
use super::standard_output::print;
use super::{CommandError, signals};
use crate::console::Console;
use crate::guest_run::{ApicMode, Finished, GuestRun, Switch};
use crate::kernel_panic::{OnPanic, PanicWatch};
use crate::report_lines::ReportLine;
use crate::result::{Document, RunResult};
use crate::table;

/// Options of the demonstration.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Seed of the deterministic schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demonstration.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let base = GuestRun {
        schedule: Schedule::Deterministic { seed: options.seed },
        ..GuestRun::default()
    };
    let mut results = Vec::new();
    for apic in [ApicMode::X2apic, ApicMode::Xapic] {
        for ipi_virtualization in [Switch::Off, Switch::On] {
            let run = GuestRun {
                apic,
                ipi_virtualization,
                ..base.clone()
            };
            let watch = PanicWatch::new(OnPanic::default());
            results.push(show(&run, None, &watch)?.result);
        }
    }
    if options.json {
        return print_json(results);
    }
    print(&format!(
        "\n{} vCPUs on {} processors; figures per IPI are of unicast IPIs between\n\
         running vCPUs, sender and receiver together.\n{}\n\n{}",
        base.vcpus,
        base.processors,
        table::summary(&results),
        table::exits(&results)
    ))?;
    check(&results)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a guest and shows its phases as they end; `file` gets the console.
pub(super) fn show(
    run: &GuestRun,
    file: Option<Box<dyn Write + Send>>,
    watch: &PanicWatch,
) -> Result<Finished, CommandError> {
    let ipiv = match run.ipi_virtualization {
        Switch::Off => "off",
        Switch::On => "on",
    };
    let progress = Progress::start(format!(
        "{} guest, IPI virtualization {ipiv}",
        run.apic.name()
    ));
    let shown = progress.clone();
    let watching = watch.clone();
    let on_line = Box::new(move |line: &str, report: Option<&ReportLine>| {
        watching.line(line);
        if let Some(report) = report.filter(|report| report.kind == "phase") {
            shown.step(&format!("{} {}", report.get("name"), report.get("verdict")));
        }
    });
    let finished = run
        .run_on(Console::with_raw(on_line, file), |machine| {
            watch.watch(machine);
            signals::end_run_of(machine);
        })
        .and_then(|finished| watch.judge(run, finished));
    match finished {
        Ok(finished) => {
            progress.finish(&format!(
                "{} unicast IPIs, {:.2} exits each",
                finished.result.unicast_ipis, finished.result.exits_per_unicast_ipi
            ));
            Ok(finished)
        }
        Err(error) => {
            progress.finish("failed");
            Err(error.into())
        }
    }
}

/// Prints the results as one JSON object.
pub(super) fn print_json(results: Vec<RunResult>) -> Result<ExitCode, CommandError> {
    let text = serde_json::to_string(&Document::new(results))
        .map_err(|error| CommandError::Output(error.into()))?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the demonstration promises of its own processor and guest.
fn check(results: &[RunResult]) -> Result<(), CommandError> {
    for run in results {
        let exits = run.exits_per_unicast_ipi;
        let holds = if run.ipi_virtualization {
            exits < 0.005
        } else {
            exits >= 1.0
        };
        if !holds || run.lost_interrupts != 0 || run.unicast_ipis == 0 {
            return Err(CommandError::Unexpected(format!(
                "{} with IPI virtualization {}: {exits:.2} exits per IPI, {} interrupts lost",
                run.apic,
                if run.ipi_virtualization { "on" } else { "off" },
                run.lost_interrupts
            )));
        }
    }
    Ok(())
}
