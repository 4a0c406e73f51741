//! `posthaste run`: a guest under the hypervisor on the machine.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use machine::platform::Outcome;
use machine::trace::Unimplemented;

use super::command_line::CommandLine;
use super::input_file::{read, read_kernel};
use super::options::{ConsoleOptions, MachineOptions};
use super::output_file::TraceFile;
use super::standard_output::print;
use super::terminal::{self, ConsoleOutput, RawTerminal};
use super::{CommandError, demonstration, exit_status, keyboard, signals};
use crate::console::{Console, WithoutReports};
use crate::guest_run::{ApicMode, Finished, GuestRun, RunError, Switch};
use crate::kernel_panic::PanicWatch;
use crate::report_lines::ReportLine;
use crate::{message, table};

/// The guest and the machine it runs on.
#[derive(Clone, Debug, Args)]
pub(super) struct GuestOptions {
    /// The guest: a Linux bzImage, or an ELF image with PVH, multiboot2 or multiboot entry; the embedded guest if absent
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The guest's command line
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    append: String,
    /// The guest's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Options for the hypervisor's own command line, such as "pi=off vpid=off"
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    hypervisor_append: String,
    /// RAM of the guest in MiB; 64 for the embedded guest and five eighths of the machine's RAM for
    /// another one if absent
    #[arg(long, value_name = "MIB")]
    guest_memory: Option<u64>,
    /// Virtual processors, 1 to 255
    #[arg(long, default_value_t = 4)]
    vcpus: usize,
    /// Mode in which the embedded guest, or Linux, uses its local APICs
    #[arg(long, value_enum, default_value_t = ApicMode::X2apic)]
    apic: ApicMode,
    /// Print one JSON object instead of the console and tables
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) console: ConsoleOptions,
    #[command(flatten)]
    machine: MachineOptions,
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    /// Whether the hypervisor uses IPI virtualization
    #[arg(long, value_enum, default_value_t = Switch::On)]
    ipiv: Switch,
    /// Write every traced event to this file, a line each
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl GuestOptions {
    /// What people call the guest.
    pub(super) fn name(&self) -> String {
        let file = self.kernel.as_deref().and_then(Path::file_name);
        file.map_or_else(
            || "the embedded guest".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// The guest's RAM in MiB, unless the hypervisor is to decide.
    fn guest_memory_mib(&self) -> Option<u64> {
        let chosen = self
            .hypervisor_append
            .split_ascii_whitespace()
            .any(|word| word.starts_with("memory="));
        // The rest is for the hypervisor and for the files that it copies to the guest.
        let share = || self.machine.memory.saturating_mul(5) / 8;
        match (&self.kernel, chosen) {
            (None, _) | (_, true) => self.guest_memory,
            (Some(_), false) => Some(self.guest_memory.unwrap_or_else(share)),
        }
    }

    /// The run that the options describe.
    pub(super) fn guest_run(&self, ipi_virtualization: Switch) -> Result<GuestRun, CommandError> {
        let memory = self.machine.memory_bytes();
        let (guest, guest_options) = match &self.kernel {
            Some(path) => {
                let image = read_kernel(path, memory)?;
                let options = CommandLine::of(None, &image).text(path, &self.append);
                (Some(image), options)
            }
            None => (None, self.append.clone()),
        };
        let initial_ram_disk = match &self.initrd {
            Some(path) => Some(read("read the initial RAM disk", path, memory)?),
            None => None,
        };
        Ok(GuestRun {
            guest,
            initial_ram_disk,
            guest_options,
            hypervisor_options: self.hypervisor_append.clone(),
            apic: self.apic,
            ipi_virtualization,
            vcpus: self.vcpus,
            processors: self.machine.cpus,
            memory,
            guest_memory_mib: self.guest_memory_mib(),
            schedule: self.machine.schedule(),
            engine: self.machine.engine(),
            limit: self.machine.limit,
            model: self.machine.model(),
            input: self.console.input()?,
            events: None,
        })
    }
}

/// Runs a guest.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let mut run = options.guest.guest_run(options.ipiv)?;
    let trace = options
        .trace
        .as_deref()
        .map(TraceFile::create)
        .transpose()?;
    run.events = trace.as_ref().map(TraceFile::sink);
    let watch = options.guest.console.panic_watch();
    let finished = if !options.guest.json && options.guest.console.is_interactive() {
        run_interactively(&run, &watch)?
    } else {
        let file = options.guest.console.file()?;
        let quiet = options.guest.json || file.is_some();
        let watching = watch.clone();
        let on_line = Box::new(move |line: &str, report: Option<&ReportLine>| {
            watching.line(line);
            if !quiet && report.is_none() {
                // A reader that went away does not end the run.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
        });
        let console = Console::with_raw(on_line, file.map(buffered));
        run.run_on(console, |machine| {
            watch.watch(machine);
            signals::end_run_of(machine);
        })?
    };
    // How the run ended is said before anything that could not be written of it.
    let judged = judge(&options.guest.name(), &run, finished, &watch);
    trace.map_or(Ok(()), TraceFile::finish)?;
    let finished = match judged? {
        Judged::Finished(finished) => *finished,
        Judged::Stopped => return Ok(ExitCode::SUCCESS),
    };
    let status = finished
        .exit_value()
        .map_or(ExitCode::SUCCESS, exit_status::of_guest);
    if options.guest.json {
        demonstration::print_json(vec![finished.result])?;
        return Ok(status);
    }
    let results = [finished.result];
    print(&format!(
        "\n{}\n{}",
        table::summary(&results),
        table::exits(&results)
    ))?;
    Ok(status)
}

/// A run that nobody can complain of.
enum Judged {
    /// It came to its end.
    Finished(Box<Finished>),
    /// The user stopped it.
    Stopped,
}

/// Says which instructions the machine did not execute, as for a kernel on the bare machine.
pub(super) fn say_unimplemented(guest: &str, unimplemented: &[Unimplemented]) {
    for instruction in unimplemented {
        message::say(format_args!("{guest}: {instruction}"));
    }
}

fn judge(
    guest: &str,
    run: &GuestRun,
    finished: Finished,
    watch: &PanicWatch,
) -> Result<Judged, CommandError> {
    if finished.report.outcome == Outcome::Stopped && watch.reason().is_none() {
        message::say(signals::caught().map_or_else(
            || "left".to_owned(),
            |signal| {
                let instructions: u64 = finished
                    .report
                    .processors
                    .iter()
                    .map(|one| one.instructions)
                    .sum();
                format!("stopped by {signal} after {instructions} instructions")
            },
        ));
        return Ok(Judged::Stopped);
    }
    let finished = watch.judge(run, finished)?;
    say_unimplemented(guest, &finished.report.unimplemented);
    Ok(Judged::Finished(Box::new(finished)))
}

/// Runs the guest with its console on the terminal.
fn run_interactively(run: &GuestRun, watch: &PanicWatch) -> Result<Finished, CommandError> {
    let shown = Box::new(WithoutReports::new(ConsoleOutput::EveryByte));
    let watching = watch.clone();
    let console = Console::with_raw(Box::new(move |line, _| watching.line(line)), Some(shown));
    let terminal = RawTerminal::enter().map_err(CommandError::Terminal)?;
    message::say(keyboard::HINT);
    let finished: Result<Finished, RunError> = run.run_on(console, |machine| {
        watch.watch(machine);
        signals::end_run_of(machine);
        keyboard::connect(machine);
    });
    drop(terminal);
    terminal::end_line();
    Ok(finished?)
}

/// A file that a console is written to.
pub(super) fn buffered(file: File) -> Box<dyn Write + Send> {
    Box::new(BufWriter::new(file))
}
