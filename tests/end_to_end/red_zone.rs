//! The guest's interrupt handlers use the interrupted stack, so no code in the image may keep
//! anything below its stack pointer. Prebuilt `core` is compiled with a red zone; what of it is linked
//! must not use it.

use std::process::Command;

use crate::program::TemporaryFile;

#[test]
fn nothing_in_the_guest_writes_below_its_stack_pointer() {
    let image = TemporaryFile::new("guest.elf", posthaste::images::GUEST);
    // As everywhere where a linker is.
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", image.path()])
        .output()
        .unwrap_or_else(|error| panic!("objdump, of binutils: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let below =
        |line: &&str| line.contains("(%rsp)") && line.contains("-0x") && !line.contains("lea ");
    assert!(
        text.lines().any(|line| line.contains("0x8(%rsp)")),
        "{text}"
    );
    let found: Vec<&str> = text.lines().filter(below).collect();
    assert!(found.is_empty(), "{found:#?}");
}
