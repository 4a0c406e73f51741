//! Every user-mode instruction form, executed by the host's processor and by the engine from the
//! same random states: registers, flags and memory must agree.
//!
//! Forms are enumerated from iced's table of codes by CPUID feature ([`forms::FEATURES`]), so that a
//! feature added there is compared whole; what cannot be compared is listed with its reason.
//! Everything runs in 64-bit mode at CPL 3; other modes have table tests of their own.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod case;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod compare;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod forms;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod host;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod random;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod recorded;
#[path = "../support/mod.rs"]
mod support;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod translated;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod undefined;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod vendor;

/// Where the closing line of the test run finds what was compared.
fn report(line: &str) {
    println!("{line}");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("comparison.txt");
    std::fs::write(path, format!("{line}\n")).expect("the result must be written");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_engine_agrees_with_the_host() {
    let result = compare::run();
    report(&format!(
        "#ph comparison forms={} cases={}",
        result.forms, result.cases
    ));
    assert!(
        result.differences.is_empty(),
        "{} forms differ from the host:\n{}",
        result.differences.len(),
        result.differences.join("\n")
    );
}

/// Where vendors differ, the engine is Intel's, whatever the host is.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_engine_is_intel_where_vendors_differ() {
    let (states, differences) = recorded::run();
    for difference in vendor::DIFFERENCES {
        println!(
            "{:?}, {:?}: {}",
            difference.mnemonic, difference.part, difference.source
        );
    }
    assert!(
        differences.is_empty(),
        "{} of {states} states:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn translated_code_agrees_with_the_interpreter() {
    let (sequences, differences) = translated::run();
    assert!(sequences > 3000, "only {sequences} sequences");
    assert!(
        differences.is_empty(),
        "{} of {sequences} sequences differ:\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n")
    );
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[test]
fn the_engine_agrees_with_the_host() {
    report("#ph comparison not_run=host_is_not_x86_64_linux forms=0 cases=0");
}
