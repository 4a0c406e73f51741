//! PAUSE in VMX non-root operation, and PAUSE-loop exiting (SDM 25.1.3 Instructions that cause VM exits
//! conditionally, PAUSE; 24.6.13 Controls for PAUSE-loop exiting).

use arch::{
    exit::ExitReason,
    vmx_control::{primary, secondary},
};

use super::instruction_exit;
use crate::cpu::{Cpu, raise::Raised};

/// The executions of PAUSE at CPL 0 since VM entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct PauseLoop {
    seen: Option<Seen>,
}

/// When they were, by the virtual time.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The first of the loop.
    first: u64,
    /// The one before.
    last: u64,
}

impl PauseLoop {
    /// A PAUSE at `now`; true if its loop has lasted longer than `window`.
    fn pause(&mut self, now: u64, gap: u32, window: u32) -> bool {
        let first = match self.seen {
            Some(Seen { first, last }) if now.saturating_sub(last) <= u64::from(gap) => first,
            _ => now,
        };
        self.seen = Some(Seen { first, last: now });
        now.saturating_sub(first) > u64::from(window)
    }
}

/// Whether PAUSE may do anything, as things are.
#[inline]
pub fn is_watched(cpu: &Cpu) -> bool {
    cpu.vmx.non_root
        && (cpu.vmx.guest.controls.primary(primary::PAUSE_EXITING)
            || cpu
                .vmx
                .guest
                .controls
                .secondary(secondary::PAUSE_LOOP_EXITING))
}

/// PAUSE.
#[inline]
pub fn pause(cpu: &mut Cpu) -> Result<(), Raised> {
    if !cpu.vmx.non_root {
        return Ok(());
    }
    let controls = &cpu.vmx.guest.controls;
    let exits = if controls.primary(primary::PAUSE_EXITING) {
        true
    } else if controls.secondary(secondary::PAUSE_LOOP_EXITING) && cpu.cpl == 0 {
        let (gap, window) = (controls.pause_gap, controls.pause_window);
        let now = cpu.now();
        cpu.vmx.guest.pause_loop.pause(now, gap, window)
    } else {
        false
    };
    if exits {
        Err(instruction_exit(cpu, ExitReason::Pause))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_begins_anew_after_the_gap_and_exits_after_the_window() {
        let run = |times: &[u64]| {
            let mut pauses = PauseLoop::default();
            times
                .iter()
                .map(|now| pauses.pause(*now, 10, 100))
                .collect::<Vec<_>>()
        };
        // At the gap it is still the same loop, beyond it another; at the window it does not exit.
        let same: Vec<_> = (0..11).map(|i| i * 10).collect();
        assert_eq!(run(&same), [false; 11]);
        assert!(run(&[&same[..], &[101]].concat())[11]);
        let apart: Vec<_> = (0..40).map(|i| i * 11).collect();
        assert_eq!(run(&apart), [false; 40]);
        // The gap is one between executions, the window one since the first.
        assert_eq!(run(&[0, 50, 100, 101, 102]), [false; 5]);
    }
}
