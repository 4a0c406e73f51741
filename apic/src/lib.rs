//! Local APIC, interrupt routing and posted interrupts.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod mailbox;
pub mod register_page;
mod sync;
