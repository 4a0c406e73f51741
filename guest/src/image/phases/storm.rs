//! Everybody to everybody. A vector belongs to one sender, who sends it to a target again only
//! after the target has counted it: no two of them merge, and every count is exact. Then merging
//! itself: the same vector, many times, to a target with interrupts disabled.

use super::Context;
use crate::image::{
    crew::{Waiting, idle, is_abandoned, meet, wait_until},
    instruction::{disable_interrupts, enable_interrupts},
    local_apic::fixed,
    processor::Processor,
};
use core::sync::atomic::Ordering::{Acquire, Release};
use posthaste_guest::{
    random::Random,
    vector::{MERGED, owned, owned_count},
};

/// Mailbox: repetitions for which the target has disabled interrupts.
const DEAF: usize = 0;
/// Mailbox: repetitions that the sender has sent.
const SENT: usize = 1;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    rage(context, (context.rounds / 5).max(1));
    // Nobody disables interrupts while another still waits for it.
    if meet().is_ok() {
        merge(context);
    }
    None
}

/// Sends `messages` to pseudo-random others.
pub(super) fn rage(context: &Context, messages: u32) {
    let count = context.processors.len();
    let own = context.processor.index();
    let mut random = Random::new(context.seed, own as u64);
    for _ in 0..messages {
        // Any other; alone, itself.
        let hop = 1 + random.below((count as u32).saturating_sub(1)) as usize;
        let target = &context.processors[(own + hop) % count];
        let slot = random.below(owned_count(count) as u32) as usize;
        let Some(vector) = owned(own, slot, count) else {
            return;
        };
        if !context.wait_for(target, vector) {
            return;
        }
        target.expect(vector, 1);
        context.apic.send(fixed(vector, target.apic_id()));
    }
}

fn merge(context: &Context) {
    const REPETITIONS: u64 = 20;
    let Some(partner) = context.partner() else {
        return;
    };
    if context.processor.index().is_multiple_of(2) {
        let mut random = Random::new(context.seed, !0);
        for repetition in 1..=REPETITIONS {
            if !wait_until(Waiting::Politely, || {
                partner.mailbox[DEAF].load(Acquire) >= repetition
            }) {
                return;
            }
            let times = 1 + random.below(5);
            // While the target is deaf they are one request; one that is still under way when it
            // listens again is another.
            partner.expect_between(MERGED, 1, times);
            for _ in 0..times {
                context.apic.send(fixed(MERGED, partner.apic_id()));
            }
            partner.mailbox[SENT].store(repetition, Release);
        }
    } else {
        listen_late(context.processor, REPETITIONS);
    }
}

fn listen_late(own: &Processor, repetitions: u64) {
    for repetition in 1..=repetitions {
        disable_interrupts();
        let before = own.received(MERGED);
        own.mailbox[DEAF].store(repetition, Release);
        let sent = wait_until(Waiting::Politely, || {
            own.mailbox[SENT].load(Acquire) >= repetition
        });
        idle(50);
        enable_interrupts();
        if !sent
            || is_abandoned()
            || !wait_until(Waiting::Politely, || own.received(MERGED) > before)
        {
            return;
        }
    }
}
