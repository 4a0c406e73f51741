//! Software that sleeps for good under a timer that ticks reaches the limit all the same.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;

use posthaste_machine::cpu::Processor;
use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::{Deterministic, run_parallel};

/// Starts the local APIC's timer with a period of 16 microseconds, then CLI and HLT.
fn sleeper() -> Processor {
    let mut code = Vec::new();
    for (register, value) in [(0xf0_u32, 0x1ff_u32), (0x320, 0x2_0040), (0x380, 800)] {
        code.push(0xbb); // mov ebx, register
        code.extend((0xfee0_0000 + register).to_le_bytes());
        code.extend([0xc7, 0x03]); // mov dword [rbx], value
        code.extend(value.to_le_bytes());
    }
    code.extend([0xfa, 0xf4, 0xeb, 0xfd]); // cli; again: hlt; jmp again
    support::long_mode(&code)
}

#[test]
fn of_the_deterministic_schedule() {
    let mut processors = [sleeper()];
    let platform = processors[0].cpu.platform.clone();
    let outcome = Deterministic::new(1).run_until(&platform, &mut processors, 100_000);
    assert_eq!(outcome, None);
    assert!(processors[0].cpu.instructions < 100);
    assert!(processors[0].cpu.next_own_event().is_some(), "no timer");
}

#[test]
fn of_the_parallel_schedule() {
    let mut processors = [sleeper()];
    let platform = processors[0].cpu.platform.clone();
    let outcome = run_parallel(&platform, &mut processors, 20_000_000);
    assert!(matches!(outcome, Outcome::Limit { .. }), "{outcome}");
}
