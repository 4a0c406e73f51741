//! `--console` and `--input`: a guest's console in files, the same for every command that runs one.

use crate::elf::{ECHO, kernel};
use crate::program::{TemporaryFile, posthaste};

/// More than a FIFO takes.
const LONG: usize = 100;
/// More than the hypervisor keeps for its guest.
const VERY_LONG: usize = 6000;

/// What is typed.
fn script(length: usize) -> Vec<u8> {
    let mut script: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
    script.extend(b"\n!");
    script
}

/// What the command wrote to its console file.
fn console(name: &str, arguments: &[&str], length: usize, status: i32) -> String {
    let kernel = TemporaryFile::new(&format!("{name}-kernel"), &kernel(ECHO));
    let input = TemporaryFile::new(&format!("{name}-input"), &script(length));
    let console = TemporaryFile::new(&format!("{name}-console"), b"");
    let files = ["--kernel", kernel.path(), "--input", input.path()];
    let ended = posthaste(&[arguments, &files, &["--console", console.path()]].concat());
    assert_eq!(ended.status, Some(status), "{ended:#?}");
    // The console is in the file, and there alone.
    assert!(!ended.output.contains("abcdefg"), "{ended:#?}");
    std::fs::read_to_string(console.path()).unwrap()
}

/// The echo of the script.
fn echoed(length: usize) -> String {
    format!(">{}", String::from_utf8(script(length)).unwrap())
}

#[test]
fn of_the_bare_machine() {
    let text = console("files-machine", &["machine"], LONG, 0x21);
    assert_eq!(text, echoed(LONG));
}

#[test]
fn of_a_guest() {
    let text = console(
        "files-run",
        &["run", "--vcpus", "2", "--cpus", "2"],
        VERY_LONG,
        0,
    );
    // With what the hypervisor says around it.
    assert!(text.contains(&echoed(VERY_LONG)), "{text}");
    assert!(text.starts_with("posthaste "), "{text}");
    assert!(text.contains("#ph stop reason=guest-exit"), "{text}");
}

#[test]
fn of_both_runs_of_a_comparison() {
    let options = ["compare", "--vcpus", "1", "--cpus", "1"];
    let text = console("files-compare", &options, LONG, 0);
    assert_eq!(text.matches(&echoed(LONG)).count(), 2, "{text}");
}

#[test]
fn input_from_the_start_repeats_to_the_instruction() {
    let kernel = TemporaryFile::new("files-repeat", &kernel(ECHO));
    let input = TemporaryFile::new("files-repeat-input", &script(LONG));
    let run = || {
        let ended = posthaste(&[
            "run",
            "--json",
            "--kernel",
            kernel.path(),
            "--input",
            input.path(),
        ]);
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        ended.output
    };
    assert_eq!(run(), run());
}
