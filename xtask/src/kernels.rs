//! Debian 12's kernels, a static busybox, and hackbench with its library, fetched by apt into a cache below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a package's files are in the cache.
const TREE: &str = "tree";

/// What is in the cache.
pub(crate) struct Kernels {
    /// The kernel for virtual machines.
    pub(crate) cloud: PathBuf,
    /// The kernel for everything else.
    pub(crate) full: PathBuf,
    /// A busybox that needs no library.
    pub(crate) busybox: PathBuf,
    /// A program that passes messages between processes.
    pub(crate) hackbench: PathBuf,
    /// The C library that it needs.
    pub(crate) c_library: PathBuf,
    /// What was a library of its own once; programs still ask for it.
    pub(crate) thread_library: PathBuf,
    /// What loads them.
    pub(crate) loader: PathBuf,
}

/// The kernels, downloaded if they are not in the cache.
pub(crate) fn ensure(root: &Path) -> Result<Kernels, String> {
    let cache = root.join("target/kernels");
    let tree = cache.join(TREE);
    std::fs::create_dir_all(&tree)
        .map_err(|error| format!("cannot create {}: {error}", tree.display()))?;
    if find(&tree).is_err() {
        crate::packages::update_lists()?;
        for package in [
            depends_on("linux-image-cloud-amd64")?,
            depends_on("linux-image-amd64")?,
            "busybox-static".to_owned(),
            "rt-tests".to_owned(),
            "libc6".to_owned(),
        ] {
            fetch(&package, &cache, &tree)?;
        }
    }
    find(&tree)
}

fn find(tree: &Path) -> Result<Kernels, String> {
    let boot = tree.join("boot");
    let mut kernels: Vec<PathBuf> = std::fs::read_dir(&boot)
        .map_err(|error| format!("{}: {error}", boot.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| name(path).starts_with("vmlinuz-"))
        .collect();
    // The newest last, if the cache has seen several.
    kernels.sort();
    let newest = |cloud: bool| {
        kernels
            .iter()
            .rfind(|path| name(path).contains("-cloud-") == cloud)
            .cloned()
            .ok_or_else(|| format!("no kernel in {}", boot.display()))
    };
    let file = |name: &str| {
        let path = tree.join(name);
        if path.exists() {
            Ok(path)
        } else {
            Err(format!("{} is missing", path.display()))
        }
    };
    Ok(Kernels {
        cloud: newest(true)?,
        full: newest(false)?,
        busybox: file("bin/busybox")?,
        hackbench: file("usr/bin/hackbench")?,
        c_library: file("lib/x86_64-linux-gnu/libc.so.6")?,
        thread_library: file("lib/x86_64-linux-gnu/libpthread.so.0")?,
        loader: file("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")?,
    })
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The package with the files that a package without files stands for.
fn depends_on(package: &str) -> Result<String, String> {
    let text = output("apt-cache", &["depends", "--important", package], None)?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| {
            format!("apt knows no kernel behind {package}: run apt-get update, or put a Debian 12 source into /etc/apt")
        })
}

fn fetch(package: &str, cache: &Path, tree: &Path) -> Result<(), String> {
    eprintln!("apt-get download {package}");
    output("apt-get", &["-qq", "download", package], Some(cache)).map_err(|error| {
        format!(
            "{error}; without network, put the package {package} into {} and run this again",
            cache.display()
        )
    })?;
    let prefix = format!("{package}_");
    let archive = std::fs::read_dir(cache)
        .map_err(|error| format!("{}: {error}", cache.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| name(path).starts_with(&prefix) && name(path).ends_with(".deb"))
        .ok_or_else(|| format!("apt-get left no {prefix}*.deb in {}", cache.display()))?;
    let archive = archive.to_string_lossy();
    output("dpkg-deb", &["-x", &archive, &tree.to_string_lossy()], None).map(drop)
}

fn output(program: &str, arguments: &[&str], directory: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let output = command.output().map_err(|error| {
        format!("cannot run {program} ({error}); Debian's kernels are fetched with it")
    })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rfind(|line| !line.is_empty());
        return Err(format!(
            "{program} {} failed: {}",
            arguments.join(" "),
            last.unwrap_or("it said nothing")
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
