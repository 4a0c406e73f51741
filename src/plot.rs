//! A comparison as a picture: what the same guest cost with IPI virtualization off and on.
//!
//! One row for each workload and one for all of them, one column for each measure; in each cell two
//! bars, off above on, with their figures at the end. A pair's longer bar has the full length, so that the
//! eye reads what changed; the figures say how much it was.

use std::fmt::Write as _;

use crate::result::RunResult;

/// Where columns begin, and how far bars reach.
const MARGIN: u32 = 28;
const FIRST_COLUMN: u32 = 224;
const COLUMN: u32 = 192;
const BAR: u32 = 80;
const BAR_HEIGHT: u32 = 11;
/// From one bar of a pair to the other.
const BAR_STEP: u32 = 17;
const HEADER: u32 = 118;
const ROW: u32 = 54;
const FOOTER: u32 = 40;
/// Characters of a workload's name that are shown.
const LONGEST_NAME: usize = 18;
/// Characters of the guest's name that are shown.
const LONGEST_GUEST: usize = 60;

/// What is measured, in the columns' order.
const MEASURES: [&str; 4] = [
    "VM exits",
    "VM exits per IPI",
    "root instructions",
    "virtual time",
];

/// Colours by role, for light and for dark surroundings: the card's ground, its edge, text, lesser text,
/// and the bars of off and on.
const STYLE: &str = "\
.ground{fill:#ffffff;stroke:#d8dde4}.text{fill:#1c2430}.lesser{fill:#5d6878}\
.off{fill:#9aa5b4}.on{fill:#0b8a7d}.on-text{fill:#08756a}.rule{stroke:#e4e8ed}\
@media (prefers-color-scheme:dark){\
.ground{fill:#14181f;stroke:#2c333d}.text{fill:#e6eaf0}.lesser{fill:#98a3b3}\
.off{fill:#66717f}.on{fill:#2fc4b2}.on-text{fill:#4fd6c5}.rule{stroke:#262d37}}";

const FONT: &str =
    "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',sans-serif";

/// What one run needed for something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    exits: u64,
    /// Unicast IPIs that it covers; 0 if there were none or nobody counted.
    ipis: u64,
    /// 0 if it is not known.
    root_instructions: u64,
    /// Nanoseconds; 0 if it is not known.
    virtual_time: u64,
}

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Count,
    Ratio,
    Nanoseconds,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            exits: self.exits.saturating_add(other.exits),
            ipis: self.ipis.saturating_add(other.ipis),
            root_instructions: self
                .root_instructions
                .saturating_add(other.root_instructions),
            virtual_time: self.virtual_time.saturating_add(other.virtual_time),
        }
    }

    /// The figures in the order of [`MEASURES`].
    fn figures(self) -> [Option<(f64, Unit)>; 4] {
        let known = |value: u64, unit| (value != 0).then_some((value as f64, unit));
        [
            Some((self.exits as f64, Unit::Count)),
            (self.ipis != 0).then(|| (self.exits as f64 / self.ipis as f64, Unit::Ratio)),
            known(self.root_instructions, Unit::Count),
            known(self.virtual_time, Unit::Nanoseconds),
        ]
    }
}

/// One row: its name, what it is, and the cost off and on.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    detail: String,
    costs: [Cost; 2],
}

/// The rows of a comparison: workloads that both runs have, and their sum; or the phase of unicast IPIs of
/// our own guest, and the whole run.
fn rows(off: &RunResult, on: &RunResult) -> Vec<Row> {
    let mut rows = Vec::new();
    for (before, after) in off.workloads.iter().zip(&on.workloads) {
        if before.name != after.name {
            break;
        }
        let costs = [before, after].map(|work| Cost {
            exits: work.exits.values().sum(),
            ipis: work.unicast_ipis,
            root_instructions: work.root_instructions,
            virtual_time: work.virtual_time,
        });
        rows.push(Row {
            name: shortened(&before.name, LONGEST_NAME),
            detail: ipis(costs),
            costs,
        });
    }
    if !rows.is_empty() {
        let sum = |way: usize| {
            let costs = rows.iter().filter_map(|row: &Row| row.costs.get(way));
            costs.fold(Cost::default(), |sum, cost| sum.plus(*cost))
        };
        let costs = [sum(0), sum(1)];
        if rows.len() > 1 {
            rows.push(Row {
                name: "together".to_owned(),
                detail: ipis(costs),
                costs,
            });
        }
        return rows;
    }
    if off.unicast_ipis != 0 && on.unicast_ipis != 0 {
        let costs = [off, on].map(|run| {
            let of_all = |per_ipi: f64| (per_ipi * run.unicast_ipis as f64).round() as u64;
            Cost {
                exits: of_all(run.exits_per_unicast_ipi),
                ipis: run.unicast_ipis,
                root_instructions: of_all(run.root_instructions_per_ipi),
                virtual_time: 0,
            }
        });
        rows.push(Row {
            name: "unicast".to_owned(),
            detail: ipis(costs),
            costs,
        });
    }
    rows.push(Row {
        name: "whole run".to_owned(),
        detail: "with its boot".to_owned(),
        costs: [off, on].map(|run| Cost {
            exits: run.exits.values().sum(),
            ..Cost::default()
        }),
    });
    rows
}

