//! What the tests with hostile software share: random instructions, and a watchdog.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

pub mod instructions;
#[path = "../host_comparison/random.rs"]
pub mod random;
pub mod watchdog;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use random::Random;
use watchdog::Watchdog;

/// Runs `case` for each of `count` seeds (`POSTHASTE_SEEDS` multiplies them, `POSTHASTE_SEED` runs
/// one) and gathers those that panic; a case that hangs ends the process with its seed.
pub fn for_seeds(name: &str, count: u64, case: impl Fn(&mut Random)) {
    let variable = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match variable("POSTHASTE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * variable("POSTHASTE_SEEDS").unwrap_or(1),
    };
    let watchdog = Watchdog::new(name);
    let mut failed = Vec::new();
    for seed in seeds {
        watchdog.begin(seed);
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678);
        // The generator's first values are alike for like seeds.
        random.next();
        let run = AssertUnwindSafe(|| case(&mut random));
        if let Err(panic) = catch_unwind(run) {
            failed.push(format!("{name}: seed {seed}: {}", text(&*panic)));
        }
    }
    watchdog.end();
    assert!(
        failed.is_empty(),
        "{} seeds panicked, the first of them:\n{}",
        failed.len(),
        failed[..failed.len().min(8)].join("\n")
    );
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}
