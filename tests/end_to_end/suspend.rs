//! S3 on the bare machine (ACPI 5.2.10, 16.1.3): memory stays, the processors begin anew.

use crate::elf::kernel;
use crate::program::{TemporaryFile, posthaste};

/// Where the resume code goes, which starts in real mode.
const WAKING_VECTOR: u32 = 0x1234;
/// The FACS, which the code checks.
const FACS: u32 = 0xe_0040;

/// mov dx, port; mov ax, value; out dx, ax.
fn out_word(port: u16, value: u16) -> Vec<u8> {
    let [p0, p1] = port.to_le_bytes();
    let [v0, v1] = value.to_le_bytes();
    vec![0x66, 0xba, p0, p1, 0x66, 0xb8, v0, v1, 0x66, 0xef]
}

/// Sets the waking vector, lets the clock's alarm wake the machine if `alarm`, suspends, and ends with 3 if
/// it goes on instead. The resume code ends with 0 if PM1_STS has only WAK_STS and RTC_STS, and memory is
/// what it was.
fn suspending(vector: u32, alarm: bool) -> Vec<u8> {
    let resume = [
        0xba, 0x00, 0x06, // mov dx, 600H
        0xed, // in ax, dx
        0x2d, 0x00, 0x84, // sub ax, 8400H
        0x0b, 0x06, 0x00, 0x05, // or ax, [500H]
        0xe7, 0xf4, // out f4H, ax
        0xf4, // hlt
    ];
    let mut code = vec![0x81, 0x3d]; // cmp dword [facs], "FACS"
    code.extend(FACS.to_le_bytes());
    code.extend(b"FACS");
    code.extend([0x74, 0x04, 0xb0, 0x05, 0xe6, 0xf4]); // je over; mov al, 5; out f4H, al
    for (address, value) in [(FACS + 12, vector), (0x500, 0)] {
        code.extend([0xc7, 0x05]); // mov dword [address], value
        code.extend(address.to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    for (index, byte) in (0_u32..).zip(resume) {
        code.extend([0xc6, 0x05]); // mov byte [address], value
        code.extend((WAKING_VECTOR + index).to_le_bytes());
        code.push(byte);
    }
    code.extend(out_word(0x602, 0x400)); // RTC_EN
    // An alarm every second, or none.
    let enable = if alarm { 0x22 } else { 0x02 };
    for (register, value) in [(1, 0xc0), (3, 0xc0), (5, 0xc0), (0xb, enable)] {
        code.extend([0xb0, register, 0xe6, 0x70, 0xb0, value, 0xe6, 0x71]);
    }
    code.extend(out_word(0x604, 0x2400)); // S3
    code.extend([0xc6, 0x05, 0x00, 0x05, 0, 0, 1]); // mov byte [500H], 1
    code.extend([0xb0, 3, 0xe6, 0xf4]);
    code
}

fn end_of(tag: &str, code: &[u8], schedule: &str) -> String {
    let file = TemporaryFile::new(&format!("suspend-{schedule}-{tag}"), &kernel(code));
    let arguments = ["machine", "--schedule", schedule, "--kernel", file.path()];
    let ended = posthaste(&arguments);
    assert!(ended.errors.lines().count() <= 1, "{ended:#?}");
    format!("{:?} {}", ended.status, ended.errors)
}

#[test]
fn an_alarm_wakes_the_machine_at_the_waking_vector() {
    for schedule in ["deterministic", "parallel"] {
        let end = end_of("wakes", &suspending(WAKING_VECTOR, true), schedule);
        assert_eq!(end, "Some(1) ", "{schedule}");
    }
}

#[test]
fn without_an_alarm_nothing_wakes_it() {
    let end = end_of("sleeps", &suspending(WAKING_VECTOR, false), "deterministic");
    assert!(end.contains("nothing can wake"), "{end}");
}

#[test]
fn without_a_waking_vector_firmware_starts_anew() {
    let end = end_of("resets", &suspending(0, true), "deterministic");
    assert!(end.contains("reset"), "{end}");
}
