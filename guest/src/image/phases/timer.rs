//! The local APIC timer in its three modes, in the middle of a storm.

use super::{Context, storm::rage};
use crate::image::{
    crew::{Check, Waiting, check, is_abandoned, wait_until},
    instruction::{cpuid, fence, read_msr, time_stamp, write_msr},
};
use arch::{
    apic_register::{
        LVT_MASKED, LVT_TIMER, TIMER_CURRENT_COUNT, TIMER_DIVIDE, TIMER_INITIAL_COUNT,
    },
    msr::IA32_TSC_DEADLINE,
};
use posthaste_guest::vector::TIMER;

/// The time, in ticks of the time-stamp counter, between two interrupts.
const INTERVAL: u64 = 100_000;
/// LVT bits 18:17 (SDM 10.5.4 APIC timer).
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;
/// Divide by 1.
const DIVIDE_BY_1: u32 = 0b1011;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let [one_shot, periodic, deadline] = TIMER;
    let apic = context.apic;
    let own = context.processor;
    let messages = (context.rounds / 50).max(1);
    apic.write(TIMER_DIVIDE, DIVIDE_BY_1);
    let Some(count) = counts_per_interval(context) else {
        check(false, Check::TimerRuns, own.index(), 0);
        return None;
    };

    for _ in 0..3 {
        own.expect(one_shot, 1);
        apic.write(LVT_TIMER, u32::from(one_shot));
        apic.write(TIMER_INITIAL_COUNT, count);
        rage(context, messages);
        if !context.wait_for(own, one_shot) {
            return None;
        }
    }

    // How many periods pass while the storm rages is not for us to say: at least these.
    own.expect_between(periodic, 4, u32::MAX);
    apic.write(LVT_TIMER, PERIODIC | u32::from(periodic));
    apic.write(TIMER_INITIAL_COUNT, count);
    rage(context, messages);
    let ticks = context.wait_for(own, periodic);
    apic.write(TIMER_INITIAL_COUNT, 0);
    apic.write(LVT_TIMER, LVT_MASKED);
    if !ticks {
        return None;
    }

    if cpuid(1, 0).ecx >> 24 & 1 == 0 {
        return Some("no-tsc-deadline");
    }
    for _ in 0..3 {
        own.expect(deadline, 1);
        apic.write(LVT_TIMER, TSC_DEADLINE | u32::from(deadline));
        // The mode must be set before the deadline is (SDM 10.5.4.1 TSC-deadline mode).
        fence();
        let at = time_stamp() + INTERVAL;
        write_msr(IA32_TSC_DEADLINE, at);
        rage(context, messages / 4);
        if !wait_until(Waiting::Politely, || {
            own.received(deadline) >= own.due(deadline)
        }) {
            break;
        }
        let now = time_stamp();
        check(
            now >= at,
            Check::DeadlineEarly,
            own.index(),
            at.wrapping_sub(now),
        );
        let left = read_msr(IA32_TSC_DEADLINE);
        check(left == 0, Check::DeadlineCleared, own.index(), left);
    }
    if is_abandoned() {
        write_msr(IA32_TSC_DEADLINE, 0);
    }
    apic.write(LVT_TIMER, LVT_MASKED);
    None
}

/// How far the timer counts in [`INTERVAL`]; `None` if it does not count.
fn counts_per_interval(context: &Context) -> Option<u32> {
    const MEASURED: u64 = 20_000;
    let apic = context.apic;
    apic.write(LVT_TIMER, LVT_MASKED | u32::from(TIMER[0]));
    let start = time_stamp();
    apic.write(TIMER_INITIAL_COUNT, u32::MAX);
    while time_stamp().wrapping_sub(start) < MEASURED {}
    let counted = u32::MAX - apic.read(TIMER_CURRENT_COUNT);
    let passed = time_stamp().wrapping_sub(start).max(1);
    apic.write(TIMER_INITIAL_COUNT, 0);
    let count = u64::from(counted) * INTERVAL / passed;
    u32::try_from(count).ok().filter(|count| *count != 0)
}
