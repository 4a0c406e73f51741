//! What the boot command line asks for.
//!
//! Options are separated by white space, each `name=value`. An option that is not known is an error,
//! never ignored: a misspelt `ipiv=of` must not run a measurement with IPI virtualization on.

use core::fmt;

/// Most vCPUs of a virtual machine: APIC IDs 0 to 254. ID 255 is the xAPIC broadcast destination, so
/// a vCPU must never own it (SDM 10.6.2.1 Physical destination mode).
pub const MAX_VCPUS: u32 = 255;
/// vCPUs when the command line does not say.
pub const DEFAULT_VCPUS: u32 = 4;
/// Least memory of a virtual machine, in MiB.
pub const MIN_MEMORY_MIB: u64 = 16;
/// Most memory of a virtual machine, in MiB.
pub const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Memory when the command line does not say, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 64;

/// Whether a feature that the processor has may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Use it if the processor has it.
    Allowed,
    /// Do not use it.
    Off,
}

impl Switch {
    /// The feature may be used.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed)
    }
}

/// Which local APIC the guest is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicOffer {
    /// CPUID shows x2APIC; the guest may also stay in xAPIC mode.
    X2apic,
    /// CPUID hides x2APIC and IA32_APIC_BASE refuses it.
    XapicOnly,
}

/// When a vCPU's descriptor suppresses notifications (prior-art B6 and B5 number 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSuppression {
    /// SN is 1 while the vCPU is preempted.
    WhilePreempted,
    /// SN is 1 also while its processor is in root mode on its behalf.
    WhileInRoot,
}

/// What the boot command line allows of the processor's features, for every virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSwitches {
    /// `ipiv`: IPI virtualization.
    pub ipi_virtualization: Switch,
    /// `pi`: posted-interrupt processing.
    pub posted_interrupts: Switch,
    /// `vid`: virtual-interrupt delivery.
    pub virtual_interrupt_delivery: Switch,
    /// `apicreg`: APIC-register virtualization.
    pub apic_register_virtualization: Switch,
    /// `apicv`: any APIC virtualization, the TPR shadow included.
    pub apic_virtualization: Switch,
    /// `vpid`: virtual-processor identifiers.
    pub vpid: Switch,
}

/// A deliberate mistake, to see what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One illegal VM-execution control, to see the dump of a failed entry.
    IllegalControl,
    /// One illegal field of the guest-state area, to see which rule of the entry is named.
    IllegalGuestState,
}

/// The parsed command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `vcpus`: 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// `memory`: in MiB.
    pub memory_mib: u64,
    /// `apic`: `x2apic` or `xapic`.
    pub apic: ApicOffer,
    /// What may be used of the processor.
    pub features: FeatureSwitches,
    /// `vm.ipiv`: IPI virtualization for this virtual machine alone.
    pub vm_ipi_virtualization: Switch,
    /// `suppress`: `preempted` or `root`.
    pub notification_suppression: NotificationSuppression,
    /// `seed`: for whatever the hypervisor randomizes; 0 when not given.
    pub seed: u64,
    /// `break`: `control` or `guest-state`.
    pub sabotage: Option<Sabotage>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            vcpus: DEFAULT_VCPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            apic: ApicOffer::X2apic,
            features: FeatureSwitches {
                ipi_virtualization: Switch::Allowed,
                posted_interrupts: Switch::Allowed,
                virtual_interrupt_delivery: Switch::Allowed,
                apic_register_virtualization: Switch::Allowed,
                apic_virtualization: Switch::Allowed,
                vpid: Switch::Allowed,
            },
            vm_ipi_virtualization: Switch::Allowed,
            notification_suppression: NotificationSuppression::WhilePreempted,
            seed: 0,
            sabotage: None,
        }
    }
}

/// Why a command line was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationError<'a> {
    /// No option has this name.
    UnknownOption {
        /// The whole word.
        word: &'a str,
    },
    /// The option needs `=value`.
    MissingValue {
        /// The option's name.
        option: &'a str,
    },
    /// The value is none of those allowed.
    InvalidValue {
        /// The option's name.
        option: &'a str,
        /// What was given.
        value: &'a str,
        /// What is allowed, to be printed.
        allowed: &'static str,
    },
    /// The number is outside its range.
    OutOfRange {
        /// The option's name.
        option: &'a str,
        /// What was given.
        value: u64,
        /// Least allowed.
        least: u64,
        /// Most allowed.
        most: u64,
    },
    /// The option was given twice.
    Repeated {
        /// The option's name.
        option: &'a str,
    },
}

