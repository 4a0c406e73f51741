//! Offsets of the local APIC's registers in its page (SDM 10.4.1 The local APIC block diagram).
//!
//! The x2APIC MSR of a register is 800H plus the offset shifted right by 4 (SDM 10.12.1.2).

/// Local APIC ID.
pub const ID: u32 = 0x20;
/// Version, highest LVT entry, EOI-broadcast suppression.
pub const VERSION: u32 = 0x30;
/// Task priority (TPR).
pub const TASK_PRIORITY: u32 = 0x80;
/// Arbitration priority (APR); absent in x2APIC mode.
pub const ARBITRATION_PRIORITY: u32 = 0x90;
/// Processor priority (PPR).
pub const PROCESSOR_PRIORITY: u32 = 0xa0;
/// End of interrupt (EOI).
pub const END_OF_INTERRUPT: u32 = 0xb0;
/// Remote read; absent in x2APIC mode.
pub const REMOTE_READ: u32 = 0xc0;
/// Logical destination (LDR).
pub const LOGICAL_DESTINATION: u32 = 0xd0;
/// Destination format (DFR); absent in x2APIC mode.
pub const DESTINATION_FORMAT: u32 = 0xe0;
/// Spurious-interrupt vector and software enable (SVR).
pub const SPURIOUS_VECTOR: u32 = 0xf0;
/// First of eight in-service registers (ISR), 16 bytes apart.
pub const IN_SERVICE: u32 = 0x100;
/// First of eight trigger-mode registers (TMR).
pub const TRIGGER_MODE: u32 = 0x180;
/// First of eight interrupt-request registers (IRR).
pub const INTERRUPT_REQUEST: u32 = 0x200;
/// Error status (ESR).
pub const ERROR_STATUS: u32 = 0x280;
/// LVT: corrected machine check.
pub const LVT_CMCI: u32 = 0x2f0;
/// Interrupt command (ICR), bits 31:0; all 64 bits in x2APIC mode.
pub const INTERRUPT_COMMAND: u32 = 0x300;
/// Interrupt command, bits 63:32; absent in x2APIC mode.
pub const INTERRUPT_COMMAND_HIGH: u32 = 0x310;
/// LVT: timer.
pub const LVT_TIMER: u32 = 0x320;
/// LVT: thermal sensor.
pub const LVT_THERMAL: u32 = 0x330;
/// LVT: performance counters.
pub const LVT_PERFORMANCE: u32 = 0x340;
/// LVT: LINT0.
pub const LVT_LINT0: u32 = 0x350;
/// LVT: LINT1.
pub const LVT_LINT1: u32 = 0x360;
/// LVT: error.
pub const LVT_ERROR: u32 = 0x370;
/// Timer initial count.
pub const TIMER_INITIAL_COUNT: u32 = 0x380;
/// Timer current count.
pub const TIMER_CURRENT_COUNT: u32 = 0x390;
/// Timer divide configuration.
pub const TIMER_DIVIDE: u32 = 0x3e0;
/// Self-IPI; x2APIC mode only.
pub const SELF_IPI: u32 = 0x3f0;

/// Software-enable bit of the spurious-interrupt vector register.
pub const SPURIOUS_VECTOR_ENABLE: u32 = 1 << 8;
/// Mask bit of an LVT entry.
pub const LVT_MASKED: u32 = 1 << 16;
