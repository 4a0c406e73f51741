//! Non-maskable interrupts, from one sender at a time: two at once may merge.

use super::Context;
use crate::image::{crew::meet, local_apic::fixed};
use arch::interrupt_command::{DeliveryMode, Shorthand};
use posthaste_guest::vector::NMI;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    for sender in context.processors {
        if sender.index() == context.processor.index() {
            send(context);
        }
        if meet().is_err() {
            break;
        }
    }
    (context.processors.len() == 1).then_some("one-processor")
}

fn send(context: &Context) {
    let own = context.processor.index();
    let others = || {
        context
            .processors
            .iter()
            .filter(move |target| target.index() != own)
    };
    for round in 0..5u8 {
        for target in others() {
            target.expect(NMI, 1);
            // The vector is ignored (SDM 10.6.1 Interrupt command register, "NMI").
            let mut command = fixed(round.wrapping_mul(0x55), target.apic_id());
            command.delivery_mode = DeliveryMode::Nmi;
            context.apic.send(command);
            if !context.wait_for(target, NMI) {
                return;
            }
        }
    }
    for target in others() {
        target.expect(NMI, 1);
    }
    let mut command = fixed(0, 0);
    command.delivery_mode = DeliveryMode::Nmi;
    command.shorthand = Shorthand::AllExcludingSelf;
    context.apic.send(command);
    let _arrived = others().all(|target| context.wait_for(target, NMI));
}
