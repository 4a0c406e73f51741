//! The guest that checks inter-processor interrupts: the part that is logic and runs on the host
//! too. The bootable image (`src/image/`) is built on it.
//!
//! Section numbers of the Intel manual follow the pin in `posthaste-arch`'s crate head.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot_information;
pub mod command_line;
pub mod descriptor;
pub mod logical_destination;
pub mod memory_map;
pub mod phase;
pub mod physical_memory;
pub mod random;
pub mod report;
pub mod tally;
pub mod vector;
