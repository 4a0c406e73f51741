//! What the processors do together: wait, meet, and say what went wrong.

use super::processor::processors;
use core::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// Turns of a loop with PAUSE after which an interrupt counts as lost: a second or some, on any
/// processor or emulator.
const POLITE_PATIENCE: u64 = 20_000_000;
/// The same of a loop without PAUSE.
const PLAIN_PATIENCE: u64 = 100_000_000;
/// Turns with PAUSE after which a processor is not coming to the meeting. Whoever is late may
/// itself be waiting in vain.
const MEETING_PATIENCE: u64 = 200_000_000;

/// 1; more after the first loss: the rest need not take as long.
static HURRY: AtomicU64 = AtomicU64::new(1);
/// A wait of this phase was in vain: the others give up too.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// Whether this phase is given up.
pub(super) fn is_abandoned() -> bool {
    ABANDONED.load(Ordering::Relaxed)
}

/// Gives the phase up.
pub(super) fn abandon() {
    ABANDONED.store(true, Ordering::Relaxed);
    HURRY.store(16, Ordering::Relaxed);
}

/// Begins a phase anew.
pub(super) fn resume() {
    ABANDONED.store(false, Ordering::Relaxed);
}

/// How a waiting processor spends its time.
#[derive(Clone, Copy)]
pub(super) enum Waiting {
    /// With PAUSE.
    Politely,
    /// With plain loads: nothing that could exit.
    Plainly,
}

/// Waits until `done`; false if patience ends first, here or elsewhere.
pub(super) fn wait_until(waiting: Waiting, done: impl Fn() -> bool) -> bool {
    let patience = match waiting {
        Waiting::Politely => POLITE_PATIENCE,
        Waiting::Plainly => PLAIN_PATIENCE,
    };
    for _ in 0..patience / HURRY.load(Ordering::Relaxed) {
        if done() {
            return true;
        }
        if is_abandoned() {
            return false;
        }
        if matches!(waiting, Waiting::Politely) {
            spin_loop();
        }
    }
    abandon();
    false
}

/// Lets `turns` of a loop pass.
pub(super) fn idle(turns: u32) {
    for _ in 0..turns {
        spin_loop();
    }
}

static ARRIVED: AtomicUsize = AtomicUsize::new(0);
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A processor never came to the meeting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing;

/// Meets all other processors.
pub(super) fn meet() -> Result<(), Missing> {
    let generation = GENERATION.load(Ordering::Acquire);
    if ARRIVED.fetch_add(1, Ordering::AcqRel) + 1 == processors().len() {
        ARRIVED.store(0, Ordering::Relaxed);
        GENERATION.store(generation.wrapping_add(1), Ordering::Release);
        return Ok(());
    }
    for _ in 0..MEETING_PATIENCE {
        if GENERATION.load(Ordering::Acquire) != generation {
            return Ok(());
        }
        spin_loop();
    }
    Err(Missing)
}

/// Which check of a phase failed: the first of them is kept for the console.
static FIRST_FAILURE: FirstFailure = FirstFailure {
    taken: AtomicBool::new(false),
    complete: AtomicBool::new(false),
    text: AtomicUsize::new(0),
    processor: AtomicUsize::new(0),
    value: AtomicU64::new(0),
};
static FAILED_CHECKS: AtomicU32 = AtomicU32::new(0);

struct FirstFailure {
    taken: AtomicBool,
    complete: AtomicBool,
    text: AtomicUsize,
    processor: AtomicUsize,
    value: AtomicU64,
}

/// What the phases check beside the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Check {
    PendingWhileMasked,
    DeliveredWhileMasked,
    PriorityOrder,
    LogicalIdReads,
    Cr8ShowsTpr,
    TprShowsCr8,
    ProcessorPriority,
    PendingBelowPriority,
    DeliveredBelowPriority,
    ReservedBitFaults,
    CommandUnchanged,
    LegalCommandFaults,
    IllegalVectorInErrors,
    IllegalVectorFaults,
    RewrittenIdReads,
    RestoredIdReads,
    TimerRuns,
    DeadlineEarly,
    DeadlineCleared,
    DeliveryStatusClears,
    HeldWhileDisabled,
}

