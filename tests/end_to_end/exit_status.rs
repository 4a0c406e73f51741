//! The exit status is the guest's.

use crate::elf::kernel;
use crate::program::{TemporaryFile, posthaste};

/// `mov al, value; out 0f4h, al; cli; again: hlt; jmp again`.
fn ending_with(value: u8) -> Vec<u8> {
    kernel(&[0xb0, value, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd])
}

/// As with QEMU's isa-debug-exit, but that 10H is success to the hypervisor's guests.
#[test]
fn a_guest_says_its_own() {
    for (value, bare, hosted) in [(0, 1, 1), (0x10, 0x21, 0), (0x2a, 0x55, 0x55)] {
        let file = TemporaryFile::new(&format!("ends-{value}.elf"), &ending_with(value));
        for (command, wanted) in [("machine", bare), ("run", hosted), ("compare", hosted)] {
            let ended = posthaste(&[command, "--kernel", file.path(), "--cpus", "1"]);
            assert_eq!(ended.status, Some(wanted), "{command}: {ended:?}");
            let said = ended.without_progress().errors;
            assert_eq!(said, "", "{command}");
        }
    }
}
