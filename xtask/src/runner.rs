//! Running cargo and counting what its test runner ran.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// A cargo command in the workspace's directory.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::root()).args(arguments);
    command
}

/// Runs a command to its end; its output is the terminal's.
pub(crate) fn succeed(mut command: Command) -> Result<(), String> {
    eprintln!("+ {}", shown(&command));
    let status = command
        .status()
        .map_err(|error| format!("cannot run {}: {error}", shown(&command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed: {status}", shown(&command)))
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// What a test runner said at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    /// Adds what a line of cargo's or nextest's output counts; true if it counts something.
    fn add(&mut self, line: &str) -> bool {
        // Each figure is followed by what it counts, and "ignored" is libtest's "skipped".
        let tail = if let Some((_, tail)) = line.split_once("test result:") {
            tail
        } else if line.trim_start().starts_with("Summary [") {
            line
        } else {
            return false;
        };
        let words: Vec<&str> = tail
            .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')'))
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "skipped" | "ignored" => self.skipped += number,
                _ => {}
            }
        }
        true
    }
}

/// Runs a test runner, shows what it prints, and counts. It is an error if it fails, if it runs
/// nothing, or if it leaves a test out.
pub(crate) fn tests(mut command: Command) -> Result<Tested, String> {
    eprintln!("+ {}", shown(&command));
    let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    let clone = writer.try_clone().map_err(|error| error.to_string())?;
    // nextest reports on the error stream, libtest on the other.
    command.stdin(Stdio::null()).stdout(clone).stderr(writer);
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", shown(&command)))?;
    let name = shown(&command);
    // It holds the pipe's other end.
    drop(command);
    let mut tested = Tested::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(|error| error.to_string())?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        if tested.count.add(&line) {
            tested.summary = line.trim().to_owned();
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let count = tested.count;
    if !status.success() || count.failed != 0 {
        Err(format!("{name} failed: {status}"))
    } else if count.passed == 0 {
        Err(format!("{name} ran no test"))
    } else if count.skipped != 0 {
        Err(format!("{name} left {} tests out", count.skipped))
    } else {
        Ok(tested)
    }
}

/// A test runner's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tested {
    /// The sum over all test binaries.
    pub(crate) count: Count,
    /// The runner's last line about it.
    pub(crate) summary: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_lines_are_counted() {
        let mut count = Count::default();
        assert!(
            count.add(
                "     Summary [ 12.034s] 41 tests run: 38 passed (2 slow), 3 failed, 4 skipped"
            )
        );
        assert_eq!((count.passed, count.failed, count.skipped), (38, 3, 4));
        assert!(count.add(
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s"
        ));
        assert_eq!((count.passed, count.failed, count.skipped), (45, 3, 5));
        assert!(!count.add("        PASS [   0.004s] posthaste 9 passed"));
        assert_eq!(count.passed, 45);
    }
}
