//! What is wrong is said in one line, whoever made the mistake: no panic, no backtrace, and the exit
//! status is not 0.

use crate::elf::{ENTRY, kernel};
use crate::program::{Ended, TemporaryFile, posthaste};

/// Expects one line on the error stream that contains each of `parts`.
#[track_caller]
fn refused(ended: &Ended, parts: &[&str]) {
    assert!(matches!(ended.status, Some(1..)), "{ended:#?}");
    let lines: Vec<&str> = ended.errors.lines().collect();
    assert_eq!(lines.len(), 1, "{ended:#?}");
    assert!(lines[0].starts_with("posthaste: "), "{ended:#?}");
    for part in parts {
        assert!(lines[0].contains(part), "no {part:?} in {ended:#?}");
    }
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!ended.errors.contains(word), "{ended:#?}");
        assert!(!ended.output.contains(word), "{ended:#?}");
    }
}

/// As the guest, and as the kernel of the bare machine.
#[track_caller]
fn refused_as_guest_and_kernel(file: &str, parts: &[&str]) {
    refused(&posthaste(&["run", "--kernel", file]), parts);
    refused(&posthaste(&["compare", "--kernel", file]), parts);
    refused(&posthaste(&["machine", "--kernel", file]), parts);
}

#[test]
fn a_missing_kernel() {
    refused_as_guest_and_kernel("/no/such/kernel", &["/no/such/kernel", "No such file"]);
}

#[test]
fn a_directory_for_a_kernel() {
    refused_as_guest_and_kernel("/", &["cannot read", "directory"]);
}

#[test]
fn a_truncated_kernel() {
    // In the header, in the program headers, in the note, in the segment.
    for length in [
        0,
        3,
        20,
        64,
        100,
        180,
        0x1000,
        posthaste::images::GUEST.len() / 2,
    ] {
        let bytes = &posthaste::images::GUEST[..length];
        let file = TemporaryFile::new(&format!("truncated-{length}"), bytes);
        refused_as_guest_and_kernel(file.path(), &[file.path()]);
    }
}

#[test]
fn a_kernel_in_the_wrong_format() {
    let text = TemporaryFile::new("text", b"#!/bin/sh\necho this is no kernel\n");
    refused_as_guest_and_kernel(
        text.path(),
        &[text.path(), "not an ELF, multiboot or Linux image"],
    );

    let mut arm = kernel(&[0xf4]);
    arm[18] = 183;
    let arm = TemporaryFile::new("arm", &arm);
    refused_as_guest_and_kernel(arm.path(), &[arm.path(), "183"]);

    // This test's own program: ELF, but no kernel.
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    refused_as_guest_and_kernel(program, &[program, "no boot protocol"]);
}

#[test]
fn a_missing_module() {
    let file = TemporaryFile::new("module-kernel", &kernel(&[0xf4]));
    let ended = posthaste(&["machine", "--kernel", file.path(), "--module", "/no/such x"]);
    refused(&ended, &["/no/such", "No such file"]);
}

#[test]
fn numbers_of_processors_that_nobody_has() {
    for count in ["0", "300", "256"] {
        refused(
            &posthaste(&["run", "--vcpus", count]),
            &[count, "virtual processors", "1 to 255"],
        );
        refused(
            &posthaste(&["run", "--cpus", count]),
            &[count, "processors", "1 to 255"],
        );
        let file = TemporaryFile::new(&format!("processors-{count}"), &kernel(&[0xf4]));
        refused(
            &posthaste(&["machine", "--kernel", file.path(), "--cpus", count]),
            &[count, "processors", "1 to 255"],
        );
    }
}

#[test]
fn too_little_memory() {
    for (mib, said) in [
        ("0", "0 bytes of RAM"),
        // Too little for the hypervisor's image, its heap, the guest.
        ("2", "does not fit"),
        ("8", "of free memory for the heap"),
        ("24", "64 MiB of memory do not fit"),
        // And more than anybody has.
        (
            "18446744073709551615",
            "more than there are physical addresses",
        ),
    ] {
        refused(&posthaste(&["run", "--memory", mib]), &[said]);
    }
}