/// How many IPIs a row is about; the guest decides, and need not decide the same twice.
fn ipis([off, on]: [Cost; 2]) -> String {
    match (off.ipis, on.ipis) {
        (off, on) if off == on => format!("{} IPIs", grouped(on)),
        (off, on) => format!("{} and {} IPIs", grouped(off), grouped(on)),
    }
}

/// Draws the comparison of a run with IPI virtualization off and one with it on; `guest` says what ran.
pub fn comparison(guest: &str, off: &RunResult, on: &RunResult) -> String {
    let rows = rows(off, on);
    let width = FIRST_COLUMN + COLUMN * MEASURES.len() as u32 + MARGIN / 2;
    let height = HEADER + ROW * rows.len() as u32 + FOOTER;
    let processors = match (on.vcpus, on.processors) {
        (vcpus, processors) if vcpus == processors => format!("{vcpus} vCPUs"),
        (vcpus, processors) => format!("{vcpus} vCPUs on {processors} processors"),
    };
    let subtitle = format!(
        "{} · {processors} · {}",
        shortened(guest, LONGEST_GUEST),
        mode(on.apic)
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title description\" \
         font-family=\"{FONT}\" font-size=\"13\">\n\
         <title id=\"title\">IPI virtualization off and on</title>\n\
         <desc id=\"description\">{}</desc>\n\
         <style>{STYLE} .figure{{font-variant-numeric:tabular-nums}}</style>\n\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        escaped(&description(&rows)),
        width - 1,
        height - 1
    );
    let mut text = |x: u32, y: u32, class: &str, more: &str, content: &str| {
        let content = escaped(content);
        // A string cannot fail to take text.
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\"{more}>{content}</text>"
        );
    };
    const STRONG: &str = " font-weight=\"600\"";
    text(
        MARGIN,
        40,
        "text",
        " font-size=\"19\" font-weight=\"600\"",
        "IPI virtualization off and on",
    );
    text(MARGIN, 62, "lesser", "", &subtitle);
    for (column, measure) in (0..).zip(MEASURES) {
        let x = FIRST_COLUMN + column * COLUMN;
        text(x, HEADER - 18, "text", STRONG, measure);
    }
    for (number, row) in (0..).zip(&rows) {
        let top = HEADER + number * ROW;
        text(MARGIN, top + 22, "text", STRONG, &row.name);
        text(MARGIN, top + 39, "lesser", " font-size=\"12\"", &row.detail);
        // Each row's bars have their names beside them: no legend to look for.
        let end = " text-anchor=\"end\" font-size=\"12\"";
        text(FIRST_COLUMN - 8, top + 22, "lesser", end, "off");
        text(FIRST_COLUMN - 8, top + 39, "on-text", end, "on");
    }
    let y = HEADER + ROW * rows.len() as u32 + 20;
    text(
        MARGIN,
        y,
        "lesser",
        " font-size=\"12\"",
        "Each pair of bars has a scale of its own. IPIs are unicast; exits and instructions are of all \
         processors, counted by the machine.",
    );
    for (number, row) in (0..).zip(&rows) {
        let top = HEADER + number * ROW;
        let _ = writeln!(
            svg,
            "<path class=\"rule\" d=\"M{MARGIN} {}.5H{}\"/>",
            top - 1,
            width - MARGIN
        );
        let [off, on] = row.costs.map(Cost::figures);
        for (column, pair) in (0..).zip(off.into_iter().zip(on)) {
            pair_of_bars(&mut svg, FIRST_COLUMN + column * COLUMN, top + 13, pair);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A figure that may not be known.
type Figure = Option<(f64, Unit)>;

/// Draws off and on, the first bar's top at `y`.
fn pair_of_bars(svg: &mut String, x: u32, y: u32, (off, on): (Figure, Figure)) {
    let (Some((off, unit)), Some((on, _))) = (off, on) else {
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" class=\"lesser\">–</text>",
            y + 9
        );
        return;
    };
    let longest = off.max(on);
    for (value, class, y) in [(off, "off", y), (on, "on", y + BAR_STEP)] {
        // What is not nothing shows.
        let least = if value > 0.0 { 1.0 } else { 0.0 };
        let length = if longest > 0.0 {
            (value / longest * f64::from(BAR)).max(least)
        } else {
            0.0
        };
        let change = match class {
            "on" if off > 0.0 => change(off, on),
            _ => String::new(),
        };
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\"/>\
             <text class=\"text figure\" font-size=\"12\" x=\"{:.1}\" y=\"{}\">{}{change}</text>",
            f64::from(x) + length + 6.0,
            y + 10,
            shown(value, unit),
        );
    }
}