impl Check {
    const ALL: [(Self, &'static str); 21] = [
        (
            Self::PendingWhileMasked,
            "an interrupt is pending in IRR while IF is 0",
        ),
        (
            Self::DeliveredWhileMasked,
            "no interrupt is delivered while IF is 0",
        ),
        (
            Self::PriorityOrder,
            "interrupts are delivered in the order of priority",
        ),
        (
            Self::LogicalIdReads,
            "the logical destination register reads as set or derived",
        ),
        (Self::Cr8ShowsTpr, "CR8 shows the task-priority register"),
        (Self::TprShowsCr8, "the task-priority register shows CR8"),
        (
            Self::ProcessorPriority,
            "the processor-priority register shows the task priority",
        ),
        (
            Self::PendingBelowPriority,
            "a vector of the task priority's class or lower stays pending in IRR",
        ),
        (
            Self::DeliveredBelowPriority,
            "a vector of the task priority's class or lower is not delivered",
        ),
        (
            Self::ReservedBitFaults,
            "a reserved bit in WRMSR 830H raises #GP",
        ),
        (
            Self::CommandUnchanged,
            "a faulting write leaves the interrupt command register unchanged",
        ),
        (
            Self::LegalCommandFaults,
            "a legal write of the interrupt command register does not fault",
        ),
        (
            Self::IllegalVectorInErrors,
            "an illegal vector is recorded in the error status register",
        ),
        (Self::IllegalVectorFaults, "a vector below 16 raises no #GP"),
        (
            Self::RewrittenIdReads,
            "the APIC ID register reads as written",
        ),
        (
            Self::RestoredIdReads,
            "the APIC ID register reads as restored",
        ),
        (Self::TimerRuns, "the timer counts down"),
        (
            Self::DeadlineEarly,
            "the deadline timer does not fire before its deadline",
        ),
        (
            Self::DeadlineCleared,
            "IA32_TSC_DEADLINE reads 0 after it fired",
        ),
        (
            Self::DeliveryStatusClears,
            "the delivery status of the interrupt command register clears",
        ),
        (
            Self::HeldWhileDisabled,
            "what is pending in IRR stays there while the local APIC is software-disabled",
        ),
    ];
}

/// Notes a failure of `check` on a processor unless `right`; `value` tells more.
pub(super) fn check(right: bool, check: Check, processor: usize, value: u64) {
    if right {
        return;
    }
    FAILED_CHECKS.fetch_add(1, Ordering::AcqRel);
    if !FIRST_FAILURE.taken.swap(true, Ordering::AcqRel) {
        FIRST_FAILURE.text.store(check as usize, Ordering::Relaxed);
        FIRST_FAILURE.processor.store(processor, Ordering::Relaxed);
        FIRST_FAILURE.value.store(value, Ordering::Relaxed);
        FIRST_FAILURE.complete.store(true, Ordering::Release);
    }
}

/// A failed check, for the console.
pub(super) struct Failure {
    pub(super) text: &'static str,
    pub(super) processor: usize,
    pub(super) value: u64,
}

/// How many checks failed since the last time, and the first of them.
pub(super) fn take_failed_checks() -> (u32, Option<Failure>) {
    let count = FAILED_CHECKS.swap(0, Ordering::AcqRel);
    let complete = FIRST_FAILURE.complete.swap(false, Ordering::AcqRel);
    let failure = complete.then(|| {
        let number = FIRST_FAILURE.text.load(Ordering::Relaxed);
        Failure {
            text: Check::ALL
                .iter()
                .find(|(check, _)| *check as usize == number)
                .map_or("unknown check", |(_, text)| text),
            processor: FIRST_FAILURE.processor.load(Ordering::Relaxed),
            value: FIRST_FAILURE.value.load(Ordering::Relaxed),
        }
    });
    FIRST_FAILURE.taken.store(false, Ordering::Release);
    (count, failure)
}
