//! Targets that raise their task priority (SDM 10.8.3.1 Task and processor priorities, 10.8.6 Task
//! priority in IA-32e mode).

use super::Context;
use crate::image::{
    crew::{Check, Waiting, check, is_abandoned, wait_until},
    instruction::{read_cr8, write_cr8},
    local_apic::fixed,
};
use arch::apic_register::{PROCESSOR_PRIORITY, TASK_PRIORITY};
use core::sync::atomic::Ordering::{Acquire, Release};

/// Mailbox: the vector that the target wants next, or [`ENOUGH`]; 0 when it was sent.
const WANTED: usize = 0;
const ENOUGH: u64 = 0x100;

const BELOW: u8 = 0x4e;
const SAME: u8 = 0x51;
const ABOVE: u8 = 0x62;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let turns = if context.processor.index().is_multiple_of(2) {
        [Turn::Target, Turn::Sender]
    } else {
        [Turn::Sender, Turn::Target]
    };
    for turn in turns {
        match turn {
            Turn::Target => {
                for _ in 0..(context.rounds / 1000).clamp(1, 100) {
                    for by in [By::Cr8, By::Register] {
                        be_masked(context, by);
                    }
                }
                if context.partner().is_some() {
                    context.processor.mailbox[WANTED].store(ENOUGH, Release);
                }
            }
            Turn::Sender => serve(context),
        }
    }
    by_the_register_alone(context);
    None
}

enum Turn {
    Target,
    Sender,
}

/// How the task priority is set.
#[derive(Clone, Copy)]
enum By {
    Cr8,
    Register,
}

/// Sends what the partner wants. Who has no partner sends to itself.
fn serve(context: &Context) {
    let Some(partner) = context.partner() else {
        return;
    };
    loop {
        let wanted = &partner.mailbox[WANTED];
        if !wait_until(Waiting::Politely, || wanted.load(Acquire) != 0) {
            return;
        }
        let Ok(vector) = u8::try_from(wanted.load(Acquire)) else {
            return;
        };
        context.apic.send(fixed(vector, partner.apic_id()));
        wanted.store(0, Release);
    }
}

/// Gets `vector` sent to this processor; it is then due.
fn want(context: &Context, vector: u8) {
    let own = context.processor;
    own.expect(vector, 1);
    if context.partner().is_none() {
        context.apic.send(fixed(vector, own.apic_id()));
        return;
    }
    let wanted = &own.mailbox[WANTED];
    wanted.store(u64::from(vector), Release);
    wait_until(Waiting::Politely, || wanted.load(Acquire) == 0);
}

fn set_class(context: &Context, by: By, class: u8) {
    let own = context.processor.index();
    let register = u32::from(class) << 4;
    match by {
        By::Cr8 => {
            write_cr8(u64::from(class));
            let shown = context.apic.read(TASK_PRIORITY);
            check(shown == register, Check::TprShowsCr8, own, u64::from(shown));
        }
        By::Register => {
            context.apic.write(TASK_PRIORITY, register);
            let shown = read_cr8();
            check(shown == u64::from(class), Check::Cr8ShowsTpr, own, shown);
        }
    }
}

fn be_masked(context: &Context, by: By) {
    let own = context.processor;
    let pending = |vectors: &[u8]| {
        let all = wait_until(Waiting::Politely, || {
            vectors
                .iter()
                .all(|vector| context.apic.is_requested(*vector))
        });
        check(all, Check::PendingBelowPriority, own.index(), by as u64);
    };
    let delivered = |vectors: &[u8]| {
        check(
            own.order_is(vectors),
            Check::DeliveredBelowPriority,
            own.index(),
            by as u64,
        );
    };
    if is_abandoned() {
        return;
    }
    own.clear_order();
    set_class(context, by, 5);
    want(context, BELOW);
    want(context, SAME);
    pending(&[BELOW, SAME]);
    want(context, ABOVE);
    context.wait_for(own, ABOVE);
    delivered(&[ABOVE]);
    let priority = context.apic.read(PROCESSOR_PRIORITY);
    let right = priority >> 4 == 5;
    check(
        right,
        Check::ProcessorPriority,
        own.index(),
        priority.into(),
    );

    // One class lower admits one of the two.
    set_class(context, by, 4);
    context.wait_for(own, SAME);
    pending(&[BELOW]);
    delivered(&[ABOVE, SAME]);
    set_class(context, by, 0);
    context.wait_for(own, BELOW);
    delivered(&[ABOVE, SAME, BELOW]);

    // Both admitted at once come by priority.
    own.clear_order();
    set_class(context, by, 15);
    want(context, BELOW);
    want(context, ABOVE);
    want(context, SAME);
    pending(&[BELOW, SAME, ABOVE]);
    delivered(&[]);
    set_class(context, by, 0);
    for vector in [ABOVE, SAME, BELOW] {
        context.wait_for(own, vector);
    }
    check(
        own.order_is(&[ABOVE, SAME, BELOW]),
        Check::PriorityOrder,
        own.index(),
        by as u64,
    );
}

/// The low four bits are in the register and not in CR8, and mask nothing by themselves: only
/// classes are compared.
fn by_the_register_alone(context: &Context) {
    let own = context.processor;
    if is_abandoned() {
        return;
    }
    context.apic.write(TASK_PRIORITY, 0x3f);
    let shown = read_cr8();
    check(shown == 3, Check::Cr8ShowsTpr, own.index(), shown);
    let vector = 0x46;
    own.expect(vector, 1);
    context.apic.send(fixed(vector, own.apic_id()));
    context.wait_for(own, vector);
    context.apic.write(TASK_PRIORITY, 0);
}
