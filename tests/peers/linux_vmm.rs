//! Debian's QEMU, unmodified, as the monitor of a virtual machine of KVM's on the machine. Its guest's firmware starts the
//! other processors with a lock that it frees and takes again in a straight line.

use std::process::Command;

use crate::linux_console::{Kernel, OPTIONS, cached};

/// Seeds; each is another interleaving of the two processors, and so of KVM's threads.
const SEEDS: u64 = 3;

#[test]
fn qemu_boots_an_smp_guest_under_kvm() {
    for seed in 1..=SEEDS {
        let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(["machine", "--cpus", "2", "--memory", "1024"])
            .args(["--seed", &seed.to_string(), "--limit", "60000000000"])
            .arg("--kernel")
            .arg(Kernel::Cloud.path())
            .arg("--initrd")
            .arg(cached("vmm.cpio"))
            .args(["--append", &format!("{OPTIONS} posthaste.qemu=2")])
            .output()
            .unwrap();
        let console = String::from_utf8_lossy(&output.stdout);
        let lines = || console.lines().map(str::trim_end);
        assert!(output.status.success(), "seed {seed}: {output:?}");
        for wanted in [
            "inner: #ph linux nproc=2 clock=",
            "inner: #ph linux verdict=pass",
            "#ph linux verdict=pass",
        ] {
            assert!(
                lines().any(|line| line.starts_with(wanted)),
                "seed {seed}: {wanted}: {console}"
            );
        }
    }
}
