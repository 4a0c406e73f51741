//! QEMU's TCG has no VT-x.

use std::process::{Command, Stdio};

use crate::image;

#[test]
fn qemu_without_vtx_gets_one_line_and_a_stop() {
    let iso = image("qemu.iso", &[]);
    let output = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "4", "-m", "256"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .arg("-cdrom")
        .arg(&iso)
        .stdin(Stdio::null())
        .output()
        .expect("qemu-system-x86_64 starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("posthaste: this processor has no VT-x"),
        "{text}"
    );
    // isa-debug-exit: twice the byte, plus 1.
    assert_eq!(output.status.code(), Some(0x13 << 1 | 1), "{text}");
}
