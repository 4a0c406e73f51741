//! `posthaste machine`: a kernel or hypervisor on the bare machine.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use machine::machine::{Configuration, Kernel, Machine, MachineError, Module, Protocol, Report};
use machine::platform::Outcome;
use serde::Serialize;

use super::command_line::CommandLine;
use super::input_file::{read, read_kernel};
use super::options::{ConsoleOptions, MachineOptions};
use super::output_file::{OutputFile, TraceFile};
use super::terminal::{self, ConsoleOutput, RawTerminal};
use super::{CommandError, exit_status, keyboard, signals};
use crate::console::Console;
use crate::message;

/// A boot protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BootProtocol {
    /// PVH
    Pvh,
    /// multiboot2
    Multiboot2,
    /// multiboot
    Multiboot1,
    /// Linux, entered in 64-bit mode
    Linux64,
    /// Linux, entered in 32-bit mode
    Linux32,
}

impl From<BootProtocol> for Protocol {
    fn from(protocol: BootProtocol) -> Self {
        match protocol {
            BootProtocol::Pvh => Self::Pvh,
            BootProtocol::Multiboot2 => Self::Multiboot2,
            BootProtocol::Multiboot1 => Self::Multiboot1,
            BootProtocol::Linux64 => Self::Linux64,
            BootProtocol::Linux32 => Self::Linux32,
        }
    }
}

/// Options of `machine`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The kernel: a Linux bzImage, or an ELF image with PVH, multiboot2 or multiboot entry
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The kernel's command line
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    append: String,
    /// A boot module: a file, and after a space its command line; may be given several times
    #[arg(long = "module", value_name = "FILE[ TEXT]")]
    modules: Vec<String>,
    /// The initial RAM disk: the same as a first --module
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The boot protocol, if the image offers several
    #[arg(long, value_enum)]
    protocol: Option<BootProtocol>,
    #[command(flatten)]
    console: ConsoleOptions,
    /// Write every traced event to this file, a line each
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write what the run took, as JSON: instructions, virtual time and the host's time
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineOptions,
}

/// What a run took.
#[derive(Debug, Serialize)]
struct Statistics {
    /// How it ended.
    outcome: String,
    /// Guest instructions, by processor.
    instructions: Vec<u64>,
    /// Virtual time at the end in seconds.
    virtual_seconds: f64,
    /// The host's time in seconds, from the first instruction.
    host_seconds: f64,
    /// Guest instructions of all processors in a second of the host's time.
    instructions_per_second: f64,
}

impl Statistics {
    fn new(report: &Report, elapsed: Duration) -> Self {
        let instructions: Vec<u64> = report.processors.iter().map(|p| p.instructions).collect();
        let virtual_time = report.processors.iter().map(|p| p.time).max();
        let host_seconds = elapsed.as_secs_f64();
        Self {
            outcome: report.outcome.to_string(),
            virtual_seconds: virtual_time.unwrap_or(0) as f64 / 1e9,
            host_seconds,
            instructions_per_second: instructions.iter().sum::<u64>() as f64 / host_seconds,
            instructions,
        }
    }
}

/// Says which MSRs software tried that are not there. It may well have been prepared for that.
fn report_unknown_msrs(report: &Report) {
    let mut accesses: Vec<_> = report
        .unknown_msrs
        .iter()
        .flatten()
        .map(|msr| (msr.index, msr.written.is_some()))
        .collect();
    accesses.sort_unstable();
    accesses.dedup();
    let list = |written: bool| {
        let of_kind = accesses.iter().filter(|access| access.1 == written);
        let names: Vec<String> = of_kind.map(|(index, _)| format!("{index:#x}")).collect();
        names.join(" ")
    };
    for (what, names) in [("reads", list(false)), ("writes", list(true))] {
        if !names.is_empty() {
            message::say(format_args!(
                "{what} of MSRs that do not exist raised #GP: {names}"
            ));
        }
    }
}

