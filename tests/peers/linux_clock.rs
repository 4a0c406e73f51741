//! Time in a guest that mostly idles: no drift, no wakeup lost, and memory that does not grow.

use std::process::{Command, Stdio};
use std::time::Duration;

use machine::machine::Schedule;

use crate::linux_console::{Kernel, OPTIONS, initial_ram_disk};
use crate::linux_machine;

/// How long, in seconds of virtual time.
const SECONDS: u64 = if cfg!(feature = "all-tests") {
    3600
} else {
    60
};
/// RAM of the machine in MiB.
const MEMORY: u64 = 320;
/// Five eighths of it are the guest's; nothing is set.
const GUEST_MEMORY: u64 = MEMORY * 5 / 8;
/// What the process may hold beside the guest's RAM, in MiB.
const REST: u64 = 256;

/// Virtual and resident memory of a process in KiB, and their peaks, as far as it still runs.
fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[test]
fn a_guests_clock_keeps_virtual_time() {
    let output = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["run", "--json", "--cpus", "4", "--vcpus", "4", "--kernel"])
        .arg(Kernel::Cloud.path())
        .arg("--initrd")
        .arg(initial_ram_disk())
        .args(["--append", &format!("{OPTIONS} posthaste.clock={SECONDS}")])
        .args(["--memory", &MEMORY.to_string(), "--limit", "200000000000"])
        .stdout(std::fs::File::create(&output).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut samples = Vec::new();
    while child.try_wait().unwrap().is_none() {
        samples.extend(resident(child.id()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");

    let text = std::fs::read_to_string(&output).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let work = &document["runs"][0]["workloads"][0];
    assert_eq!(work["name"], "clock", "{text}");
    // The guest looked at each wakeup. It says that the time between its marks was so many seconds by
    // its clock; this is what the machine says.
    let time = work["virtual_time"].as_u64().unwrap();
    let drift = time.abs_diff(SECONDS * 1_000_000_000);
    assert!(drift < 1_000_000, "{drift} ns: {text}");
    assert_eq!(work["unicast_ipis"], work["virtualized_ipis"], "{text}");

    let peak = samples.iter().max().unwrap() / 1024;
    assert!(peak <= GUEST_MEMORY + REST, "{peak} MiB");
    // The boot comes first, and at the end the guest reports and switches off, which runs code and touches
    // memory that it had not; what lies between is the idle guest's.
    let (middle, late) = (samples[samples.len() / 2], samples[samples.len() * 9 / 10]);
    let growth = late.saturating_sub(middle) / 1024;
    eprintln!("drift {drift} ns in {SECONDS} s, peak {peak} MiB, {growth} MiB while idle");
    if cfg!(feature = "all-tests") {
        assert!(growth <= 4, "{growth} MiB: {samples:?}");
    }
}

#[test]
fn the_machines_clock_keeps_virtual_time() {
    let schedule = Schedule::Deterministic { seed: 1 };
    let options = format!("posthaste.clock={SECONDS}");
    let console = linux_machine::boots(Kernel::Cloud, 2, schedule, &options);
    let wanted = format!("#ph clock seconds={SECONDS} ");
    assert!(console.contains(&wanted), "{console}");
}
