//! The figures of a run, as the table and `--json` show them.

use std::collections::BTreeMap;
use std::fmt;

use arch::exit::ExitReason;
use devices::debug_port::PhaseMark;
use machine::machine::Report;
use machine::platform::Mark;
use machine::trace::{CommandKind, Counters};
use serde::Serialize;

use crate::guest_run::GuestRun;
use crate::report_lines::{ReportLine, sum};

/// Number of the phase of unicast IPIs between running vCPUs, which the per-IPI figures cover.
const UNICAST_PHASE: u8 = 1;

/// One run. The fields are those of the documented JSON, schema 2.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunResult {
    /// `x2apic` or `xapic`.
    pub apic: &'static str,
    /// Whether the hypervisor used IPI virtualization, by its own report.
    pub ipi_virtualization: bool,
    /// Virtual processors.
    pub vcpus: usize,
    /// Processors of the machine.
    pub processors: usize,
    /// Seed of the schedule; 0 under the parallel one.
    pub seed: u64,
    /// Unicast IPIs sent between running vCPUs, as the guest counted them.
    pub unicast_ipis: u64,
    /// How many of them the processor virtualized.
    pub virtualized_ipis: u64,
    /// VM exits of all processors during that phase, per unicast IPI.
    pub exits_per_unicast_ipi: f64,
    /// Instructions in VMX root operation during that phase, per unicast IPI.
    pub root_instructions_per_ipi: f64,
    /// IPIs that the processor virtualized in the whole run, from the guest's start-up on.
    pub whole_run_ipis: u64,
    /// Self-IPIs that the processor virtualized in the whole run.
    pub whole_run_self_ipis: u64,
    /// Notification IPIs that IPI virtualization sent in the whole run.
    pub notifications: u64,
    /// Interrupts that the guest missed in the whole run.
    pub lost_interrupts: u64,
    /// VM exits of the whole run by reason; reasons that did not occur are absent.
    pub exits: BTreeMap<&'static str, u64>,
    /// What each workload of the guest did, in their order; empty if the guest reported none.
    pub workloads: Vec<Workload>,
    /// Hash of every event with its time.
    pub trace_hash: String,
}

/// One workload of a guest, between its two phase marks. All but the first five fields is the machine's
/// count, of all processors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Rounds, as the guest was told.
    pub rounds: u64,
    /// What it computed, 16 hexadecimal digits.
    pub result: String,
    /// IPIs that the guest's kernel counted as received between the marks.
    pub received_ipis: u64,
    /// And those that it counted around the marks too: what was sent between them is not more.
    pub received_ipis_at_most: u64,
    /// Unicast IPIs that the guest sent.
    pub unicast_ipis: u64,
    /// Those of them that the processor virtualized: the sender did not exit.
    pub virtualized_ipis: u64,
    /// `virtualized_ipis` by `unicast_ipis`; 1 if there were none.
    pub virtualized_share: f64,
    /// Self-IPIs that the processor virtualized.
    pub virtualized_self_ipis: u64,
    /// Interrupt commands that caused an exit, by kind; kinds that did not occur are absent.
    pub exited_commands: BTreeMap<&'static str, u64>,
    /// Notifications for which a running receiver had to leave the guest.
    pub receiver_exits: u64,
    /// VM exits by reason; reasons that did not occur are absent.
    pub exits: BTreeMap<&'static str, u64>,
    /// Instructions executed in VMX non-root operation.
    pub guest_instructions: u64,
    /// Instructions executed in VMX root operation.
    pub root_instructions: u64,
    /// Virtual time in nanoseconds.
    pub virtual_time: u64,
}

impl Workload {
    /// The figures of the workload that a guest's line names.
    fn new(report: &Report, line: &ReportLine) -> Self {
        // A number that is no phase was marked by nobody.
        let phase = u8::try_from(line.number("phase"))
            .map_or_else(|_| Phase::default(), |number| Phase::find(report, number));
        let counters = &phase.counters;
        let virtualized_ipis = counters.ipis_virtualized;
        let unicast_ipis = virtualized_ipis + counters.commands_exited_of(CommandKind::Unicast);
        Self {
            name: line.get("name").to_owned(),
            rounds: line.number("rounds"),
            result: line.get("result").to_owned(),
            received_ipis: line.number("received"),
            received_ipis_at_most: line.number("received_at_most"),
            unicast_ipis,
            virtualized_ipis,
            virtualized_share: if unicast_ipis == 0 {
                1.0
            } else {
                virtualized_ipis as f64 / unicast_ipis as f64
            },
            virtualized_self_ipis: counters.self_ipis_virtualized,
            exited_commands: CommandKind::ALL
                .into_iter()
                .map(|kind| (kind.name(), counters.commands_exited_of(kind)))
                .filter(|(_, count)| *count != 0)
                .collect(),
            receiver_exits: counters.notifications_exited,
            exits: exits_by_name(counters),
            guest_instructions: counters.guest_instructions,
            root_instructions: phase.root_instructions,
            virtual_time: phase.time,
        }
    }
}

/// The document that `--json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// 2.
    pub schema: u32,
    /// The runs, in the order they were made.
    pub runs: Vec<RunResult>,
}

