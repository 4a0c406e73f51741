//! The protocol between processors that write to a frame and processors that keep decoded instructions of it
//! (`memory/frames.rs`), in every interleaving and with every order in which the memory model lets writes be
//! seen.
//!
//! Each model has one frame, of one word for each who writes (loom orders the writes of one thread to a word
//! well, but not always those of several). A processor writes through its translation cache where that permits
//! it and through the gate where it does not, decodes what is there and keeps it, loses cached translations at any
//! moment, and looks at its inbox between instructions only. In the end every inbox is read to its end; then
//! nobody may keep anything but what is in memory. A processor never executes what it has itself overwritten.

use std::collections::VecDeque;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use posthaste_machine::memory::{CodeMap, CodeNotice, Consequences, Frames, SharedBits};

const FRAME: u64 = 0;
const RAM_SIZE: u64 = 4096;
/// Most processors, and the agent.
const WRITERS: usize = 4;
const AGENT: usize = 3;

#[derive(Debug)]
struct Bits(AtomicU64);

impl SharedBits for Bits {
    fn clear() -> Self {
        Self(AtomicU64::new(0))
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, bits: u64) -> u64 {
        self.0.fetch_or(bits, Ordering::AcqRel)
    }

    fn reset(&self, bits: u64) -> u64 {
        self.0.fetch_and(!bits, Ordering::AcqRel)
    }
}

struct Machine {
    map: CodeMap<Bits>,
    /// What the frame holds, by who writes it. The accesses are as weak as there are.
    words: [AtomicU64; WRITERS],
    inboxes: Vec<Mutex<VecDeque<CodeNotice>>>,
}

impl Machine {
    fn new(processors: usize) -> Arc<Self> {
        Arc::new(Self {
            map: CodeMap::new(RAM_SIZE),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            inboxes: (0..processors).map(|_| Mutex::default()).collect(),
        })
    }

    fn read(&self) -> [u64; WRITERS] {
        self.words
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed))
    }

    fn tell_all_but(&self, index: usize, notice: CodeNotice) {
        for (other, inbox) in self.inboxes.iter().enumerate() {
            if other != index {
                inbox.lock().unwrap().push_back(notice);
            }
        }
    }

    /// Somebody who is no processor writes.
    fn write_from_outside(&self, value: u64) {
        let write = |_| self.words[AGENT].store(value, Ordering::Relaxed);
        if let Some(notice) = self.map.write::<u64>(FRAME, write) {
            self.tell_all_but(usize::MAX, notice);
        }
    }
}

struct Processor {
    index: usize,
    machine: Arc<Machine>,
    frames: Frames,
    /// The translation cache permits writes.
    cached: bool,
    /// What was decoded and is kept.
    code: Option<[u64; WRITERS]>,
    /// It is to be dropped before the next instruction.
    stale: bool,
}

impl Processor {
    fn new(machine: &Arc<Machine>, index: usize) -> Self {
        Self {
            index,
            machine: machine.clone(),
            frames: Frames::new(RAM_SIZE),
            cached: false,
            code: None,
            stale: false,
        }
    }

    /// As the machine does.
    fn follow(&mut self, consequences: Consequences) {
        if consequences.forbid_writes {
            self.cached = false;
        }
        self.stale |= consequences.drop_code;
        if let Some(notice) = consequences.tell {
            self.machine.tell_all_but(self.index, notice);
        }
    }

    /// Between two instructions.
    fn look(&mut self) {
        let notices = std::mem::take(&mut *self.machine.inboxes[self.index].lock().unwrap());
        for notice in notices {
            let consequences = self.frames.told(notice, &self.machine.map);
            self.follow(consequences);
        }
        self.drop_stale();
    }

