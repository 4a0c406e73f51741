//! The guest's command line: `apic=x2apic|xapic phases=a,b,c rounds=N seed=N`.

use crate::phase::{Phase, PhaseSet};
use core::fmt;

/// The mode of the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Registers in a page of memory, 8-bit IDs.
    Xapic,
    /// Registers are MSRs, 32-bit IDs.
    X2apic,
}

impl ApicMode {
    /// The name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xapic => "xapic",
            Self::X2apic => "x2apic",
        }
    }
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The APICs' mode; `None`: x2APIC if the processor offers it.
    pub apic: Option<ApicMode>,
    /// The phases to run.
    pub phases: PhaseSet,
    /// Unicast ping-pongs of each pair; the other phases scale with it.
    pub rounds: u32,
    /// Seed of the pseudo-random choices.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            apic: None,
            phases: PhaseSet::ALL,
            rounds: 10_000,
            seed: 1,
        }
    }
}

/// What is wrong with a word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No such option.
    Unknown(&'a str),
    /// The option exists, the value is not one of its values.
    BadValue {
        /// The option's name.
        option: &'a str,
        /// The value given.
        value: &'a str,
        /// What would be right.
        wanted: &'static str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(
                formatter,
                "unknown option '{word}'; there are apic=, phases=, rounds= and seed="
            ),
            Self::BadValue {
                option,
                value,
                wanted,
            } => write!(formatter, "{option}={value}: wanted {wanted}"),
        }
    }
}

/// Parses the command line. A first word that is a path is the image's own name, as some loaders
/// pass it.
///
/// # Errors
/// On the first word that is not a known option with a good value.
pub fn parse(line: &str) -> Result<Options, OptionError<'_>> {
    let mut options = Options::default();
    for (position, word) in line.split_ascii_whitespace().enumerate() {
        if position == 0 && word.starts_with('/') {
            continue;
        }
        let (option, value) = word.split_once('=').ok_or(OptionError::Unknown(word))?;
        let bad = |wanted| OptionError::BadValue {
            option,
            value,
            wanted,
        };
        match option {
            "apic" => {
                options.apic = Some(match value {
                    "xapic" => ApicMode::Xapic,
                    "x2apic" => ApicMode::X2apic,
                    _ => return Err(bad("x2apic or xapic")),
                });
            }
            "phases" => {
                options.phases =
                    value.split(',').try_fold(PhaseSet::NONE, |set, name| {
                        Phase::from_name(name)
                        .map(|phase| set.with(phase))
                        .ok_or_else(|| {
                            bad("a comma-separated list of unicast, halted, storm, self, logical, \
                             broadcast, nmi, lowest, tpr, illegal, xapic_id, timer")
                        })
                    })?;
            }
            "rounds" => {
                options.rounds = value
                    .parse()
                    .ok()
                    .filter(|rounds| (1..=1_000_000_000).contains(rounds))
                    .ok_or_else(|| bad("a number from 1 to 1000000000"))?;
            }
            "seed" => {
                options.seed = value
                    .parse()
                    .map_err(|_| bad("a number from 0 to 2^64 - 1"))?;
            }
            _ => return Err(OptionError::Unknown(word)),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option() {
        assert_eq!(parse(""), Ok(Options::default()));
        assert_eq!(
            parse("/boot/guest  apic=xapic phases=nmi,self rounds=3 seed=18446744073709551615"),
            Ok(Options {
                apic: Some(ApicMode::Xapic),
                phases: PhaseSet::NONE.with(Phase::Nmi).with(Phase::SelfIpi),
                rounds: 3,
                seed: u64::MAX,
            })
        );
        assert_eq!(
            parse("apic=x2apic").map(|options| options.apic),
            Ok(Some(ApicMode::X2apic))
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, message) in [
            ("fast", "unknown option 'fast'; there are"),
            ("vcpus=3", "unknown option 'vcpus=3'"),
            ("seed=1 /boot/guest", "unknown option '/boot/guest'"),
            ("apic=x3apic", "apic=x3apic: wanted x2apic or xapic"),
            ("phases=", "phases=: wanted"),
            ("phases=nmi,,self", "phases=nmi,,self: wanted"),
            ("rounds=0", "rounds=0: wanted a number from 1"),
            ("rounds=1000000001", "rounds=1000000001: wanted"),
            ("seed=-1", "seed=-1: wanted a number"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(message), "{line}: {said}");
        }
    }
}
