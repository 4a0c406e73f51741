//! Programs of this system with the libraries that they need, for a RAM disk.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the psABI says that the loader is.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// The program and its libraries, each with its path in a RAM disk, without the first slash.
pub(crate) fn with_libraries(program: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|error| format!("cannot run ldd: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "ldd {} failed: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut files = vec![(format!("bin/{}", name(program)), program.to_owned())];
    for path in libraries(&String::from_utf8_lossy(&output.stdout)) {
        let directory = if name(&path) == LOADER {
            "lib64"
        } else {
            "lib/x86_64-linux-gnu"
        };
        files.push((format!("{directory}/{}", name(&path)), path));
    }
    Ok(files)
}

/// The files that ldd names: `name => path (address)`, or for the loader `path (address)`.
fn libraries(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = path.split_ascii_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_ldds_lines() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let paths = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), paths.map(PathBuf::from));
    }
}
