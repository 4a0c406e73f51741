//! The programs that the test run needs beside Rust, and how they get here.

use std::path::Path;
use std::process::Command;

/// What must exist, and the Debian packages that bring it.
const NEEDED: [(&str, &str); 8] = [
    // A display library is required; the smallest.
    ("/usr/bin/bochs", "bochs bochs-term"),
    ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/grub-mkrescue", "grub-common"),
    ("/usr/lib/grub/i386-pc", "grub-pc-bin"),
    ("/usr/bin/xorriso", "xorriso"),
    ("/usr/bin/mformat", "mtools"),
];

fn missing() -> Vec<&'static str> {
    NEEDED
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .flat_map(|(_, packages)| packages.split(' '))
        .collect()
}

/// Installs what is missing if that is possible, otherwise says what to install.
pub(crate) fn ensure() -> Result<(), String> {
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", wanted.join(" "));
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!(
            "the test run needs Bochs, QEMU and GRUB's tools; on Debian 12, as root: {by_hand}"
        ));
    }
    eprintln!("{by_hand}");
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&wanted);
    apt(&install)?;
    let wanted = missing();
    if wanted.is_empty() {
        Ok(())
    } else {
        Err(format!("still missing after the installation: {wanted:?}"))
    }
}

/// Brings apt's lists up to date, so that what they name can be fetched; only root can, and others
/// go by the lists there are.
pub(crate) fn update_lists() -> Result<(), String> {
    if is_root() { apt(&["update"]) } else { Ok(()) }
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run apt-get: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("apt-get {} failed: {status}", arguments.join(" ")))
    }
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
