//! Processors that lack a feature: the hypervisor says which, and the guest loses nothing.

use arch::exit::ExitReason;
use machine::cpu::CpuModel;
use machine::cpu::model::VirtualizationLevel;
use machine::platform::Outcome;
use posthaste::guest_run::{ApicMode, Finished, GuestRun};

fn on(virtualization: VirtualizationLevel, apic: ApicMode) -> GuestRun {
    GuestRun {
        guest_options: "rounds=300".to_owned(),
        apic,
        model: CpuModel {
            virtualization,
            ..CpuModel::default()
        },
        ..GuestRun::default()
    }
}

/// Whether the hypervisor says that the processor has the feature and that it uses it.
#[track_caller]
fn capability(finished: &Finished, name: &str) -> (String, String) {
    let line = finished
        .lines
        .iter()
        .find(|line| line.kind == "capability" && line.get("name") == name)
        .unwrap_or_else(|| panic!("nothing about {name}:\n{}", finished.console));
    (
        line.get("processor").to_owned(),
        line.get("used").to_owned(),
    )
}

#[track_caller]
fn runs(level: VirtualizationLevel, expected: [(&str, &str); 3]) {
    for apic in [ApicMode::X2apic, ApicMode::Xapic] {
        let finished = on(level, apic)
            .run(Box::new(|_, _| {}))
            .unwrap_or_else(|error| panic!("{level:?}, {}: {error}", apic.name()));
        assert_eq!(finished.result.lost_interrupts, 0);
        for (name, has) in expected {
            let both = (has.to_owned(), has.to_owned());
            assert_eq!(capability(&finished, name), both, "{level:?} {name}");
        }
        let virtualizes = level == VirtualizationLevel::IpiVirtualization;
        assert_eq!(finished.result.virtualized_ipis != 0, virtualizes);
    }
}

#[test]
fn with_everything() {
    runs(
        VirtualizationLevel::IpiVirtualization,
        [
            ("ipi_virtualization", "yes"),
            ("posted_interrupts", "yes"),
            ("virtual_interrupt_delivery", "yes"),
        ],
    );
}

#[test]
fn without_ipi_virtualization() {
    runs(
        VirtualizationLevel::PostedInterrupts,
        [
            ("ipi_virtualization", "no"),
            ("posted_interrupts", "yes"),
            ("virtual_interrupt_delivery", "yes"),
        ],
    );
}

#[test]
fn without_posted_interrupts() {
    runs(
        VirtualizationLevel::ApicVirtualization,
        [
            ("ipi_virtualization", "no"),
            ("posted_interrupts", "no"),
            ("virtual_interrupt_delivery", "yes"),
        ],
    );
}

#[test]
fn without_apic_virtualization() {
    runs(
        VirtualizationLevel::Base,
        [
            ("ipi_virtualization", "no"),
            ("posted_interrupts", "no"),
            ("virtual_interrupt_delivery", "no"),
        ],
    );
}

/// What the hypervisor says it uses is what the machine counts, whatever is switched off.
#[test]
fn ipi_virtualization_is_used_exactly_if_it_is_said_to_be() {
    for option in [
        "", "ipiv", "vm.ipiv", "pi", "vid", "apicreg", "apicv", "vpid",
    ] {
        for apic in [ApicMode::X2apic, ApicMode::Xapic] {
            let run = GuestRun {
                guest_options: "phases=unicast rounds=50".to_owned(),
                hypervisor_options: match option {
                    "" => String::new(),
                    _ => format!("{option}=off"),
                },
                apic,
                ..GuestRun::default()
            };
            let finished = run
                .run(Box::new(|_, _| {}))
                .unwrap_or_else(|error| panic!("{option} {}: {error}", apic.name()));
            let (processor, used) = capability(&finished, "ipi_virtualization");
            assert_eq!(processor, "yes");
            let virtualizes = finished.result.virtualized_ipis != 0;
            assert_eq!(used == "yes", virtualizes, "{option} {}", apic.name());
            assert_eq!(virtualizes, matches!(option, "" | "vpid"), "{option}");
        }
    }
}

#[test]
fn without_vtx_one_line_says_so() {
    let run = on(VirtualizationLevel::None, ApicMode::X2apic);
    let finished = run
        .run_to_end(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(finished.report.outcome, Outcome::Exit(0x13));
    assert_eq!(finished.console.lines().count(), 1, "{}", finished.console);
    assert!(finished.console.contains("no VT-x"), "{}", finished.console);
    let exits = |reason: &ExitReason| finished.report.processors[0].counters.exits_with(*reason);
    assert_eq!(ExitReason::ALL.iter().map(exits).sum::<u64>(), 0);
    let error = run.judge(finished).unwrap_err().to_string();
    assert!(error.contains("no VT-x"), "{error}");
}
