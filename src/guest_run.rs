//! One guest under the hypervisor on the machine.

use std::fmt;
use std::sync::Arc;

use firmware::boot::{Protocol, detect};
use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, MachineError, Module, Report, Schedule};
use machine::platform::{Outcome, Platform};
use machine::trace::EventSink;

use crate::console::{Console, OnLine};
use crate::images;
use crate::report_lines::{ReportLine, guest_exit};
use crate::result::{Disagreement, RunResult};

/// Values that the hypervisor's image writes to the debug-exit port.
mod exit_value {
    pub(super) const SUCCESS: u32 = 0x10;
    pub(super) const GUEST_FAILED: u32 = 0x11;
    pub(super) const ENTRY_FAILURE: u32 = 0x12;
    pub(super) const NO_VTX: u32 = 0x13;
    pub(super) const OTHER: u32 = 0x14;
}

/// The last line of a console that is for people and not a part of the statistics.
fn explanation(console: &str) -> &str {
    console
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#ph ") && !line.ends_with(" exits"))
        .map_or("", |line| line.strip_prefix("posthaste: ").unwrap_or(line))
}

/// The mode of the guest's local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ApicMode {
    /// Memory-mapped registers.
    Xapic,
    /// Registers as MSRs.
    X2apic,
}

impl ApicMode {
    /// As options and results spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xapic => "xapic",
            Self::X2apic => "x2apic",
        }
    }
}

/// Whether a feature is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// It is not.
    Off,
    /// It is, if the processor has it.
    On,
}

/// What to run.
///
/// ```
/// use posthaste::guest_run::{GuestRun, Switch};
///
/// let run = GuestRun {
///     ipi_virtualization: Switch::On,
///     guest_options: "phases=unicast rounds=10".to_owned(),
///     ..GuestRun::default()
/// };
/// // Each whole line of the console can be looked at as it comes.
/// let finished = run.run(Box::new(|_line, _report| {}))?;
/// assert_eq!(finished.result.lost_interrupts, 0);
/// assert_eq!(finished.result.virtualized_ipis, finished.result.unicast_ipis);
/// # Ok::<(), posthaste::guest_run::RunError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GuestRun {
    /// The guest's image; `None` is our own.
    pub guest: Option<Vec<u8>>,
    /// The guest's initial RAM disk.
    pub initial_ram_disk: Option<Vec<u8>>,
    /// What follows in the guest's command line.
    pub guest_options: String,
    /// What follows in the hypervisor's command line.
    pub hypervisor_options: String,
    /// Mode of the guest's local APICs.
    pub apic: ApicMode,
    /// IPI virtualization.
    pub ipi_virtualization: Switch,
    /// Virtual processors.
    pub vcpus: usize,
    /// Processors of the machine.
    pub processors: usize,
    /// The machine's RAM in bytes.
    pub memory: u64,
    /// The guest's RAM in MiB; `None` leaves it to the hypervisor.
    pub guest_memory_mib: Option<u64>,
    /// Who runs when.
    pub schedule: Schedule,
    /// What executes the machine's instructions.
    pub engine: Engine,
    /// Instructions after which the run ends.
    pub limit: u64,
    /// What kind of processors.
    pub model: CpuModel,
    /// What is typed into the console from the start.
    pub input: Vec<u8>,
    /// Where the machine's events go as they happen, if anybody wants them.
    pub events: Option<EventSink>,
}

impl Default for GuestRun {
    fn default() -> Self {
        Self {
            guest: None,
            initial_ram_disk: None,
            guest_options: String::new(),
            hypervisor_options: String::new(),
            apic: ApicMode::X2apic,
            ipi_virtualization: Switch::On,
            vcpus: 4,
            processors: 4,
            memory: 256 << 20,
            guest_memory_mib: None,
            schedule: Schedule::Deterministic { seed: 1 },
            engine: Engine::default(),
            limit: 20_000_000_000,
            model: CpuModel::default(),
            input: Vec::new(),
            events: None,
        }
    }
}

