//! What happened: counters, typed events with a hash, and reports of what the machine cannot do.

mod counters;
mod event;
mod report;
mod sink;

pub use counters::{CommandKind, Counters, Snapshot};
pub(crate) use event::mix;
pub use event::{Event, Trace};
pub use report::{Owner, Unimplemented};
pub use sink::EventSink;
