//! The VMX-preemption timer (SDM 25.5.1).

use arch::{vmcs, vmx_control::pin};

use super::{capabilities::PREEMPTION_TIMER_SHIFT as SHIFT, controls::Controls};
use crate::cpu::Cpu;

/// The timer of one processor. It counts down by 1 each time bit [`SHIFT`] of the time changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreemptionTimer {
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    started: u64,
    value: u32,
}

impl PreemptionTimer {
    /// The timer as VM entry starts it, if it is activated (SDM 26.7.4).
    pub(super) fn of_current(cpu: &Cpu, controls: &Controls) -> Self {
        let running = controls.pin(pin::PREEMPTION_TIMER).then(|| Running {
            started: cpu.now(),
            value: cpu.vmcs(vmcs::PREEMPTION_TIMER_VALUE),
        });
        Self { running }
    }

    /// The virtual time at which it reaches 0.
    pub fn deadline(&self) -> Option<u64> {
        let running = self.running?;
        Some(((running.started >> SHIFT) + u64::from(running.value)) << SHIFT)
    }

    /// What is left of the count.
    pub fn left(&self, now: u64) -> u32 {
        let Some(running) = self.running else {
            return 0;
        };
        let passed = (now >> SHIFT).saturating_sub(running.started >> SHIFT);
        u64::from(running.value).saturating_sub(passed) as u32
    }

    /// Whether it is activated.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it has reached 0.
    pub fn expired(&self, now: u64) -> bool {
        self.running.is_some() && self.left(now) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_ticks() {
        let timer = PreemptionTimer {
            running: Some(Running {
                started: 63,
                value: 2,
            }),
        };
        assert_eq!(timer.deadline(), Some(65));
        assert_eq!((timer.left(63), timer.left(64), timer.left(65)), (2, 1, 0));
        assert!(!timer.expired(64));
        assert!(timer.expired(65));
        assert_eq!(timer.left(1000), 0);
    }
}
