//! The command line: options, and a file for each subcommand.

mod bare_machine;
mod command_line;
mod compare;
mod demonstration;
mod exit_status;
mod image;
mod input_file;
mod keyboard;
mod options;
mod output_file;
mod probe;
mod progress;
mod run;
mod signals;
mod standard_output;
mod terminal;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use exit_status::Status;
use machine::machine::MachineError;
use machine::platform::Outcome;

use crate::guest_run::RunError;
use crate::message;

/// Virtual CPUs that interrupt each other without leaving guest mode.
///
/// Without a subcommand: boots the hypervisor and an SMP guest on the software machine, in both APIC
/// modes, with IPI virtualization off and on, and prints what each IPI cost.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommand>,
    #[command(flatten)]
    demonstration: demonstration::Options,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Run a guest under the hypervisor on the machine
    #[command(after_help = keyboard::about("--console, --input and --json"))]
    Run(run::Options),
    /// Run the same guest with IPI virtualization off and on, side by side
    Compare(compare::Options),
    /// Run a kernel or hypervisor on the bare machine
    #[command(after_help = keyboard::about("--console and --input"))]
    Machine(bare_machine::Options),
    /// Say whether this host's processor has IPI virtualization
    Probe,
    /// Write a bootable image of the hypervisor and the guest
    Image(image::Options),
}

/// Why a command failed: one line.
#[derive(Debug)]
pub enum CommandError {
    /// A file could not be read or opened, and nothing was run.
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
    /// The machine could not be built.
    Machine(MachineError),
    /// A run failed.
    Run(RunError),
    /// A run on the bare machine ended otherwise than by the software's own orderly end.
    Ended {
        /// How.
        outcome: Outcome,
        /// In words.
        text: String,
    },
    /// The demonstration did not show what it promises.
    Unexpected(String),
    /// A program that is needed is missing or failed.
    Tool(String),
    /// The terminal could not be made raw, or signals not be caught.
    Terminal(std::io::Error),
    /// There is no standard output.
    NoOutput,
    /// The result could not be written.
    Output(std::io::Error),
    /// A file that was opened could not be written.
    Written {
        /// What was being done.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
}

impl CommandError {
    fn status(&self) -> Status {
        match self {
            Self::File { .. }
            | Self::Kernel { .. }
            | Self::Machine(_)
            | Self::Tool(_)
            | Self::Terminal(_)
            | Self::NoOutput
            | Self::Run(
                RunError::Machine(_)
                | RunError::VirtualProcessors(_)
                | RunError::GuestMemory { .. },
            ) => Status::NotRun,
            Self::Run(RunError::Ended {
                outcome: Outcome::ConsoleFailed,
                ..
            })
            | Self::Ended {
                outcome: Outcome::ConsoleFailed,
                ..
            }
            | Self::Output(_)
            | Self::Written { .. } => Status::NotWritten,
            Self::Run(
                RunError::Ended { .. } | RunError::Panicked { .. } | RunError::GuestFailed { .. },
            )
            | Self::Ended { .. } => Status::RunEnded,
            Self::Run(RunError::Disagreement(_)) | Self::Unexpected(_) => Status::NotAsPromised,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { what, path, source } | Self::Written { what, path, source } => {
                write!(f, "cannot {what} {}: {source}", path.display())
            }
            Self::Kernel { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Machine(error) => write!(f, "{error}"),
            Self::Run(error) => write!(f, "{error}"),
            Self::Ended { text, .. } | Self::Unexpected(text) | Self::Tool(text) => {
                write!(f, "{text}")
            }
            Self::Terminal(error) => write!(f, "cannot use the terminal: {error}"),
            Self::NoOutput => write!(
                f,
                "the standard output is closed, and the result would be lost: send it to a file, or to /dev/null"
            ),
            Self::Output(error) => write!(f, "cannot write the result: {error}"),
        }
    }
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
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
            message::say(usage_error(&error));
            return Status::NotRun.into();
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    let result = standard_output::require()
        .and_then(|()| signals::catch().map_err(CommandError::Terminal))
        .and_then(|()| match arguments.command {
            None => demonstration::run(&arguments.demonstration),
            Some(Subcommand::Run(options)) => run::run(&options),
            Some(Subcommand::Compare(options)) => compare::run(&options),
            Some(Subcommand::Machine(options)) => bare_machine::run(&options),
            Some(Subcommand::Probe) => probe::run(),
            Some(Subcommand::Image(options)) => image::run(&options),
        });
    let status = match result {
        Ok(status) => status,
        Err(error) => {
            message::say(&error);
            error.status().into()
        }
    };
    signals::end_as_signalled();
    status
}
