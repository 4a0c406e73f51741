//! How often a vCPU exited, by basic exit reason.

use arch::exit::ExitReason;
use core::fmt;

const SIZE: usize = 128;

/// The counters of one vCPU, or a sum of them.
#[derive(Clone, Debug)]
pub struct ExitCounters([u64; SIZE]);

impl Default for ExitCounters {
    fn default() -> Self {
        Self([0; SIZE])
    }
}

impl ExitCounters {
    /// Counts one exit with the given EXIT_REASON field.
    #[inline(always)]
    pub fn count(&mut self, exit_reason: u32) {
        // Basic reasons are far below 128.
        let counter = &mut self.0[exit_reason as usize % SIZE];
        *counter = counter.wrapping_add(1);
    }

    /// Exits for a reason.
    pub fn of(&self, reason: ExitReason) -> u64 {
        self.0[reason as usize % SIZE]
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// Adds another vCPU's.
    pub fn add(&mut self, other: &Self) {
        for (sum, n) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(n);
        }
    }

    /// Writes ` NAME=count` for every reason that occurred.
    pub fn write(&self, out: &mut (impl fmt::Write + ?Sized)) -> fmt::Result {
        for (number, count) in self.0.iter().enumerate().filter(|(_, count)| **count != 0) {
            match ExitReason::from_number(number as u16) {
                Some(reason) => write!(out, " {}={count}", reason.name())?,
                None => write!(out, " REASON_{number}={count}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_by_name() {
        let mut counters = ExitCounters::default();
        for reason in [10, 32, 32, 35] {
            counters.count(reason);
        }
        let mut sum = counters.clone();
        sum.add(&counters);
        let mut text = String::new();
        counters.write(&mut text).unwrap();
        assert_eq!(text, " CPUID=1 MSR_WRITE=2 REASON_35=1");
        assert_eq!((sum.of(ExitReason::Wrmsr), sum.total()), (4, 8));
    }
}
