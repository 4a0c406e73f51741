//! Live progress on a terminal, plain lines otherwise; always on the error stream.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::message;

/// Shows what a run is doing.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    title: String,
}

impl Progress {
    /// Starts showing `title`.
    pub(super) fn start(title: String) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_message(title.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        if bar.is_hidden() {
            message::raw(format_args!("{title}\n"));
        }
        Self { bar, title }
    }

    /// Says what is being done now.
    pub(super) fn step(&self, text: &str) {
        let text = message::printable(text);
        if self.bar.is_hidden() {
            message::raw(format_args!("  {text}\n"));
        } else {
            self.bar.set_message(format!("{}: {text}", self.title));
        }
    }

    /// Ends with a last word.
    pub(super) fn finish(&self, text: &str) {
        if self.bar.is_hidden() {
            message::raw(format_args!("  {text}\n"));
        } else {
            self.bar
                .finish_with_message(format!("{}: {text}", self.title));
        }
    }
}
