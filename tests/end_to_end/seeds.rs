//! A search for races: the storm on fewer processors than there are vCPUs, seed by seed.

use std::sync::atomic::{AtomicU64, Ordering};

use machine::machine::Schedule;
use posthaste::guest_run::{ApicMode, GuestRun, Switch};

const SEEDS: u64 = 200;

#[test]
fn two_hundred_seeds_of_the_storm_lose_nothing() {
    let next = AtomicU64::new(1);
    let ipis = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    ipis.fetch_add(storm(seed), Ordering::Relaxed);
                }
            });
        }
    });
    let ipis = ipis.into_inner();
    assert!(ipis >= SEEDS * 1000, "only {ipis} IPIs");
}

/// Runs the storm, in each APIC mode with IPI virtualization on and off in turn; gives how many
/// IPIs were sent.
fn storm(seed: u64) -> u64 {
    let run = GuestRun {
        guest_options: "phases=storm rounds=1000".to_owned(),
        apic: if seed & 1 == 0 {
            ApicMode::Xapic
        } else {
            ApicMode::X2apic
        },
        ipi_virtualization: if seed & 2 == 0 {
            Switch::On
        } else {
            Switch::Off
        },
        vcpus: 8,
        processors: 3,
        schedule: Schedule::Deterministic { seed },
        ..GuestRun::default()
    };
    // That the statistics agree is part of it.
    let finished = run
        .run(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(finished.result.lost_interrupts, 0, "seed {seed}");
    let storm = finished
        .lines
        .iter()
        .find(|line| line.kind == "phase" && line.get("name") == "storm")
        .unwrap_or_else(|| panic!("seed {seed}: no storm"));
    assert_eq!(storm.get("verdict"), "pass", "seed {seed}");
    assert_eq!(storm.get("vcpus"), "8");
    storm.number("sent")
}
