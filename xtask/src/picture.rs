//! The pictures in the README: what the demonstration prints, and what Debian's kernel costs with IPI
//! virtualization off and on.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::linux_guest;
use crate::runner::{cargo, succeed};

const COMPARISON: &str = "docs/comparison.svg";
/// The comparison's guest: no test of ciphers, which take most of a boot, and every workload.
const GUEST_OPTIONS: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests \
    posthaste.work=pipe:400,futex:400,membarrier:400,mprotect:400,hackbench:100";
const PICTURE: &str = "docs/demonstration.svg";
/// Before the version of the compiler that the hypervisor in the picture was built with.
const COMPILER: &str = "<!-- built with ";
/// Pixels that a character takes.
const WIDTH: usize = 8;
const HEIGHT: usize = 16;
const MARGIN: usize = 18;

/// Draws both.
pub(crate) fn run() -> Result<(), String> {
    demonstration()?;
    comparison()
}

/// Runs Debian's kernel with its workloads and has the command draw the comparison.
fn comparison() -> Result<(), String> {
    let guest = linux_guest::prepare()?;
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "posthaste"]);
    command
        .args([
            "--",
            "compare",
            "--memory",
            "512",
            "--append",
            GUEST_OPTIONS,
        ])
        .args(["--plot", COMPARISON])
        .arg("--kernel")
        .arg(guest.kernel)
        .arg("--initrd")
        .arg(guest.initial_ram_disk);
    succeed(command)?;
    println!("wrote {COMPARISON}");
    Ok(())
}

/// Draws the demonstration.
fn demonstration() -> Result<(), String> {
    fs::write(crate::root().join(PICTURE), drawn_demonstration()?)
        .map_err(|error| format!("{PICTURE}: {error}"))?;
    println!("wrote {PICTURE}");
    Ok(())
}

/// Makes sure that the picture of the demonstration shows what the demonstration prints. Another compiler makes
/// other instructions of the same hypervisor, so that with another one than the picture names figures may differ.
pub(crate) fn check() -> Result<(), String> {
    let there = fs::read_to_string(crate::root().join(PICTURE))
        .map_err(|error| format!("{PICTURE}: {error}"))?;
    let drawn = drawn_demonstration()?;
    let same = if compiler_of(&there) == compiler_of(&drawn) {
        there == drawn
    } else {
        without_figures(&there) == without_figures(&drawn)
    };
    if same {
        Ok(())
    } else {
        Err(format!(
            "{PICTURE} is not what the demonstration prints: cargo xtask picture draws it anew"
        ))
    }
}

/// What the picture says of the compiler.
fn compiler_of(picture: &str) -> Option<&str> {
    picture.lines().find(|line| line.starts_with(COMPILER))
}

/// The picture's letters, without numbers and what pads them.
fn without_figures(picture: &str) -> String {
    picture
        .lines()
        .filter(|line| !line.starts_with(COMPILER))
        .flat_map(str::chars)
        .filter(|character| character.is_alphabetic())
        .collect()
}

/// Runs the demonstration and draws what it prints.
fn drawn_demonstration() -> Result<String, String> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler)
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
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
    Ok(drawn(&text, &version))
}

/// The text as a terminal shows it.
fn drawn(text: &str, compiler: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max();
    let width = columns.unwrap_or(0) * WIDTH + 2 * MARGIN;
    let height = lines.len() * HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n\
         {COMPILER}{compiler} -->\n\
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
        let svg = drawn("$ a\n<b> & c", "rustc 9");
        assert!(svg.contains(">&lt;b&gt;\u{a0}&amp;\u{a0}c</text>"), "{svg}");
        assert!(svg.contains("width=\"92\" height=\"68\""), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
        assert_eq!(compiler_of(&svg), Some("<!-- built with rustc 9 -->"));
    }

    #[test]
    fn another_compiler_may_count_otherwise() {
        let one = drawn("off 251.5", "rustc 9");
        assert_eq!(
            without_figures(&one),
            without_figures(&drawn("off  99.0", "rustc 10"))
        );
        assert_ne!(
            without_figures(&one),
            without_figures(&drawn("on 251.5", "rustc 10"))
        );
    }
}
