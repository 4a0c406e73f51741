//! Debian's kernel starts another one, by itself (kexec) and when it panics (kdump), on the bare machine and as
//! a guest.

use std::path::Path;
use std::process::Command;

use crate::linux_console::{Kernel, OPTIONS, cached};

/// What the console shows of a run by the command `machine` or `run` that ends by power-off.
fn console_of(command: &str, options: &str) -> String {
    let name = format!("kexec-{command}-{}", options.len());
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut program = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    program.args([command, "--cpus", "2", "--memory", "1024"]);
    if command == "run" {
        program.args(["--vcpus", "2"]);
    }
    program.arg("--kernel").arg(Kernel::Cloud.path());
    program.arg("--initrd").arg(cached("kexec.cpio"));
    program.arg("--console").arg(&console);
    program.args(["--append", &format!("{OPTIONS} {options}")]);
    program.args(["--limit", "60000000000"]);
    let output = program.output().unwrap();
    let console = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
    assert!(output.status.success(), "{output:?}: {console}");
    console
}

/// The lines that are wanted come in this order.
#[track_caller]
fn shows(console: &str, wanted: &[&str]) {
    let mut lines = console.lines().map(str::trim_end);
    for part in wanted {
        assert!(lines.any(|line| line.contains(part)), "{part}: {console}");
    }
}

#[test]
fn linux_starts_another_kernel() {
    for command in ["machine", "run"] {
        let console = console_of(command, "posthaste.kexec=1");
        shows(
            &console,
            &[
                "#ph linux nproc=2 clock=tsc",
                "#ph slept uptime=1",
                "#ph linux nproc=2 clock=tsc",
                "#ph slept uptime=1",
                "#ph linux verdict=pass",
            ],
        );
    }
}

#[test]
fn linux_that_panics_starts_its_crash_kernel() {
    for command in ["machine", "run"] {
        let console = console_of(command, "crashkernel=192M posthaste.crash=1");
        shows(
            &console,
            &[
                "#ph linux nproc=2 clock=tsc",
                "#ph crash loaded=1",
                "Kernel panic - not syncing: sysrq triggered crash",
                "#ph linux nproc=1 clock=tsc",
                "#ph vmcore ELF",
                "#ph linux verdict=pass",
            ],
        );
    }
}
