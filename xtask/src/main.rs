//! Project tasks: `cargo xtask TASK`.

mod check;
mod contract;
mod initramfs;
mod kernels;
mod libraries;
mod linux;
mod linux_guest;
mod packages;
mod peers;
mod picture;
mod runner;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use test::Tier;

const USAGE: &str = "\
usage: cargo xtask TASK
  test     what must pass before a change lands; sets up what it needs (Debian packages, if root)
           with --all whole matrices, more seeds, more random guests too: an hour
  nightly  and searches that take as long as they take
  check    formatting, lints and rustdoc, warnings denied
  linux    the tests with Debian's kernels; with --all every one
  guest    put a kernel and a RAM disk with work for guests into target/kernels
  peers boot  time the boot of Debian's kernel on the machine, in Bochs and in QEMU
  contract render the tables of docs/guest-contract.md and docs/machine.md from the code
  picture  draw the README's pictures: a run of the demonstration, and Debian's kernel off and on";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["test"] => test::run(Tier::Landing),
        ["test", "--all"] => test::run(Tier::All),
        ["nightly"] => test::run(Tier::Nightly),
        ["check"] => check::run(),
        ["linux"] => linux::run(Tier::Landing),
        ["linux", "--all"] => linux::run(Tier::All),
        ["guest"] => linux_guest::prepare().map(|_| ()),
        ["peers", "boot"] => peers::boot(),
        ["contract"] => contract::run(),
        ["picture"] => picture::run(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
