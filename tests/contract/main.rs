//! The documents that say what software finds, docs/guest-contract.md and docs/machine.md: their tables are
//! rendered from the code and must be what stands in the files. `cargo xtask contract` writes them anew.

mod cpuid_feature;
mod guest;
mod interrupt_command;
mod machine_processor;
mod msr_name;
mod table;

use std::path::Path;

/// Set by `cargo xtask contract`: tables are written instead of compared.
const WRITE: &str = "POSTHASTE_WRITE_CONTRACT";

/// The line before a table, and the one after it.
fn markers(name: &str) -> (String, String) {
    (
        format!("<!-- {name}: rendered from the code by `cargo xtask contract` -->\n"),
        "<!-- end -->\n".to_owned(),
    )
}

/// `document` with the table of each name replaced; every marker must have a table, and every table a
/// marker.
fn with_tables(document: &str, tables: &[(&str, String)]) -> String {
    let mut text = document.to_owned();
    for (name, table) in tables {
        let (begin, end) = markers(name);
        let start = text.find(&begin).unwrap_or_else(|| panic!("no {begin}"));
        let start = start + begin.len();
        let length = text[start..].find(&end).expect("a table that ends");
        text.replace_range(start..start + length, &format!("\n{table}\n"));
    }
    assert_eq!(text.matches("<!-- end -->").count(), tables.len());
    text
}

/// Compares a document with what the code says, or writes it.
#[track_caller]
fn check(name: &str, tables: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let document = std::fs::read_to_string(&path).unwrap();
    let wanted = with_tables(&document, tables);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let differing = document
        .lines()
        .zip(wanted.lines())
        .find(|(is, wanted)| is != wanted);
    assert!(
        document == wanted,
        "{name} is not what the code says; `cargo xtask contract` renders its tables anew. First difference: {differing:#?}"
    );
}

#[test]
fn the_guest_contract_is_what_the_hypervisor_does() {
    check(
        "docs/guest-contract.md",
        &[
            ("ports", guest::ports()),
            ("memory map", guest::memory_map()),
            ("firmware tables", guest::firmware_tables()),
            ("features", cpuid_feature::guest_and_machine()),
            ("cpuid", guest::cpuid()),
            ("msrs", guest::msrs()),
            ("interrupt commands", interrupt_command::commands()),
        ],
    );
}

#[test]
fn the_machine_is_what_its_document_says() {
    check(
        "docs/machine.md",
        &[
            ("cpuid", machine_processor::cpuid()),
            ("msrs", machine_processor::msrs()),
            ("vmx", machine_processor::vmx()),
            ("controls", machine_processor::controls()),
            ("ports", machine_processor::ports()),
        ],
    );
}