/// Why a run gave no result, or a bad one.
#[derive(Debug)]
pub enum RunError {
    /// The machine could not be built.
    Machine(MachineError),
    /// More vCPUs than the hypervisor takes, or none.
    VirtualProcessors(usize),
    /// The guest's memory does not fit beside the hypervisor and the files.
    GuestMemory {
        /// What the guest was to have, in MiB.
        wanted: u64,
        /// What is free, in MiB.
        free: u64,
    },
    /// The run ended otherwise than by the hypervisor's orderly stop.
    Ended {
        /// How.
        outcome: Outcome,
        /// The last lines of the console.
        console: String,
        /// Instructions that the machine does not execute.
        unimplemented: Vec<String>,
    },
    /// The guest's kernel panicked.
    Panicked {
        /// Why, as it said.
        reason: String,
    },
    /// The guest said that a check failed.
    GuestFailed {
        /// The lines that say so.
        lines: Vec<String>,
    },
    /// The hypervisor's statistics are not the machine's.
    Disagreement(Disagreement),
}

impl std::error::Error for RunError {}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => write!(f, "{error}"),
            Self::VirtualProcessors(count) => {
                write!(f, "{count} virtual processors: give 1 to 255")
            }
            Self::Ended {
                outcome,
                console,
                unimplemented,
            } => {
                match outcome {
                    Outcome::Exit(exit_value::ENTRY_FAILURE) => write!(
                        f,
                        "the hypervisor could not enter the guest; its dump is on the console"
                    )?,
                    Outcome::Exit(exit_value::NO_VTX) => {
                        write!(
                            f,
                            "the machine's processor has no VT-x, so no guest was run"
                        )?;
                    }
                    Outcome::Exit(exit_value::OTHER) => {
                        write!(f, "the hypervisor stopped: {}", explanation(console))?;
                    }
                    outcome => {
                        write!(f, "the run ended early: {outcome}")?;
                        let last = explanation(console);
                        if !last.is_empty() {
                            write!(f, "; last line of the console: {last}")?;
                        }
                    }
                }
                unimplemented
                    .iter()
                    .try_for_each(|line| write!(f, "; {line}"))
            }
            Self::GuestMemory { wanted, free } => write!(
                f,
                "the guest's {wanted} MiB of memory do not fit into the {free} MiB that the hypervisor and the files \
                 leave of the machine's: give the guest less with --guest-memory, or the machine more with --memory"
            ),
            Self::Panicked { reason } => write!(f, "the guest's kernel panicked: {reason}"),
            Self::GuestFailed { lines } => {
                write!(f, "the guest's checks failed")?;
                for line in lines {
                    write!(f, "; {line}")?;
                }
                Ok(())
            }
            Self::Disagreement(disagreement) => write!(f, "{disagreement}"),
        }
    }
}

impl From<MachineError> for RunError {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

/// Everything that a run left.
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub result: RunResult,
    /// The machine's own report.
    pub report: Report,
    /// The report lines of hypervisor and guest.
    pub lines: Vec<ReportLine>,
    /// The last text of the console.
    pub console: String,
}

impl Finished {
    /// What a guest of somebody else's wrote to port F4H to end, unless that was 10H, which is success.
    pub fn exit_value(&self) -> Option<u8> {
        let value = guest_exit(&self.lines)?;
        (u32::from(value) != exit_value::SUCCESS).then_some(value)
    }
}

/// Whose options a guest understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestKind {
    /// The embedded guest's.
    Ours,
    /// Linux's.
    Linux,
    /// Nobody here knows.
    Other,
}

impl GuestRun {
    fn kind(&self) -> GuestKind {
        match &self.guest {
            None => GuestKind::Ours,
            Some(image) if detect(image).is_ok_and(|found| found.contains(&Protocol::Linux32)) => {
                GuestKind::Linux
            }
            Some(_) => GuestKind::Other,
        }
    }

    /// The hypervisor's command line.
    pub fn hypervisor_command_line(&self) -> String {
        let ipiv = match self.ipi_virtualization {
            Switch::On => "",
            Switch::Off => " ipiv=off",
        };
        let memory = match self.guest_memory_mib {
            Some(mib) => format!(" memory={mib}"),
            None => String::new(),
        };
        // Linux and our own guest are told by their own command lines; from anybody else it is hidden.
        let hide = match (self.kind(), self.apic) {
            (GuestKind::Other, ApicMode::Xapic) => " apic=xapic",
            _ => "",
        };
        let options = &self.hypervisor_options;
        format!("vcpus={}{ipiv}{memory}{hide} {options}", self.vcpus)
    }

