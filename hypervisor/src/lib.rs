//! The logic of the hypervisor; everything here runs under `cargo test` on the host.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod interrupts;
pub mod scheduler;
pub mod vm;
