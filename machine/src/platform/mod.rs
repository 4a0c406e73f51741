//! Everything that the processors of a machine share.

mod bus;
mod bus_agent;
mod console_input;
mod interrupts;
mod outcome;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use apic::mailbox::InterruptMailbox;
use apic::routing::Identity;
use devices::debug_port::PhaseMark;
use devices::pc::Pc;

pub use bus_agent::BusAgent;
use console_input::ConsoleInput;
pub use console_input::Waited;
pub use interrupts::Sent;
pub use outcome::Outcome;

use crate::memory::{CodeMap, CodeNotice, Ram};
use crate::trace::{Snapshot, Unimplemented};
use devices::test_memory::TestMemory;

/// What one processor must tell the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A RAM frame was written, or decoded instructions of it are kept.
    Code(CodeNotice),
    /// A phase mark was made: put your counters into it.
    Mark(usize),
    /// S3 begins.
    Suspend,
    /// S3 ends: the bootstrap processor begins at this address in real mode.
    Wake(u32),
}

/// What others may put before a processor.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Interrupts.
    pub mailbox: InterruptMailbox,
    /// Notices.
    pub notices: Mutex<Vec<Notice>>,
    /// A processor's thread waits here when it idles under the parallel schedule.
    pub wake: Condvar,
    /// Guards `wake`; holds nothing.
    pub sleeping: Mutex<()>,
}

/// A phase mark with the counters of every processor when it was made.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What was marked.
    pub mark: PhaseMark,
    /// The counters, by processor; `None` until that processor gave them.
    pub snapshots: Vec<Option<Snapshot>>,
}

/// Reports kept at most; software can make as many as it likes.
const MOST_KEPT: usize = 1024;
/// Marks kept at most, and counters in all of them: they have room for every processor.
const MOST_MARKS: usize = 1024;
const MOST_SNAPSHOTS: usize = 1 << 14;
/// From so many notices on, an inbox is rid of those that it has twice whenever it has doubled.
const MANY_NOTICES: usize = 1 << 12;

/// The shared part of the machine.
pub struct Platform {
    /// RAM.
    pub ram: Ram,
    /// Frames of which decoded instructions are kept.
    pub code_map: CodeMap,
    /// One inbox a processor.
    pub inboxes: Box<[Arc<Inbox>]>,
    pc: Mutex<Pc>,
    test_memory: Mutex<TestMemory>,
    /// When a device does something by itself next, in nanoseconds; `u64::MAX` for never.
    pub next_device_event: AtomicU64,
    identities: Mutex<Vec<Identity>>,
    /// An interrupt was put before a processor since somebody asked.
    posted: AtomicBool,
    console: Mutex<Box<dyn Write + Send>>,
    /// Locked after `pc`.
    input: ConsoleInput,
    /// Address of the FACS; 0 while there is none.
    facs: AtomicU64,
    outcome: Mutex<Option<Outcome>>,
    stopped: AtomicBool,
    marks: Mutex<Vec<Mark>>,
    unimplemented: Mutex<Vec<Unimplemented>>,
}

