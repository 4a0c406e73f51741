//! The definitions of the x86-64 architecture that both halves of Posthaste use.
//!
//! No logic, no `unsafe`, no allocation: numbers, names and bit layouts. The machine implements
//! them, the hypervisor relies on them.
//!
//! Citations such as `SDM 30.1.6` are sections of volume 3 of Intel's Software Developer's Manual
//! in the numbering of its 2022-2024 revisions, where "APIC virtualization and virtual interrupts"
//! is chapter 30. Later revisions shift chapter numbers and keep the titles.
#![no_std]
#![forbid(unsafe_code)]

pub mod apic_register;
pub mod control_register;
pub mod debug_register;
pub mod descriptor;
pub mod exception;
pub mod exit;
pub mod interrupt_command;
pub mod interruption;
pub mod msr;
pub mod pid_pointer;
pub mod posted_interrupt_descriptor;
pub mod pvh;
pub mod segment;
pub mod vmcs;
pub mod vmx_control;