impl fmt::Display for ConfigurationError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownOption { word } => write!(
                f,
                "unknown boot option `{word}`; known are vcpus, memory, apic, ipiv, pi, vid, \
                 apicreg, apicv, vpid, vm.ipiv, suppress, seed"
            ),
            Self::MissingValue { option } => {
                write!(
                    f,
                    "boot option `{option}` needs a value: write `{option}=...`"
                )
            }
            Self::InvalidValue {
                option,
                value,
                allowed,
            } => write!(
                f,
                "boot option `{option}={value}`: the value must be {allowed}"
            ),
            Self::OutOfRange {
                option,
                value,
                least,
                most,
            } => write!(
                f,
                "boot option `{option}={value}`: the value must be from {least} to {most}"
            ),
            Self::Repeated { option } => write!(f, "boot option `{option}` is given twice"),
        }
    }
}

impl core::error::Error for ConfigurationError<'_> {}

const OPTIONS: [&str; 13] = [
    "vcpus", "memory", "apic", "ipiv", "pi", "vid", "apicreg", "apicv", "vpid", "vm.ipiv",
    "suppress", "seed", "break",
];

impl Configuration {
    /// Parses a boot command line; an empty one gives the defaults.
    ///
    /// # Errors
    /// The first word that is not a known option with an allowed value.
    pub fn parse(command_line: &str) -> Result<Self, ConfigurationError<'_>> {
        let mut configuration = Self::default();
        let mut seen = 0u32;
        for word in command_line.split_ascii_whitespace() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            let Some(number) = OPTIONS.iter().position(|known| *known == option) else {
                return Err(ConfigurationError::UnknownOption { word });
            };
            let Some(value) = value else {
                return Err(ConfigurationError::MissingValue { option });
            };
            if seen & 1 << number != 0 {
                return Err(ConfigurationError::Repeated { option });
            }
            seen |= 1 << number;
            configuration.set(option, value)?;
        }
        Ok(configuration)
    }

    fn set<'a>(&mut self, option: &'a str, value: &'a str) -> Result<(), ConfigurationError<'a>> {
        let features = &mut self.features;
        match option {
            "vcpus" => self.vcpus = number(option, value, 1, MAX_VCPUS.into())? as u32,
            "memory" => self.memory_mib = number(option, value, MIN_MEMORY_MIB, MAX_MEMORY_MIB)?,
            "apic" => {
                self.apic = match value {
                    "x2apic" => ApicOffer::X2apic,
                    "xapic" => ApicOffer::XapicOnly,
                    _ => return Err(invalid(option, value, "x2apic or xapic")),
                }
            }
            "ipiv" => features.ipi_virtualization = switch(option, value)?,
            "pi" => features.posted_interrupts = switch(option, value)?,
            "vid" => features.virtual_interrupt_delivery = switch(option, value)?,
            "apicreg" => features.apic_register_virtualization = switch(option, value)?,
            "apicv" => features.apic_virtualization = switch(option, value)?,
            "vpid" => features.vpid = switch(option, value)?,
            "vm.ipiv" => self.vm_ipi_virtualization = switch(option, value)?,
            "suppress" => {
                self.notification_suppression = match value {
                    "preempted" => NotificationSuppression::WhilePreempted,
                    "root" => NotificationSuppression::WhileInRoot,
                    _ => return Err(invalid(option, value, "preempted or root")),
                }
            }
            "seed" => self.seed = number(option, value, 0, u64::MAX)?,
            "break" => {
                self.sabotage = match value {
                    "control" => Some(Sabotage::IllegalControl),
                    "guest-state" => Some(Sabotage::IllegalGuestState),
                    _ => return Err(invalid(option, value, "control or guest-state")),
                }
            }
            _ => return Err(ConfigurationError::UnknownOption { word: option }),
        }
        Ok(())
    }

    /// Whether this virtual machine may use IPI virtualization: neither the boot switch nor its own
    /// is off.
    pub const fn ipi_virtualization(&self) -> Switch {
        match (
            self.features.ipi_virtualization,
            self.vm_ipi_virtualization,
            self.features.apic_virtualization,
        ) {
            (Switch::Allowed, Switch::Allowed, Switch::Allowed) => Switch::Allowed,
            _ => Switch::Off,
        }
    }
}

const fn invalid<'a>(
    option: &'a str,
    value: &'a str,
    allowed: &'static str,
) -> ConfigurationError<'a> {
    ConfigurationError::InvalidValue {
        option,
        value,
        allowed,
    }
}

