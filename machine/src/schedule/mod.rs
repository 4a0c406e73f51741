//! Who runs when, and what time it is.

mod budget;
mod clock;
mod deterministic;
mod parallel;
mod shared_clock;

use budget::Budget;
pub use clock::{Clock, Share};
pub use deterministic::Deterministic;
pub use parallel::run as run_parallel;
pub use shared_clock::SharedClock;

use crate::cpu::{Activity, Cpu};
use crate::platform::{Outcome, Platform};

/// Ends the run if a processor shut itself down: a PC resets itself then.
fn heed_shutdown(platform: &Platform, cpu: &Cpu) {
    if cpu.activity == Activity::Shutdown && !cpu.vmx.non_root {
        platform.stop(Outcome::TripleFault {
            processor: cpu.index,
            rip: cpu.rip(),
        });
    }
}
