//! Linux's KVM, unmodified, on the machine: it takes IPI virtualization into use by itself, and the IPIs
//! of its guest do not exit.

use std::io::Write;
use std::sync::{Arc, Mutex};

use arch::exit::ExitReason;
use devices::debug_port::PhaseMark;
use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, Module, Report, Schedule};
use machine::platform::Outcome;
use machine::trace::Counters;

use posthaste::guest_run::{ApicMode, GuestRun, Switch};

use crate::linux_console::{self, OPTIONS, cached};

const ROUNDS: u64 = 300;
/// Exits that come from KVM's host and not from the IPIs: its timer, and the guest's reports.
const MOST_OTHER_EXITS: u64 = 60;

#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run(options: &str) -> (Report, String) {
    let console = Console::default();
    let disk = std::fs::read(cached("kvm.cpio")).expect("a RAM disk: run cargo xtask test");
    let mut machine = Machine::new(
        &Configuration {
            processors: 2,
            memory: 512 << 20,
            model: CpuModel::default(),
            schedule: Schedule::Deterministic { seed: 1 },
            engine: Engine::default(),
            limit: 20_000_000_000,
            events: None,
        },
        &Kernel {
            image: &std::fs::read(linux_console::Kernel::Cloud.path()).unwrap(),
            command_line: &format!("{OPTIONS} posthaste.kvm={ROUNDS} {options}"),
            modules: &[Module {
                bytes: &disk,
                command_line: "",
            }],
            protocol: None,
        },
        Box::new(console.clone()),
    )
    .unwrap();
    let report = machine.run();
    let text = String::from_utf8_lossy(&console.0.lock().unwrap()).into_owned();
    (report, text)
}

/// What all processors counted at a mark, and how many instructions they had executed.
fn at(report: &Report, wanted: PhaseMark) -> (Counters, u64) {
    let mark = report.marks.iter().find(|mark| mark.mark == wanted);
    let mark = mark.unwrap_or_else(|| panic!("no mark {wanted:?}"));
    let snapshots = mark.snapshots.iter().flatten();
    snapshots.fold((Counters::default(), 0), |(counters, instructions), one| {
        (
            counters.plus(&one.counters),
            instructions + one.instructions,
        )
    })
}

/// What happened on all processors between the two marks of a phase.
fn in_phase(report: &Report, phase: u8) -> Counters {
    let (begin, _) = at(report, PhaseMark::Begin(phase));
    let (end, _) = at(report, PhaseMark::End(phase));
    end.since(&begin)
}

/// Instructions in VMX root operation in a phase.
fn root_instructions(report: &Report, phase: u8) -> u64 {
    let (_, begin) = at(report, PhaseMark::Begin(phase));
    let (_, end) = at(report, PhaseMark::End(phase));
    (end - begin).saturating_sub(in_phase(report, phase).guest_instructions)
}

#[test]
fn the_ipis_of_kvms_guest_do_not_exit() {
    let (report, console) = run("");
    assert_eq!(report.outcome, Outcome::PowerOff, "{console}");
    assert_eq!(report.unimplemented, []);
    let sent = 2 * ROUNDS;
    for wanted in [
        "#ph kvm enable_ipiv=Y".to_owned(),
        format!(
            "#ph phase name=kvm-unicast apic=x2apic vcpus=2 sent={sent} received={sent} lost=0 verdict=pass"
        ),
        format!(
            "#ph phase name=kvm-unicast apic=xapic vcpus=2 sent={sent} received={sent} lost=0 verdict=pass"
        ),
        "#ph linux verdict=pass".to_owned(),
    ] {
        assert!(
            console.lines().any(|line| line.trim_end() == wanted),
            "{wanted}: {console}"
        );
    }
    for line in console.lines().filter(|line| line.contains("kvm")) {
        for bad in ["unchecked MSR", "WARNING", "disabled", "failed"] {
            assert!(!line.contains(bad), "{line}");
        }
    }
    for phase in [1, 2] {
        let counters = in_phase(&report, phase);
        assert!(counters.ipis_virtualized >= sent, "{counters:?}");
        assert_eq!(
            counters.eois_virtualized, counters.virtual_interrupts,
            "{counters:?}"
        );
        for reason in [
            ExitReason::ApicWrite,
            ExitReason::ApicAccess,
            ExitReason::Wrmsr,
            ExitReason::VirtualizedEoi,
        ] {
            assert_eq!(counters.exits_with(reason), 0, "{counters:?}");
        }
        assert!(counters.total_exits() <= MOST_OTHER_EXITS, "{counters:?}");
    }
}

/// Both hypervisors are asked to do the same in software: an x2APIC unicast IPI from a running virtual
/// processor to another, which takes it by a posted interrupt.
#[test]
fn our_software_path_is_shorter_than_kvms() {
    let (report, console) = run("posthaste.kvm_options=enable_ipiv=0");
    assert!(console.contains("#ph kvm enable_ipiv=N"), "{console}");
    let counters = in_phase(&report, 1);
    assert_eq!(counters.ipis_virtualized, 0);
    assert!(
        counters.exits_with(ExitReason::Wrmsr) >= 2 * ROUNDS,
        "{counters:?}"
    );
    let kvm = root_instructions(&report, 1) as f64 / (2 * ROUNDS) as f64;

    let ours = GuestRun {
        apic: ApicMode::X2apic,
        ipi_virtualization: Switch::Off,
        vcpus: 2,
        processors: 2,
        guest_options: format!("phases=unicast rounds={ROUNDS}"),
        ..GuestRun::default()
    };
    let ours = ours.run(Box::new(|_, _| {})).unwrap().result;
    assert_eq!(ours.virtualized_ipis, 0);
    let ours = ours.root_instructions_per_ipi;
    println!(
        "root instructions for an x2APIC unicast IPI in software: KVM {kvm:.0}, ours {ours:.0}"
    );
    assert!(ours < kvm, "KVM {kvm}, ours {ours}");
}
