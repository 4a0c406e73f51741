//! Everything that the processors of a machine share.

mod code_map;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use apic::mailbox::InterruptMailbox;

pub use code_map::CodeMap;

use crate::{memory::Ram, trace::Unimplemented};

/// What one processor must tell the others about RAM frames with instructions in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The frame was written: decoded instructions of it are stale.
    StaleCode(u64),
    /// Decoded instructions of the frame are kept from now on: direct writes must end.
    KeptCode(u64),
}

/// What others may put before a processor.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Interrupts.
    pub mailbox: InterruptMailbox,
    /// Notices about code.
    pub notices: Mutex<Vec<Notice>>,
}

/// Reports kept at most.
const MOST_REPORTS: usize = 64;

/// The shared part of the machine.
#[derive(Debug)]
pub struct Platform {
    /// RAM.
    pub ram: Ram,
    /// Frames of which decoded instructions are kept.
    pub code_map: CodeMap,
    /// One inbox a processor.
    pub inboxes: Box<[Inbox]>,
    /// Somebody ended the run.
    pub stopped: AtomicBool,
    unimplemented: Mutex<Vec<Unimplemented>>,
}

impl Platform {
    /// A platform with `processors` processors.
    pub fn new(ram: Ram, processors: usize) -> Self {
        Self {
            code_map: CodeMap::new(ram.size()),
            ram,
            inboxes: (0..processors).map(|_| Inbox::default()).collect(),
            stopped: AtomicBool::new(false),
            unimplemented: Mutex::default(),
        }
    }

    /// Puts a notice before every processor but `from`.
    pub fn tell_others(&self, from: usize, notice: Notice) {
        for (index, inbox) in self.inboxes.iter().enumerate() {
            if index != from {
                lock(&inbox.notices).push(notice);
                inbox.mailbox.raise_attention();
            }
        }
    }

    /// Takes the notices that others put before processor `index`.
    pub fn take_notices(&self, index: usize) -> Vec<Notice> {
        match self.inboxes.get(index) {
            Some(inbox) => std::mem::take(&mut lock(&inbox.notices)),
            None => Vec::new(),
        }
    }

    /// Ends the run: every processor stops before its next block.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        for inbox in &self.inboxes {
            inbox.mailbox.raise_attention();
        }
    }

    /// Keeps a report of an instruction that the machine does not execute, once per place.
    pub fn report_unimplemented(&self, report: Unimplemented) {
        let mut reports = lock(&self.unimplemented);
        let known =
            |other: &Unimplemented| other.bytes == report.bytes && other.address == report.address;
        if reports.len() < MOST_REPORTS && !reports.iter().any(known) {
            reports.push(report);
        }
    }

    /// The reports so far.
    pub fn unimplemented(&self) -> Vec<Unimplemented> {
        lock(&self.unimplemented).clone()
    }
}

/// Locks a mutex whether or not another thread panicked: the data are plain and stay consistent.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
