//! `docs/clauses.md` names a test for each clause; here the names are looked up in the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const TABLE: &str = include_str!("../../docs/clauses.md");

/// Names of the functions with `#[test]` in the Rust files below `directory`.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                tests_below(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in source.lines().map(str::trim) {
                if line == "#[test]" {
                    marked = true;
                } else if let Some((name, _)) = line
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split_once('('))
                {
                    if marked {
                        found.insert(name.to_owned());
                    }
                    marked = false;
                }
            }
        }
    }
}

/// The cells of the rows of `section`, without head and rule.
fn rows(section: &str) -> Vec<Vec<&str>> {
    section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Names in backquotes.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_clause_has_tests_that_exist() {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for part in ["apic", "arch", "hypervisor", "machine", "tests"] {
        tests_below(&root.join(part), &mut found);
    }
    let sections: Vec<_> = TABLE.split("\n## ").skip(1).collect();
    let heads: Vec<_> = sections
        .iter()
        .map(|section| section.split(['.', '\n']).next().unwrap())
        .collect();
    assert_eq!(
        heads,
        [
            "A3",
            "A4",
            "A5",
            "A7",
            "A8",
            "Test vectors",
            "Bugs that others had (prior-art B5)"
        ]
    );
    for section in sections {
        let rows = rows(section);
        assert!(rows.len() > 10, "{section}");
        for row in rows {
            assert_eq!(row.len(), 3, "{row:?}");
            assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
            let bug = section.starts_with("Bugs");
            let named = row[1..]
                .iter()
                .all(|cell| !names(cell).is_empty() || cell.starts_with("none: "));
            let tested = row[1..].iter().any(|cell| !names(cell).is_empty());
            assert!(bug || tested, "{row:?}");
            assert!(bug || named, "{row:?}");
            for name in row[1..].iter().flat_map(|cell| names(cell)) {
                assert!(found.contains(name), "no test {name}: {row:?}");
            }
        }
    }
}

#[test]
fn each_numbered_bug_is_answered() {
    let section = TABLE.split("\n## ").last().unwrap();
    for (number, row) in (1..).zip(rows(section)) {
        assert!(row[0].starts_with(&format!("{number}, ")), "{row:?}");
        assert_eq!(names(row[1]).is_empty(), row[1] == "none", "{row:?}");
        assert!(row[1] != "none" || row[2] != "it can", "{row:?}");
    }
    assert_eq!(rows(section).len(), 13);
}
