//! IPIs to an APIC ID are left to software for a while, and only those: the hypervisor says so, and the
//! machine's counters agree.

use devices::debug_port::PhaseMark;
use machine::trace::{CommandKind, Counters};
use posthaste::guest_run::{ApicMode, Finished, GuestRun};
use posthaste_guest::phase::Phase;

/// Of all processors, between the marks of a phase.
#[track_caller]
fn counted(finished: &Finished, phase: Phase) -> Counters {
    let at = |mark| {
        let mut marks = finished.report.marks.iter();
        &marks.find(|each| each.mark == mark).unwrap().snapshots
    };
    let begin = at(PhaseMark::Begin(phase.number()));
    let end = at(PhaseMark::End(phase.number()));
    begin
        .iter()
        .zip(end)
        .map(|(begin, end)| {
            let (begin, end) = (begin.as_ref().unwrap(), end.as_ref().unwrap());
            end.counters.since(&begin.counters)
        })
        .fold(Counters::default(), |sum, one| sum.plus(&one))
}

fn inhibited(finished: &Finished, reason: &str) -> u64 {
    let line = finished
        .lines
        .iter()
        .find(|line| line.kind == "inhibitions");
    line.unwrap_or_else(|| panic!("nothing said:\n{}", finished.console))
        .number(reason)
}

#[test]
fn a_disabled_local_apic_is_left_to_software_and_nothing_stays_so() {
    for (apic, rewritten) in [(ApicMode::X2apic, 0), (ApicMode::Xapic, 1)] {
        for processors in [4, 3] {
            let run = GuestRun {
                guest_options: "phases=xapic_id,disabled,timer rounds=200".to_owned(),
                apic,
                processors,
                ..GuestRun::default()
            };
            let finished = run
                .run(Box::new(|_, _| {}))
                .unwrap_or_else(|error| panic!("{error}"));
            let disabled = counted(&finished, Phase::Disabled);
            // While it is disabled; then from each of the four, twice.
            assert_eq!(disabled.commands_exited_of(CommandKind::Unicast), 3);
            assert!(
                disabled.ipis_virtualized >= 8,
                "{}",
                disabled.ipis_virtualized
            );
            // A storm, everything as it was.
            let timer = counted(&finished, Phase::Timer);
            assert_eq!(timer.commands_exited_of(CommandKind::Unicast), 0);
            assert!(timer.ipis_virtualized > 0);

            // To hold what is pending, and while it is disabled in either way.
            assert_eq!(inhibited(&finished, "software-disabled"), 2);
            assert_eq!(inhibited(&finished, "apic-disabled"), 1);
            assert_eq!(inhibited(&finished, "xapic-id-rewritten"), rewritten);
            let said = |reason: &str| {
                let line = format!("IPIs to APIC ID 1 are left to software: {reason};");
                finished.console.matches(&line).count()
            };
            assert_eq!((said("software-disabled"), said("apic-disabled")), (1, 1));
            assert_eq!(said("xapic-id-rewritten"), rewritten as usize);
        }
    }
}

#[test]
fn nothing_is_said_of_what_is_not_in_use() {
    let run = GuestRun {
        guest_options: "phases=disabled rounds=20".to_owned(),
        hypervisor_options: "ipiv=off".to_owned(),
        ..GuestRun::default()
    };
    let finished = run
        .run(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(!finished.console.contains("left to software"));
    assert!(finished.lines.iter().all(|line| line.kind != "inhibitions"));
}
