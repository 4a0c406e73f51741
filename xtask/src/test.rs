//! The tests, in tiers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::runner::{Tested, cargo, tests};
use crate::{linux_guest, packages};

/// Optimized, with every run-time check of a debug build.
const PROFILE: &str = "checked";
/// What the instruction comparison leaves, from the workspace's directory.
const COMPARISON: &str = "target/tmp/comparison.txt";
/// Packages with model-checked protocols, and where their models are.
const MODEL_CHECKED: [(&str, &[&str]); 2] = [
    ("posthaste-apic", &["--test", "loom"]),
    ("posthaste-hypervisor", &["--lib", "model_checked"]),
];

/// How much of it: each tier has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// What must pass before a change lands; 15 minutes on two idle cores at most.
    Landing,
    /// Whole matrices, more seeds, more random guests; 75 minutes at most.
    All,
    /// Searches that take as long as they take.
    Nightly,
}

impl Tier {
    /// The features that make cargo build the tier's tests.
    pub(crate) const fn features(self) -> &'static str {
        match self {
            Self::Landing => "posthaste/peers,posthaste-guest/peers",
            Self::All => "posthaste/peers,posthaste-guest/peers,posthaste/all-tests",
            Self::Nightly => "posthaste/peers,posthaste-guest/peers,posthaste/nightly-tests",
        }
    }

    /// The test runner's profile, which says how long a test may take.
    const fn runner_profile(self) -> &'static str {
        match self {
            Self::Landing | Self::All => "default",
            Self::Nightly => "nightly",
        }
    }
}

/// Runs a tier; the closing lines are what the runners counted.
pub(crate) fn run(tier: Tier) -> Result<(), String> {
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
    let workspace = tests(workspace(tier))?;
    crate::picture::check()?;

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

fn workspace(tier: Tier) -> Command {
    if has_nextest() {
        cargo(&[
            "nextest",
            "run",
            "--workspace",
            "--profile",
            tier.runner_profile(),
            "--cargo-profile",
            PROFILE,
            "--features",
            tier.features(),
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
            tier.features(),
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
