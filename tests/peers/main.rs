//! The bootable image on machines that nobody here wrote.
//!
//! And Debian's kernels, on the machine, with KVM as their own hypervisor, and as guests; more of that with the feature `all-tests`.
//!
//! Built with the feature `peers` only: `cargo xtask test` installs Bochs, QEMU and GRUB's tools and
//! sets it.

mod bochs;
mod bochs_run;
mod kvm;
mod linux_bad_input;
mod linux_clock;
mod linux_console;
mod linux_guest;
#[cfg(feature = "all-tests")]
mod linux_kexec;
mod linux_machine;
mod linux_options;
mod linux_terminal;
#[cfg(feature = "all-tests")]
mod linux_vmm;
mod qemu;

#[path = "../support/pseudo_terminal.rs"]
mod pseudo_terminal;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Has `posthaste image` write an image.
fn image(name: &str, arguments: &[&str]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["image", "-o"])
        .arg(&path)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    path
}
