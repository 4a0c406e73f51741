//! The picture in the README, drawn from a run of the demonstration.

use std::fmt::Write as _;
use std::fs;

use crate::runner::cargo;

const PICTURE: &str = "docs/demonstration.svg";
/// Pixels that a character takes.
const WIDTH: usize = 8;
const HEIGHT: usize = 18;
const MARGIN: usize = 18;

/// Runs the demonstration and draws what it prints.
pub(crate) fn run() -> Result<(), String> {
    let output = cargo(&["run", "--quiet", "--release", "--package", "posthaste"])
        .output()
        .map_err(|error| format!("cannot run the demonstration: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the demonstration failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let text = format!(
        "$ cargo run --release\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    fs::write(crate::root().join(PICTURE), drawn(&text))
        .map_err(|error| format!("{PICTURE}: {error}"))?;
    println!("wrote {PICTURE}");
    Ok(())
}

/// The text as a terminal shows it.
fn drawn(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max();
    let width = columns.unwrap_or(0) * WIDTH + 2 * MARGIN;
    let height = lines.len() * HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1b1d23\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"13\" \
         fill=\"#d6d9e0\" xml:space=\"preserve\">\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + number * HEIGHT + HEIGHT * 3 / 4;
        let length = line.chars().count() * WIDTH;
        let fill = if line.starts_with('$') {
            " fill=\"#8fd694\""
        } else {
            ""
        };
        if length != 0 {
            // A string cannot fail to take text. `textLength` keeps columns where the font is another.
            let _ = writeln!(
                svg,
                "<text x=\"{MARGIN}\" y=\"{y}\" textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\"{fill}>{}</text>",
                escaped(line)
            );
        }
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn escaped(line: &str) -> String {
    line.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        // Leading and repeated spaces stay.
        .replace(' ', "\u{a0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_the_output_stays_text_and_the_picture_fits() {
        let svg = drawn("$ a\n<b> & c");
        assert!(svg.contains(">&lt;b&gt;\u{a0}&amp;\u{a0}c</text>"), "{svg}");
        assert!(svg.contains("width=\"92\" height=\"72\""), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
