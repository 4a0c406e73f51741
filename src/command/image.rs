//! `posthaste image`: a bootable image of the hypervisor with the guest as its module.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::CommandError;
use super::output_file::OutputFile;
use super::standard_output::print;
use crate::images;

/// Options of `image`.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Where to write the ISO image
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The hypervisor's command line
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    append: String,
    /// The guest's command line
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    guest_append: String,
}

/// Writes the image with GRUB's own tool, so that it starts wherever GRUB does.
pub(super) fn run(options: &Options) -> Result<ExitCode, CommandError> {
    for text in [&options.append, &options.guest_append] {
        if text.contains(['\n', '{', '}', '"', '\'', '\\', '$', ';', '#']) {
            return Err(CommandError::Tool(format!(
                "the command line {text:?} has a character that GRUB would interpret"
            )));
        }
    }
    let tree = Tree::new()?;
    tree.write("boot/posthaste", images::HYPERVISOR)?;
    tree.write("boot/guest", images::GUEST)?;
    let configuration = format!(
        "set timeout=0\nset default=0\nmenuentry posthaste {{\n  multiboot2 /boot/posthaste {}\n  module2 /boot/guest {}\n  boot\n}}\n",
        options.append, options.guest_append
    );
    tree.write("boot/grub/grub.cfg", configuration.as_bytes())?;
    // Its own complaint about a place that cannot be written is a line among many.
    let output = OutputFile::create("write", &options.output)?;
    let result = mkrescue(&options.output, &tree.0);
    drop(output);
    if result.is_err() {
        // Empty, or half an image; the reason is what the user needs.
        let _ = std::fs::remove_file(&options.output);
    }
    result?;
    print(&format!("wrote {}", options.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Has GRUB's tool write the tree as an image.
fn mkrescue(image: &Path, tree: &Path) -> Result<(), CommandError> {
    let output = Command::new("grub-mkrescue")
        .arg("-o")
        .arg(image)
        .arg(tree)
        .args([
            "--install-modules=multiboot2 normal iso9660 biosdisk part_msdos part_gpt",
            "--fonts=",
            "--locales=",
            "--themes=",
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(CommandError::Tool(format!(
            "grub-mkrescue failed: {}",
            reason(&String::from_utf8_lossy(&output.stderr))
        ))),
        Err(error) => Err(CommandError::Tool(format!(
            "cannot run grub-mkrescue ({error}): install GRUB and xorriso (Debian: grub-common grub-pc-bin xorriso mtools)"
        ))),
    }
}

/// Why GRUB's tool failed: what it calls an error or a failure, and all it said if it calls nothing so.
fn reason(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let bad = |line: &&&str| {
        let line = line.to_ascii_lowercase();
        ["error", "fail", "not found", "no space", "cannot", "fatal"]
            .iter()
            .any(|word| line.contains(word))
    };
    let reasons: Vec<&str> = lines.iter().filter(bad).copied().collect();
    match (reasons.as_slice(), lines.as_slice()) {
        ([], []) => "it said nothing".to_owned(),
        ([], all) => all.join("; "),
        (reasons, _) => reasons.join("; "),
    }
}

/// A temporary directory, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Result<Self, CommandError> {
        let path = std::env::temp_dir().join(format!("posthaste-image-{}", std::process::id()));
        let tree = Self(path);
        create(&tree.0.join("boot/grub"))?;
        Ok(tree)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CommandError> {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).map_err(|source| CommandError::File {
            what: "write",
            path,
            source,
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A temporary directory that stays behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn create(path: &Path) -> Result<(), CommandError> {
    std::fs::create_dir_all(path).map_err(|source| CommandError::File {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_not_the_last_line() {
        let said = "xorriso 1.5.4 : RockRidge filesystem manipulator\n\n\
            grub-mkrescue: error: `mformat` invocation failed\n\nDrive current: -outdev 'x'\n";
        assert_eq!(
            reason(said),
            "grub-mkrescue: error: `mformat` invocation failed"
        );
        assert_eq!(reason("one\n\n two \n"), "one; two");
        assert_eq!(reason("\n"), "it said nothing");
    }
}
