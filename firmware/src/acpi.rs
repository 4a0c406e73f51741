//! ACPI tables: built for a machine, and read from one.

pub mod aml;
pub mod build;
pub mod fixed_hardware;
pub mod read;

/// Length of the header of every table but the RSDP and the FACS (ACPI 5.2.6).
pub(crate) const HEADER_LENGTH: usize = 36;
/// Length of the RSDP of ACPI 2.0 and later (ACPI 5.2.5.3); the first 20 bytes are ACPI 1.0's.
pub const RSDP_LENGTH: usize = 36;
/// The OEM ID of the tables of our own machine.
pub const POSTHASTE_OEM_ID: [u8; 6] = *b"POSTHA";

/// ACPI 5.2.5.3: all bytes of a table sum to zero.
pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
