//! Guests that write report lines of their own: the hypervisor's arrive all the same, and no number that a
//! guest invents overflows.

use machine::platform::Outcome;

use crate::flat_image::{FlatImage, SUCCEED, TABLES};
use crate::flat_run::guest;

/// Code that writes `text`, which is at [`TABLES`], this many times to the serial port.
fn write_again_and_again(text: &str, times: u32) -> Vec<u8> {
    let mut code = vec![0xbf]; // mov edi, times
    code.extend(times.to_le_bytes());
    let again = code.len();
    code.push(0xbe); // mov esi, TABLES
    code.extend(TABLES.to_le_bytes());
    code.push(0xb9); // mov ecx, length
    code.extend((text.len() as u32).to_le_bytes());
    code.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 3f8h
    code.extend([0xf3, 0x6e, 0x4f, 0x75]); // rep outsb; dec edi; jnz again
    code.push((again as i32 - code.len() as i32 - 1) as u8);
    code
}

/// A guest that writes `text` and then executes `end`.
fn writes(text: &str, times: u32, end: &[u8]) -> posthaste::guest_run::GuestRun {
    let mut code = write_again_and_again(text, times);
    code.extend(end);
    let image = FlatImage::protected(&code).put(TABLES, text.as_bytes());
    posthaste::guest_run::GuestRun {
        limit: 200_000_000,
        ..guest(image)
    }
}

/// LIDT of an empty table and UD2: a triple fault.
const CRASH: [u8; 9] = [0x0f, 0x01, 0x1d, 0, 0, 0x20, 0, 0x0f, 0x0b];

#[test]
fn a_flood_of_report_lines_does_not_push_the_statistics_out() {
    // More than are kept, and the first words of the hypervisor's own.
    for text in ["#ph x y\n", "#ph exits vcpu=all CPUID=7\n"] {
        let run = writes(text, 6000, &SUCCEED);
        let finished = run.run(Box::new(|_, _| {}));
        let finished = finished.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(finished.report.outcome, Outcome::Exit(0x10));
    }
}

#[test]
fn numbers_of_a_guest_do_not_overflow() {
    let largest = u64::MAX;
    let text = format!("#ph phase name=unicast sent={largest} lost={largest}\n");
    let finished = writes(&text, 3, &SUCCEED).run(Box::new(|_, _| {}));
    let result = finished.unwrap_or_else(|error| panic!("{error}")).result;
    assert_eq!(result.unicast_ipis, u64::MAX);
    assert_eq!(result.lost_interrupts, u64::MAX);
}

/// What a guest says of its end before it crashes is not how it ended.
#[test]
fn a_guest_that_crashes_does_not_choose_its_status() {
    let text = "#ph guest-exit status=32\n#ph stop reason=guest-exit\n";
    let run = writes(text, 1, &CRASH);
    let finished = run.run_to_end(Box::new(|_, _| {})).expect("it starts");
    assert_eq!(finished.report.outcome, Outcome::Exit(0x14));
    assert_eq!(finished.exit_value(), None, "{}", finished.console);
    assert!(run.judge(finished).is_err());
}

/// A line that the guest does not end does not hide the hypervisor's behind it, however long ago it was
/// written.
#[test]
fn a_prompt_does_not_hide_a_report() {
    // Long enough for the hypervisor to pass the part of a line on: mov ecx, 2000000h; loop $.
    let mut wait = vec![0xb9, 0, 0, 0, 2, 0xe2, 0xfe];
    wait.extend(SUCCEED);
    let finished = writes("~ # ", 1, &wait).run_to_end(Box::new(|_, _| {}));
    let finished = finished.expect("it starts");
    let text = &finished.console;
    assert_eq!(finished.report.outcome, Outcome::Exit(0x10), "{text}");
    assert!(text.contains("~ # \n"), "{text}");
    let of_vcpu = |line: &&posthaste::report_lines::ReportLine| {
        line.kind == "exits" && line.get("vcpu") == "0"
    };
    assert_eq!(finished.lines.iter().filter(of_vcpu).count(), 1, "{text}");
}
