//! The keyboard of an interactive run: keys go to the guest's serial port as they are typed.

use std::io::{self, ErrorKind, IsTerminal, Read};
use std::sync::Arc;

use machine::platform::{Outcome, Platform};

use crate::message;

/// Ctrl-A, after which a key is for us.
const ESCAPE: u8 = 0x01;
/// Bytes that wait for the guest at most; more is refused with a bell.
const MOST_WAITING: usize = 1 << 16;
const BELL: &str = "\x07";
/// How to leave.
pub(super) const HINT: &str = "Ctrl-A x leaves, Ctrl-A h says what else there is";
/// What the help of a command with a keyboard says of it, and without which options there is one.
pub(super) fn about(without: &str) -> String {
    format!(
        "On a terminal, without {without}, keys go to the guest's console as they are typed: Ctrl-A x leaves, \
         Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h says so."
    )
}
const HELP: &str = "\nCtrl-A x       leaves: the machine is switched off as it stands\n\
                    Ctrl-A Ctrl-A  sends Ctrl-A to the guest\n\
                    Ctrl-A h       says this\n";

/// Whether somebody sits at a terminal and sees it too.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// The byte is for the guest.
    Guest(u8),
    /// The next key is for us.
    Escape,
    /// End the run.
    Leave,
    /// Say what there is.
    Help,
    /// Nothing is known by that key.
    Unknown,
}

/// Tells keys for us from keys for the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn key(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Escape
            }
            (false, byte) => Key::Guest(byte),
            (true, ESCAPE) => Key::Guest(ESCAPE),
            (true, b'x' | b'X') => Key::Leave,
            (true, b'h' | b'H' | b'?') => Key::Help,
            (true, _) => Key::Unknown,
        }
    }
}

/// Connects standard input to the machine, until the process ends.
pub(super) fn connect(platform: &Arc<Platform>) {
    platform.open_keyboard();
    let machine = platform.clone();
    let reader = std::thread::Builder::new().spawn(move || pass_keys(&machine));
    if let Err(error) = reader {
        // Nobody could type, and nobody could leave.
        message::say(format_args!("cannot read the keyboard: {error}"));
        platform.stop(Outcome::Stopped);
    }
}

fn pass_keys(platform: &Platform) {
    let mut keys = Keys::default();
    let mut bytes = [0; 256];
    loop {
        let read = match io::stdin().read(&mut bytes) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The terminal went away, as at its end of file.
            Err(_) => 0,
        };
        if read == 0 {
            return platform.stop(Outcome::Stopped);
        }
        let mut for_guest = Vec::new();
        for byte in bytes.iter().take(read) {
            match keys.key(*byte) {
                Key::Guest(byte) => for_guest.push(byte),
                Key::Escape => {}
                Key::Leave => return platform.stop(Outcome::Stopped),
                Key::Help => message::raw(HELP),
                Key::Unknown => message::raw(BELL),
            }
        }
        if platform.input_waiting() + for_guest.len() > MOST_WAITING {
            message::raw(BELL);
        } else if !for_guest.is_empty() {
            platform.type_in(&for_guest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_makes_the_next_key_ours() {
        let typed = |bytes: &[u8]| -> Vec<Key> {
            let mut keys = Keys::default();
            bytes.iter().map(|byte| keys.key(*byte)).collect()
        };
        use Key::{Escape, Guest, Help, Leave, Unknown};
        assert_eq!(typed(b"x\x03"), [Guest(b'x'), Guest(3)]);
        assert_eq!(typed(b"\x01x"), [Escape, Leave]);
        assert_eq!(
            typed(b"\x01\x01x"),
            [Escape, Guest(1), Guest(b'x')],
            "Ctrl-A itself"
        );
        assert_eq!(
            typed(b"\x01h\x01?\x01q"),
            [Escape, Help, Escape, Help, Escape, Unknown]
        );
        // What followed is over.
        assert_eq!(typed(b"\x01qx"), [Escape, Unknown, Guest(b'x')]);
    }
}