    /// The guest's command line.
    pub fn guest_command_line(&self) -> String {
        let options = &self.guest_options;
        match (self.kind(), self.apic) {
            (GuestKind::Ours, mode) => {
                format!("apic={} seed={} {options}", mode.name(), self.seed())
            }
            (GuestKind::Linux, ApicMode::Xapic) => format!("nox2apic {options}"),
            // Linux takes x2APIC mode by itself, and anybody else gets what the user wrote.
            (GuestKind::Linux, ApicMode::X2apic) | (GuestKind::Other, _) => options.clone(),
        }
    }

    /// Seed of the schedule; 0 under the parallel one.
    pub fn seed(&self) -> u64 {
        match self.schedule {
            Schedule::Deterministic { seed } => seed,
            Schedule::Parallel => 0,
        }
    }

    /// Runs the guest to its end without judging how it ended; each whole console line goes to
    /// `on_line`.
    pub fn run_to_end(&self, on_line: OnLine) -> Result<Finished, RunError> {
        self.run_on(Console::new(on_line), |_| {})
    }

    /// Runs the guest to its end without judging how it ended. `starting` gets what the machine's
    /// processors share just before they run.
    pub fn run_on(
        &self,
        console: Console,
        starting: impl FnOnce(&Arc<Platform>),
    ) -> Result<Finished, RunError> {
        if self.vcpus == 0 || self.vcpus > 255 {
            return Err(RunError::VirtualProcessors(self.vcpus));
        }
        let hypervisor_command_line = self.hypervisor_command_line();
        let guest_command_line = self.guest_command_line();
        let mut modules = vec![Module {
            bytes: self.guest.as_deref().unwrap_or(images::GUEST),
            command_line: guest_command_line.trim_end(),
        }];
        modules.extend(self.initial_ram_disk.as_deref().map(|bytes| Module {
            bytes,
            command_line: "",
        }));
        let mut machine = Machine::new(
            &Configuration {
                processors: self.processors,
                memory: self.memory,
                model: self.model.clone(),
                schedule: self.schedule,
                engine: self.engine,
                limit: self.limit,
                events: self.events.clone(),
            },
            &Kernel {
                image: images::HYPERVISOR,
                command_line: hypervisor_command_line.trim_end(),
                modules: &modules,
                protocol: None,
            },
            Box::new(console.clone()),
        )?;
        machine.type_in(&self.input);
        starting(machine.platform());
        let report = machine.run();
        console.finish();
        let lines = console.reports();
        Ok(Finished {
            result: RunResult::new(self, &report, &lines),
            report,
            lines,
            console: console.text(),
        })
    }

    /// Runs the guest; anything but success with agreeing statistics is an error.
    pub fn run(&self, on_line: OnLine) -> Result<Finished, RunError> {
        let finished = self.run_to_end(on_line)?;
        self.judge(finished)
    }

    /// Passes a run that ended in success, or by a foreign guest's own [value](Finished::exit_value), with
    /// agreeing statistics.
    pub fn judge(&self, finished: Finished) -> Result<Finished, RunError> {
        let ended = || RunError::Ended {
            outcome: finished.report.outcome,
            console: finished.console.clone(),
            unimplemented: finished
                .report
                .unimplemented
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        match finished.report.outcome {
            Outcome::Exit(exit_value::SUCCESS) => {}
            // It says by its value how it went, as on the bare machine.
            Outcome::Exit(exit_value::OTHER)
                if self.guest.is_some() && finished.exit_value().is_some() => {}
            Outcome::Exit(exit_value::GUEST_FAILED) => {
                let failed = |line: &&str| line.contains("verdict=fail");
                let lines = finished.console.lines().filter(failed);
                return Err(RunError::GuestFailed {
                    lines: lines.map(str::to_owned).collect(),
                });
            }
            Outcome::Exit(exit_value::OTHER)
                if let Some(line) = finished.lines.iter().find(|line| line.kind == "no-memory") =>
            {
                return Err(RunError::GuestMemory {
                    wanted: line.number("guest"),
                    free: line.number("free"),
                });
            }
            _ => return Err(ended()),
        }
        finished
            .result
            .agreement(&finished.report, &finished.lines)
            .map_err(RunError::Disagreement)?;
        Ok(finished)
    }
}
