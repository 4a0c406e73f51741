//! Logical destinations: to one, to several, to all; and lowest-priority delivery to one of
//! several.

use super::Context;
use crate::image::{
    crew::{Check, Waiting, check, meet, wait_until},
    local_apic::fixed,
    processor::Processor,
};
use arch::interrupt_command::{DeliveryMode, DestinationMode, InterruptCommand};
use posthaste_guest::{logical_destination::LogicalModel, random::Random, vector::owned};

pub(super) fn run(context: &Context) -> Option<&'static str> {
    for_each_model(context, |model, vector| {
        for target in context.processors {
            let id = logical_id(model, target);
            if id != 0 && !send_to_all(context, model, vector, id) {
                return;
            }
        }
        let mut random = Random::new(context.seed, context.processor.index() as u64);
        for _ in 0..(context.rounds / 50).max(1) {
            let message = any_message(context, model, &mut random);
            if !send_to_all(context, model, vector, message) {
                return;
            }
        }
        send_to_all(context, model, vector, model.broadcast());
    })
}

/// Exactly one of those addressed gets each (SDM 10.6.2.4 Lowest priority delivery mode).
pub(super) fn run_lowest_priority(context: &Context) -> Option<&'static str> {
    for_each_model(context, |model, vector| {
        let mut random = Random::new(context.seed, context.processor.index() as u64);
        for _ in 0..(context.rounds / 50).max(1) {
            let message = any_message(context, model, &mut random);
            if !send_to_lowest(context, model, vector, message) {
                return;
            }
        }
    })
}

/// Runs `send` once in each model that the mode has, with a vector that is this processor's alone.
fn for_each_model(context: &Context, send: impl Fn(LogicalModel, u8)) -> Option<&'static str> {
    for model in LogicalModel::of(context.apic.mode()) {
        // All change the model together, when nothing is under way.
        if meet().is_err() {
            break;
        }
        let own = context.processor;
        let reads = context.apic.set_logical_id(*model, own);
        let right = reads == logical_id(*model, own);
        check(right, Check::LogicalIdReads, own.index(), u64::from(reads));
        if meet().is_err() {
            break;
        }
        if let Some(vector) = owned(own.index(), 0, context.processors.len()) {
            send(*model, vector);
        }
    }
    None
}

fn logical_id(model: LogicalModel, processor: &Processor) -> u32 {
    model.id(processor.index(), processor.apic_id())
}

fn logical(vector: u8, message: u32) -> InterruptCommand {
    let mut command = fixed(vector, message);
    command.destination_mode = DestinationMode::Logical;
    command
}

/// A message to some of those in a pseudo-random processor's cluster, at least to that one.
fn any_message(context: &Context, model: LogicalModel, random: &mut Random) -> u32 {
    loop {
        let lead = random.below(context.processors.len() as u32) as usize;
        let id = logical_id(model, &context.processors[lead]);
        // Processor 0 has an ID in every model, so this ends.
        if id != 0 {
            let message = id | random.draw() as u32 & model.member_mask();
            if message != model.broadcast() {
                return message;
            }
        }
    }
}

fn addressed(
    context: &Context,
    model: LogicalModel,
    message: u32,
) -> impl Iterator<Item = &Processor> {
    context
        .processors
        .iter()
        .filter(move |target| model.addresses(message, logical_id(model, target)))
}

fn send_to_all(context: &Context, model: LogicalModel, vector: u8, message: u32) -> bool {
    for target in addressed(context, model, message) {
        target.expect(vector, 1);
    }
    context.apic.send(logical(vector, message));
    addressed(context, model, message).all(|target| context.wait_for(target, vector))
}

fn send_to_lowest(context: &Context, model: LogicalModel, vector: u8, message: u32) -> bool {
    // Each may get it; what is due is noted once, at the first of them.
    for (position, target) in addressed(context, model, message).enumerate() {
        target.expect_between(vector, u32::from(position == 0), 1);
    }
    let sum = |what: fn(&Processor, u8) -> u64| -> u64 {
        context
            .processors
            .iter()
            .map(|processor| what(processor, vector))
            .sum()
    };
    let mut command = logical(vector, message);
    command.delivery_mode = DeliveryMode::LowestPriority;
    context.apic.send(command);
    wait_until(Waiting::Politely, || {
        sum(Processor::received) >= sum(Processor::due)
    })
}
