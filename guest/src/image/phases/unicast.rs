//! Ping-pong between running processors: the phase that the per-IPI figures cover. Between the
//! marks nothing may exit but the writes of the interrupt command register.

use super::Context;
use crate::image::{
    crew::{Waiting, wait_until},
    instruction::disable_interrupts,
    local_apic::fixed,
};
use posthaste_guest::vector::UNICAST;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let Some(partner) = context.partner() else {
        disable_interrupts();
        return (context.processors.len() == 1).then_some("one-processor");
    };
    let own = context.processor;
    let command = fixed(UNICAST, partner.apic_id());
    let serves = own.index().is_multiple_of(2);
    let mut sent = 0;
    for round in 0..context.rounds {
        // Whoever serves has the answer to its last one, the other has this round's: in both cases
        // the previous one of this processor has long left the interrupt command register.
        let before = if serves { round } else { round + 1 };
        if !wait_until(Waiting::Plainly, || {
            own.received(UNICAST) >= u64::from(before)
        }) {
            break;
        }
        context.apic.send_unpolled(command);
        sent += 1;
    }
    partner.expect(UNICAST, sent);
    None
}
