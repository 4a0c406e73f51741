//! To a processor in HLT: it sleeps, the sender waits for what it then writes to memory.

use super::Context;
use crate::image::{
    crew::{Waiting, idle, is_abandoned, wait_until},
    instruction::{disable_interrupts, enable_interrupts, sleep},
    local_apic::{LocalApic, fixed},
    processor::Processor,
};
use arch::interrupt_command::DeliveryMode;
use core::sync::atomic::Ordering::{Acquire, Release};
use posthaste_guest::{random::Random, vector::HALTED};

/// Mailbox: rounds for which the target is about to sleep.
const READY: usize = 0;
/// Mailbox: rounds after which the target woke.
const AWAKE: usize = 1;
/// Mailbox: the target has left its loop.
const LEFT: usize = 2;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let Some(partner) = context.partner() else {
        return (context.processors.len() == 1).then_some("one-processor");
    };
    let rounds = u64::from((context.rounds / 40).max(1));
    let even = context.processor.index().is_multiple_of(2);
    // First the even one sends, then the odd one.
    if even {
        wake(context, partner, rounds);
        doze(context.processor, rounds);
    } else {
        doze(context.processor, rounds);
        wake(context, partner, rounds);
    }
    None
}

fn wake(context: &Context, target: &Processor, rounds: u64) {
    let mut random = Random::new(context.seed, context.processor.index() as u64);
    let command = fixed(HALTED, target.apic_id());
    for round in 1..=rounds {
        let ready = || target.mailbox[READY].load(Acquire) >= round;
        if !wait_until(Waiting::Politely, ready) {
            break;
        }
        // Mostly the target sleeps by now, sometimes it is just about to.
        idle(random.below(100));
        target.expect(HALTED, 1);
        context.apic.send(command);
        let awake = || target.mailbox[AWAKE].load(Acquire) >= round;
        if !wait_until(Waiting::Politely, awake) {
            break;
        }
    }
    if is_abandoned() {
        rescue(context.apic, target);
    }
}

fn doze(own: &Processor, rounds: u64) {
    disable_interrupts();
    for round in 1..=rounds {
        own.mailbox[READY].store(round, Release);
        while own.received(HALTED) < round && !is_abandoned() {
            sleep();
        }
        own.mailbox[AWAKE].store(round, Release);
        if is_abandoned() {
            break;
        }
    }
    own.mailbox[LEFT].store(1, Release);
    enable_interrupts();
}

/// The interrupt was lost and the target sleeps for ever: an NMI wakes it. It may come between the
/// target's look and its HLT, so several are sent.
fn rescue(apic: LocalApic, target: &Processor) {
    for _ in 0..100 {
        if target.mailbox[LEFT].load(Acquire) != 0 {
            break;
        }
        let mut nmi = fixed(0, target.apic_id());
        nmi.delivery_mode = DeliveryMode::Nmi;
        apic.send(nmi);
        idle(10_000);
    }
}
