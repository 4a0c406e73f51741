//! Every test there is.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::runner::{Tested, cargo, tests};
use crate::{linux_guest, packages};

/// Optimized, with every run-time check of a debug build.
const PROFILE: &str = "checked";
/// The tests that need Bochs, QEMU and GRUB.
const FEATURES: &str = "posthaste/peers,posthaste-guest/peers";
/// What the instruction comparison leaves, from the workspace's directory.
const COMPARISON: &str = "target/tmp/comparison.txt";
/// Packages with model-checked protocols, and where their models are.
const MODEL_CHECKED: [(&str, &[&str]); 2] = [
    ("posthaste-apic", &["--test", "loom"]),
    ("posthaste-hypervisor", &["--lib", "model_checked"]),
];

/// Runs them; the closing lines are what the runners counted.
pub(crate) fn run() -> Result<(), String> {
    packages::ensure()?;
    linux_guest::prepare()?;
    let comparison = crate::root().join(COMPARISON);
    if comparison.exists() {
        fs::remove_file(&comparison).map_err(|error| format!("{COMPARISON}: {error}"))?;
    }

    let mut models = Vec::new();
    for (package, models_are) in MODEL_CHECKED {
        let tested = model_checked(package, models_are)?;
        let passed = tested.count.passed;
        models.push(format!("models of {package}: {passed} passed"));
    }
    let documentation = tests(cargo(&[
        "test",
        "--workspace",
        "--doc",
        "--profile",
        PROFILE,
    ]));
    let workspace = tests(workspace())?;

    eprintln!();
    for line in models {
        println!("{line}");
    }
    match documentation {
        Ok(tested) => println!("documentation: {} passed", tested.count.passed),
        Err(error) => return Err(error),
    }
    println!("{}", compared(&comparison)?);
    println!("{}", closing(&workspace));
    Ok(())
}

fn has_nextest() -> bool {
    cargo(&["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn workspace() -> Command {
    if has_nextest() {
        cargo(&[
            "nextest",
            "run",
            "--workspace",
            "--cargo-profile",
            PROFILE,
            "--features",
            FEATURES,
            "--no-fail-fast",
        ])
    } else {
        cargo(&[
            "test",
            "--workspace",
            "--lib",
            "--tests",
            "--profile",
            PROFILE,
            "--features",
            FEATURES,
            "--no-fail-fast",
        ])
    }
}

fn model_checked(package: &str, models_are: &[&str]) -> Result<Tested, String> {
    let mut command = cargo(&["test", "-p", package, "--release"]);
    command
        .args(models_are)
        .env("CARGO_TARGET_DIR", crate::root().join("target/loom"))
        .env("RUSTFLAGS", "--cfg loom");
    tests(command)
}

/// The instruction comparison's own closing line.
fn compared(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| {
        format!(
            "the comparison with the host's processor left no result ({}: {error})",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

/// The runner's line; libtest has one for each binary, so there it is the sum.
fn closing(tested: &Tested) -> String {
    if tested.summary.starts_with("Summary") {
        tested.summary.clone()
    } else {
        let count = tested.count;
        format!(
            "test result: ok. {} passed; {} failed; {} ignored",
            count.passed, count.failed, count.skipped
        )
    }
}
