//! The exit status says whose end it was: odd ones are the guest's, even ones the command's own.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::elf::kernel;
use crate::program::{TemporaryFile, posthaste};

const PROGRAM: &str = env!("CARGO_BIN_EXE_posthaste");
/// `again: jmp again`.
const LOOP: &[u8] = &[0xeb, 0xfe];

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

/// What the command says of itself is no guest's.
#[test]
fn the_commands_own_are_even() {
    let loops = TemporaryFile::new("status-loop.elf", &kernel(LOOP));
    let faults = TemporaryFile::new("status-fault.elf", &kernel(&[0x0f, 0x0b]));
    let limit = ["--cpus", "1", "--limit", "100000"];
    for (status, arguments) in [
        (2, &["machine", "--kernel", "/no/such"][..]),
        (2, &["run", "--vcpus", "0"]),
        (2, &["run", "--memory", "0"]),
        (2, &["fly"]),
        // Before a subcommand there are the demonstration's options, which are not the subcommand's.
        (2, &["--seed", "3", "run"]),
        (2, &["--json", "probe"]),
        (2, &["run", "--trace", "/no/such/trace"]),
        (
            4,
            &[&["machine", "--kernel", loops.path()][..], &limit].concat(),
        ),
        (
            4,
            &[&["run", "--kernel", loops.path()][..], &limit].concat(),
        ),
        (4, &["machine", "--kernel", faults.path(), "--cpus", "1"]),
        (4, &["run", "--kernel", faults.path(), "--cpus", "1"]),
        (4, &["run", "--hypervisor-append", "turbo=on"]),
        (4, &["run", "--cpu", "none"]),
    ] {
        let ended = posthaste(arguments);
        assert_eq!(ended.status, Some(status), "{arguments:?}: {ended:#?}");
        let said = ended.without_progress().errors;
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

/// A machine whose RAM lies on both sides of the hole below 4 GiB gives a guest five eighths of it, in pieces.
#[test]
fn a_guests_memory_need_not_be_one_piece() {
    // mov dword [bfff0000h], 1234h; cmp dword [bfff0000h], 1234h; sete al; shl al, 4; out 0f4h, al
    let code = [
        0xc7, 0x05, 0, 0, 0xff, 0xbf, 0x34, 0x12, 0, 0, 0x81, 0x3d, 0, 0, 0xff, 0xbf, 0x34, 0x12,
        0, 0, 0x0f, 0x94, 0xc0, 0xc0, 0xe0, 0x04, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd,
    ];
    let file = TemporaryFile::new("pieces.elf", &kernel(&code));
    let machine = ["--cpus", "1", "--vcpus", "1", "--memory", "5000"];
    let ended = posthaste(&[&["run", "--kernel", file.path()][..], &machine].concat());
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    // What does not fit is said in the user's terms.
    let wanted = ["--guest-memory", "4990"];
    let ended = posthaste(&[&["run", "--kernel", file.path()][..], &machine, &wanted].concat());
    assert_eq!(ended.status, Some(2), "{ended:#?}");
    let said = "the guest's 4990 MiB of memory do not fit into the 49";
    assert!(ended.errors.contains(said), "{ended:#?}");
    assert!(ended.errors.contains("--guest-memory"), "{ended:#?}");
}

#[test]
fn a_probe_answers_by_its_status() {
    let ended = posthaste(&["probe"]);
    let has = ended
        .output
        .contains("can run the hypervisor natively with IPI virtualization");
    assert_eq!(ended.status, Some(i32::from(!has)), "{ended:#?}");
}

/// Runs the command in a shell that closes or redirects its streams.
fn in_shell(arguments: &str, redirections: &str) -> Output {
    Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("exec {PROGRAM} {arguments} {redirections}"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_closed_standard_output_is_refused_before_the_run() {
    for arguments in [
        "",
        "run --append 'phases=self rounds=1'",
        "run --json",
        "probe",
    ] {
        let output = in_shell(arguments, ">&-");
        assert_eq!(output.status.code(), Some(2), "{arguments}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("standard output is closed") && said.lines().count() == 1,
            "{said}"
        );
    }
    // Whoever does not want the result may say so.
    let output = in_shell("run --append 'phases=self rounds=1'", ">/dev/null");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let output = in_shell("run --append 'phases=self rounds=1' --json", ">/dev/full");
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let trace = in_shell(
        "run --append 'phases=self rounds=1' --json --trace /dev/full",
        "",
    );
    assert_eq!(trace.status.code(), Some(8), "{trace:?}");
    let said = String::from_utf8_lossy(&trace.stderr);
    assert!(
        said.contains("cannot write the trace to /dev/full"),
        "{said}"
    );
}

#[test]
fn a_closed_error_stream_changes_nothing() {
    for (arguments, status) in [
        ("run --append 'phases=self rounds=1'", 0),
        ("--fast", 2),
        ("run --vcpus 0", 2),
        ("run --hypervisor-append turbo=on", 4),
    ] {
        for redirection in ["2>&-", "2>/dev/full"] {
            let output = in_shell(arguments, redirection);
            assert_eq!(
                output.status.code(),
                Some(status),
                "{arguments} {redirection}: {output:?}"
            );
        }
    }
}

/// Starts a kernel that says something and loops for ever, waits until it has, and sends a signal.
#[track_caller]
fn signalled(command: &str, extra: &[&str], signal: Signal) -> (Output, String) {
    // mov dx, 3f8h; mov al, 's'; out dx, al; mov al, 10; out dx, al; out 80h, al; again: jmp again
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0xb0, b's', 0xee, 0xb0, 10, 0xee, 0xe6, 0x80, 0xeb, 0xfe,
    ];
    let name = format!("signalled-{command}-{}", signal.as_raw());
    let file = TemporaryFile::new(&name, &kernel(&code));
    let trace = TemporaryFile::new(&format!("{name}.trace"), b"");
    let started = TemporaryFile::new(&format!("{name}.started"), b"");
    let child = Command::new(PROGRAM)
        .args([command, "--cpus", "1", "--kernel", file.path()])
        .args(["--trace", trace.path()])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(File::create(started.path()).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !std::fs::read_to_string(started.path())
        .unwrap()
        .contains("s\n")
    {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = Pid::from_child(&child);
    kill_process(id, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = std::fs::read_to_string(trace.path()).unwrap();
    (output, text)
}

#[test]
fn a_signal_ends_the_run_and_loses_no_trace() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for command in ["machine", "run"] {
            let (output, trace) = signalled(command, &[], signal);
            assert_eq!(output.status.signal(), Some(signal.as_raw()), "{output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("posthaste: stopped by SIG"), "{said}");
            assert!(
                trace.contains("port 0x0080") || trace.contains("exit reason=IO_INSTRUCTION"),
                "{trace:.300}"
            );
            assert!(trace.ends_with('\n'), "the last line is whole");
        }
    }
}

#[test]
fn a_signal_does_not_lose_the_statistics() {
    let statistics = TemporaryFile::new("signalled.statistics", b"");
    let (output, _) = signalled(
        "machine",
        &["--statistics", statistics.path()],
        Signal::QUIT,
    );
    // Who sends this does not want to wait.
    assert_eq!(output.status.signal(), Some(Signal::QUIT.as_raw()));
    let (output, _) = signalled(
        "machine",
        &["--statistics", statistics.path()],
        Signal::TERM,
    );
    assert_eq!(output.status.signal(), Some(Signal::TERM.as_raw()));
    let text = std::fs::read_to_string(statistics.path()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["instructions"][0].as_u64().unwrap() > 0, "{text}");
}

/// A guest's control characters are for the console, not for the terminal on which a message appears.
#[test]
fn escape_sequences_stay_out_of_messages() {
    // The guest's command line is on no console; its unknown option is repeated by our guest.
    let ended = posthaste(&["run", "--append", "\u{1b}[31mturbo"]);
    assert_eq!(ended.status, Some(4), "{ended:#?}");
    assert!(!ended.errors.contains('\u{1b}'), "{ended:#?}");
    assert!(ended.errors.contains("turbo"), "{ended:#?}");
}

#[test]
fn what_does_not_end_is_not_read_for_ever() {
    let bomb = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..64 {
            encoder.write_all(&zeros).unwrap();
        }
        TemporaryFile::new("bomb.gz", &encoder.finish().unwrap())
    };
    let kernel = TemporaryFile::new("endless.elf", &ending_with(0x10));
    let kernel = kernel.path();
    for arguments in [
        &["machine", "--kernel", "/dev/zero"][..],
        &["machine", "--kernel", kernel, "--initrd", "/dev/zero"],
        &["machine", "--kernel", kernel, "--module", "/dev/zero x"],
        &["machine", "--kernel", kernel, "--input", "/dev/zero"],
        &["run", "--kernel", "/dev/zero"],
        &["run", "--kernel", kernel, "--initrd", "/dev/zero"],
        &["run", "--input", "/dev/zero"],
        &["machine", "--memory", "32", "--kernel", bomb.path()],
        &["run", "--memory", "32", "--kernel", bomb.path()],
    ] {
        let ended = posthaste(arguments);
        assert_eq!(ended.status, Some(2), "{arguments:?}: {ended:#?}");
        assert!(ended.errors.contains("larger than"), "{ended:#?}");
        assert_eq!(ended.errors.lines().count(), 1, "{ended:#?}");
    }
}

/// Options that work against each other do not make the result claim what was not so.
#[test]
fn the_result_says_what_was_used() {
    for arguments in [
        &["--hypervisor-append", "ipiv=off", "--ipiv", "on"][..],
        &["--cpu", "posted-interrupts"],
    ] {
        let options = ["run", "--json", "--append", "phases=self rounds=1"];
        let ended = posthaste(&[&options, arguments].concat());
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        let document: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
        assert_eq!(
            document["runs"][0]["ipi_virtualization"], false,
            "{arguments:?}"
        );
    }
}

/// A guest of somebody else's gets the command line that the user wrote, and nothing else.
#[test]
fn a_foreign_guests_command_line_is_its_own() {
    use posthaste::guest_run::{ApicMode, GuestRun};
    for apic in [ApicMode::X2apic, ApicMode::Xapic] {
        let run = GuestRun {
            guest: Some(ending_with(0x10)),
            guest_options: "one two".to_owned(),
            apic,
            ..GuestRun::default()
        };
        assert_eq!(run.guest_command_line(), "one two");
    }
}

#[test]
fn a_file_that_is_only_written_at_the_end_is_opened_first() {
    // The run would take for ever.
    let file = TemporaryFile::new("opened-first.elf", &kernel(LOOP));
    for option in ["--trace", "--statistics", "--console"] {
        let ended = posthaste(&["machine", "--kernel", file.path(), option, "/no/such/file"]);
        assert_eq!(ended.status, Some(2), "{ended:#?}");
    }
    let ended = posthaste(&["image", "-o", "/no/such/image.iso"]);
    assert_eq!(ended.status, Some(2), "{ended:#?}");
    assert!(ended.errors.contains("/no/such/image.iso"), "{ended:#?}");
    assert!(!Path::new("/no/such").exists());
    // Nothing of the sort is left behind.
    assert!(OpenOptions::new().read(true).open("/no/such/file").is_err());
}
