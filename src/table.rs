//! Tables for people.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::result::RunResult;

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table
}

fn align_right(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The runs side by side: one line a run.
pub fn summary(runs: &[RunResult]) -> String {
    let mut table = new_table();
    table.set_header([
        "APIC\nmode",
        "IPI\nvirtualization",
        "unicast\nIPIs",
        "virtual-\nized",
        "exits\n/ IPI",
        "root\ninstructions\n/ IPI",
        "lost",
    ]);
    for run in runs {
        // A guest that is not ours has no phase of unicast IPIs, and so no figures of one.
        let of_phase = |text: String| match run.unicast_ipis {
            0 => "-".to_owned(),
            _ => text,
        };
        table.add_row([
            run.apic.to_owned(),
            on_off(run.ipi_virtualization).to_owned(),
            of_phase(run.unicast_ipis.to_string()),
            of_phase(run.virtualized_ipis.to_string()),
            of_phase(format!("{:.2}", run.exits_per_unicast_ipi)),
            of_phase(format!("{:.1}", run.root_instructions_per_ipi)),
            run.lost_interrupts.to_string(),
        ]);
    }
    align_right(&mut table, 2);
    table.to_string()
}

/// A counter of a run.
type Counter = fn(&RunResult) -> u64;

/// What stands below the exits: what did not become one.
const WHOLE_RUN: &[(&str, Counter)] = &[
    ("without an exit: IPIs", |run| run.whole_run_ipis),
    ("without an exit: self-IPIs", |run| run.whole_run_self_ipis),
    ("notifications for them", |run| run.notifications),
];

/// VM exits of the whole run by reason: one column a run.
pub fn exits(runs: &[RunResult]) -> String {
    let mut table = new_table();
    let mut header = vec!["VM exits, whole run".to_owned()];
    header.extend(
        runs.iter()
            .map(|run| format!("{} {}", run.apic, on_off(run.ipi_virtualization))),
    );
    table.set_header(header);
    let reasons: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| run.exits.keys().copied())
        .collect();
    for reason in reasons {
        let mut row = vec![reason.to_owned()];
        row.extend(
            runs.iter()
                .map(|run| run.exits.get(reason).copied().unwrap_or(0).to_string()),
        );
        table.add_row(row);
    }
    let mut row = vec!["total".to_owned()];
    row.extend(
        runs.iter()
            .map(|run| run.exits.values().sum::<u64>().to_string()),
    );
    table.add_row(row);
    for (name, count) in WHOLE_RUN {
        let mut row = vec![(*name).to_owned()];
        row.extend(runs.iter().map(|run| count(run).to_string()));
        table.add_row(row);
    }
    align_right(&mut table, 1);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal has 80 columns, and a table that is wider is no table there.
    #[test]
    fn tables_fit_a_terminal() {
        let run = RunResult {
            apic: "x2apic",
            ipi_virtualization: true,
            vcpus: 255,
            processors: 255,
            seed: 1,
            unicast_ipis: 1_000_000,
            virtualized_ipis: 1_000_000,
            exits_per_unicast_ipi: 10.0,
            root_instructions_per_ipi: 12_345.6,
            whole_run_ipis: 12_345_678,
            whole_run_self_ipis: 12_345_678,
            notifications: 12_345_678,
            lost_interrupts: 0,
            exits: [("EXTERNAL_INTERRUPT", 123_456_789)].into(),
            workloads: Vec::new(),
            trace_hash: String::new(),
        };
        let runs = vec![run; 4];
        for text in [summary(&runs), exits(&runs)] {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{text}");
            }
        }
    }
}
