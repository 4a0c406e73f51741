//! What the tests with Linux need: kernels, and initial RAM disks with work for them.

use std::path::PathBuf;
use std::process::Command;

use crate::initramfs::{self, File};
use crate::{kernels, root};

/// Where the RAM disk goes; the tests look there.
const INITIAL_RAM_DISK: &str = "target/kernels/guest.cpio";
/// The one with KVM and a program that uses it.
const KVM_RAM_DISK: &str = "target/kernels/kvm.cpio";
const CACHE: &str = "target/kernels";
const SOURCES: &str = "xtask/programs";
const WORKLOAD: &str = "ipi_workload";
const KVM_USER: &str = "kvm_ipis";
const CLOCK: &str = "clock_check";

/// A guest and its RAM disk.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Debian's kernel for virtual machines.
    pub(crate) kernel: PathBuf,
    /// The RAM disk with the workloads.
    pub(crate) initial_ram_disk: PathBuf,
}

/// Downloads and builds what the tests need; gives what is of use to others too.
pub(crate) fn prepare() -> Result<Guest, String> {
    let kernels = kernels::ensure(&root())?;
    let workload = build(WORKLOAD)?;
    let clock = build(CLOCK)?;
    let files = [
        ("bin/ipi_workload", &workload),
        ("bin/clock_check", &clock),
        ("bin/hackbench", &kernels.hackbench),
        ("lib/x86_64-linux-gnu/libc.so.6", &kernels.c_library),
        (
            "lib/x86_64-linux-gnu/libpthread.so.0",
            &kernels.thread_library,
        ),
        // Where the psABI says that the loader is.
        ("lib64/ld-linux-x86-64.so.2", &kernels.loader),
    ];
    let files = files.map(|(name, source)| File { name, source });
    let image = initramfs::build(&kernels.busybox, &files)?;
    write(INITIAL_RAM_DISK, &image)?;

    let user = build(KVM_USER)?;
    let modules = kernels
        .kvm
        .iter()
        .map(|(name, source)| File { name, source });
    let mut files: Vec<File<'_>> = modules.collect();
    files.push(File {
        name: "bin/kvm_ipis",
        source: &user,
    });
    write(KVM_RAM_DISK, &initramfs::build(&kernels.busybox, &files)?)?;
    Ok(Guest {
        kernel: kernels.cloud,
        initial_ram_disk: root().join(INITIAL_RAM_DISK),
    })
}

fn write(name: &str, image: &[u8]) -> Result<(), String> {
    let path = root().join(name);
    std::fs::write(&path, image).map_err(|error| format!("{}: {error}", path.display()))
}

/// A program that needs no library: the RAM disk has none.
fn build(name: &str) -> Result<PathBuf, String> {
    let program = root().join(CACHE).join(name);
    let source = root().join(SOURCES).join(format!("{name}.rs"));
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&compiler)
        .args([
            "--edition",
            "2024",
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
        ])
        .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"])
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", compiler.display()))?;
    if output.status.success() {
        Ok(program)
    } else {
        Err(format!(
            "{} does not compile: {}",
            source.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
