//! What the command says on the error stream.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

/// Says one line. A reader that went away, or an error stream that was closed, loses it and harms nothing.
pub(crate) fn say(text: impl fmt::Display) {
    raw(format_args!(
        "posthaste: {}\n",
        printable(&text.to_string())
    ));
}

/// Writes as it is, for what is no message of its own.
pub(crate) fn raw(text: impl fmt::Display) {
    let _ = write!(io::stderr().lock(), "{text}");
}

/// Text that may be a guest's, with its control characters spelt out: they belong to the console and not to
/// the terminal on which a message appears.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelt_out() {
        assert_eq!(printable("plain text, é"), "plain text, é");
        assert_eq!(printable("\x1b[31mred\x07"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(printable("a\nb\u{9b}31m"), "a\\nb\\u{9b}31m");
    }
}
