//! The Posthaste hypervisor. What is logic runs under `cargo test` on the host; the bootable image
//! (`main.rs`, `image/`) adds the assembly that a loader and a start-up IPI enter.
//!
//! Citations such as `SDM 25.9.5` are sections of volume 3 of Intel's Software Developer's Manual
//! in the numbering of its 2022-2024 revisions; see `arch`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod emulation;
pub mod host;
pub mod interrupts;
pub mod scheduler;
pub mod system;
pub mod vcpu;
pub mod vm;
pub mod vmx;
