//! The command lines of kernels and modules, as their loaders give them.

use std::path::Path;

use machine::machine::Protocol;

/// What the command lines of a kernel and its modules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandLine {
    /// The text alone.
    Text,
    /// The file's name and the text, as multiboot kernels expect of their loader.
    NameAndText,
}

impl CommandLine {
    /// Those of an image that is started by `protocol`, or by the best that it offers.
    pub(super) fn of(protocol: Option<Protocol>, image: &[u8]) -> Self {
        let offered = || firmware::boot::detect(image).ok()?.first().copied();
        match protocol.or_else(offered) {
            Some(Protocol::Multiboot1) => Self::NameAndText,
            _ => Self::Text,
        }
    }

    /// The command line of the file at `path` for which the user gave `text`.
    pub(super) fn text(self, path: &Path, text: &str) -> String {
        match self {
            Self::Text => text.to_owned(),
            Self::NameAndText => format!("{} {text}", path.display()).trim_end().to_owned(),
        }
    }
}