impl Document {
    /// The document of `runs`.
    pub const fn new(runs: Vec<RunResult>) -> Self {
        Self { schema: 2, runs }
    }
}

impl RunResult {
    /// The figures of a finished run.
    pub fn new(run: &GuestRun, report: &Report, lines: &[ReportLine]) -> Self {
        let phase = Phase::find(report, UNICAST_PHASE);
        let phases = || lines.iter().filter(|line| line.kind == "phase");
        let unicast = phases().filter(|line| line.get("name") == "unicast");
        let unicast_ipis = sum(unicast, "sent");
        let per_ipi = |count: u64| {
            if unicast_ipis == 0 {
                0.0
            } else {
                count as f64 / unicast_ipis as f64
            }
        };
        let total = total(report);
        Self {
            apic: run.apic.name(),
            ipi_virtualization: uses(lines, "ipi_virtualization"),
            vcpus: run.vcpus,
            processors: run.processors,
            seed: run.seed(),
            unicast_ipis,
            virtualized_ipis: phase.counters.ipis_virtualized,
            exits_per_unicast_ipi: per_ipi(phase.counters.total_exits()),
            root_instructions_per_ipi: per_ipi(phase.root_instructions),
            whole_run_ipis: total.ipis_virtualized,
            whole_run_self_ipis: total.self_ipis_virtualized,
            notifications: total.notifications_sent,
            lost_interrupts: sum(phases(), "lost"),
            exits: exits_by_name(&total),
            workloads: lines
                .iter()
                .filter(|line| line.kind == "work")
                .map(|line| Workload::new(report, line))
                .collect(),
            trace_hash: format!("{:016x}", report.trace_hash),
        }
    }

    /// Compares the hypervisor's statistics with the machine's counters, reason by reason.
    pub fn agreement(&self, report: &Report, lines: &[ReportLine]) -> Result<(), Disagreement> {
        let reported = lines
            .iter()
            .rfind(|line| line.kind == "exits" && line.get("vcpu") == "all")
            .ok_or(Disagreement::NoStatistics)?;
        let counted = exits_by_name(&total(report));
        for reason in ExitReason::ALL {
            let machine = counted.get(reason.name()).copied().unwrap_or(0);
            let hypervisor = reported.number(reason.name());
            if machine != hypervisor {
                return Err(Disagreement::Reason {
                    reason: *reason,
                    machine,
                    hypervisor,
                });
            }
        }
        Ok(())
    }
}

/// How the hypervisor's statistics differ from the machine's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The hypervisor printed none.
    NoStatistics,
    /// One reason's count differs.
    Reason {
        /// The reason.
        reason: ExitReason,
        /// What the machine counted.
        machine: u64,
        /// What the hypervisor says.
        hypervisor: u64,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStatistics => write!(f, "the hypervisor printed no exit statistics"),
            Self::Reason {
                reason,
                machine,
                hypervisor,
            } => write!(
                f,
                "the machine counted {machine} exits {}, the hypervisor {hypervisor}",
                reason.name()
            ),
        }
    }
}

/// Whether the hypervisor said that it uses a feature of the processor. It does before the guest can say anything.
fn uses(lines: &[ReportLine], feature: &str) -> bool {
    lines
        .iter()
        .find(|line| line.kind == "capability" && line.get("name") == feature)
        .is_some_and(|line| line.get("used") == "yes")
}

fn total(report: &Report) -> Counters {
    report
        .processors
        .iter()
        .fold(Counters::default(), |sum, one| sum.plus(&one.counters))
}

fn exits_by_name(counters: &Counters) -> BTreeMap<&'static str, u64> {
    ExitReason::ALL
        .iter()
        .map(|reason| (reason.name(), counters.exits_with(*reason)))
        .filter(|(_, count)| *count != 0)
        .collect()
}

/// What all processors did between the marks of one phase.
#[derive(Default)]
struct Phase {
    counters: Counters,
    root_instructions: u64,
    /// Nanoseconds.
    time: u64,
}

impl Phase {
    fn find(report: &Report, number: u8) -> Self {
        let at = |mark| report.marks.iter().find(|place| place.mark == mark);
        let mut phase = Self::default();
        let (Some(begin), Some(end)) = (at(PhaseMark::Begin(number)), at(PhaseMark::End(number)))
        else {
            return phase;
        };
        // The processor that makes a mark is the first that comes to know of it.
        let first = |mark: &Mark| mark.snapshots.iter().flatten().map(|at| at.time).min();
        phase.time = first(end)
            .zip(first(begin))
            .map_or(0, |(end, begin)| end.saturating_sub(begin));
        for (begin, end) in begin.snapshots.iter().zip(&end.snapshots) {
            let (Some(begin), Some(end)) = (begin, end) else {
                continue;
            };
            let counters = end.counters.since(&begin.counters);
            let instructions = end.instructions.wrapping_sub(begin.instructions);
            phase.root_instructions += instructions.saturating_sub(counters.guest_instructions);
            phase.counters = phase.counters.plus(&counters);
        }
        phase
    }
}