/// Runs the kernel.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let memory = options.machine.memory_bytes();
    let image = read_kernel(&options.kernel, memory)?;
    let protocol = options.protocol.map(Protocol::from);
    let command_line = CommandLine::of(protocol, &image);
    let mut modules = Vec::new();
    if let Some(path) = &options.initrd {
        let bytes = read("read the initial RAM disk", path, memory)?;
        modules.push((bytes, command_line.text(path, "")));
    }
    for module in &options.modules {
        let (path, text) = module.split_once(' ').unwrap_or((module, ""));
        let bytes = read("read the module", path.as_ref(), memory)?;
        modules.push((bytes, command_line.text(path.as_ref(), text)));
    }
    let modules: Vec<Module<'_>> = modules
        .iter()
        .map(|(bytes, command_line)| Module {
            bytes,
            command_line,
        })
        .collect();
    let input = options.console.input()?;
    let trace = options
        .trace
        .as_deref()
        .map(TraceFile::create)
        .transpose()?;
    let statistics = options.statistics.as_deref();
    let statistics = statistics
        .map(|path| OutputFile::create("write the statistics to", path))
        .transpose()?;
    let is_interactive = options.console.is_interactive();
    let console: Box<dyn Write + Send> = match options.console.file()? {
        Some(file) => Box::new(BufWriter::new(file)),
        None if is_interactive => Box::new(ConsoleOutput::EveryByte),
        None => Box::new(ConsoleOutput::Lines),
    };
    let panic_watch = options.console.panic_watch();
    let watching = panic_watch.clone();
    let console = Console::with_raw(Box::new(move |line, _| watching.line(line)), Some(console));
    let mut machine = Machine::new(
        &Configuration {
            processors: options.machine.cpus,
            memory,
            model: options.machine.model(),
            schedule: options.machine.schedule(),
            engine: options.machine.engine(),
            limit: options.machine.limit,
            events: trace.as_ref().map(TraceFile::sink),
        },
        &Kernel {
            image: &image,
            command_line: &command_line.text(&options.kernel, &options.append),
            modules: &modules,
            protocol,
        },
        Box::new(console),
    )
    .map_err(|source| match source {
        MachineError::Boot(_) => CommandError::Kernel {
            path: options.kernel.clone(),
            source,
        },
        source => CommandError::Machine(source),
    })?;
    machine.type_in(&input);
    panic_watch.watch(machine.platform());
    let terminal = is_interactive.then(RawTerminal::enter).transpose();
    let terminal = terminal.map_err(CommandError::Terminal)?;
    signals::end_run_of(machine.platform());
    if terminal.is_some() {
        message::say(keyboard::HINT);
        keyboard::connect(machine.platform());
    }
    let start = Instant::now();
    let report = machine.run();
    let elapsed = start.elapsed();
    drop(terminal);
    // The console is on the standard output too; what was lost there was reported as the outcome.
    let _ = std::io::stdout().flush();
    terminal::end_line();
    report_unknown_msrs(&report);
    // How the run ended is said before anything that could not be written of it.
    let ended = end(&report, panic_watch.reason());
    trace.map_or(Ok(()), TraceFile::finish)?;
    if let Some(file) = statistics {
        let text = serde_json::to_vec_pretty(&Statistics::new(&report, elapsed));
        file.write(&text.map_err(|error| CommandError::Output(error.into()))?)?;
    }
    ended
}

/// What the run's end means for the command.
fn end(report: &Report, panic: Option<String>) -> Result<ExitCode, CommandError> {
    let unimplemented = report.unimplemented.iter();
    let status = match report.outcome {
        Outcome::PowerOff => ExitCode::SUCCESS,
        Outcome::Stopped if panic.is_none() => {
            message::say(signals::caught().map_or_else(
                || "left".to_owned(),
                |signal| {
                    let instructions: u64 =
                        report.processors.iter().map(|one| one.instructions).sum();
                    format!("stopped by {signal} after {instructions} instructions")
                },
            ));
            ExitCode::SUCCESS
        }
        // As QEMU's isa-debug-exit: the status is never 0.
        Outcome::Exit(value) => exit_status::of_guest(value as u8),
        outcome => {
            let mut text = match (panic, outcome) {
                (Some(reason), Outcome::Stopped) => format!("the kernel panicked: {reason}"),
                (Some(reason), _) => format!("the kernel panicked: {reason}; {outcome}"),
                (None, _) => format!("the run ended early: {outcome}"),
            };
            if matches!(outcome, Outcome::Limit { .. } | Outcome::Deadlock) {
                for (number, position) in report.positions.iter().enumerate() {
                    text.push_str(&format!("; processor {number} {position}"));
                }
            }
            return Err(CommandError::Ended {
                outcome,
                text: unimplemented
                    .fold(text, |text, instruction| format!("{text}; {instruction}")),
            });
        }
    };
    for instruction in unimplemented {
        message::say(instruction);
    }
    Ok(status)
}