#[test]
fn options_that_do_not_exist() {
    refused(&posthaste(&["--fast"]), &["--fast"]);
    refused(&posthaste(&["walk"]), &["walk"]);
    refused(&posthaste(&["run", "--vcpu", "4"]), &["--vcpu"]);
    refused(
        &posthaste(&["run", "--vcpus", "four"]),
        &["four", "--vcpus"],
    );
    refused(
        &posthaste(&["run", "--apic", "x3apic"]),
        &["x3apic", "x2apic"],
    );
    refused(&posthaste(&["machine"]), &["--kernel"]);
    refused(&posthaste(&["image"]), &["--output"]);
}

#[test]
fn options_that_the_hypervisor_or_the_guest_does_not_know() {
    refused(
        &posthaste(&["run", "--hypervisor-append", "turbo=on"]),
        &["turbo=on"],
    );
    refused(
        &posthaste(&["run", "--hypervisor-append", "ipiv=of"]),
        &["ipiv"],
    );
    refused(&posthaste(&["run", "--append", "turbo"]), &["turbo"]);
    // A command line may begin like an option.
    refused(&posthaste(&["run", "--append", "-turbo"]), &["-turbo"]);
    refused(
        &posthaste(&["run", "--hypervisor-append", "--turbo=on"]),
        &["--turbo=on"],
    );
    let compared = posthaste(&["compare", "--hypervisor-append", "--turbo=on"]);
    refused(&compared.without_progress(), &["--turbo=on"]);
    refused(
        &posthaste(&["machine", "--append", "-x", "--kernel", "/no/such"]),
        &["/no/such"],
    );
}

#[test]
fn a_place_that_cannot_be_written() {
    refused(
        &posthaste(&[
            "run",
            "--append",
            "phases=self rounds=1",
            "--trace",
            "/no/such/trace",
        ]),
        &["/no/such/trace"],
    );
}

#[test]
fn a_picture_or_console_that_cannot_be_written() {
    let options = ["--append", "phases=self rounds=1"];
    refused(
        &posthaste(&[&["compare", "--plot", "/no/such/plot.svg"][..], &options].concat())
            .without_progress(),
        &["write the picture", "/no/such/plot.svg"],
    );
    for command in ["run", "compare"] {
        refused(
            &posthaste(&[&[command, "--console", "/no/such/console"][..], &options].concat()),
            &["write the console", "/no/such/console"],
        );
        refused(
            &posthaste(&[&[command, "--input", "/no/such/input"][..], &options].concat()),
            &["read the input", "/no/such/input"],
        );
    }
}

#[test]
fn a_kernel_that_triple_faults() {
    // lidt of six zeros, then ud2: no handler, none for the double fault either.
    let zeros = (ENTRY + 9).to_le_bytes();
    let mut code = vec![0x0f, 0x01, 0x1d];
    code.extend(zeros);
    code.extend([0x0f, 0x0b]);
    code.extend([0; 6]);
    let file = TemporaryFile::new("triple", &kernel(&code));
    let at = format!("{:#x}", ENTRY + 7);
    refused(
        &posthaste(&["machine", "--kernel", file.path()]),
        &["triple fault", &at],
    );
    refused(
        &posthaste(&["run", "--kernel", file.path()]),
        &["triple fault", &at],
    );
}

#[test]
fn a_kernel_that_loops_for_ever() {
    let file = TemporaryFile::new("loop", &kernel(&[0xeb, 0xfe]));
    refused(
        &posthaste(&["machine", "--kernel", file.path(), "--limit", "1000000"]),
        &["limit"],
    );
    refused(
        &posthaste(&["run", "--kernel", file.path(), "--limit", "100000000"]),
        &["limit"],
    );
}

