//! Debian's kernel, unmodified, as a guest whose IPIs do not exit. `cargo xtask test` puts kernel and RAM
//! disk into target/kernels.

use std::path::{Path, PathBuf};

use posthaste::guest_run::{ApicMode, GuestRun};
use posthaste::result::Workload;

/// Warnings of the kernel that a PC without PCI Express prints too.
const ALLOWED: &str = "fail to add MMCONFIG information";
const VCPUS: usize = 4;

fn cached(name: &str) -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kernels");
    cache.join(name)
}

fn cloud_kernel() -> Vec<u8> {
    let boot = cached("tree/boot");
    let newest = std::fs::read_dir(&boot)
        .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask test", boot.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("vmlinuz-") && name.contains("-cloud-")
        })
        .max()
        .expect("a kernel: run cargo xtask test");
    std::fs::read(newest).unwrap()
}

fn boots_and_virtualizes(apic: ApicMode, routing: &str) {
    let run = GuestRun {
        guest: Some(cloud_kernel()),
        initial_ram_disk: Some(
            std::fs::read(cached("guest.cpio")).expect("a RAM disk: run cargo xtask test"),
        ),
        guest_options: "console=ttyS0 panic=-1 \
                        posthaste.work=pipe:100,futex:100,membarrier:100,mprotect:100,hackbench:20"
            .to_owned(),
        apic,
        vcpus: VCPUS,
        processors: VCPUS,
        guest_memory_mib: Some(160),
        ..GuestRun::default()
    };
    let finished = run.run(Box::new(|_, _| {})).unwrap();
    let console = &finished.console;
    for wanted in [
        &format!("#ph linux nproc={VCPUS} clock=tsc"),
        "#ph slept uptime=1",
        "#ph linux verdict=pass",
    ] {
        assert!(
            console.lines().any(|line| line == wanted),
            "{wanted}: {console}"
        );
    }
    assert!(console.contains(routing), "{console}");
    let warnings: Vec<&str> = console
        .lines()
        .skip_while(|line| *line != "#ph warnings begin")
        .skip(1)
        .take_while(|line| *line != "#ph warnings end")
        .filter(|line| !line.contains(ALLOWED))
        .collect();
    assert_eq!(warnings, [""; 0]);
    workloads_are_virtualized(&finished.result.workloads);
}

/// Each workload's name, and how many IPIs it takes at least: two to a round trip, or one to each of
/// two busy CPUs; few if a waiting thread had not slept yet.
const WORKLOADS: [(&str, u64); 5] = [
    ("pipe", 180),
    ("futex", 180),
    ("membarrier", 180),
    ("mprotect", 180),
    ("hackbench", 10),
];

fn workloads_are_virtualized(workloads: &[Workload]) {
    let names: Vec<&str> = workloads.iter().map(|work| work.name.as_str()).collect();
    assert_eq!(names, WORKLOADS.map(|(name, _)| name));
    let (mut sent, mut virtualized) = (0, 0);
    for (work, (_, least)) in workloads.iter().zip(WORKLOADS) {
        assert!(work.unicast_ipis >= least, "{work:?}");
        assert_eq!(work.receiver_exits, 0, "{work:?}");
        // One command for all but the sender.
        let broadcast = work.exited_commands.get("broadcast").copied().unwrap_or(0);
        let asked = work.unicast_ipis
            + work.virtualized_self_ipis
            + work.exited_commands.get("self").copied().unwrap_or(0)
            + broadcast * (VCPUS as u64 - 1);
        // What the kernel counted inside the marks, and on both sides of them.
        let counted = work.received_ipis..=work.received_ipis_at_most;
        assert!(counted.contains(&asked), "{asked} {work:?}");
        sent += work.unicast_ipis;
        virtualized += work.virtualized_ipis;
    }
    assert!(
        virtualized * 1000 >= sent * 999,
        "{virtualized} of {sent} unicast IPIs were virtualized: {workloads:?}"
    );
}

#[test]
fn debians_kernel_virtualizes_its_ipis_in_x2apic_mode() {
    boots_and_virtualizes(
        ApicMode::X2apic,
        "Switched APIC routing to physical x2apic.",
    );
}

#[test]
fn debians_kernel_virtualizes_its_ipis_in_xapic_mode() {
    boots_and_virtualizes(ApicMode::Xapic, "Setting APIC routing to physical flat.");
}
