//! `posthaste image`: a bootable image of the hypervisor with the guest as its module.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::{CommandError, print};
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
    let output = Command::new("grub-mkrescue")
        .arg("-o")
        .arg(&options.output)
        .arg(&tree.0)
        .args([
            "--install-modules=multiboot2 normal iso9660 biosdisk part_msdos part_gpt",
            "--fonts=",
            "--locales=",
            "--themes=",
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            print(&format!("wrote {}", options.output.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(output) => Err(CommandError::Tool(format!(
            "grub-mkrescue failed: {}",
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("it said nothing")
        ))),
        Err(error) => Err(CommandError::Tool(format!(
            "cannot run grub-mkrescue ({error}): install GRUB and xorriso (Debian: grub-common grub-pc-bin xorriso mtools)"
        ))),
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
