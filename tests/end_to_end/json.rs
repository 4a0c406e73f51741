//! What `--json` prints, as docs/json.md describes it.

use serde_json::Value;

use crate::program::posthaste;

/// The fields of a run, in the order in which they are documented.
const FIELDS: [&str; 16] = [
    "apic",
    "ipi_virtualization",
    "vcpus",
    "processors",
    "seed",
    "unicast_ipis",
    "virtualized_ipis",
    "exits_per_unicast_ipi",
    "root_instructions_per_ipi",
    "whole_run_ipis",
    "whole_run_self_ipis",
    "notifications",
    "lost_interrupts",
    "exits",
    "workloads",
    "trace_hash",
];

/// The document that a run of the program printed, which is all that it printed.
#[track_caller]
pub(crate) fn document(arguments: &[&str]) -> Value {
    let ended = posthaste(arguments);
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert_eq!(ended.output.lines().count(), 1, "{ended:#?}");
    serde_json::from_str(&ended.output).unwrap()
}

#[track_caller]
fn runs(document: &Value) -> &Vec<Value> {
    assert_eq!(document["schema"], 2);
    let runs = document["runs"].as_array().unwrap();
    for run in runs {
        let run = run.as_object().unwrap();
        let mut names: Vec<&str> = run.keys().map(String::as_str).collect();
        let mut fields = FIELDS.to_vec();
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
        assert!(
            run["exits"]
                .as_object()
                .unwrap()
                .values()
                .all(Value::is_u64)
        );
        let hash = run["trace_hash"].as_str().unwrap();
        assert!(
            hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok(),
            "{hash}"
        );
        assert_eq!(run["lost_interrupts"], 0);
        // Our own guest has phases, and no workloads.
        assert_eq!(run["workloads"], Value::Array(Vec::new()));
    }
    runs
}

/// The demonstration of the program, not of the library.
#[test]
fn the_demonstration_has_four_runs_that_keep_its_promises() {
    let document = document(&["--json"]);
    let runs = runs(&document);
    let kinds: Vec<_> = runs
        .iter()
        .map(|run| {
            let on = run["ipi_virtualization"].as_bool().unwrap();
            (run["apic"].as_str().unwrap(), on)
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("x2apic", false),
            ("x2apic", true),
            ("xapic", false),
            ("xapic", true)
        ]
    );
    for run in runs {
        let exits = run["exits_per_unicast_ipi"].as_f64().unwrap();
        if run["ipi_virtualization"] == true {
            assert!(exits < 0.005, "{run}");
            assert_eq!(run["virtualized_ipis"], run["unicast_ipis"]);
        } else {
            assert!(exits >= 1.0, "{run}");
            // The sender's, by a write of the interrupt command register in its mode.
            let reason = match run["apic"].as_str() {
                Some("x2apic") => "MSR_WRITE",
                _ => "APIC_WRITE",
            };
            assert!(run["exits"][reason].as_u64() >= Some(40_000), "{run}");
        }
    }
    assert!(runs[0]["root_instructions_per_ipi"].as_f64() <= Some(400.0));
}

#[test]
fn compare_has_two_runs_and_run_has_one() {
    let options = [
        "--json",
        "--append",
        "phases=unicast rounds=50",
        "--vcpus",
        "2",
        "--seed",
        "9",
    ];
    let compared = document(&[&["compare"], &options[..]].concat());
    let compared = runs(&compared);
    assert_eq!(compared.len(), 2);
    assert_eq!(compared[0]["ipi_virtualization"], false);
    assert_eq!(compared[1]["ipi_virtualization"], true);
    let one = document(&[&["run"], &options[..]].concat());
    let one = runs(&one);
    assert_eq!(one.len(), 1);
    // The same run, and the options are in it.
    assert_eq!(one[0], compared[1]);
    assert_eq!(
        (&one[0]["vcpus"], &one[0]["seed"]),
        (&Value::from(2), &Value::from(9))
    );
}

#[test]
fn a_comparison_can_have_a_picture_beside_its_json() {
    let picture = crate::program::TemporaryFile::new("comparison.svg", b"");
    let options = "phases=unicast rounds=200";
    let document = document(&[
        "compare",
        "--json",
        "--append",
        options,
        "--plot",
        picture.path(),
    ]);
    let picture = std::fs::read_to_string(picture.path()).unwrap();
    roxmltree::Document::parse(&picture).unwrap();
    for run in runs(&document) {
        let exits = run["exits_per_unicast_ipi"].as_f64().unwrap();
        assert!(picture.contains(&format!(">{exits:.2}<")), "{picture}");
    }
}
