//! A machine in which nobody can wake anybody says so, under either schedule.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;

use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::{Deterministic, run_parallel};

/// CLI and HLT, without a timer.
const HALTS: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
const LIMIT: u64 = 1 << 40;

#[test]
fn of_the_deterministic_schedule() {
    let mut processors = support::long_mode_processors([&HALTS, &HALTS]);
    let platform = processors[0].cpu.platform.clone();
    let outcome = Deterministic::new(1).run_until(&platform, &mut processors, LIMIT);
    assert_eq!(outcome, Some(Outcome::Deadlock));
}

#[test]
fn of_the_parallel_schedule() {
    let mut processors = support::long_mode_processors([&HALTS, &HALTS]);
    let platform = processors[0].cpu.platform.clone();
    let outcome = run_parallel(&platform, &mut processors, LIMIT);
    assert_eq!(outcome, Outcome::Deadlock);
}

/// One that executes may wake the others any time.
#[test]
fn not_while_one_runs() {
    // again: jmp again
    let mut processors = support::long_mode_processors([&HALTS, &[0xeb, 0xfe]]);
    let platform = processors[0].cpu.platform.clone();
    let outcome = run_parallel(&platform, &mut processors, 20_000_000);
    assert!(matches!(outcome, Outcome::Limit { .. }), "{outcome}");
}
