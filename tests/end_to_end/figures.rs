//! The figures of the demonstration. Each run's exit statistics are compared with the machine's
//! counters, reason by reason: [`GuestRun::run`] fails if one differs.

use posthaste::guest_run::{ApicMode, Finished, GuestRun, Switch};
use posthaste::result::Disagreement;

/// The most that dispatching an x2APIC unicast IPI in software may cost, in instructions of VMX root
/// operation from the exit to the resume.
const MOST_ROOT_INSTRUCTIONS: f64 = 400.0;

fn demonstration(apic: ApicMode, ipi_virtualization: Switch) -> Finished {
    let run = GuestRun {
        apic,
        ipi_virtualization,
        ..GuestRun::default()
    };
    let finished = run
        .run(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(finished.result.lost_interrupts, 0);
    assert_eq!((finished.result.vcpus, finished.result.processors), (4, 4));
    // 10,000 rounds of two pairs, there and back.
    assert_eq!(finished.result.unicast_ipis, 40_000);
    assert_eq!(finished.report.unimplemented, []);
    finished
}

fn no_exits(apic: ApicMode) {
    let result = demonstration(apic, Switch::On).result;
    assert_eq!(result.virtualized_ipis, result.unicast_ipis);
    assert_eq!(format!("{:.2}", result.exits_per_unicast_ipi), "0.00");
}

fn an_exit_each(apic: ApicMode) -> f64 {
    let result = demonstration(apic, Switch::Off).result;
    assert_eq!(result.virtualized_ipis, 0);
    assert!(result.exits_per_unicast_ipi >= 1.0, "{result:#?}");
    result.root_instructions_per_ipi
}

#[test]
fn x2apic_unicast_ipis_cost_no_exit_with_ipi_virtualization() {
    no_exits(ApicMode::X2apic);
}

#[test]
fn xapic_unicast_ipis_cost_no_exit_with_ipi_virtualization() {
    no_exits(ApicMode::Xapic);
}

#[test]
fn x2apic_unicast_ipis_cost_an_exit_and_few_instructions_without() {
    let root = an_exit_each(ApicMode::X2apic);
    assert!(root <= MOST_ROOT_INSTRUCTIONS, "{root} root instructions");
    // One exit and one resume are more than nothing: the figure is measured.
    assert!(root > 20.0, "{root} root instructions");
}

#[test]
fn xapic_unicast_ipis_cost_an_exit_without() {
    an_exit_each(ApicMode::Xapic);
}

#[test]
fn statistics_that_differ_by_one_are_noticed() {
    let run = GuestRun {
        guest_options: "phases=self rounds=20".to_owned(),
        ..GuestRun::default()
    };
    let mut finished = run
        .run(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    let all = finished
        .lines
        .iter_mut()
        .rfind(|line| line.kind == "exits" && line.get("vcpu") == "all")
        .unwrap();
    let (name, count) = all
        .values
        .iter_mut()
        .find(|(name, _)| *name != "vcpu")
        .map(|(name, value)| (name.clone(), value))
        .unwrap();
    let number: u64 = count.parse().unwrap();
    *count = (number + 1).to_string();
    match finished.result.agreement(&finished.report, &finished.lines) {
        Err(Disagreement::Reason {
            reason,
            machine,
            hypervisor,
        }) => {
            assert_eq!(reason.name(), name);
            assert_eq!((machine, hypervisor), (number, number + 1));
        }
        other => panic!("{other:?}"),
    }
    finished.lines.retain(|line| line.kind != "exits");
    assert_eq!(
        finished.result.agreement(&finished.report, &finished.lines),
        Err(Disagreement::NoStatistics)
    );
}
