//! Who runs when, and what time it is.

mod clock;
mod deterministic;
mod parallel;

pub use clock::{Clock, Share};
pub use deterministic::Deterministic;
pub use parallel::run as run_parallel;
