//! The machine-readable lines that hypervisor and guest write to the serial console:
//! `#ph kind key=value key=value …`.

use std::collections::{BTreeMap, VecDeque};

/// One such line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportLine {
    /// What it is about.
    pub kind: String,
    /// Its values.
    pub values: BTreeMap<String, String>,
}

impl ReportLine {
    /// Parses a console line; `None` if it is for people.
    ///
    /// ```
    /// use posthaste::report_lines::ReportLine;
    ///
    /// let line = ReportLine::parse("#ph guest verdict=pass").unwrap();
    /// assert_eq!((line.kind.as_str(), line.get("verdict")), ("guest", "pass"));
    /// ```
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("#ph ")?.split_ascii_whitespace();
        let kind = words.next()?.to_owned();
        let values = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(Self { kind, values })
    }

    /// The value of `key`; empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// The number that `key` has; 0 if there is none.
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or(0)
    }
}

/// The report lines of a run. A guest may write as many as it likes, between the hypervisor's first lines
/// and its last: those at both ends are kept.
#[derive(Clone, Debug, Default)]
pub struct ReportLines {
    first: Vec<ReportLine>,
    last: VecDeque<ReportLine>,
}

impl ReportLines {
    /// Lines kept from the beginning; a run of ours has about a hundred.
    const FIRST: usize = 4096;
    /// Lines kept from the end. The hypervisor's closing lines are less than 300, and it writes them when no
    /// guest runs any more.
    const LAST: usize = 1024;

    /// Adds a line.
    pub fn push(&mut self, line: ReportLine) {
        if self.first.len() < Self::FIRST {
            self.first.push(line);
            return;
        }
        if self.last.len() == Self::LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Those that were kept, in order.
    pub fn kept(&self) -> Vec<ReportLine> {
        self.first.iter().chain(&self.last).cloned().collect()
    }
}

/// The sum of a number over lines, or the largest number where that is too small: a guest writes what it
/// likes.
pub fn sum<'a>(lines: impl Iterator<Item = &'a ReportLine>, key: &str) -> u64 {
    lines.fold(0, |sum, line| sum.saturating_add(line.number(key)))
}

/// The value with which a guest ended its virtual machine, as the hypervisor's closing lines say: the last
/// two of a run.
pub fn guest_exit(lines: &[ReportLine]) -> Option<u8> {
    let [.., exit, stop] = lines else {
        return None;
    };
    let says =
        exit.kind == "guest-exit" && stop.kind == "stop" && stop.get("reason") == "guest-exit";
    says.then(|| exit.get("status").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people_are_left_alone() {
        assert_eq!(ReportLine::parse("hello #ph x"), None);
        assert_eq!(ReportLine::parse("#phase"), None);
        assert_eq!(ReportLine::parse("#ph "), None);
    }

    #[test]
    fn values_are_found_by_key() {
        let line = ReportLine::parse("#ph phase name=unicast sent=12 lost=0").unwrap();
        assert_eq!(line.kind, "phase");
        assert_eq!(line.get("name"), "unicast");
        assert_eq!(line.number("sent"), 12);
        assert_eq!(line.number("absent"), 0);
    }

    fn lines(texts: &[&str]) -> Vec<ReportLine> {
        texts
            .iter()
            .filter_map(|text| ReportLine::parse(text))
            .collect()
    }

    #[test]
    fn both_ends_of_a_flood_are_kept() {
        let mut kept = ReportLines::default();
        for number in 0..1_000_000 {
            kept.push(ReportLine::parse(&format!("#ph flood number={number}")).unwrap());
        }
        let kept = kept.kept();
        assert_eq!(kept.len(), ReportLines::FIRST + ReportLines::LAST);
        assert_eq!(kept.first().unwrap().number("number"), 0);
        assert_eq!(kept[ReportLines::FIRST - 1].number("number"), 4095);
        assert_eq!(kept.last().unwrap().number("number"), 999_999);
    }

    #[test]
    fn sums_do_not_overflow() {
        let lines = lines(&["#ph a n=18446744073709551615", "#ph a n=2", "#ph a n=x"]);
        assert_eq!(sum(lines.iter(), "n"), u64::MAX);
        assert_eq!(sum(lines[1..].iter(), "n"), 2);
    }

    #[test]
    fn only_the_closing_lines_say_how_a_guest_ended() {
        let exit = "#ph guest-exit status=32";
        let stop = "#ph stop reason=guest-exit";
        for (texts, value) in [
            (&[exit, stop][..], Some(32)),
            (&["#ph exits vcpu=all", exit, stop], Some(32)),
            (&[exit, "#ph exits vcpu=all", stop], None),
            (&[exit, "#ph stop reason=guest-crashed"], None),
            (&[exit, stop, "#ph exits vcpu=all"], None),
            (&["#ph guest-exit status=256", stop], None),
            (&["#ph guest-exit", stop], None),
            (&[exit], None),
            (&[], None),
        ] {
            assert_eq!(guest_exit(&lines(texts)), value, "{texts:?}");
        }
    }
}
