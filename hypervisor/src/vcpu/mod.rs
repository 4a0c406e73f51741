//! One virtual processor: its state, its VMCS, what happens at each exit, and the loop between.

pub mod control_refresh;
pub mod event_injection;
pub mod exit_counters;
pub mod exits;
pub mod extended_state;
pub mod guest_state;
pub mod run;
pub mod virtual_processor;
pub mod vmcs_setup;
