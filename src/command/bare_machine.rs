//! `posthaste machine`: a kernel or hypervisor on the bare machine.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use machine::machine::{Configuration, Kernel, Machine, Module, Protocol, Report};
use machine::platform::Outcome;
use serde::Serialize;

use super::options::{ConsoleOptions, MachineOptions};
use super::terminal::{self, ConsoleOutput, RawTerminal};
use super::{CommandError, exit_status, keyboard, read_file, read_kernel, trace_file};
use crate::console::Console;

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

/// What the command lines of kernel and modules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandLine {
    /// The text alone.
    Text,
    /// The file's name and the text, as multiboot kernels expect of their loader.
    NameAndText,
}

impl CommandLine {
    fn of(protocol: Option<Protocol>, image: &[u8]) -> Self {
        let offered = || firmware::boot::detect(image).ok()?.first().copied();
        match protocol.or_else(offered) {
            Some(Protocol::Multiboot1) => Self::NameAndText,
            _ => Self::Text,
        }
    }

    fn text(self, path: &Path, text: &str) -> String {
        match self {
            Self::Text => text.to_owned(),
            Self::NameAndText => format!("{} {text}", path.display()).trim_end().to_owned(),
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
            eprintln!("posthaste: {what} of MSRs that do not exist raised #GP: {names}");
        }
    }
}

/// Runs the kernel.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let image = read_kernel(&options.kernel)?;
    let protocol = options.protocol.map(Protocol::from);
    let command_line = CommandLine::of(protocol, &image);
    let mut modules = Vec::new();
    if let Some(path) = &options.initrd {
        let bytes = read_file("read the initial RAM disk", path)?;
        modules.push((bytes, command_line.text(path, "")));
    }
    for module in &options.modules {
        let (path, text) = module.split_once(' ').unwrap_or((module, ""));
        let bytes = read_file("read the module", path.as_ref())?;
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
            memory: options.machine.memory_bytes(),
            model: options.machine.model(),
            schedule: options.machine.schedule(),
            engine: options.machine.engine(),
            limit: options.machine.limit,
            keep_events: options.trace.is_some(),
        },
        &Kernel {
            image: &image,
            command_line: &command_line.text(&options.kernel, &options.append),
            modules: &modules,
            protocol,
        },
        Box::new(console),
    )
    .map_err(|source| CommandError::Kernel {
        path: options.kernel.clone(),
        source,
    })?;
    machine.type_in(&input);
    panic_watch.watch(machine.platform());
    let terminal = is_interactive.then(RawTerminal::enter).transpose();
    let terminal = terminal.map_err(CommandError::Terminal)?;
    if terminal.is_some() {
        eprintln!("posthaste: {}", keyboard::HINT);
        keyboard::connect(machine.platform());
    }
    let start = Instant::now();
    let report = machine.run();
    let elapsed = start.elapsed();
    drop(terminal);
    // The console is on the standard output too; what was lost there was reported as the outcome.
    let _ = std::io::stdout().flush();
    terminal::end_line();
    if let Some(path) = &options.trace {
        trace_file::write(path, &machine.take_events())?;
    }
    if let Some(path) = &options.statistics {
        let written = serde_json::to_vec_pretty(&Statistics::new(&report, elapsed))
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(path, text));
        written.map_err(|source| CommandError::File {
            what: "write the statistics to",
            path: path.clone(),
            source,
        })?;
    }
    report_unknown_msrs(&report);
    let unimplemented = report.unimplemented.iter();
    let panic = panic_watch.reason();
    let status = match report.outcome {
        Outcome::PowerOff => ExitCode::SUCCESS,
        Outcome::Stopped if panic.is_none() => {
            eprintln!("posthaste: left");
            ExitCode::SUCCESS
        }
        // As QEMU's isa-debug-exit: the status is never 0.
        Outcome::Exit(value) => exit_status(value as u8),
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
            return Err(CommandError::Unexpected(
                unimplemented.fold(text, |text, instruction| format!("{text}; {instruction}")),
            ));
        }
    };
    for instruction in unimplemented {
        eprintln!("posthaste: {instruction}");
    }
    Ok(status)
}