/// By how much `on` differs from `off`, as part of a text. Less is better, and has the colour of on.
fn change(off: f64, on: f64) -> String {
    let percent = (on - off) / off * 100.0;
    let rounded = percent.abs().round();
    // All of it only if all of it is gone.
    let rounded = if on > 0.0 && percent < 0.0 {
        rounded.min(99.0)
    } else {
        rounded
    };
    let (sign, class) = if rounded == 0.0 {
        ('±', "lesser")
    } else if percent < 0.0 {
        ('−', "on-text")
    } else {
        ('+', "lesser")
    };
    format!("<tspan dx=\"8\" class=\"{class}\">{sign}{rounded} %</tspan>")
}

/// What the picture says, for those who cannot see it.
fn description(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let [off, on] = row.costs;
        let _ = write!(
            text,
            "{}: {} VM exits off, {} on. ",
            row.name,
            grouped(off.exits),
            grouped(on.exits)
        );
    }
    text.trim_end().to_owned()
}

fn mode(apic: &str) -> &str {
    match apic {
        "x2apic" => "x2APIC mode",
        "xapic" => "xAPIC mode",
        other => other,
    }
}

/// A figure with about three digits that count.
fn shown(value: f64, unit: Unit) -> String {
    let three = |value: f64| {
        let decimals = if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        format!("{value:.decimals$}")
    };
    let scaled = |steps: &[(f64, &str)]| {
        // A little less than the step would be rounded up to it.
        let step = steps.iter().rev().find(|(size, _)| value >= size * 0.9995);
        step.map(|(size, name)| format!("{} {name}", three(value / size)))
    };
    match unit {
        Unit::Count if value < 9_999.5 => grouped(value.round() as u64),
        Unit::Count => scaled(&[(1e3, "k"), (1e6, "M"), (1e9, "G")]).unwrap_or_default(),
        Unit::Ratio => three(value),
        Unit::Nanoseconds => scaled(&[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")])
            .unwrap_or_else(|| "0 ns".to_owned()),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As much of a name as there is room for: it may be a guest's.
fn shortened(name: &str, longest: usize) -> String {
    if name.chars().count() <= longest {
        return name.to_owned();
    }
    let kept: String = name.chars().take(longest - 1).collect();
    kept + "…"
}

/// Text as XML has it, without what XML has no way to say.
fn escaped(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .collect::<String>()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_run::GuestRun;
    use crate::result::Workload;
    use roxmltree::{Document, Node};
    use std::collections::BTreeMap;

    fn run(workloads: Vec<Workload>) -> RunResult {
        let report = machine::machine::Report {
            outcome: machine::platform::Outcome::PowerOff,
            processors: Vec::new(),
            marks: Vec::new(),
            trace_hash: 0,
            unimplemented: Vec::new(),
            unknown_msrs: Vec::new(),
            positions: Vec::new(),
        };
        RunResult {
            workloads,
            ..RunResult::new(&GuestRun::default(), &report, &[])
        }
    }

    fn workload(name: &str, exits: u64, ipis: u64, root: u64, time: u64) -> Workload {
        Workload {
            name: name.to_owned(),
            rounds: 1,
            result: String::new(),
            received_ipis: 0,
            received_ipis_at_most: 0,
            unicast_ipis: ipis,
            virtualized_ipis: 0,
            virtualized_share: 0.0,
            virtualized_self_ipis: 0,
            exited_commands: BTreeMap::new(),
            receiver_exits: 0,
            exits: BTreeMap::from([("HLT", exits / 2), ("MSR_WRITE", exits - exits / 2)]),
            guest_instructions: 0,
            root_instructions: root,
            virtual_time: time,
        }
    }

    fn texts(picture: &str) -> Vec<String> {
        let document = Document::parse(picture).unwrap();
        let texts = document
            .descendants()
            .filter(|node| node.has_tag_name("text"));
        let whole = |node: Node<'_, '_>| {
            let parts = node.descendants().filter_map(|part| part.text());
            // An element's text is its first child's.
            let mut parts: Vec<&str> = parts.collect();
            parts.dedup();
            parts.join(" ")
        };
        texts.map(whole).collect()
    }

    fn bars(picture: &str, class: &str) -> Vec<f64> {
        let document = Document::parse(picture).unwrap();
        let bars = document
            .descendants()
            .filter(|node| node.attribute("class") == Some(class) && node.has_tag_name("rect"));
        bars.map(|bar| bar.attribute("width").unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn each_workload_has_its_figures_and_bars_in_proportion() {
        let off = run(vec![workload("pipe", 800, 400, 20_000, 4_000_000)]);
        let on = run(vec![workload("pipe", 200, 400, 20_000, 5_000_000)]);
        let picture = comparison("vmlinuz", &off, &on);
        let full = f64::from(BAR);
        assert_eq!(bars(&picture, "off"), [full, full, full, full * 0.8]);
        assert_eq!(bars(&picture, "on"), [full / 4.0, full / 4.0, full, full]);
        let texts = texts(&picture);
        for text in [
            "pipe",
            "400 IPIs",
            "vmlinuz · 4 vCPUs · x2APIC mode",
            "800",
            "200 −75 %",
            "2.00",
            "0.50 −75 %",
            "20.0 k ±0 %",
            "4.00 ms",
            "5.00 ms +25 %",
        ] {
            assert!(texts.iter().any(|shown| shown == text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn several_workloads_are_summed() {
        let two = |exits| {
            run(vec![
                workload("pipe", exits, 10, 1, 1),
                workload("futex", 3, 20, 1, 1),
            ])
        };
        let texts = texts(&comparison("k", &two(7), &two(1)));
        for text in ["together", "30 IPIs", "10", "4 −60 %"] {
            assert!(texts.iter().any(|shown| shown == text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn our_own_guest_has_a_phase_and_a_whole_run() {
        let guest = |per_ipi, exits| RunResult {
            unicast_ipis: 40_000,
            exits_per_unicast_ipi: per_ipi,
            exits: BTreeMap::from([("HLT", exits)]),
            ..run(Vec::new())
        };
        let picture = comparison("the embedded guest", &guest(1.0, 50_000), &guest(0.0, 900));
        let texts = texts(&picture);
        for text in [
            "unicast",
            "40,000 IPIs",
            "40.0 k",
            "0 −100 %",
            "whole run",
            "900 −98 %",
            "–",
        ] {
            assert!(texts.iter().any(|shown| shown == text), "{text}: {texts:?}");
        }
        assert_eq!(bars(&picture, "on")[0], 0.0);
    }

    #[test]
    fn what_a_guest_calls_its_work_stays_text_and_inside() {
        let name = "</text><script>&\u{7}\u{1b}[2J".to_owned() + &"x".repeat(4000);
        let wild = || run(vec![workload(&name, 1, 1, 1, 1)]);
        let picture = comparison(&name, &wild(), &wild());
        let document = Document::parse(&picture).unwrap();
        assert!(
            document
                .descendants()
                .all(|node| !node.has_tag_name("script"))
        );
        assert!(picture.len() < 20_000, "{}", picture.len());
        // Nothing at all, and more than anybody has.
        let most = run(vec![workload(
            "most",
            u64::MAX,
            u64::MAX,
            u64::MAX,
            u64::MAX,
        )]);
        Document::parse(&comparison("", &run(vec![workload("", 0, 0, 0, 0)]), &most)).unwrap();
    }

    #[test]
    fn figures_have_about_three_digits() {
        for (value, unit, text) in [
            (0.0, Unit::Count, "0"),
            (9_999.0, Unit::Count, "9,999"),
            (10_000.0, Unit::Count, "10.0 k"),
            (999_900.0, Unit::Count, "1.00 M"),
            (1_234_567.0, Unit::Count, "1.23 M"),
            (0.004, Unit::Ratio, "0.00"),
            (999.0, Unit::Nanoseconds, "999 ns"),
            (1_500.0, Unit::Nanoseconds, "1.50 µs"),
            (2.5e9, Unit::Nanoseconds, "2.50 s"),
        ] {
            assert_eq!(shown(value, unit), text);
        }
        assert!(change(1000.0, 1.0).contains("−99 %"), "not all is gone");
    }
}
