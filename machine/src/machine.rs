//! A whole machine: built from a configuration, loaded with a kernel, run, reported on.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use apic::routing::Identity;
use arch::pvh::{self, MemoryRegion};
use devices::acpi_power;
use devices::firmware_configuration::FirmwareConfiguration;
use devices::pc::Pc;
use devices::rtc_calendar::DateTime;
use firmware::acpi;
use firmware::acpi::build::{TableConfig, Tables};
use firmware::boot::{self, BootError, BootRequest, Rsdp};
use firmware::memory::{LoadMemory, MemoryError};
use firmware::multiprocessor::{self, ProcessorDescription};

use crate::bios_data;
use crate::cpu::msr::UnknownMsr;
use crate::cpu::{Activity, Cpu, CpuModel, Engine, Processor};
use crate::kernel_entry;
use crate::memory::{HOLE_END, HOLE_START, Ram, RamError};
use crate::platform::{BusAgent, Mark, Outcome, Platform};
use crate::schedule::{Clock, Deterministic, Share, run_parallel};
use crate::trace::{EventSink, Snapshot, Trace, Unimplemented};

pub use firmware::boot::{Module, Protocol};

/// Most processors a machine can have.
pub const MOST_PROCESSORS: usize = 255;

/// What the machine's clock says at power-on, so that runs repeat.
const POWER_ON_DATE: DateTime = DateTime::EPOCH;

/// Who runs when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// One host thread; the interleaving follows from the seed.
    Deterministic {
        /// The seed.
        seed: u64,
    },
    /// A host thread per processor.
    Parallel,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Number of processors, 1 to [`MOST_PROCESSORS`].
    pub processors: usize,
    /// RAM in bytes.
    pub memory: u64,
    /// What kind of processors.
    pub model: CpuModel,
    /// Who runs when.
    pub schedule: Schedule,
    /// Instructions, of all processors together, after which the run ends.
    pub limit: u64,
    /// What executes instructions.
    pub engine: Engine,
    /// Where events go as they happen, if anybody wants them.
    pub events: Option<EventSink>,
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The image.
    pub image: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// Boot modules.
    pub modules: &'a [Module<'a>],
    /// The boot protocol; `None` takes the best that the image offers.
    pub protocol: Option<Protocol>,
}

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Too few or too many processors.
    #[error("{0} processors: a machine has 1 to {MOST_PROCESSORS}")]
    Processors(usize),
    /// No RAM.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The firmware tables do not fit.
    #[error("firmware tables: {0}")]
    Tables(String),
    /// The kernel could not be loaded.
    #[error("{0}")]
    Boot(BootError),
}

impl From<BootError> for MachineError {
    fn from(error: BootError) -> Self {
        Self::Boot(error)
    }
}

/// A machine.
pub struct Machine {
    platform: Arc<Platform>,
    processors: Vec<Processor>,
    schedule: Scheduler,
    limit: u64,
}

enum Scheduler {
    Deterministic(Deterministic),
    Parallel,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Counters at the end, by processor.
    pub processors: Vec<Snapshot>,
    /// Phase marks with the counters at each; processors that had nothing more to do until the end
    /// have their final counters there.
    pub marks: Vec<Mark>,
    /// A hash of every event of every processor with its time.
    pub trace_hash: u64,
    /// Instructions that the machine met and does not execute.
    pub unimplemented: Vec<Unimplemented>,
    /// Accesses to MSRs that do not exist, by processor, each once; they raised #GP.
    pub unknown_msrs: Vec<Vec<UnknownMsr>>,
    /// Where each processor was at the end.
    pub positions: Vec<Position>,
}

/// Where a processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its instruction pointer.
    pub rip: u64,
    /// What it does.
    pub activity: Activity,
    /// Whether it is in VMX non-root operation.
    pub in_guest: bool,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.activity {
            Activity::Active => write!(f, "at {:#x}", self.rip)?,
            Activity::Halted => write!(f, "halted at {:#x}", self.rip)?,
            Activity::Shutdown => write!(f, "shut down at {:#x}", self.rip)?,
            Activity::WaitForStartUp => write!(f, "waiting for a start-up IPI")?,
        }
        if self.in_guest {
            write!(f, " in VMX non-root operation")?;
        }
        Ok(())
    }
}

