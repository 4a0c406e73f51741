//! `posthaste machine`: a kernel or hypervisor on the bare machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use machine::machine::{Configuration, Kernel, Machine, Module, Protocol};
use machine::platform::Outcome;

use super::options::MachineOptions;
use super::{CommandError, read_file};

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

/// Options of `machine`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The kernel: a Linux bzImage, or an ELF image with PVH, multiboot2 or multiboot entry
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The kernel's command line
    #[arg(long, default_value = "", value_name = "TEXT")]
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
    machine: MachineOptions,
}

/// Runs the kernel; its console is the standard output.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    let image = read_file("read the kernel", &options.kernel)?;
    let mut modules = Vec::new();
    if let Some(path) = &options.initrd {
        modules.push((read_file("read the initial RAM disk", path)?, ""));
    }
    for module in &options.modules {
        let (path, command_line) = module.split_once(' ').unwrap_or((module, ""));
        let bytes = read_file("read the module", path.as_ref())?;
        modules.push((bytes, command_line));
    }
    let modules: Vec<Module<'_>> = modules
        .iter()
        .map(|(bytes, command_line)| Module {
            bytes,
            command_line,
        })
        .collect();
    let mut machine = Machine::new(
        &Configuration {
            processors: options.machine.cpus,
            memory: options.machine.memory_bytes(),
            model: options.machine.model(),
            schedule: options.machine.schedule(),
            limit: options.machine.limit,
            keep_events: false,
        },
        &Kernel {
            image: &image,
            command_line: &options.append,
            modules: &modules,
            protocol: options.protocol.map(|protocol| match protocol {
                BootProtocol::Pvh => Protocol::Pvh,
                BootProtocol::Multiboot2 => Protocol::Multiboot2,
                BootProtocol::Multiboot1 => Protocol::Multiboot1,
                BootProtocol::Linux64 => Protocol::Linux64,
                BootProtocol::Linux32 => Protocol::Linux32,
            }),
        },
        Box::new(std::io::stdout()),
    )
    .map_err(|source| CommandError::Kernel {
        path: options.kernel.clone(),
        source,
    })?;
    let report = machine.run();
    // The console is on the standard output too; what was lost there was reported as the outcome.
    let _ = std::io::stdout().flush();
    let unimplemented = report.unimplemented.iter();
    let status = match report.outcome {
        Outcome::PowerOff => ExitCode::SUCCESS,
        // As QEMU's isa-debug-exit: the status is never 0.
        Outcome::Exit(value) => ExitCode::from((value << 1 | 1) as u8),
        outcome => {
            let text = format!("the run ended early: {outcome}");
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
