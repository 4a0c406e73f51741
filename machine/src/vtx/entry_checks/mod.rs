//! Checks on VM entry (SDM chapter 26).

pub mod controls;
pub mod guest_state;
pub mod host_state;

use crate::cpu::Cpu;

/// A rule that the VMCS breaks, in the manual's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// Exit qualification, for checks on guest state (SDM 26.8).
    pub qualification: u64,
}

/// The outcome of checks.
pub type Checked = Result<(), Violation>;

/// Requires `condition`.
pub(super) fn require(condition: bool, rule: &'static str) -> Checked {
    if condition {
        Ok(())
    } else {
        Err(Violation {
            rule,
            qualification: 0,
        })
    }
}

/// Whether a physical address sets no bit beyond the processor's width and none of `low`.
pub(super) fn physical(cpu: &Cpu, address: u64, low: u64) -> bool {
    address & (!cpu.model.physical_mask() | low) == 0
}

/// Whether every byte of a PAT value is a memory type (SDM 11.12.2 IA32_PAT MSR).
pub(super) fn pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7))
}
