//! Local APIC, interrupt routing and posted interrupts.
#![no_std]
