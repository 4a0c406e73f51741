//! Debian's kernels with options that make them do without a part of the platform, or use another one, on
//! the bare machine and as a guest: each switches off as ever, and has no warning but those that the option
//! itself causes.

use std::path::Path;
use std::process::Command;

use machine::machine::Schedule;

use crate::linux_console::{Expected, Kernel, OPTIONS, initial_ram_disk, judge_as};

const CPUS: usize = 4;

/// How a kernel ends that was told to switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It does.
    PowerOff,
    /// It cannot without ACPI: every processor halts for good.
    Halt,
}

/// The command's status for that.
impl End {
    const fn status(self) -> i32 {
        match self {
            Self::PowerOff => 0,
            Self::Halt => 4,
        }
    }
}

/// An option and what it changes.
#[derive(Clone, Copy, Debug)]
struct Case {
    kernel: Kernel,
    option: &'static str,
    expected: Expected<'static>,
    end: End,
}

/// An option that changes nothing of what is looked at.
const fn plain(option: &'static str) -> Case {
    Case {
        kernel: Kernel::Cloud,
        option,
        expected: Expected::of(CPUS),
        end: End::PowerOff,
    }
}

/// Without local APIC there are no other processors, and the firmware's tables of them are not read.
const NOT_LISTED: &str = "weird, boot CPU (#0) not listed by the BIOS";

const NOLAPIC: Case = Case {
    expected: Expected {
        warnings: &[NOT_LISTED],
        ..Expected::of(1)
    },
    ..plain("nolapic")
};

/// This kernel knows MultiProcessor tables.
const ACPI_OFF: Case = Case {
    kernel: Kernel::Full,
    end: End::Halt,
    ..plain("acpi=off")
};

/// Boots a kernel by the command `machine` or `run`.
fn boots(command: &str, case: Case) -> String {
    let name = format!("{command}-{}", case.option.replace(['=', '/'], "-"));
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut program = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    let cpus = CPUS.to_string();
    program.arg(command).arg("--kernel").arg(case.kernel.path());
    program.arg("--initrd").arg(initial_ram_disk());
    program.arg("--console").arg(&console);
    program.args(["--append", &format!("{OPTIONS} {}", case.option)]);
    program.args(["--memory", "512", "--cpus", &cpus]);
    program.args(["--limit", "60000000000"]);
    if command == "run" {
        program.args(["--vcpus", &cpus]);
    }
    let output = program.output().unwrap();
    let console = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
    assert_eq!(
        output.status.code(),
        Some(case.end.status()),
        "{case:?}: {output:?}: {console}"
    );
    judge_as(
        &console,
        &case.expected,
        Schedule::Deterministic { seed: 1 },
    );
    console
}

/// Suspend-to-idle ends by the alarm of the real-time clock, which ACPI's PM1 registers pass on
/// (ACPI 4.8.3.1.1 RTC_STS).
#[test]
fn linux_wakes_by_the_alarm() {
    for command in ["machine", "run"] {
        let console = boots(command, plain("posthaste.freeze=2"));
        // The alarm has come, so that none is set any more.
        let mut lines = console.lines().map(str::trim_end);
        assert!(lines.any(|line| line == "#ph woke alarm="), "{console}");
    }
}

macro_rules! options {
    ($($bare:ident, $guest:ident: $case:expr;)*) => {
        $(#[test]
        fn $bare() {
            boots("machine", $case);
        }

        #[test]
        fn $guest() {
            boots("run", $case);
        })*
    };
}

options! {
    linux_nolapic, linux_nolapic_as_a_guest: NOLAPIC;
    linux_acpi_off, linux_acpi_off_as_a_guest: ACPI_OFF;
}

/// The others.
#[cfg(feature = "all-tests")]
mod matrix {
    use super::*;

    /// This one does not know them.
    const CLOUD_ACPI_OFF: Case = Case {
        kernel: Kernel::Cloud,
        expected: Expected {
            warnings: &["MPS support code is not built-in", NOT_LISTED],
            ..Expected::of(1)
        },
        ..ACPI_OFF
    };

    const NOSMP: Case = Case {
        expected: Expected {
            warnings: &["4 Processors exceeds max_cpus limit of 0"],
            ..Expected::of(1)
        },
        ..plain("nosmp")
    };

    const NOTSC: Case = Case {
        expected: Expected {
            clock: "acpi_pm",
            warnings: &[
                "Marking TSC unstable due to boot parameter notsc",
                "Unstable clock detected, switching default tracing clock",
                "If you want to keep using the local clock, then add:",
                "\"trace_clock=local\"",
                "on the kernel command line",
            ],
            ..Expected::of(CPUS)
        },
        ..plain("notsc")
    };

    const PM_TIMER: Case = Case {
        expected: Expected {
            clock: "acpi_pm",
            ..Expected::of(CPUS)
        },
        ..plain("clocksource=acpi_pm")
    };

    const ONE_CPU: Case = Case {
        expected: Expected::of(1),
        ..plain("maxcpus=1")
    };

    options! {
        linux_acpi_off_without_tables, linux_acpi_off_without_tables_as_a_guest: CLOUD_ACPI_OFF;
        linux_noapic, linux_noapic_as_a_guest: plain("noapic");
        linux_nosmp, linux_nosmp_as_a_guest: NOSMP;
        linux_nox2apic, linux_nox2apic_as_a_guest: plain("nox2apic");
        linux_x2apic_phys, linux_x2apic_phys_as_a_guest: plain("x2apic_phys");
        linux_idle_poll, linux_idle_poll_as_a_guest: plain("idle=poll");
        linux_notsc, linux_notsc_as_a_guest: NOTSC;
        linux_clocksource_acpi_pm, linux_clocksource_acpi_pm_as_a_guest: PM_TIMER;
        linux_no_ipi_broadcast, linux_no_ipi_broadcast_as_a_guest: plain("no_ipi_broadcast=1");
        linux_maxcpus_1, linux_maxcpus_1_as_a_guest: ONE_CPU;
        linux_nohz_full, linux_nohz_full_as_a_guest: plain("nohz_full=1-3");
    }
}
