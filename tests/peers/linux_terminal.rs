//! A shell of Debian's kernel on a terminal: somebody types.

use crate::linux_console::{Kernel, OPTIONS, initial_ram_disk};
use crate::pseudo_terminal::Session;

/// The prompt of the RAM disk's shell.
const PROMPT: &str = "/ # ";

/// Boots to a shell.
fn shell(command: &str, arguments: &[&str]) -> Session {
    let kernel = Kernel::Cloud.path();
    let ram_disk = initial_ram_disk();
    let append = format!("{OPTIONS} posthaste.shell");
    let files = [
        command,
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        ram_disk.to_str().unwrap(),
        "--append",
        &append,
        "--memory",
        "512",
        "--cpus",
        "2",
    ];
    let mut session = Session::start(&[&files, arguments].concat());
    session.wait_for(PROMPT);
    assert!(session.is_changed(), "the terminal is not raw");
    session
}

/// Has the shell work, and switches off.
#[track_caller]
fn works(mut session: Session) {
    session.type_in("echo $((6*7))\r");
    session.wait_for("\n42\r");
    session.wait_for(PROMPT);
    // Ctrl-C is the guest's: it ends what runs there, and nothing here.
    // Both are of the group that Ctrl-C ends, from before the first says that it runs.
    session.type_in("sh -c 'echo asleep $((2+3)); sleep 1000'\r");
    session.wait_for("asleep 5\r");
    session.type_in("\x03");
    session.wait_for(PROMPT);
    session.type_in("sleep 1; echo awake $((1+1))\r");
    session.wait_for("awake 2\r");
    session.wait_for(PROMPT);
    session.type_in("poweroff -f\r");
    let ended = session.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
}

#[test]
fn linux_has_a_shell_on_the_bare_machine() {
    works(shell("machine", &[]));
}

#[test]
fn linux_has_a_shell_on_the_bare_machine_in_parallel() {
    works(shell("machine", &["--schedule", "parallel"]));
}

#[test]
fn linux_has_a_shell_as_a_guest() {
    works(shell("run", &["--vcpus", "2"]));
}

#[test]
fn ctrl_a_x_leaves_linux() {
    let mut session = shell("machine", &[]);
    session.type_in("\x01x");
    let ended = session.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    assert!(ended.output.ends_with("posthaste: left\r\n"), "{ended:#?}");
}
