//! Who runs when, and what time it is.

mod clock;

pub use clock::{Clock, Share};
