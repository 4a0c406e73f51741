//! The software VT-x machine: processors, local APICs and the platform of a PC, in which the
//! processor's IPI virtualization is built in.
//!
//! Citations are sections of volume 3 of Intel's Software Developer's Manual in the numbering that
//! [`arch`] pins.

mod bios_data;
pub mod cpu;
mod kernel_entry;
pub mod machine;
pub mod memory;
pub mod platform;
pub mod schedule;
pub mod trace;
pub mod vtx;
