//! Debian's kernel, unmodified, as a guest whose IPIs do not exit. `cargo xtask test` puts kernel and RAM
//! disk into target/kernels.

use std::path::{Path, PathBuf};

use posthaste::guest_run::{ApicMode, GuestRun};

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
                        posthaste.work=pipe:100,futex:100,membarrier:100,mprotect:100"
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
    // Two to a round trip, or one to each of two busy CPUs; few if a waiting thread had not slept yet.
    let result = &finished.result;
    assert!(result.unicast_ipis >= 600, "{result:?}");
    // The kernel reads its counts outside the marks, where an IPI or two come too.
    let difference = result.unicast_ipis.abs_diff(result.virtualized_ipis);
    assert!(difference * 100 <= result.unicast_ipis, "{result:?}");
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
