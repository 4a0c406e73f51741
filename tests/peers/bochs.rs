//! Bochs 2.7 has VT-x with EPT and virtual-interrupt delivery, and neither posted interrupts nor IPI
//! virtualization.

use std::path::Path;
use std::time::Duration;

use posthaste::report_lines::ReportLine;

use crate::bochs_run::{Bochs, Settings};
use crate::image;

fn runs_to_the_end(apic: &str) {
    let guest = format!("--guest-append=apic={apic} rounds=100");
    let iso = image(&format!("bochs-{apic}.iso"), &["--append=vcpus=4", &guest]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bochs-{apic}"));
    let mut bochs = Bochs::start(
        &directory,
        &iso,
        &Settings {
            processors: 4,
            ..Settings::default()
        },
    );
    let text = bochs.wait(Duration::from_secs(3000), |text| {
        // The line must be whole: the file grows byte by byte.
        text.split_inclusive('\n')
            .any(|line| line.starts_with("#ph stop ") && line.ends_with('\n'))
    });
    let lines: Vec<ReportLine> = text.lines().filter_map(ReportLine::parse).collect();
    let find = |kind: &str, key: &str, value: &str| {
        lines
            .iter()
            .find(|line| line.kind == kind && line.get(key) == value)
            .unwrap_or_else(|| panic!("no {kind} {key}={value}:\n{text}"))
    };
    // What it has is used, what it has not is not.
    for (name, has) in [
        ("virtual_interrupt_delivery", "yes"),
        ("posted_interrupts", "no"),
        ("ipi_virtualization", "no"),
    ] {
        let line = find("capability", "name", name);
        assert_eq!(
            (line.get("processor"), line.get("used")),
            (has, has),
            "{name}:\n{text}"
        );
    }
    let phases: Vec<&ReportLine> = lines.iter().filter(|line| line.kind == "phase").collect();
    for phase in posthaste_guest::phase::Phase::ALL {
        let line = find("phase", "name", phase.name());
        assert_eq!(line.get("verdict"), "pass", "{text}");
        assert_eq!(line.get("apic"), apic);
        assert_eq!(line.get("vcpus"), "4");
        assert_eq!(line.number("lost"), 0, "{text}");
    }
    assert_eq!(phases.len(), posthaste_guest::phase::Phase::ALL.len());
    find("guest", "verdict", "pass");
    assert_eq!(find("guest-exit", "status", "16").get("status"), "16");
    find("exits", "vcpu", "all");
    find("stop", "reason", "guest-exit");
}

#[test]
fn bochs_runs_the_x2apic_guest_to_the_end() {
    runs_to_the_end("x2apic");
}

#[test]
fn bochs_runs_the_xapic_guest_to_the_end() {
    runs_to_the_end("xapic");
}