    fn drop_stale(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.code = None;
            self.frames.dropped(FRAME);
        }
    }

    fn write(&mut self, value: u64) {
        if self.cached {
            self.machine.words[self.index].store(value, Ordering::Relaxed);
            return;
        }
        // A walk caches the translation for writes if it may.
        self.cached = self.frames.right(FRAME, &self.machine.map).is_some();
        let word = &self.machine.words[self.index];
        let ((), consequences) = self
            .frames
            .write::<_, u64, _>(FRAME, &self.machine.map, |_| {
                word.store(value, Ordering::Relaxed);
            });
        self.follow(consequences);
        self.drop_stale();
    }

    /// Another translation takes the place of this one.
    fn evict(&mut self) {
        self.cached = false;
    }

    /// Decodes the frame unless that has been done, and gives what is executed of what it wrote itself.
    fn execute(&mut self) -> u64 {
        if self.code.is_none() {
            let consequences = self.frames.keep(FRAME, &self.machine.map);
            self.follow(consequences);
            self.code = Some(self.machine.read());
        }
        self.code.map_or(0, |code| code[self.index])
    }
}

/// Runs each script on a thread of its own, then reads the inboxes until nobody has anything to tell.
fn check(scripts: &'static [fn(&mut Processor)], others: &'static [fn(&Machine)]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let machine = Machine::new(scripts.len());
        let mut threads = Vec::new();
        for (index, script) in scripts.iter().enumerate().skip(1) {
            let machine = machine.clone();
            threads.push(thread::spawn(move || {
                let mut processor = Processor::new(&machine, index);
                script(&mut processor);
                processor
            }));
        }
        let others: Vec<_> = others
            .iter()
            .map(|other| {
                let machine = machine.clone();
                thread::spawn(move || other(&machine))
            })
            .collect();
        let mut first = Processor::new(&machine, 0);
        scripts[0](&mut first);
        let mut processors = vec![first];
        processors.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        for other in others {
            other.join().unwrap();
        }
        while machine
            .inboxes
            .iter()
            .any(|inbox| !inbox.lock().unwrap().is_empty())
        {
            processors.iter_mut().for_each(Processor::look);
        }
        let words = machine.read();
        for processor in &processors {
            let code = processor.code.unwrap_or(words);
            assert_eq!(code, words, "what processor {} keeps", processor.index);
        }
    });
}

/// The right is in the translation cache when the other begins to execute, is used, and is gone before the
/// notice is read.
#[test]
fn a_write_through_a_translation_that_is_evicted() {
    check(
        &[
            |processor| {
                processor.write(1);
                processor.write(2);
                processor.evict();
                processor.look();
                processor.write(3);
            },
            |processor| {
                processor.execute();
                processor.look();
                processor.execute();
            },
        ],
        &[],
    );
}

/// A third has decoded, and said so or not yet, when the second begins.
#[test]
fn two_decode_what_a_third_writes() {
    check(
        &[
            |processor| {
                processor.write(1);
                processor.write(2);
                processor.evict();
                processor.look();
            },
            |processor| {
                processor.execute();
            },
            |processor| {
                processor.execute();
            },
        ],
        &[],
    );
}

/// Both write to the page that both execute: each must see its own write at once.
#[test]
fn each_sees_its_own_writes_at_once() {
    fn script(processor: &mut Processor) {
        processor.write(1);
        processor.execute();
        processor.write(2);
        assert_eq!(processor.execute(), 2);
    }
    check(&[script, script], &[]);
}

/// One that keeps code is told that it is stale, and then writes itself before it has read that.
#[test]
fn a_write_between_anothers_write_and_its_notice() {
    check(
        &[
            |processor| {
                processor.execute();
                processor.write(1);
                assert_eq!(processor.execute(), 1);
                processor.write(2);
                assert_eq!(processor.execute(), 2);
            },
            |processor| {
                processor.write(3);
            },
        ],
        &[],
    );
}

/// One executes what it wrote through a right while another has code of it.
#[test]
fn a_writer_that_begins_to_execute() {
    check(
        &[
            |processor| {
                processor.write(1);
                processor.write(2);
                processor.execute();
                processor.look();
            },
            |processor| {
                processor.execute();
                processor.look();
                processor.execute();
            },
        ],
        &[],
    );
}

#[test]
fn a_bus_agent_writes() {
    check(
        &[
            |processor| {
                processor.execute();
                processor.look();
                processor.execute();
            },
            |processor| {
                processor.write(1);
                processor.evict();
                processor.look();
            },
        ],
        &[|machine| {
            machine.write_from_outside(2);
            machine.write_from_outside(3);
        }],
    );
}
