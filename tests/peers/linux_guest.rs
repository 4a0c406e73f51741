//! Debian's kernels, unmodified, as guests whose IPIs do not exit. `cargo xtask test` puts kernels and RAM
//! disk into target/kernels.

use machine::machine::Schedule;
use posthaste::guest_run::{ApicMode, Finished, GuestRun, Switch};
use posthaste::result::Workload;

use crate::linux_console::{Kernel, OPTIONS, WORK, initial_ram_disk, judge};

const DETERMINISTIC: Schedule = Schedule::Deterministic { seed: 1 };

/// A guest with IPI virtualization as it comes, and nothing else set either.
fn guest(kernel: Kernel, apic: ApicMode, vcpus: usize, processors: usize) -> GuestRun {
    GuestRun {
        guest: Some(std::fs::read(kernel.path()).unwrap()),
        initial_ram_disk: Some(
            std::fs::read(initial_ram_disk()).expect("a RAM disk: run cargo xtask guest"),
        ),
        guest_options: OPTIONS.to_owned(),
        apic,
        vcpus,
        processors,
        memory: 512 << 20,
        guest_memory_mib: Some(320),
        limit: 60_000_000_000,
        ..GuestRun::default()
    }
}

/// Boots, works, switches off; every clause of the matrix is judged.
fn boots(kernel: Kernel, apic: ApicMode, vcpus: usize, processors: usize, schedule: Schedule) {
    let mut run = guest(kernel, apic, vcpus, processors);
    run.schedule = schedule;
    // A single CPU has nobody to interrupt.
    if vcpus > 1 {
        run.guest_options = format!("{OPTIONS} {WORK}");
    }
    let finished = run.run(Box::new(|_, _| {})).unwrap();
    judge(&finished.console, vcpus, schedule);
    // A single CPU in xAPIC mode has nothing to route.
    if vcpus > 1 || apic == ApicMode::X2apic {
        let routing = match apic {
            ApicMode::X2apic => "Switched APIC routing to physical x2apic.",
            ApicMode::Xapic => "Setting APIC routing to physical flat.",
        };
        assert!(finished.console.contains(routing), "{}", finished.console);
    }
    if vcpus > 1 {
        workloads_are_virtualized(&finished.result.workloads, vcpus, schedule);
    }
}

/// Each workload's name, and how many IPIs it takes at least: two to a round trip, or one to each busy
/// CPU; few if a waiting thread had not slept yet or the scheduler found work for a CPU that slept.
const WORKLOADS: [(&str, u64); 5] = [
    ("pipe", 150),
    ("futex", 150),
    ("membarrier", 80),
    ("mprotect", 80),
    ("hackbench", 5),
];

fn workloads_are_virtualized(workloads: &[Workload], vcpus: usize, schedule: Schedule) {
    let names: Vec<&str> = workloads.iter().map(|work| work.name.as_str()).collect();
    assert_eq!(names, WORKLOADS.map(|(name, _)| name));
    let (mut sent, mut virtualized) = (0, 0);
    for (work, (_, least)) in workloads.iter().zip(WORKLOADS) {
        let exited = |kind| work.exited_commands.get(kind).copied().unwrap_or(0);
        // One command for all but the sender; with two CPUs that is how Linux interrupts the other.
        let broadcast = exited("broadcast") * (vcpus as u64 - 1);
        let asked = work.unicast_ipis + work.virtualized_self_ipis + exited("self") + broadcast;
        assert_eq!(work.receiver_exits, 0, "{work:?}");
        if schedule != Schedule::Parallel {
            assert!(asked >= least, "{work:?}");
            // What the kernel counted inside the marks, and on both sides of them. Under the parallel
            // schedule the processors come to know of a mark at different times.
            let counted = work.received_ipis..=work.received_ipis_at_most;
            assert!(counted.contains(&asked), "{asked} {work:?}");
        }
        sent += work.unicast_ipis;
        virtualized += work.virtualized_ipis;
    }
    assert!(sent > 0, "{workloads:?}");
    assert!(
        virtualized * 1000 >= sent * 999,
        "{virtualized} of {sent} unicast IPIs were virtualized: {workloads:?}"
    );
}

macro_rules! boots {
    ($($name:ident: $kernel:ident, $apic:ident, $vcpus:literal on $processors:literal, $schedule:expr;)*) => {
        $(#[test]
        fn $name() {
            boots(Kernel::$kernel, ApicMode::$apic, $vcpus, $processors, $schedule);
        })*
    };
}

