//! What Debian's kernel must say on its console, and what it must not.

use std::path::{Path, PathBuf};

use machine::machine::Schedule;

/// A warning of the kernel that says nothing against the machine.
struct Allowed {
    part: &'static str,
    /// Whether it may come only if the host's load decides about time.
    parallel_only: bool,
    /// Why a real PC may print it too.
    _reason: &'static str,
}

const ALLOWED: [Allowed; 2] = [
    Allowed {
        part: "fail to add MMCONFIG information",
        parallel_only: false,
        _reason: "a PC without PCI Express has no memory-mapped configuration space",
    },
    Allowed {
        part: "hrtimer: interrupt took",
        parallel_only: true,
        _reason: "time is the host's, and the host has other things to do",
    },
];

/// Skips the kernel's tests of its own ciphers, which take most of a boot and send no IPI.
pub(crate) const OPTIONS: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";
/// Every workload, and IPIs enough for shares.
pub(crate) const WORK: &str =
    "posthaste.work=pipe:100,futex:100,membarrier:100,mprotect:100,hackbench:20";

/// Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// For virtual machines.
    Cloud,
    /// For everything.
    Full,
}

impl Kernel {
    /// The newest in the cache.
    pub(crate) fn path(self) -> PathBuf {
        let boot = cached("tree/boot");
        let is_wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("vmlinuz-") && name.contains("-cloud-") == (self == Self::Cloud)
        };
        std::fs::read_dir(&boot)
            .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask guest", boot.display()))
            .map(|entry| entry.unwrap().path())
            .filter(is_wanted)
            .max()
            .expect("a kernel: run cargo xtask guest")
    }
}

/// The RAM disk with the programs.
pub(crate) fn initial_ram_disk() -> PathBuf {
    cached("guest.cpio")
}

/// A file of the cache that `cargo xtask guest` fills.
pub(crate) fn cached(name: &str) -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kernels");
    cache.join(name)
}

/// What a console must show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// Processors.
    pub(crate) cpus: usize,
    /// The clock source.
    pub(crate) clock: &'a str,
    /// Parts of the warnings that may come besides those that every boot may have.
    pub(crate) warnings: &'a [&'a str],
}

impl Expected<'_> {
    /// So many processors, the TSC, no warning.
    pub(crate) const fn of(cpus: usize) -> Self {
        Self {
            cpus,
            clock: "tsc",
            warnings: &[],
        }
    }
}

/// Fails unless a console shows a kernel with `cpus` processors that had nothing to complain about.
#[track_caller]
pub(crate) fn judge(console: &str, cpus: usize, schedule: Schedule) {
    judge_as(console, &Expected::of(cpus), schedule);
}

/// Fails unless a console shows a kernel that had nothing to complain about but what is expected.
#[track_caller]
pub(crate) fn judge_as(console: &str, expected: &Expected<'_>, schedule: Schedule) {
    let lines = || console.lines().map(str::trim_end);
    let parallel = schedule == Schedule::Parallel;
    for wanted in [
        format!("#ph linux nproc={} clock={}", expected.cpus, expected.clock),
        "#ph linux verdict=pass".to_owned(),
    ] {
        assert!(lines().any(|line| line == wanted), "{wanted}: {console}");
    }
    // A second asleep is one, or two if the host kept the machine from waking in time.
    let slept = lines().find_map(|line| line.strip_prefix("#ph slept uptime="));
    assert!(
        slept == Some("1") || parallel && slept == Some("2"),
        "{console}"
    );
    let is_allowed = |line: &&str| {
        ALLOWED
            .iter()
            .any(|allowed| line.contains(allowed.part) && (parallel || !allowed.parallel_only))
    };
    let warnings: Vec<&str> = lines()
        .skip_while(|line| *line != "#ph warnings begin")
        .skip(1)
        .take_while(|line| *line != "#ph warnings end")
        .filter(|line| !is_allowed(line))
        .filter(|line| !expected.warnings.iter().any(|part| line.contains(part)))
        .collect();
    assert_eq!(warnings, [""; 0]);
    assert!(!console.contains("refused"), "{console}");
}
