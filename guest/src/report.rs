//! The machine-readable lines of the report, `#ph kind key=value ...`.

use crate::{command_line::ApicMode, phase::Phase, tally::Tally};
use core::fmt;

/// The outcome of a phase or of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was as the architecture says.
    Pass,
    /// Something was not.
    Fail,
}

impl Verdict {
    /// Pass if `right`.
    pub const fn from_right(right: bool) -> Self {
        if right { Self::Pass } else { Self::Fail }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
        })
    }
}

/// The line of one phase.
#[derive(Clone, Copy, Debug)]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// In which mode the APICs were.
    pub apic: ApicMode,
    /// Processors that took part.
    pub processors: usize,
    /// What came and what did not.
    pub tally: Tally,
    /// Checks beside the counts that failed.
    pub failed_checks: u32,
    /// A word about the circumstances, without spaces.
    pub note: Option<&'static str>,
}

impl PhaseReport {
    /// Pass if all counts and all checks are right.
    pub const fn verdict(&self) -> Verdict {
        Verdict::from_right(self.tally.is_right() && self.failed_checks == 0)
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            sent,
            received,
            lost,
            extra,
            surplus,
        } = self.tally;
        write!(
            formatter,
            "#ph phase name={} apic={} vcpus={} sent={sent} received={received} lost={lost} verdict={}",
            self.phase.name(),
            self.apic.name(),
            self.processors,
            self.verdict()
        )?;
        for (key, value) in [
            ("extra", extra),
            ("surplus", surplus),
            ("failed_checks", u64::from(self.failed_checks)),
        ] {
            if value != 0 {
                write!(formatter, " {key}={value}")?;
            }
        }
        match self.note {
            Some(note) => write!(formatter, " note={note}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_keeps_its_form() {
        let mut report = PhaseReport {
            phase: Phase::Unicast,
            apic: ApicMode::X2apic,
            processors: 4,
            tally: Tally {
                sent: 9,
                received: 9,
                ..Tally::default()
            },
            failed_checks: 0,
            note: None,
        };
        assert_eq!(
            report.to_string(),
            "#ph phase name=unicast apic=x2apic vcpus=4 sent=9 received=9 lost=0 verdict=pass"
        );
        report.note = Some("id-read-only");
        report.failed_checks = 2;
        report.tally.lost = 1;
        report.tally.received = 8;
        assert_eq!(
            report.to_string(),
            "#ph phase name=unicast apic=x2apic vcpus=4 sent=9 received=8 lost=1 verdict=fail \
             failed_checks=2 note=id-read-only"
        );
    }

    #[test]
    fn a_failed_check_or_a_wrong_count_fails_the_phase() {
        for (lost, surplus, failed_checks, verdict) in [
            (0, 0, 0, Verdict::Pass),
            (1, 0, 0, Verdict::Fail),
            (0, 1, 0, Verdict::Fail),
            (0, 0, 1, Verdict::Fail),
        ] {
            let report = PhaseReport {
                phase: Phase::Tpr,
                apic: ApicMode::Xapic,
                processors: 1,
                tally: Tally {
                    lost,
                    surplus,
                    ..Tally::default()
                },
                failed_checks,
                note: None,
            };
            assert_eq!(report.verdict(), verdict);
        }
    }
}
