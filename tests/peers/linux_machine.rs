//! Debian's kernels, unmodified, on the bare machine.

use std::process::Command;

use machine::machine::Schedule;

use crate::linux_console::{Kernel, OPTIONS, initial_ram_disk, judge};

/// Boots a kernel to its first process and switches the machine off.
#[track_caller]
pub(crate) fn boots(kernel: Kernel, cpus: usize, schedule: Schedule, options: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .arg("machine")
        .arg("--kernel")
        .arg(kernel.path())
        .arg("--initrd")
        .arg(initial_ram_disk())
        .args(["--append", &format!("{OPTIONS} {options}")])
        .args(["--memory", "512", "--cpus", &cpus.to_string()])
        .args(["--limit", "60000000000"])
        .args(match schedule {
            Schedule::Deterministic { .. } => ["--schedule", "deterministic"],
            Schedule::Parallel => ["--schedule", "parallel"],
        })
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    judge(&console, cpus, schedule);
    console
}

macro_rules! boots {
    ($($name:ident: $kernel:ident, $cpus:literal CPUs, $schedule:expr;)*) => {
        $(#[test]
        fn $name() {
            boots(Kernel::$kernel, $cpus, $schedule, "");
        })*
    };
}

const DETERMINISTIC: Schedule = Schedule::Deterministic { seed: 1 };

boots! {
    the_cloud_kernel_boots_on_1_processor: Cloud, 1 CPUs, DETERMINISTIC;
    the_cloud_kernel_boots_on_8_processors: Cloud, 8 CPUs, DETERMINISTIC;
    the_cloud_kernel_boots_on_4_processors_in_parallel: Cloud, 4 CPUs, Schedule::Parallel;
    the_full_kernel_boots_on_2_processors: Full, 2 CPUs, DETERMINISTIC;
}

#[cfg(feature = "all-tests")]
mod matrix {
    use super::*;

    boots! {
        the_cloud_kernel_boots_on_2_processors: Cloud, 2 CPUs, DETERMINISTIC;
        the_cloud_kernel_boots_on_4_processors: Cloud, 4 CPUs, DETERMINISTIC;
        the_cloud_kernel_boots_on_1_processor_in_parallel: Cloud, 1 CPUs, Schedule::Parallel;
        the_cloud_kernel_boots_on_2_processors_in_parallel: Cloud, 2 CPUs, Schedule::Parallel;
        the_cloud_kernel_boots_on_8_processors_in_parallel: Cloud, 8 CPUs, Schedule::Parallel;
        the_full_kernel_boots_on_1_processor: Full, 1 CPUs, DETERMINISTIC;
        the_full_kernel_boots_on_4_processors: Full, 4 CPUs, DETERMINISTIC;
        the_full_kernel_boots_on_8_processors: Full, 8 CPUs, DETERMINISTIC;
        the_full_kernel_boots_on_1_processor_in_parallel: Full, 1 CPUs, Schedule::Parallel;
        the_full_kernel_boots_on_2_processors_in_parallel: Full, 2 CPUs, Schedule::Parallel;
        the_full_kernel_boots_on_4_processors_in_parallel: Full, 4 CPUs, Schedule::Parallel;
        the_full_kernel_boots_on_8_processors_in_parallel: Full, 8 CPUs, Schedule::Parallel;
    }
}
