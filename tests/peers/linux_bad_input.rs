//! Damaged kernels and RAM disks, and kernels that panic: one line says what is wrong, the status is not 0,
//! and nothing waits for ever. What needs no kernel: `tests/end_to_end/bad_input.rs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::linux_console::{Kernel, initial_ram_disk};

/// The kernel resets the machine after a panic, or stays.
const RESETS: &str = "console=ttyS0 quiet cryptomgr.notests panic=-1";
const STAYS: &str = "console=ttyS0 quiet cryptomgr.notests";

/// A file for one test, removed when it is dropped.
struct Damaged(PathBuf);

impl Damaged {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        // What stays behind is in the target directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start(command: &str, kernel: &Path, ram_disk: &Path, append: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    program.arg(command).arg("--kernel").arg(kernel);
    program.arg("--initrd").arg(ram_disk);
    program.args(["--append", append, "--memory", "512", "--cpus", "1"]);
    if command == "run" {
        program.args(["--vcpus", "1"]);
    }
    program.output().unwrap()
}

/// Expects, on the bare machine and as a guest, that the last line on the error stream is the only one that
/// says why, with each of `parts`, and gives the consoles.
#[track_caller]
fn fails(kernel: &Path, ram_disk: &Path, append: &str, parts: &[&str]) -> [String; 2] {
    ["machine", "run"].map(|command| {
        let output = start(command, kernel, ram_disk, append);
        assert!(
            matches!(output.status.code(), Some(1..)),
            "{command}: {output:?}"
        );
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap();
        assert!(last.starts_with("posthaste: "), "{command}: {errors}");
        for part in parts {
            assert!(last.contains(part), "{command}: no {part:?} in {errors}");
        }
        let others = errors.lines().rev().skip(1);
        for other in others {
            assert!(other.contains("MSRs that do not exist"), "{errors}");
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// Offset and length of the compressed kernel in a bzImage, and the end of what its checksum covers, which is
/// the checksum itself ("Boot", offsets 1F1H, 1F4H, 248H and 24CH).
fn payload(image: &[u8]) -> (usize, usize, usize) {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let setup = (usize::from(image[0x1f1]) + 1) * 512;
    let end = setup + word(0x1f4) * 16;
    (setup + word(0x248), word(0x24c), end)
}

#[test]
fn linux_truncated() {
    let image = std::fs::read(Kernel::Cloud.path()).unwrap();
    // In the header, and in what it says follows.
    for length in [0x240, image.len() / 2] {
        let file = Damaged::new(&format!("truncated-{length}"), &image[..length]);
        let at = length.to_string();
        fails(&file.0, &initial_ram_disk(), RESETS, &["truncated", &at]);
    }
}

#[test]
fn linux_with_a_damaged_setup_header() {
    let image = std::fs::read(Kernel::Cloud.path()).unwrap();
    // No signature; a protocol from before there was one; more setup sectors than there is file.
    for (name, at, bytes, said) in [
        (
            "signature",
            0x202,
            &b"HdrX"[..],
            "not an ELF, multiboot or Linux image",
        ),
        ("version", 0x206, &[0x00, 0x01], "boot protocol"),
        ("size", 0x1f4, &[0xff, 0xff, 0xff, 0x0f], "truncated"),
    ] {
        let mut damaged = image.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        let file = Damaged::new(&format!("header-{name}"), &damaged);
        fails(&file.0, &initial_ram_disk(), RESETS, &[said]);
    }
}

#[test]
fn linux_with_a_damaged_payload() {
    let mut image = std::fs::read(Kernel::Cloud.path()).unwrap();
    let (start, length, end) = payload(&image);
    for byte in &mut image[start + length / 2..][..4096] {
        *byte ^= 0x5a;
    }
    let file = Damaged::new("payload", &image);
    fails(
        &file.0,
        &initial_ram_disk(),
        RESETS,
        &["damaged", "checksum"],
    );
    // With a checksum that is right the kernel itself finds out, and halts for good.
    let mut checksum = flate2::Crc::new();
    checksum.update(&image[..end - 4]);
    image[end - 4..end].copy_from_slice(&(!checksum.sum()).to_le_bytes());
    let file = Damaged::new("payload-checksum", &image);
    let append = format!("{RESETS} earlyprintk=serial,ttyS0,115200");
    let said = ["every processor is halted and nothing can wake one"];
    for console in fails(&file.0, &initial_ram_disk(), &append, &said) {
        assert!(console.contains("Decoding failed"), "{console}");
        assert!(console.contains("-- System halted"), "{console}");
    }
}

#[test]
fn linux_with_a_damaged_ram_disk() {
    let archive = std::fs::read(initial_ram_disk()).unwrap();
    let mut changed = archive.clone();
    changed[..6].copy_from_slice(b"XXXXXX");
    for (name, bytes) in [
        ("changed", &changed[..]),
        ("truncated", &archive[..archive.len() / 3]),
    ] {
        let file = Damaged::new(&format!("ram-disk-{name}"), bytes);
        let said = ["no intact initial RAM disk"];
        fails(&Kernel::Cloud.path(), &file.0, RESETS, &said);
    }
    // An archive that is intact and has nothing in it.
    let trailer = archive.len() - 124;
    assert!(archive[trailer..].starts_with(b"070701"));
    let file = Damaged::new("ram-disk-empty", &archive[trailer..]);
    let said = ["panicked", "Unable to mount root fs"];
    for console in fails(&Kernel::Cloud.path(), &file.0, RESETS, &said) {
        assert!(
            console.contains("Kernel panic - not syncing: VFS"),
            "{console}"
        );
    }
}

#[test]
fn linux_that_panics_and_stays() {
    let append = format!("{STAYS} rdinit=/nonexistent init=/nonexistent");
    let said = ["panicked"];
    for console in fails(&Kernel::Cloud.path(), &initial_ram_disk(), &append, &said) {
        assert!(console.contains("---[ end Kernel panic"), "{console}");
    }
}

#[test]
fn linux_with_a_command_line_that_is_too_long() {
    let append = format!("{RESETS} {}", "x".repeat(3000));
    let said = ["the command line has", "this kernel takes 2047"];
    fails(&Kernel::Cloud.path(), &initial_ram_disk(), &append, &said);
}

#[test]
fn linux_with_more_memory_than_there_can_be() {
    for command in ["machine", "run"] {
        let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args([command, "--memory", "100000000", "--kernel"])
            .arg(Kernel::Cloud.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1..)), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(
            errors.contains("more than there are physical addresses"),
            "{errors}"
        );
    }
}
