//! A control setting that the processor refuses: everything about it is printed, and the run ends in
//! order.

use machine::platform::Outcome;
use posthaste::guest_run::GuestRun;

use crate::program::posthaste;

#[test]
fn an_illegal_control_gives_the_whole_dump() {
    let run = GuestRun {
        hypervisor_options: "break=control".to_owned(),
        ..GuestRun::default()
    };
    let finished = run
        .run_to_end(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    let text = &finished.console;
    assert_eq!(finished.report.outcome, Outcome::Exit(0x12), "{text}");
    for part in [
        "pin-based controls: ",
        "primary processor-based controls: ",
        "secondary processor-based controls: ",
        "tertiary processor-based controls: ",
        "VM-exit controls: ",
        "VM-entry controls: ",
        "VMCS guest state:",
        "VMCS host state:",
        "PID-pointer table: address 0x",
        "virtual-APIC page 0x",
        // The number of the VMfail (SDM 31.4 VM Instruction Error Numbers).
        "VM-instruction error 7",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // The entry of the bootstrap vCPU and its descriptor; the others take no interrupt yet.
    let mut entries = text.lines().filter(|line| line.starts_with("  entry "));
    let line = entries
        .next()
        .unwrap_or_else(|| panic!("no entry in\n{text}"));
    for part in [
        "entry 0: 0x",
        "posted-interrupt descriptor 0x",
        " ON=",
        " SN=",
        " NV=",
        " NDST=",
        " PIR=",
    ] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert_eq!(entries.next(), None);
    let last = finished
        .lines
        .last()
        .map(|line| (line.kind.as_str(), line.get("reason")));
    assert_eq!(last, Some(("stop", "entry-failure")), "{text}");
    // Its virtual machine ended and nothing else: the hypervisor's statistics are complete.
    let agreement = finished.result.agreement(&finished.report, &finished.lines);
    assert_eq!(agreement, Ok(()), "{text}");
}

#[test]
fn illegal_guest_state_names_the_rule() {
    let run = GuestRun {
        hypervisor_options: "break=guest-state".to_owned(),
        ..GuestRun::default()
    };
    let finished = run
        .run_to_end(Box::new(|_, _| {}))
        .unwrap_or_else(|error| panic!("{error}"));
    let text = &finished.console;
    assert_eq!(finished.report.outcome, Outcome::Exit(0x12), "{text}");
    for part in [
        "VM entry failed: exit reason 0x80000021 (ENTRY_FAILURE_GUEST_STATE)",
        "guest state breaks a rule of VM entries: the VMCS link pointer is",
        "(SDM 27.3.1.5)",
    ] {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in\n{text}");
    }
    let exits: Vec<_> = finished
        .lines
        .iter()
        .filter(|line| line.kind == "exits" && line.get("vcpu") == "all")
        .collect();
    assert_eq!(exits.len(), 1, "{text}");
    assert_eq!(exits[0].number("ENTRY_FAILURE_GUEST_STATE"), 1, "{text}");
    let agreement = finished.result.agreement(&finished.report, &finished.lines);
    assert_eq!(agreement, Ok(()), "{text}");
}

#[test]
fn the_command_says_so_and_shows_the_dump() {
    let ended = posthaste(&["run", "--hypervisor-append", "break=control"]);
    assert!(matches!(ended.status, Some(1..)), "{ended:#?}");
    assert_eq!(ended.errors.lines().count(), 1, "{ended:#?}");
    assert!(
        ended.errors.contains("could not enter the guest"),
        "{ended:#?}"
    );
    assert!(
        ended.output.contains("PID-pointer table: address"),
        "{ended:#?}"
    );
}
