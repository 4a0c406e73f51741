//! Debian 12's kernels, a static busybox, and hackbench with its library, fetched by apt into a cache below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a package's files are in the cache.
const TREE: &str = "tree";

/// KVM's modules, after those that they need.
const KVM: [&str; 3] = [
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-intel.ko",
];

/// What is in the cache.
pub(crate) struct Kernels {
    /// The kernel for virtual machines.
    pub(crate) cloud: PathBuf,
    /// KVM's modules for that kernel, with where they go in a RAM disk, in the order in which they are loaded.
    pub(crate) kvm: Vec<(String, PathBuf)>,
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

/// A package that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Package {
    /// By its name.
    Named(&'static str),
    /// The kernel that a package without files stands for; its name has a version.
    KernelBehind(&'static str),
}

const PACKAGES: [Package; 5] = [
    Package::KernelBehind("linux-image-cloud-amd64"),
    Package::KernelBehind("linux-image-amd64"),
    Package::Named("busybox-static"),
    Package::Named("rt-tests"),
    Package::Named("libc6"),
];

impl Package {
    /// What it is asked for by.
    const fn asked_for(self) -> &'static str {
        match self {
            Self::Named(name) | Self::KernelBehind(name) => name,
        }
    }

    /// Whether a file with this name is this package.
    fn is_archive(self, file: &str) -> bool {
        let Some((package, _)) = file
            .strip_suffix(".deb")
            .and_then(|name| name.split_once('_'))
        else {
            return false;
        };
        match self {
            Self::Named(name) => package == name,
            // linux-image-VERSION-amd64 and linux-image-VERSION-cloud-amd64.
            Self::KernelBehind(name) => {
                let cloud = name.contains("-cloud-");
                let version = package.strip_prefix("linux-image-");
                package.ends_with("-amd64")
                    && package.contains("-cloud-") == cloud
                    && version
                        .is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
            }
        }
    }

    /// Its archive in the cache; the newest, if the cache has seen several.
    fn archive(self, cache: &Path) -> Option<PathBuf> {
        std::fs::read_dir(cache)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| self.is_archive(&name(path)))
            .max()
    }

    fn download(self, cache: &Path) -> Result<(), String> {
        let package = match self {
            Self::Named(name) => name.to_owned(),
            Self::KernelBehind(name) => depends_on(name)?,
        };
        eprintln!("apt-get download {package}");
        output("apt-get", &["-qq", "download", &package], Some(cache)).map(drop)
    }
}

/// The kernels, downloaded if they are not in the cache. An archive that somebody put into the cache is
/// taken from there.
pub(crate) fn ensure(root: &Path) -> Result<Kernels, String> {
    let cache = root.join("target/kernels");
    let tree = cache.join(TREE);
    std::fs::create_dir_all(&tree)
        .map_err(|error| format!("cannot create {}: {error}", tree.display()))?;
    if let Ok(kernels) = find(&tree) {
        return Ok(kernels);
    }
    let missing = || {
        PACKAGES
            .into_iter()
            .filter(|package| package.archive(&cache).is_none())
    };
    if missing().next().is_some() {
        let downloaded = crate::packages::update_lists()
            .and_then(|()| missing().try_for_each(|package| package.download(&cache)));
        if let Err(error) = downloaded {
            let names: Vec<&str> = missing().map(Package::asked_for).collect();
            return Err(by_hand(&error, &names, &cache));
        }
    }
    for package in PACKAGES {
        let archive = package.archive(&cache).ok_or_else(|| {
            format!(
                "apt-get left no {} in {}",
                package.asked_for(),
                cache.display()
            )
        })?;
        let archive = archive.to_string_lossy();
        output("dpkg-deb", &["-x", &archive, &tree.to_string_lossy()], None)?;
    }
    find(&tree)
}

/// What to do if it cannot be done here.
fn by_hand(error: &str, missing: &[&str], cache: &Path) -> String {
    format!(
        "the tests with Debian 12's kernels need the packages {} ({error}); where apt and the network are, \
         run: apt-get download $(apt-cache depends --recurse --important {} | grep -E \
         '^(linux-image-[0-9]|busybox-static|rt-tests|libc6$)'), and put the .deb files into {}",
        missing.join(", "),
        missing.join(" "),
        cache.display()
    )
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
    // The kernel for everything else; the tests look for it where this looks.
    newest(false)?;
    let cloud = newest(true)?;
    let release = name(&cloud).replace("vmlinuz-", "");
    let module = |path: &str| {
        let path = file(&format!("lib/modules/{release}/kernel/{path}"))?;
        Ok((format!("lib/{}", name(&path)), path))
    };
    Ok(Kernels {
        kvm: KVM.into_iter().map(module).collect::<Result<_, String>>()?,
        cloud,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_apart() {
        let files = [
            "linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb",
            "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb",
            "busybox-static_1%3a1.35.0-4_amd64.deb",
            "rt-tests_2.4-1_amd64.deb",
            "libc6_2.36-9_amd64.deb",
        ];
        for (number, package) in PACKAGES.into_iter().enumerate() {
            for (other, file) in files.iter().enumerate() {
                assert_eq!(package.is_archive(file), number == other, "{file}");
            }
        }
        for file in [
            "libc6-dev_2_amd64.deb",
            "linux-image-amd64_6_amd64.deb",
            "libc6",
            "tree",
        ] {
            assert!(
                !PACKAGES.iter().any(|package| package.is_archive(file)),
                "{file}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = by_hand(
            "apt-get: no network",
            &["libc6", "rt-tests"],
            Path::new("/cache"),
        );
        for part in [
            "no network",
            "libc6, rt-tests",
            "apt-get download",
            "/cache",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
