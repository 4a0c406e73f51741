//! Options that several subcommands share.

use std::fs::File;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use machine::cpu::model::VirtualizationLevel;
use machine::cpu::{CpuModel, Engine};
use machine::machine::Schedule;

use super::output_file::OutputFile;
use super::{CommandError, input_file, keyboard};
use crate::kernel_panic::{OnPanic, PanicWatch};

/// Which processor the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Processor {
    /// VT-x with IPI virtualization
    IpiVirtualization,
    /// VT-x with posted interrupts, without IPI virtualization
    PostedInterrupts,
    /// VT-x with APIC virtualization, without posted interrupts
    ApicVirtualization,
    /// VT-x without any APIC virtualization
    Base,
    /// No VT-x
    None,
}

impl Processor {
    fn model(self) -> CpuModel {
        CpuModel {
            virtualization: match self {
                Self::IpiVirtualization => VirtualizationLevel::IpiVirtualization,
                Self::PostedInterrupts => VirtualizationLevel::PostedInterrupts,
                Self::ApicVirtualization => VirtualizationLevel::ApicVirtualization,
                Self::Base => VirtualizationLevel::Base,
                Self::None => VirtualizationLevel::None,
            },
            ..CpuModel::default()
        }
    }
}

/// Who runs when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ScheduleKind {
    /// One host thread; the same seed gives the same run
    Deterministic,
    /// A host thread per processor
    Parallel,
}

/// What can be typed at most, in bytes.
const MOST_INPUT: u64 = 64 << 20;

/// The console.
#[derive(Clone, Debug, Args)]
pub(super) struct ConsoleOptions {
    /// Write the console to a file instead of the standard output
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Type a file's content into the console, as fast as the guest takes it
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What becomes of a Linux kernel that says that it has panicked and does nothing any more
    #[arg(long, value_enum, default_value_t = OnPanic::End)]
    on_panic: OnPanic,
}

impl ConsoleOptions {
    /// Watches a console for a panic of the kernel.
    pub(super) fn panic_watch(&self) -> PanicWatch {
        PanicWatch::new(self.on_panic)
    }

    /// What is typed; nothing if nobody says.
    pub(super) fn input(&self) -> Result<Vec<u8>, CommandError> {
        match &self.input {
            Some(path) => input_file::read("read the input", path, MOST_INPUT),
            None => Ok(Vec::new()),
        }
    }

    /// Where the console goes, if not to the standard output.
    pub(super) fn file(&self) -> Result<Option<File>, CommandError> {
        let file = |path| OutputFile::create("write the console to", path);
        let file = self.console.as_deref().map(file).transpose()?;
        Ok(file.map(OutputFile::into_file))
    }

    /// Whether the console is the terminal, with somebody at its keyboard.
    pub(super) fn is_interactive(&self) -> bool {
        self.console.is_none() && self.input.is_none() && keyboard::is_there()
    }
}

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineKind {
    /// One function call an instruction, on any host
    Interpreter,
    /// Hot code as instructions of the host where that is possible: the same run, faster
    Translator,
}

/// The machine.
#[derive(Clone, Debug, Args)]
pub(super) struct MachineOptions {
    /// Processors of the machine, 1 to 255
    #[arg(long, default_value_t = 4)]
    pub(super) cpus: usize,
    /// RAM of the machine in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub(super) memory: u64,
    /// What the machine's processors offer
    #[arg(long, value_enum, default_value_t = Processor::IpiVirtualization, value_name = "MODEL")]
    pub(super) cpu: Processor,
    /// Who runs when
    #[arg(long, value_enum, default_value_t = ScheduleKind::Deterministic)]
    pub(super) schedule: ScheduleKind,
    /// Seed of the deterministic schedule
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// What executes instructions; runs are the same with either
    #[arg(long, value_enum, default_value_t = EngineKind::Translator)]
    pub(super) engine: EngineKind,
    /// End the run after so many instructions of all processors together
    #[arg(long, default_value_t = 1_000_000_000_000, value_name = "INSTRUCTIONS")]
    pub(super) limit: u64,
}

impl MachineOptions {
    /// RAM in bytes; more than fits is asked for as such and refused by the host.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory.saturating_mul(1 << 20)
    }

    /// The processor model.
    pub(super) fn model(&self) -> CpuModel {
        self.cpu.model()
    }

    /// The engine.
    pub(super) fn engine(&self) -> Engine {
        match self.engine {
            EngineKind::Interpreter => Engine::Interpreter,
            EngineKind::Translator => Engine::default(),
        }
    }

    /// The schedule.
    pub(super) fn schedule(&self) -> Schedule {
        match self.schedule {
            ScheduleKind::Deterministic => Schedule::Deterministic { seed: self.seed },
            ScheduleKind::Parallel => Schedule::Parallel,
        }
    }
}
