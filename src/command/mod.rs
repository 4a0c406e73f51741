//! The command line: options, and a file for each subcommand.

mod bare_machine;
mod compare;
mod demonstration;
mod image;
mod keyboard;
mod options;
mod probe;
mod progress;
mod run;
mod terminal;
mod trace_file;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::guest_run::RunError;
use machine::machine::MachineError;

/// Virtual CPUs that interrupt each other without leaving guest mode.
///
/// Without a subcommand: boots the hypervisor and an SMP guest on the software machine, in both APIC
/// modes, with IPI virtualization off and on, and prints what each IPI cost.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommand>,
    #[command(flatten)]
    demonstration: demonstration::Options,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Run a guest under the hypervisor on the machine
    #[command(after_help = keyboard::ABOUT)]
    Run(run::Options),
    /// Run the same guest with IPI virtualization off and on, side by side
    Compare(compare::Options),
    /// Run a kernel or hypervisor on the bare machine
    #[command(after_help = keyboard::ABOUT)]
    Machine(bare_machine::Options),
    /// Say whether this host's processor has IPI virtualization
    Probe,
    /// Write a bootable image of the hypervisor and the guest
    Image(image::Options),
}

/// Why a command failed: one line.
#[derive(Debug)]
pub enum CommandError {
    /// A file could not be read or written.
    File {
        /// What was being done.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// A kernel file could not be started.
    Kernel {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: MachineError,
    },
    /// A run failed.
    Run(RunError),
    /// The demonstration did not show what it promises.
    Unexpected(String),
    /// A program that is needed is missing or failed.
    Tool(String),
    /// The terminal could not be made raw.
    Terminal(std::io::Error),
    /// The result could not be written.
    Output(std::io::Error),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { what, path, source } => {
                write!(f, "cannot {what} {}: {source}", path.display())
            }
            Self::Kernel { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Run(error) => write!(f, "{error}"),
            Self::Unexpected(text) | Self::Tool(text) => write!(f, "{text}"),
            Self::Terminal(error) => write!(f, "cannot use the terminal: {error}"),
            Self::Output(error) => write!(f, "cannot write the result: {error}"),
        }
    }
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

/// Creates the file that a console is written to.
fn console_file(path: &Path) -> Result<File, CommandError> {
    File::create(path).map_err(|source| CommandError::File {
        what: "write the console to",
        path: path.to_owned(),
        source,
    })
}

/// Reads a kernel and makes sure that it is one.
fn read_kernel(path: &Path) -> Result<Vec<u8>, CommandError> {
    let bytes = read_image(path)?;
    match firmware::boot::detect(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(CommandError::Kernel {
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

/// What a file that gzip compressed begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// A compressed kernel is taken to be no larger than this.
const LARGEST_KERNEL: u64 = 1 << 30;

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(path).map_err(|source| CommandError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Reads a file; one that gzip compressed, as hypervisors often are in /boot, is decompressed.
fn read_image(path: &Path) -> Result<Vec<u8>, CommandError> {
    use std::io::Read;
    const WHAT: &str = "read the kernel";
    let image = read_file(WHAT, path)?;
    if !image.starts_with(&GZIP) {
        return Ok(image);
    }
    let mut kernel = Vec::new();
    flate2::read::MultiGzDecoder::new(image.as_slice())
        .take(LARGEST_KERNEL)
        .read_to_end(&mut kernel)
        .map_err(|source| CommandError::File {
            what: WHAT,
            path: path.to_owned(),
            source,
        })?;
    Ok(kernel)
}

/// The exit status for a value that a guest wrote to port F4H, as with QEMU's isa-debug-exit: never 0.
fn exit_status(value: u8) -> ExitCode {
    ExitCode::from(value << 1 | 1)
}

/// Prints a line of result; a reader that went away is not an error.
fn print(text: &str) -> Result<(), CommandError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::Output(error))
        }
        _ => Ok(()),
    }
}

/// What is wrong with the options, in one line: the first paragraph of what clap says.
fn usage_error(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let line = paragraph.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; --help lists the options")
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            eprintln!("posthaste: {}", usage_error(&error));
            return ExitCode::from(2);
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    let result = match arguments.command {
        None => demonstration::run(&arguments.demonstration),
        Some(Subcommand::Run(options)) => run::run(&options),
        Some(Subcommand::Compare(options)) => compare::run(&options),
        Some(Subcommand::Machine(options)) => bare_machine::run(&options),
        Some(Subcommand::Probe) => probe::run(),
        Some(Subcommand::Image(options)) => image::run(&options),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("posthaste: {error}");
            ExitCode::FAILURE
        }
    }
}
