//! Runs the phases: the boot processor conducts, the others follow, all execute the same code.

use super::{
    console::{Mark, Status, exit, mark, say},
    crew::{Missing, Waiting, idle, meet, resume, take_failed_checks, wait_until},
    instruction::{disable_interrupts, enable_interrupts, stop},
    local_apic::LocalApic,
    phases::{self, Context},
    processor::{Processor, processors},
};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use posthaste_guest::{
    phase::{Phase, PhaseSet},
    report::{PhaseReport, Verdict},
    tally::{Rule, Tally},
    vector,
};

/// What to run.
pub(super) struct Plan {
    /// Which phases.
    pub(super) phases: PhaseSet,
    /// Unicast ping-pongs of each pair.
    pub(super) rounds: u32,
    /// Seed of the pseudo-random choices.
    pub(super) seed: u64,
}

/// Number of the phase that comes, for the others; 0: none, stop.
static NEXT: AtomicU8 = AtomicU8::new(0);
static ROUNDS: AtomicU32 = AtomicU32::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);

/// The boot processor's part.
pub(super) fn conduct(apic: LocalApic, processor: &'static Processor, plan: &Plan) -> ! {
    ROUNDS.store(plan.rounds, Ordering::Relaxed);
    SEED.store(plan.seed, Ordering::Relaxed);
    let mut all_right = true;
    let mut all_here = true;
    for phase in Phase::KNOWN {
        if !plan.phases.contains(phase) {
            continue;
        }
        NEXT.store(phase.number(), Ordering::Release);
        match lead(apic, processor, phase) {
            Ok(Verdict::Pass) => {}
            Ok(Verdict::Fail) => all_right = false,
            Err(Missing) => {
                say!("guest: a processor did not come back from {}", phase.name());
                report(apic, phase, None);
                all_right = false;
                all_here = false;
                break;
            }
        }
    }
    NEXT.store(0, Ordering::Release);
    if all_here {
        // The others stop; whether they do is no longer of interest.
        let _ = meet();
    }
    say!("#ph guest verdict={}", Verdict::from_right(all_right));
    exit(if all_right {
        Status::Success
    } else {
        Status::CheckFailed
    })
}

/// The others' part.
pub(super) fn follow(apic: LocalApic, processor: &'static Processor) -> ! {
    loop {
        if let Err(Missing) = take_part(apic, processor) {
            stop();
        }
    }
}

fn take_part(apic: LocalApic, processor: &'static Processor) -> Result<(), Missing> {
    meet_patiently();
    let number = NEXT.load(Ordering::Acquire);
    let Some(phase) = Phase::KNOWN
        .into_iter()
        .find(|phase| phase.number() == number)
    else {
        stop();
    };
    // The boot processor clears the counts and marks the beginning.
    meet()?;
    enable_interrupts();
    phases::run(phase, &context(apic, processor));
    meet()?;
    // It waits for what is still under way and marks the end.
    meet()?;
    disable_interrupts();
    meet()
}

/// The conductor may be busy with the console for any time.
fn meet_patiently() {
    if let Err(Missing) = meet() {
        stop();
    }
}

fn lead(apic: LocalApic, processor: &'static Processor, phase: Phase) -> Result<Verdict, Missing> {
    meet()?;
    for each in processors() {
        each.clear();
    }
    resume();
    mark(Mark::Begin, phase.number());
    meet()?;
    enable_interrupts();
    let note = phases::run(phase, &context(apic, processor));
    meet()?;
    wait_until(Waiting::Plainly, || everything_arrived(phase));
    // And what should not come gets a chance to.
    idle(2000);
    mark(Mark::End, phase.number());
    meet()?;
    disable_interrupts();
    meet()?;
    let verdict = report(apic, phase, note);
    if phase == Phase::Compute {
        say!("#ph compute checksum={:#x}", phases::compute::checksum());
    }
    Ok(verdict)
}

fn context(apic: LocalApic, processor: &'static Processor) -> Context {
    Context {
        apic,
        processor,
        processors: processors(),
        rounds: ROUNDS.load(Ordering::Relaxed),
        seed: SEED.load(Ordering::Relaxed),
    }
}

/// How the counts of a phase belong together.
const fn rule(phase: Phase) -> Rule {
    match phase {
        Phase::Lowest => Rule::Together,
        _ => Rule::Each,
    }
}

fn tally_of(phase: Phase, vector: u8) -> Tally {
    let mut tally = Tally::default();
    tally.add(
        rule(phase),
        processors().iter().map(|processor| processor.cell(vector)),
    );
    tally
}

fn everything_arrived(phase: Phase) -> bool {
    (0..=u8::MAX).all(|vector| tally_of(phase, vector).lost == 0)
}

fn report(apic: LocalApic, phase: Phase, note: Option<&'static str>) -> Verdict {
    let mut sum = Tally::default();
    for number in 0..=u8::MAX {
        // A spurious interrupt may come at any time (SDM 10.9 Spurious interrupt).
        if number == vector::SPURIOUS {
            continue;
        }
        let tally = tally_of(phase, number);
        sum.sent += tally.sent;
        sum.received += tally.received;
        sum.lost += tally.lost;
        sum.extra += tally.extra;
        sum.surplus += tally.surplus;
        if !tally.is_right() {
            for processor in processors() {
                let cell = processor.cell(number);
                if cell.least != 0 || cell.most != 0 || cell.received != 0 {
                    say!(
                        "guest: {}: vector {number:#04x} on processor {}: {} to {} due, {} came",
                        phase.name(),
                        processor.index(),
                        cell.least,
                        cell.most,
                        cell.received
                    );
                }
            }
        }
    }
    let (failed_checks, first) = take_failed_checks();
    if let Some(failure) = first {
        say!(
            "guest: {}: not so on processor {}: {} ({:#x})",
            phase.name(),
            failure.processor,
            failure.text,
            failure.value
        );
    }
    let line = PhaseReport {
        phase,
        apic: apic.mode(),
        processors: processors().len(),
        tally: sum,
        failed_checks,
        note,
    };
    say!("{line}");
    line.verdict()
}
