//! Where the events of a run go as they happen.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::Event;
use crate::platform::lock;

/// What is called with an event: its virtual time in nanoseconds, the processor, the event.
type Take = dyn FnMut(u64, usize, Event) + Send;

/// Takes each event when it happens. Under the
/// deterministic schedule they come in the order of their times; under the parallel one each
/// processor's do. Clones share it.
#[derive(Clone)]
pub struct EventSink(Arc<Mutex<Take>>);

impl EventSink {
    /// A sink that calls `take` for each event.
    pub fn new(take: impl FnMut(u64, usize, Event) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(take)))
    }

    pub(super) fn take(&self, time: u64, processor: usize, event: Event) {
        (lock(&self.0))(time, processor, event);
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink").finish_non_exhaustive()
    }
}