fn switch<'a>(option: &'a str, value: &'a str) -> Result<Switch, ConfigurationError<'a>> {
    match value {
        "on" => Ok(Switch::Allowed),
        "off" => Ok(Switch::Off),
        _ => Err(invalid(option, value, "on or off")),
    }
}

fn number<'a>(
    option: &'a str,
    value: &'a str,
    least: u64,
    most: u64,
) -> Result<u64, ConfigurationError<'a>> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    match parsed {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(number) => Err(ConfigurationError::OutOfRange {
            option,
            value: number,
            least,
            most,
        }),
        Err(_) => Err(invalid(
            option,
            value,
            "a number of at most 64 bits, decimal or 0x...",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_command_line_gives_the_defaults() {
        assert_eq!(Configuration::parse(" \t"), Ok(Configuration::default()));
    }

    #[test]
    fn every_option_is_set() {
        let line = "vcpus=7 memory=0x80 apic=xapic ipiv=off pi=off vid=off apicreg=off apicv=off \
                    vpid=off vm.ipiv=off suppress=root seed=99 break=control";
        let parsed = Configuration::parse(line).unwrap();
        let expected = Configuration {
            vcpus: 7,
            memory_mib: 128,
            apic: ApicOffer::XapicOnly,
            features: FeatureSwitches {
                ipi_virtualization: Switch::Off,
                posted_interrupts: Switch::Off,
                virtual_interrupt_delivery: Switch::Off,
                apic_register_virtualization: Switch::Off,
                apic_virtualization: Switch::Off,
                vpid: Switch::Off,
            },
            vm_ipi_virtualization: Switch::Off,
            notification_suppression: NotificationSuppression::WhileInRoot,
            seed: 99,
            sabotage: Some(Sabotage::IllegalControl),
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn each_switch_changes_its_own_field_only() {
        for (option, pick) in [
            (
                "ipiv",
                (|f| f.ipi_virtualization) as fn(FeatureSwitches) -> Switch,
            ),
            ("pi", |f| f.posted_interrupts),
            ("vid", |f| f.virtual_interrupt_delivery),
            ("apicreg", |f| f.apic_register_virtualization),
            ("apicv", |f| f.apic_virtualization),
            ("vpid", |f| f.vpid),
        ] {
            let line = format!("{option}=off");
            let features = Configuration::parse(&line).unwrap().features;
            assert_eq!(pick(features), Switch::Off, "{option}");
            let others = [
                features.ipi_virtualization,
                features.posted_interrupts,
                features.virtual_interrupt_delivery,
                features.apic_register_virtualization,
                features.apic_virtualization,
                features.vpid,
            ];
            assert_eq!(
                others.iter().filter(|s| **s == Switch::Off).count(),
                1,
                "{option}"
            );
        }
    }

    #[test]
    fn bad_input_earns_a_precise_line() {
        for (line, message) in [
            (
                "vcpus=0",
                "boot option `vcpus=0`: the value must be from 1 to 255",
            ),
            (
                "vcpus=300",
                "boot option `vcpus=300`: the value must be from 1 to 255",
            ),
            (
                "memory=1",
                "boot option `memory=1`: the value must be from 16 to 1048576",
            ),
            (
                "vcpus=many",
                "boot option `vcpus=many`: the value must be a number of at most 64 bits, decimal or 0x...",
            ),
            (
                "apic=x3apic",
                "boot option `apic=x3apic`: the value must be x2apic or xapic",
            ),
            (
                "ipiv=of",
                "boot option `ipiv=of`: the value must be on or off",
            ),
            ("seed", "boot option `seed` needs a value: write `seed=...`"),
            ("pi=on pi=off", "boot option `pi` is given twice"),
        ] {
            assert_eq!(
                Configuration::parse(line).unwrap_err().to_string(),
                message,
                "{line}"
            );
        }
        let unknown = Configuration::parse("vcpus=2 colour=red").unwrap_err();
        assert_eq!(
            unknown,
            ConfigurationError::UnknownOption { word: "colour=red" }
        );
        assert!(unknown.to_string().contains("`colour=red`"));
    }

    #[test]
    fn ipi_virtualization_needs_all_three_switches() {
        for (line, expected) in [
            ("", Switch::Allowed),
            ("ipiv=off", Switch::Off),
            ("vm.ipiv=off", Switch::Off),
            ("apicv=off", Switch::Off),
            ("pi=off", Switch::Allowed),
        ] {
            assert_eq!(
                Configuration::parse(line).unwrap().ipi_virtualization(),
                expected,
                "{line}"
            );
        }
    }
}
