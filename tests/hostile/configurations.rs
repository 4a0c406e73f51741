//! Configurations at the edges: an orderly run, or an error that says what to change.

use machine::machine::MachineError;
use machine::platform::Outcome;
use posthaste::guest_run::{GuestRun, RunError};

fn ended(run: &GuestRun) -> (Outcome, String) {
    let finished = run
        .run_to_end(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(!finished.console.contains("panic"), "{}", finished.console);
    (finished.report.outcome, finished.console)
}

#[test]
fn processors_and_memory_at_their_edges() {
    for (processors, vcpus, mebibytes) in [
        (1, 1, 16),
        (1, 255, 16),
        (255, 1, 16),
        (255, 255, 64),
        (2, 64, 32),
    ] {
        let (outcome, console) = ended(&GuestRun {
            processors,
            vcpus,
            memory: mebibytes << 20,
            limit: 60_000_000,
            guest_options: "phases=unicast rounds=1".to_owned(),
            ..GuestRun::default()
        });
        assert!(
            matches!(outcome, Outcome::Exit(_) | Outcome::Limit { .. }),
            "{processors} processors, {vcpus} vCPUs, {mebibytes} MiB: {outcome}: {console}"
        );
    }
}

#[test]
fn what_cannot_be_built_is_refused() {
    let refused = |change: fn(&mut GuestRun)| {
        let mut run = GuestRun::default();
        change(&mut run);
        run.run_to_end(Box::new(|_, _| {}))
            .expect_err("it cannot be built")
    };
    for change in [
        (|run| run.memory = 0) as fn(&mut GuestRun),
        |run| run.memory = 1 << 20,
        |run| run.memory = (1 << 20) + 1,
        |run| run.memory = 1 << 60,
        |run| run.memory = u64::MAX - 4095,
        |run| run.processors = 0,
        |run| run.processors = 256,
        |run| run.processors = usize::MAX,
    ] {
        let error = refused(change);
        assert!(
            matches!(error, RunError::Machine(_)) && !error.to_string().is_empty(),
            "{error}"
        );
    }
    assert!(matches!(
        refused(|run| run.processors = 0),
        RunError::Machine(MachineError::Processors(0))
    ));
    for vcpus in [0, 256, usize::MAX] {
        let run = GuestRun {
            vcpus,
            ..GuestRun::default()
        };
        let error = run.run_to_end(Box::new(|_, _| {}));
        assert!(matches!(error, Err(RunError::VirtualProcessors(_))));
    }
}

#[test]
fn options_that_make_no_sense_stop_the_hypervisor_in_order() {
    for options in [
        "memory=0",
        "memory=1",
        "memory=999999999999999999999",
        "memory=18446744073709551615",
        "memory=100000",
        "vcpus=0",
        "vcpus=4294967297",
        "ipiv= pi=maybe = == \u{1} \u{e4}",
        "seed=-1 seed=0x",
        "apicv=off ipiv=off pi=off vid=off apicreg=off vpid=off",
    ] {
        let (outcome, console) = ended(&GuestRun {
            hypervisor_options: options.to_owned(),
            vcpus: 2,
            processors: 2,
            limit: 60_000_000,
            guest_options: "phases=unicast rounds=1".to_owned(),
            ..GuestRun::default()
        });
        assert!(
            matches!(outcome, Outcome::Exit(_) | Outcome::Limit { .. }),
            "{options}: {outcome}: {console}"
        );
    }
}