struct RamLoader<'a>(BusAgent<'a>);

impl RamLoader<'_> {
    fn offset(&self, address: u64, length: u64) -> Result<u64, MemoryError> {
        let error = MemoryError { address, length };
        if length == 0 {
            return Ok(0);
        }
        let last = address.checked_add(length - 1).ok_or(error)?;
        let (first, last) = (self.0.offset(address), self.0.offset(last));
        match (first, last) {
            // Both ends in RAM and as far apart as they should be: no hole between them.
            (Some(first), Some(last)) if last - first == length - 1 => Ok(first),
            _ => Err(error),
        }
    }
}

impl LoadMemory for RamLoader<'_> {
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let offset = self.offset(address, bytes.len() as u64)?;
        self.0.write_bytes(offset, bytes);
        Ok(())
    }

    fn zero(&mut self, address: u64, length: u64) -> Result<(), MemoryError> {
        let offset = self.offset(address, length)?;
        self.0.fill(offset, length, 0);
        Ok(())
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("processors", &self.processors.len())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Builds a machine with `kernel` loaded; serial output goes to `console`.
    pub fn new(
        configuration: &Configuration,
        kernel: &Kernel<'_>,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, MachineError> {
        let count = configuration.processors;
        if count == 0 || count > MOST_PROCESSORS {
            return Err(MachineError::Processors(count));
        }
        let ram = Ram::new(configuration.memory)?;
        let identities = (0..count as u32).map(Identity::at_reset).collect();
        let platform = Arc::new(Platform::new(
            ram,
            identities,
            Pc::starting_at(POWER_ON_DATE)
                .with_configuration(FirmwareConfiguration::new(
                    u16::try_from(count).unwrap_or(u16::MAX),
                    configuration.memory,
                ))
                .with_test_device()
                .with_suspend(),
            console,
        ));
        let model = Arc::new(configuration.model.clone());
        let clock = Clock::Deterministic(Share::ALONE);
        let processors = (0..count)
            .map(|index| {
                let mut cpu = Cpu::new(index, platform.clone(), model.clone(), clock.clone());
                if let Some(sink) = &configuration.events {
                    cpu.trace = Trace::with_sink(sink.clone(), index);
                }
                kernel_entry::initialize(&mut cpu);
                Processor::with_engine(cpu, configuration.engine)
            })
            .collect();
        let mut machine = Self {
            platform,
            processors,
            schedule: match configuration.schedule {
                Schedule::Deterministic { seed } => {
                    Scheduler::Deterministic(Deterministic::new(seed))
                }
                Schedule::Parallel => Scheduler::Parallel,
            },
            limit: configuration.limit,
        };
        machine.load(kernel)?;
        Ok(machine)
    }

    fn load(&mut self, kernel: &Kernel<'_>) -> Result<(), MachineError> {
        let ram = self.platform.bus_agent();
        let tables = firmware_tables(ram, &self.processors)?;
        self.platform.set_facs(tables.facs);
        let memory_map = memory_map(&ram);
        let loaded = boot::load(
            &BootRequest {
                kernel: kernel.image,
                command_line: kernel.command_line,
                modules: kernel.modules,
                memory_map: &memory_map,
                rsdp: Some(Rsdp {
                    address: tables.base,
                    bytes: tables.rsdp(),
                }),
                protocol: kernel.protocol,
            },
            &mut RamLoader(ram),
        )?;
        if let Some(first) = self.processors.first_mut() {
            kernel_entry::enter(&mut first.cpu, &loaded.entry);
        }
        Ok(())
    }

    /// Runs until the processors together have executed `instructions` since power-on; gives `None` then,
    /// or how the machine stopped before. In the deterministic schedule another call goes on from there, as
    /// if there had been no stop; in the parallel one the machine stays stopped.
    pub fn run_until(&mut self, instructions: u64) -> Option<Outcome> {
        let Self {
            platform,
            processors,
            schedule,
            ..
        } = self;
        match schedule {
            Scheduler::Deterministic(schedule) => {
                schedule.run_until(platform, processors, instructions)
            }
            Scheduler::Parallel => Some(run_parallel(platform, processors, instructions)),
        }
    }

    /// Runs until the machine stops.
    pub fn run(&mut self) -> Report {
        let outcome = self.run_until(self.limit).unwrap_or_else(|| {
            let instructions = self.processors.iter().map(|p| p.cpu.instructions).sum();
            self.platform.stop(Outcome::Limit { instructions });
            Outcome::Limit { instructions }
        });
        self.platform.flush_console();
        let mut trace_hash = 0;
        for processor in &self.processors {
            trace_hash = crate::trace::mix(trace_hash, processor.cpu.trace.hash());
            trace_hash = crate::trace::mix(trace_hash, processor.cpu.instructions);
        }
        let finals: Vec<Snapshot> = self.processors.iter().map(|p| p.cpu.snapshot()).collect();
        let mut marks = self.platform.marks();
        for mark in &mut marks {
            for (place, last) in mark.snapshots.iter_mut().zip(&finals) {
                place.get_or_insert_with(|| last.clone());
            }
        }
        Report {
            outcome,
            processors: finals,
            marks,
            trace_hash,
            unimplemented: self.platform.unimplemented(),
            unknown_msrs: self
                .processors
                .iter()
                .map(|processor| processor.cpu.unknown_msrs.clone())
                .collect(),
            positions: self
                .processors
                .iter()
                .map(|Processor { cpu, .. }| Position {
                    rip: cpu.rip(),
                    activity: cpu.activity,
                    in_guest: cpu.vmx.non_root,
                })
                .collect(),
        }
    }

    /// Bytes for the first serial port, as if typed; software gets them when it listens and has
    /// room.
    pub fn type_in(&self, bytes: &[u8]) {
        self.platform.type_in(bytes);
    }

    /// What the processors share.
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }
}

