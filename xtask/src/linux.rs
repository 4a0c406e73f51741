//! Boots Debian's kernels on the bare machine and reads what they say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{initramfs, kernels, root};

/// Warnings of the kernel that say nothing about the machine, and why.
const ALLOWED: [(&str, &str); 2] = [
    (
        "fail to add MMCONFIG information",
        "a PC without PCI Express has no memory-mapped configuration space",
    ),
    (
        "hrtimer: interrupt took",
        "with the parallel schedule time is the host's, and the host has other things to do",
    ),
];

const SCHEDULES: [&str; 2] = ["deterministic", "parallel"];
const CPUS: [u32; 4] = [1, 2, 4, 8];

/// Boots both kernels with 1, 2, 4 and 8 processors under both schedules.
pub(crate) fn run() -> Result<(), String> {
    let kernels = kernels::ensure(&root())?;
    let image = initramfs::build(&kernels.busybox, &[])?;
    let initrd = root().join("target/kernels/initramfs.cpio");
    std::fs::write(&initrd, image).map_err(|error| format!("{}: {error}", initrd.display()))?;
    let posthaste = build()?;
    let mut failures = Vec::new();
    for (name, kernel) in [("cloud", &kernels.cloud), ("full", &kernels.full)] {
        for schedule in SCHEDULES {
            for cpus in CPUS {
                let boot = Boot {
                    posthaste: &posthaste,
                    kernel,
                    initrd: &initrd,
                    schedule,
                    cpus,
                };
                let start = Instant::now();
                let result = boot.run();
                let seconds = start.elapsed().as_secs_f64();
                let verdict = result.as_ref().map_or_else(String::as_str, |()| "passed");
                println!("{name} kernel, {cpus} CPUs, {schedule}: {verdict} ({seconds:.1} s)");
                if result.is_err() {
                    failures.push(format!("{name} {cpus} {schedule}"));
                }
            }
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failures.join(", ")))
    }
}

fn build() -> Result<PathBuf, String> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "posthaste"])
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    if status.success() {
        Ok(target.join("release/posthaste"))
    } else {
        Err("the build failed".to_owned())
    }
}

struct Boot<'a> {
    posthaste: &'a Path,
    kernel: &'a Path,
    initrd: &'a Path,
    schedule: &'a str,
    cpus: u32,
}

impl Boot<'_> {
    fn run(&self) -> Result<(), String> {
        let output = Command::new(self.posthaste)
            .arg("machine")
            .arg("--kernel")
            .arg(self.kernel)
            .arg("--initrd")
            .arg(self.initrd)
            .args(["--append", "console=ttyS0 panic=-1", "--memory", "1024"])
            .args(["--cpus", &self.cpus.to_string()])
            .args(["--schedule", self.schedule])
            .args(["--limit", "60000000000"])
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.posthaste.display()))?;
        let console = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let last = console.lines().rfind(|line| !line.trim().is_empty());
            return Err(format!(
                "{}; {}",
                error.trim(),
                last.unwrap_or("no console")
            ));
        }
        judge(&console, self.cpus)
    }
}

/// Whether a console shows what it should, and nothing that it should not.
fn judge(console: &str, cpus: u32) -> Result<(), String> {
    let lines = || console.lines().map(str::trim_end);
    for wanted in [
        format!("#ph linux nproc={cpus} clock=tsc"),
        "#ph linux verdict=pass".to_owned(),
    ] {
        if !lines().any(|line| line == wanted) {
            return Err(format!("no line {wanted:?} on the console"));
        }
    }
    // A second asleep is one, or two if the host kept the machine from waking in time.
    if !lines().any(|line| matches!(line.strip_prefix("#ph slept uptime="), Some("1" | "2"))) {
        return Err("a second asleep was no second".to_owned());
    }
    let mut warnings = lines()
        .skip_while(|line| *line != "#ph warnings begin")
        .skip(1)
        .take_while(|line| *line != "#ph warnings end")
        .filter(|line| !ALLOWED.iter().any(|(allowed, _)| line.contains(allowed)));
    warnings
        .next()
        .map_or(Ok(()), |line| Err(format!("the kernel warns: {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#ph linux nproc=2 clock=tsc\r\n#ph slept uptime=1\r\n#ph warnings begin\r\n\
        <4>[ 0.1] x: fail to add MMCONFIG information\r\n#ph warnings end\r\n#ph linux verdict=pass\r\n";

    #[test]
    fn every_clause_is_judged() {
        assert_eq!(judge(GOOD, 2), Ok(()));
        assert!(judge(GOOD, 4).is_err());
        for (from, to) in [
            ("verdict=pass", "verdict=fail"),
            ("uptime=1", "uptime=9"),
            ("clock=tsc", "clock=acpi_pm"),
            ("fail to add", "Fatal:"),
        ] {
            assert!(judge(&GOOD.replace(from, to), 2).is_err(), "{from}");
        }
    }
}