#[test]
fn a_kernel_that_sleeps_for_ever() {
    let file = TemporaryFile::new("sleep", &kernel(&[0xfa, 0xf4, 0xeb, 0xfd]));
    refused(
        &posthaste(&["machine", "--kernel", file.path()]),
        &["halted"],
    );
}

#[test]
fn a_kernel_with_an_instruction_that_is_not_implemented() {
    // aesenc xmm0, xmm1
    let code = [0x66, 0x0f, 0x38, 0xdc, 0xc1];
    let file = TemporaryFile::new("unimplemented", &kernel(&code));
    let at = format!("{ENTRY:#x}");
    let parts = ["66 0f 38 dc c1", &at, "32-bit"];
    refused(&posthaste(&["machine", "--kernel", file.path()]), &parts);
    let of_guest = ["66 0f 38 dc c1", &at, "32-bit", "guest on processor"];
    refused(&posthaste(&["run", "--kernel", file.path()]), &of_guest);
}

/// A guest that takes the #UD and goes on to its success hears of it as a kernel on the bare machine does.
#[test]
fn a_guest_that_survives_an_instruction_that_is_not_implemented() {
    let code = surviving_invalid_opcodes(&[0x66, 0x0f, 0x38, 0xdc, 0xc1]);
    let file = TemporaryFile::new("survives", &kernel(&code));
    for (arguments, times) in [
        (&["run", "--vcpus", "1", "--cpus", "1"][..], 1),
        (&["compare", "--vcpus", "1", "--cpus", "1"], 2),
    ] {
        let ended = posthaste(&[arguments, &["--kernel", file.path()]].concat());
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        let name = file.path().rsplit('/').next().unwrap_or_default();
        let said = format!("posthaste: {name}: guest on processor 0: instruction not implemented");
        assert_eq!(ended.errors.matches(&said).count(), times, "{ended:#?}");
        assert!(ended.errors.contains("66 0f 38 dc c1"), "{ended:#?}");
    }
    let bare = posthaste(&["machine", "--cpus", "1", "--kernel", file.path()]);
    assert_eq!(bare.status, Some(33), "{bare:#?}");
    let said = "posthaste: processor 0: instruction not implemented";
    assert_eq!(bare.errors.matches(said).count(), 1, "{bare:#?}");
}

/// 32-bit code that executes `instruction` with a handler of #UD that ends with success.
fn surviving_invalid_opcodes(instruction: &[u8]) -> Vec<u8> {
    // Tables below 1 MiB: a code descriptor, gate 6, and what LGDT and LIDT load.
    const GDT: u32 = 0x7000;
    const IDT: u32 = 0x7100;
    const REGISTERS: u32 = 0x7200;
    const HANDLER: u32 = 0x7300;
    let mut code = Vec::new();
    for (address, value) in [
        (GDT + 8, 0x0000_ffff),
        (GDT + 12, 0x00cf_9b00),
        (IDT + 6 * 8, 8 << 16 | HANDLER),
        (IDT + 6 * 8 + 4, 0x8e00),
        (REGISTERS, GDT << 16 | 15),
        (REGISTERS + 4, 0),
        (REGISTERS + 8, IDT << 16 | 0x7ff),
        (REGISTERS + 12, 0),
        (HANDLER, 0xf4e6_10b0), // mov al, 10h; out 0f4h, al
    ] {
        code.extend([0xc7, 0x05]); // mov dword [address], value
        code.extend(address.to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x01, 0x15]); // lgdt [REGISTERS]
    code.extend(REGISTERS.to_le_bytes());
    code.extend([0x0f, 0x01, 0x1d]); // lidt [REGISTERS + 8]
    code.extend((REGISTERS + 8).to_le_bytes());
    code.extend([0xbc, 0, 0x60, 0, 0]); // mov esp, 6000h
    code.push(0xea); // jmp 8:next
    code.extend((ENTRY + code.len() as u32 + 6).to_le_bytes());
    code.extend([8, 0]);
    code.extend(instruction);
    code
}