impl Platform {
    /// A platform whose processors have the given identities; serial output goes to `console`.
    pub fn new(
        ram: Ram,
        identities: Vec<Identity>,
        pc: Pc,
        console: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            code_map: CodeMap::new(ram.size()),
            ram,
            inboxes: identities.iter().map(|_| Arc::default()).collect(),
            pc: Mutex::new(pc),
            test_memory: Mutex::default(),
            next_device_event: AtomicU64::new(0),
            identities: Mutex::new(identities),
            posted: AtomicBool::new(false),
            console: Mutex::new(console),
            input: ConsoleInput::default(),
            facs: AtomicU64::new(0),
            outcome: Mutex::default(),
            stopped: AtomicBool::new(false),
            marks: Mutex::default(),
            unimplemented: Mutex::default(),
        }
    }

    /// Number of processors.
    pub fn processors(&self) -> usize {
        self.inboxes.len()
    }

    /// Makes processor `index` look at its inbox, and wakes its thread if it sleeps.
    pub fn wake(&self, index: usize) {
        if let Some(inbox) = self.inboxes.get(index) {
            inbox.mailbox.raise_attention();
            drop(lock(&inbox.sleeping));
            inbox.wake.notify_one();
        }
    }

    /// An interrupt was put before a processor.
    fn note_posted(&self) {
        self.posted.store(true, Ordering::Relaxed);
    }

    /// Whether an interrupt was put before any processor since the last call.
    pub fn take_posted(&self) -> bool {
        self.posted.swap(false, Ordering::Relaxed)
    }

    /// Puts a notice before every processor but `from`.
    pub fn tell_others(&self, from: usize, notice: Notice) {
        for (index, inbox) in self.inboxes.iter().enumerate() {
            if index != from {
                add_notice(&mut lock(&inbox.notices), notice);
                self.wake(index);
            }
        }
    }

    /// Puts a notice before every processor.
    fn tell_all(&self, notice: Notice) {
        self.tell_others(usize::MAX, notice);
    }

    /// Says where the FACS is, which software puts its waking vector into.
    pub fn set_facs(&self, address: u64) {
        self.facs.store(address, Ordering::Relaxed);
    }

    /// S3 ends: firmware goes to the waking vector, and without one starts anew (ACPI 5.2.10, 16.3).
    fn wake_up(&self) {
        const FIRMWARE_WAKING_VECTOR: u64 = 12;
        let facs = self.facs.load(Ordering::Relaxed);
        let vector = match facs {
            0 => 0,
            facs => self.ram.load(facs + FIRMWARE_WAKING_VECTOR),
        };
        match vector {
            0 => self.stop(Outcome::Reset),
            vector => self.tell_all(Notice::Wake(vector)),
        }
    }

    /// Takes the notices that others put before processor `index`.
    pub fn take_notices(&self, index: usize) -> Vec<Notice> {
        match self.inboxes.get(index) {
            Some(inbox) => std::mem::take(&mut lock(&inbox.notices)),
            None => Vec::new(),
        }
    }

    /// Whether the run was ended.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the run: every processor stops before its next block. The first outcome counts.
    pub fn stop(&self, outcome: Outcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.stopped.store(true, Ordering::Relaxed);
        for index in 0..self.processors() {
            self.wake(index);
        }
        self.end_waits();
    }

    /// How the run ended, if it did.
    pub fn outcome(&self) -> Option<Outcome> {
        *lock(&self.outcome)
    }

    /// Keeps a report of an instruction that the machine does not execute, once per place.
    pub fn report_unimplemented(&self, report: Unimplemented) {
        let mut reports = lock(&self.unimplemented);
        let known =
            |other: &Unimplemented| other.bytes == report.bytes && other.address == report.address;
        if reports.len() < MOST_KEPT && !reports.iter().any(known) {
            reports.push(report);
        }
    }

    /// The reports so far.
    pub fn unimplemented(&self) -> Vec<Unimplemented> {
        lock(&self.unimplemented).clone()
    }

    /// The marks so far.
    pub fn marks(&self) -> Vec<Mark> {
        lock(&self.marks).clone()
    }

    /// Puts the counters of processor `index` into a mark.
    pub fn fill_mark(&self, mark: usize, index: usize, snapshot: Snapshot) {
        if let Some(mark) = lock(&self.marks).get_mut(mark)
            && let Some(place) = mark.snapshots.get_mut(index)
        {
            place.get_or_insert(snapshot);
        }
    }

    fn make_mark(&self, from: usize, mark: PhaseMark) -> Option<usize> {
        let number = {
            let mut marks = lock(&self.marks);
            let most = (MOST_SNAPSHOTS / self.processors().max(1)).min(MOST_MARKS);
            if marks.len() >= most {
                return None;
            }
            marks.push(Mark {
                mark,
                snapshots: vec![None; self.processors()],
            });
            marks.len() - 1
        };
        self.tell_others(from, Notice::Mark(number));
        Some(number)
    }
}

/// Adds a notice for a processor that may not look for long, as its host thread may not run. What
/// it has to do for notices about code does not depend on their order or number, so that no more are
/// kept than two a frame.
fn add_notice(notices: &mut Vec<Notice>, notice: Notice) {
    notices.push(notice);
    if notices.len() >= MANY_NOTICES && notices.len() == notices.capacity() {
        notices.sort_unstable();
        notices.dedup();
        notices.reserve(notices.len());
    }
}

/// Locks a mutex whether or not another thread panicked: the data are plain and stay consistent.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_that_nobody_empties_stays_small() {
        let mut notices = Vec::new();
        for i in 0..1_000_000 {
            add_notice(&mut notices, Notice::Code(CodeNotice::Stale(i % 10 * 4096)));
            add_notice(&mut notices, Notice::Code(CodeNotice::Kept(i % 10 * 4096)));
        }
        assert!(notices.len() <= 2 * MANY_NOTICES, "{}", notices.len());
        notices.sort_unstable();
        notices.dedup();
        assert_eq!(notices.len(), 20);
    }
}
