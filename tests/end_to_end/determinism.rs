//! The same image, options and seed give the same run; another seed another run with the same end.

use std::path::{Path, PathBuf};
use std::process::Command;

use machine::cpu::Engine;
use machine::machine::Schedule;
use posthaste::guest_run::{ApicMode, GuestRun};
use serde_json::Value;

use crate::json::document;
use crate::program;

const OPTIONS: &str = "rounds=200";

fn trace_hash(seed: u64) -> String {
    let run = GuestRun {
        guest_options: OPTIONS.to_owned(),
        schedule: Schedule::Deterministic { seed },
        ..GuestRun::default()
    };
    let finished = run
        .run(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(finished.result.lost_interrupts, 0);
    finished.result.trace_hash
}

#[test]
fn twice_in_a_process_and_in_two_processes() {
    let first = trace_hash(1);
    assert_eq!(first, trace_hash(1));
    let arguments = ["run", "--json", "--append", OPTIONS, "--seed", "1"];
    for _ in 0..2 {
        assert_eq!(
            document(&arguments)["runs"][0]["trace_hash"],
            Value::from(first.clone())
        );
    }
}

#[test]
fn another_seed_is_another_run_with_the_same_verdict() {
    let hashes: Vec<String> = (1..=4).map(trace_hash).collect();
    for (i, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..i].contains(hash), "{hashes:?}");
    }
}

/// The translator changes nothing but how long it takes; blocks are translated when they first run, to
/// have as many of them as there can be.
#[test]
fn engines_give_the_same_run() {
    for (seed, apic) in [(1, ApicMode::X2apic), (2, ApicMode::Xapic)] {
        let [one, other] = [Engine::Interpreter, Engine::Translator { after: 1 }].map(|engine| {
            let run = GuestRun {
                guest_options: OPTIONS.to_owned(),
                schedule: Schedule::Deterministic { seed },
                apic,
                engine,
                ..GuestRun::default()
            };
            run.run(Box::new(|_, _| {}))
                .unwrap_or_else(|error| panic!("{engine:?}: {error}"))
        });
        assert_eq!(one.report.processors, other.report.processors);
        assert_eq!(one.report.trace_hash, other.report.trace_hash);
        assert_eq!(one.report.positions, other.report.positions);
        assert_eq!(one.console, other.console);
    }
}

/// Has cargo build the command as a user would.
fn built(profile: &[&str], directory: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--package", "posthaste", "--target-dir"])
        .arg(&target)
        .args(profile)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    target.join(directory).join("posthaste")
}

#[test]
fn debug_and_release_builds() {
    let arguments = ["run", "--json", "--append", OPTIONS];
    let debug = program::run(&built(&[], "debug"), &arguments);
    let release = program::run(&built(&["--release"], "release"), &arguments);
    assert_eq!(debug.status, Some(0), "{debug:#?}");
    // The whole document, the trace hash included.
    assert_eq!(debug.output, release.output);
    assert_eq!(debug.output, program::posthaste(&arguments).output);
}
