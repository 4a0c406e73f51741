//! The whole: the command, the hypervisor's image and the guest's, on the machine.

mod bad_input;
mod console_files;
mod determinism;
mod elf;
mod entry_failure;
mod exit_status;
mod fast_timers;
mod figures;
mod inhibitions;
mod interrupt_program;
mod json;
mod non_maskable;
mod processor_models;
mod program;
mod red_zone;
mod seeds;
mod suspend;
mod terminal;
mod trace_files;
mod virtual_wire;

#[path = "../support/pseudo_terminal.rs"]
mod pseudo_terminal;
