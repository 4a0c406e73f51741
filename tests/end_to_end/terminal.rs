//! The console on a terminal: keys reach the guest one by one, and the terminal is itself again however
//! the run ends. The same with Debian's kernel: `tests/peers/linux_terminal.rs`.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

use crate::elf::{ECHO, kernel};
use crate::program::TemporaryFile;
use crate::pseudo_terminal::Session;

const HINT: &str = "Ctrl-A x leaves";

/// Types to the echo, Ctrl-C and Ctrl-A among what is typed, and ends it.
#[track_caller]
fn echoes(name: &str, arguments: &[&str], status: i32) {
    let file = TemporaryFile::new(name, &kernel(ECHO));
    let mut session = Session::start(&[arguments, &["--kernel", file.path()]].concat());
    session.wait_for(HINT);
    assert!(session.is_changed(), "the terminal is not raw");
    for (typed, shown) in [
        ("a", "a"),
        ("bc", "bc"),
        ("\x03", "\x03"),
        ("\x01\x01", "\x01"),
        ("\x01h", "sends Ctrl-A to the guest"),
        ("d", "d"),
    ] {
        session.type_in(typed);
        session.wait_for(shown);
    }
    session.type_in("!");
    let ended = session.end();
    assert_eq!(ended.status.code(), Some(status), "{ended:#?}");
    // Nothing draws progress over the console.
    assert!(!ended.output.contains('\x1b'), "{ended:#?}");
}

#[test]
fn keys_reach_the_bare_machine() {
    echoes("echo-machine", &["machine", "--cpus", "1"], 0x21);
}

#[test]
fn keys_reach_the_bare_machine_in_parallel() {
    echoes(
        "echo-parallel",
        &["machine", "--cpus", "2", "--schedule", "parallel"],
        0x21,
    );
}

#[test]
fn keys_reach_the_guest() {
    echoes("echo-guest", &["run", "--cpus", "2", "--vcpus", "1"], 0);
}

#[test]
fn keys_reach_the_guest_in_parallel() {
    let arguments = [
        "run",
        "--cpus",
        "1",
        "--vcpus",
        "1",
        "--schedule",
        "parallel",
    ];
    echoes("echo-guest-parallel", &arguments, 0);
}

#[test]
fn ctrl_a_x_leaves() {
    let file = TemporaryFile::new("leave", &kernel(ECHO));
    for command in ["machine", "run"] {
        let mut session = Session::start(&[command, "--kernel", file.path()]);
        session.wait_for(HINT);
        session.type_in("\x01x");
        let ended = session.end();
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        assert!(
            ended.output.ends_with("\nposthaste: left\r\n"),
            "{ended:#?}"
        );
    }
}

#[test]
fn signals_end_it_as_ever_and_leave_the_terminal_as_it_was() {
    let file = TemporaryFile::new("signals", &kernel(ECHO));
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut session = Session::start(&["machine", "--kernel", file.path()]);
        session.wait_for(HINT);
        assert!(session.is_changed());
        session.signal(signal);
        let ended = session.end();
        assert_eq!(ended.status.signal(), Some(signal.as_raw()), "{ended:#?}");
    }
}

#[test]
fn an_error_leaves_the_terminal_as_it_was() {
    // ud2 without a handler; cli and hlt, which no key can end.
    for (name, code, said) in [
        ("fault", &[0x0f, 0x0b][..], "triple fault"),
        ("halt", &[0xfa, 0xf4], "every processor is halted"),
    ] {
        let file = TemporaryFile::new(name, &kernel(code));
        let mut session = Session::start(&["machine", "--cpus", "1", "--kernel", file.path()]);
        session.wait_for(said);
        let ended = session.end();
        assert_eq!(ended.status.code(), Some(4), "{ended:#?}");
    }
}

#[test]
fn a_console_or_input_from_a_file_leaves_the_terminal_alone() {
    let file = TemporaryFile::new("alone", &kernel(ECHO));
    let input = TemporaryFile::new("alone-input", b"x!");
    let console = TemporaryFile::new("alone-console", b"");
    for command in ["machine", "run"] {
        let session = Session::start(&[
            command,
            "--kernel",
            file.path(),
            "--input",
            input.path(),
            "--console",
            console.path(),
        ]);
        let ended = session.end();
        assert!(!ended.output.contains(HINT), "{ended:#?}");
    }
}
