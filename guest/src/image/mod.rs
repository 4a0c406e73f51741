//! The image: everything that runs only on the bare machine.

mod conductor;
mod console;
mod crew;
mod instruction;
mod local_apic;
mod phases;
mod processor;
mod start;
