//! The image on a machine that nobody here wrote: QEMU's TCG, by PVH, in xAPIC mode.
//!
//! Built with the feature `peers` only: `cargo xtask test` installs QEMU and sets it.
//!
//! Not in the list of phases: `illegal`, because QEMU 7.2 delivers vectors below 16 and lets the
//! delivery status be written, and `logical`, because it knows no broadcast in the cluster model.

use std::process::Command;

#[test]
fn every_phase_that_qemu_implements_passes() {
    const PHASES: [&str; 10] = [
        "unicast",
        "halted",
        "storm",
        "self",
        "broadcast",
        "nmi",
        "lowest",
        "tpr",
        "xapic_id",
        "timer",
    ];
    for processors in ["1", "2", "3", "4"] {
        let options = format!("apic=xapic rounds=1000 phases={}", PHASES.join(","));
        let (status, text) = run(processors, &options);
        for phase in PHASES {
            let line = format!("#ph phase name={phase} apic=xapic vcpus={processors} ");
            assert!(
                text.lines()
                    .any(|said| said.starts_with(&line) && said.contains(" lost=0 verdict=pass")),
                "{phase} on {processors} processors:\n{text}"
            );
        }
        assert!(text.contains("#ph guest verdict=pass"), "{text}");
        // isa-debug-exit: twice the byte, plus 1.
        assert_eq!(status, Some(0x10 << 1 | 1), "{text}");
    }
}

#[test]
fn what_cannot_run_says_so_in_one_line() {
    for (options, message) in [
        ("apic=x2apic", "guest: this processor has no x2APIC mode"),
        ("turbo", "guest: unknown option 'turbo'"),
    ] {
        let (status, text) = run("1", options);
        assert!(text.contains(message), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(status, Some(0x12 << 1 | 1), "{text}");
    }
}

#[test]
fn a_lost_interrupt_fails_the_run_and_is_counted() {
    // QEMU loses each processor's broadcast in the cluster model. How many are sent before one of
    // them gives up is a matter of timing.
    let (status, text) = run("2", "apic=xapic rounds=100 phases=logical");
    let line = text.lines().find(|said| said.contains("name=logical"));
    let line = line.unwrap_or_else(|| panic!("no report:\n{text}"));
    assert!(line.contains(" verdict=fail"), "{text}");
    assert!(!line.contains(" lost=0 "), "{text}");
    assert!(text.contains("#ph guest verdict=fail"), "{text}");
    assert_eq!(status, Some(0x11 << 1 | 1), "{text}");
}

fn run(processors: &str, options: &str) -> (Option<i32>, String) {
    let output = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-m", "64"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        // One byte: the port above is the phase marks'.
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-smp", processors, "-append", options])
        .args(["-kernel", env!("CARGO_BIN_EXE_posthaste-guest")])
        .output()
        .expect("qemu-system-x86_64 starts");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
