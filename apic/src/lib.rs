//! The local APIC as a state machine, interrupt routing, posted interrupts and the PID-pointer
//! table.
//!
//! Serves on both sides. In the machine it *is* the processors' local APIC and their IPI
//! virtualization; in the hypervisor it emulates the guest's local APIC over the virtual-APIC page
//! and posts into the same descriptors that the processor posts into.
//!
//! Nothing here calls out: an access returns what its caller has to do as data, and time is an
//! argument. What one processor owns ([`local_apic`]) is plain integers; what other threads may
//! touch ([`mailbox`], [`posted_interrupt`], [`pid_pointer_table`]) is atomic, small, and checked
//! with loom (`tests/loom.rs`).
//!
//! Citations such as `SDM 30.1.6` are sections of volume 3 of Intel's Software Developer's Manual
//! in the numbering of its 2022-2024 revisions; see the head of `posthaste-arch`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod apic_base;
pub mod ipi_decision;
pub mod local_apic;
pub mod mailbox;
pub mod non_maskable;
pub mod pid_pointer_table;
pub mod posted_interrupt;
pub mod register_page;
pub mod routing;
pub mod sync;
