//! The atomics of this crate: `core`'s, or loom's under `cfg(loom)` so that a model checker can
//! run every interleaving of them.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
