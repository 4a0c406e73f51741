//! `--trace` writes a line for each event: time, processor, event.

use crate::elf::kernel;
use crate::program::{TemporaryFile, posthaste};

/// The events in a trace whose every line has a time, not decreasing, and a processor.
#[track_caller]
fn events(file: &TemporaryFile) -> Vec<String> {
    let text = std::fs::read_to_string(file.path()).unwrap();
    let mut last = 0;
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(3, ' ');
            let mut number = || fields.next()?.parse::<u64>().ok();
            let (time, processor) = number().zip(number()).expect(line);
            assert!(time >= last && processor < 2, "{line}");
            last = time;
            fields.next().expect(line).to_owned()
        })
        .collect()
}

#[test]
fn of_the_bare_machine() {
    // mov al, 7; out 80h, al; mov al, 10h; out 0f4h, al; cli; again: hlt; jmp again
    let code = [
        0xb0, 7, 0xe6, 0x80, 0xb0, 0x10, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd,
    ];
    let image = TemporaryFile::new("traced.elf", &kernel(&code));
    let trace = TemporaryFile::new("machine.trace", b"");
    let ended = posthaste(&[
        "machine",
        "--kernel",
        image.path(),
        "--cpus",
        "1",
        "--trace",
        trace.path(),
    ]);
    assert_eq!(ended.status, Some(0x21), "{ended:?}");
    assert_eq!(
        events(&trace),
        ["port 0x0080 value=0x7", "port 0x00f4 value=0x10"]
    );
}

#[test]
fn of_a_guest() {
    let trace = TemporaryFile::new("guest.trace", b"");
    let ended = posthaste(&[
        "run",
        "--vcpus",
        "2",
        "--cpus",
        "2",
        "--append",
        "phases=unicast rounds=10",
        "--trace",
        trace.path(),
    ]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let events = events(&trace);
    for kind in ["entry", "exit", "port"] {
        assert!(
            events.iter().any(|event| event.starts_with(kind)),
            "no {kind}"
        );
    }
    // Each round of the one pair is an IPI there and one back.
    let virtualized = events.iter().filter(|event| event.starts_with("ipi"));
    assert!(virtualized.count() >= 20);
}
