//! The machine-readable lines that hypervisor and guest write to the serial console:
//! `#ph kind key=value key=value …`.

use std::collections::BTreeMap;

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
}
