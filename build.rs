//! Builds the hypervisor's and the guest's boot images and hands their places to the command, which
//! embeds them. They are always built with the `image` profile, so that a debug build of the command
//! runs the same images as a release build.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Everything that goes into the images.
const SOURCES: &[&str] = &[
    "hypervisor",
    "guest",
    "arch",
    "apic",
    "devices",
    "firmware",
    "freestanding",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> ExitCode {
    let root = variable("CARGO_MANIFEST_DIR");
    // One place for all profiles of the command, so that the images are built once: beside
    // `debug` and `release`, above `debug/build/posthaste-HASH/out`. Cargo locks it.
    let out = variable("OUT_DIR");
    let target = out.ancestors().nth(4).unwrap_or(&out).join("images");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    for (package, name) in [
        ("posthaste-hypervisor", "POSTHASTE_HYPERVISOR_IMAGE"),
        ("posthaste-guest", "POSTHASTE_GUEST_IMAGE"),
    ] {
        if !build(&root, &target, package) {
            return ExitCode::FAILURE;
        }
        let image = target.join("image").join(package);
        println!("cargo::rustc-env={name}={}", image.display());
    }
    ExitCode::SUCCESS
}

fn variable(name: &str) -> PathBuf {
    // Cargo sets these for every build script.
    PathBuf::from(env::var_os(name).unwrap_or_default())
}

fn build(root: &Path, target: &Path, package: &str) -> bool {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--profile",
            "image",
            "--package",
            package,
            "--bin",
            package,
        ])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        // The images must not depend on how the command itself is being built, nor on where.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .env(
            "RUSTFLAGS",
            format!("-Cno-redzone=yes --remap-path-prefix={}=", root.display()),
        );
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PROFILE_") {
            cargo.env_remove(name);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            println!("cargo::error=building {package} failed: {status}");
            false
        }
        Err(error) => {
            println!("cargo::error=cannot run cargo to build {package}: {error}");
            false
        }
    }
}
