//! What the tests with Linux need: kernels, and initial RAM disks with work for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::initramfs::{self, File};
use crate::kernels::{self, Kernels};
use crate::{libraries, root};

/// Where the RAM disk goes; the tests look there.
const INITIAL_RAM_DISK: &str = "target/kernels/guest.cpio";
/// The one with KVM and a program that uses it.
const KVM_RAM_DISK: &str = "target/kernels/kvm.cpio";
/// The one with QEMU, and a kernel and a RAM disk for its guest.
const VMM_RAM_DISK: &str = "target/kernels/vmm.cpio";
/// The one with a kernel to start from another, and a RAM disk for that.
const KEXEC_RAM_DISK: &str = "target/kernels/kexec.cpio";
const SECOND_RAM_DISK: &str = "target/kernels/second.cpio";
/// Debian's QEMU, which the tests need anyway, and the firmware that it gives its guests.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const QEMU_FIRMWARE: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];
const CACHE: &str = "target/kernels";
const SOURCES: &str = "xtask/programs";
const WORKLOAD: &str = "ipi_workload";
const KVM_USER: &str = "kvm_ipis";
const CLOCK: &str = "clock_check";
const KEXEC: &str = "kexec";

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
    write_vmm(&kernels)?;
    write_kexec(&kernels)?;
    Ok(Guest {
        kernel: kernels.cloud,
        initial_ram_disk: root().join(INITIAL_RAM_DISK),
    })
}

/// The RAM disk with QEMU, KVM's modules, and a guest for both.
fn write_vmm(kernels: &Kernels) -> Result<(), String> {
    let guest = root().join(INITIAL_RAM_DISK);
    let mut files = libraries::with_libraries(Path::new(QEMU))?;
    files.extend(kernels.kvm.iter().cloned());
    for firmware in QEMU_FIRMWARE {
        let source = PathBuf::from(firmware);
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        files.push((format!("lib/qemu/{name}"), source.clone()));
    }
    files.push(("lib/guest/kernel".to_owned(), kernels.cloud.clone()));
    files.push(("lib/guest/initrd".to_owned(), guest));
    let files: Vec<File<'_>> = files
        .iter()
        .map(|(name, source)| File { name, source })
        .collect();
    write(VMM_RAM_DISK, &initramfs::build(&kernels.busybox, &files)?)
}

/// The RAM disk with a second kernel, the program that starts it, and a small RAM disk of its own: a crash
/// kernel has little memory.
fn write_kexec(kernels: &Kernels) -> Result<(), String> {
    write(SECOND_RAM_DISK, &initramfs::build(&kernels.busybox, &[])?)?;
    let (program, second) = (build(KEXEC)?, root().join(SECOND_RAM_DISK));
    let files = [
        ("bin/kexec", &program),
        ("lib/guest/kernel", &kernels.cloud),
        ("lib/guest/initrd", &second),
    ];
    let files = files.map(|(name, source)| File { name, source });
    write(KEXEC_RAM_DISK, &initramfs::build(&kernels.busybox, &files)?)
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