/// First address of the legacy area that is not RAM to software.
const LEGACY_START: u64 = bios_data::EXTENDED_START;
/// First address above the legacy area.
const LEGACY_END: u64 = 0x10_0000;

/// Puts the ACPI and MultiProcessor tables into the BIOS area, where software also finds them by searching,
/// and the BIOS data areas into low memory.
fn firmware_tables(ram: BusAgent<'_>, processors: &[Processor]) -> Result<Tables, MachineError> {
    let apic_ids: Vec<u32> = (0..processors.len() as u32).collect();
    let features = processors.first().map(|first| first.cpu.cpuid(1, 0));
    let features = features.unwrap_or_default();
    let kind = ProcessorDescription {
        signature: features.eax,
        features: features.edx,
        local_apic_version: apic::local_apic::VERSION_NUMBER,
        io_apic_version: devices::pc::IO_APIC_VERSION.number(),
    };
    let config = TableConfig {
        sleep_type_suspend: Some(acpi_power::SLEEP_TYPE_SUSPEND),
        ..TableConfig::posthaste(&apic_ids)
    };
    let tables =
        acpi::build::build(&config).map_err(|error| MachineError::Tables(error.to_string()))?;
    RamLoader(ram)
        .write(tables.base, &tables.bytes)
        .and_then(|()| {
            let tables = multiprocessor::build(&config, kind);
            RamLoader(ram).write(multiprocessor::BASE, &tables)
        })
        .and_then(|()| bios_data::write(&mut RamLoader(ram)))
        .map_err(|error| MachineError::Tables(error.to_string()))?;
    Ok(tables)
}

/// What E820 would tell.
fn memory_map(ram: &Ram) -> Vec<MemoryRegion> {
    let region = |address: u64, end: u64, kind| MemoryRegion {
        address,
        size: end.saturating_sub(address),
        kind,
        reserved: 0,
    };
    let mut map = vec![
        region(0, LEGACY_START, pvh::MEMORY_RAM),
        region(LEGACY_START, LEGACY_END, pvh::MEMORY_RESERVED),
        region(LEGACY_END, ram.low_size(), pvh::MEMORY_RAM),
        // I/O APIC and local APICs.
        region(0xfec0_0000, HOLE_END, pvh::MEMORY_RESERVED),
    ];
    if ram.size() > HOLE_START {
        let high = ram.size() - HOLE_START;
        map.push(region(HOLE_END, HOLE_END + high, pvh::MEMORY_RAM));
    }
    map
}