boots! {
    cloud_x2apic_1_vcpu: Cloud, X2apic, 1 on 1, DETERMINISTIC;
    cloud_x2apic_4_vcpus: Cloud, X2apic, 4 on 4, DETERMINISTIC;
    cloud_xapic_4_vcpus: Cloud, Xapic, 4 on 4, DETERMINISTIC;
    cloud_x2apic_8_vcpus_on_2: Cloud, X2apic, 8 on 2, DETERMINISTIC;
    cloud_xapic_8_vcpus: Cloud, Xapic, 8 on 8, DETERMINISTIC;
    cloud_x2apic_2_vcpus_in_parallel: Cloud, X2apic, 2 on 2, Schedule::Parallel;
    full_x2apic_8_vcpus: Full, X2apic, 8 on 8, DETERMINISTIC;
    full_xapic_2_vcpus: Full, Xapic, 2 on 2, DETERMINISTIC;
}

/// Both kernels, both modes, 1 to 8 vCPUs on as many processors and 8 on 2, but for those above; and
/// some of them in parallel.
#[cfg(feature = "all-tests")]
mod matrix {
    use super::*;

    boots! {
        cloud_xapic_1_vcpu: Cloud, Xapic, 1 on 1, DETERMINISTIC;
        cloud_x2apic_2_vcpus: Cloud, X2apic, 2 on 2, DETERMINISTIC;
        cloud_xapic_2_vcpus: Cloud, Xapic, 2 on 2, DETERMINISTIC;
        cloud_x2apic_8_vcpus: Cloud, X2apic, 8 on 8, DETERMINISTIC;
        cloud_xapic_8_vcpus_on_2: Cloud, Xapic, 8 on 2, DETERMINISTIC;
        full_x2apic_1_vcpu: Full, X2apic, 1 on 1, DETERMINISTIC;
        full_xapic_1_vcpu: Full, Xapic, 1 on 1, DETERMINISTIC;
        full_x2apic_2_vcpus: Full, X2apic, 2 on 2, DETERMINISTIC;
        full_x2apic_4_vcpus: Full, X2apic, 4 on 4, DETERMINISTIC;
        full_xapic_4_vcpus: Full, Xapic, 4 on 4, DETERMINISTIC;
        full_xapic_8_vcpus: Full, Xapic, 8 on 8, DETERMINISTIC;
        full_x2apic_8_vcpus_on_2: Full, X2apic, 8 on 2, DETERMINISTIC;
        full_xapic_8_vcpus_on_2: Full, Xapic, 8 on 2, DETERMINISTIC;
        cloud_x2apic_4_vcpus_in_parallel: Cloud, X2apic, 4 on 4, Schedule::Parallel;
        cloud_xapic_4_vcpus_in_parallel: Cloud, Xapic, 4 on 4, Schedule::Parallel;
        cloud_x2apic_8_vcpus_on_2_in_parallel: Cloud, X2apic, 8 on 2, Schedule::Parallel;
        full_x2apic_4_vcpus_in_parallel: Full, X2apic, 4 on 4, Schedule::Parallel;
    }
}

/// Seeds with which results are compared.
const SEEDS: u64 = if cfg!(feature = "all-tests") { 20 } else { 3 };

/// Both ways of a seed; the mode changes from seed to seed.
fn off_and_on(seed: u64) -> [Finished; 2] {
    let apic = if seed.is_multiple_of(2) {
        ApicMode::Xapic
    } else {
        ApicMode::X2apic
    };
    [Switch::Off, Switch::On].map(|ipi_virtualization| {
        let mut run = guest(Kernel::Cloud, apic, 3, 3);
        run.ipi_virtualization = ipi_virtualization;
        run.schedule = Schedule::Deterministic { seed };
        run.guest_options = format!(
            "{OPTIONS} posthaste.work=pipe:40,futex:40,membarrier:40,mprotect:40,hackbench:10"
        );
        run.run(Box::new(|_, _| {})).unwrap()
    })
}

#[test]
fn results_are_the_same_off_and_on() {
    let results = |finished: &Finished| -> Vec<(String, String)> {
        let pairs = finished.result.workloads.iter();
        pairs
            .map(|work| (work.name.clone(), work.result.clone()))
            .collect()
    };
    let mut first = None;
    let mut traces = std::collections::BTreeSet::new();
    for seed in 1..=SEEDS {
        let [off, on] = off_and_on(seed);
        let wanted = first.get_or_insert_with(|| results(&off)).clone();
        assert_eq!(wanted.len(), WORKLOADS.len());
        assert_eq!(results(&off), wanted, "seed {seed}, off");
        assert_eq!(results(&on), wanted, "seed {seed}, on");
        for (off, on) in off.result.workloads.iter().zip(&on.result.workloads) {
            assert_eq!(
                (off.virtualized_ipis, on.receiver_exits),
                (0, 0),
                "seed {seed}"
            );
            // The same exits of the sender, or none at all.
            assert!(
                off.unicast_ipis > 0 && on.virtualized_share >= 0.999,
                "{on:?}"
            );
        }
        let exits = |finished: &Finished| finished.result.exits.values().sum::<u64>();
        assert!(exits(&on) < exits(&off), "seed {seed}");
        traces.extend([off, on].map(|finished| finished.result.trace_hash));
    }
    // Each run went another way.
    assert_eq!(traces.len() as u64, 2 * SEEDS);
}
