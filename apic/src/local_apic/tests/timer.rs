use super::*;
use arch::apic_register::{TIMER_CURRENT_COUNT, TIMER_DIVIDE, TIMER_INITIAL_COUNT};

const ONE_SHOT: u32 = 0x41;
const PERIODIC: u32 = 0x2_0041;
const TSC_DEADLINE: u32 = 0x4_0041;
const MASKED: u32 = 0x1_0000;

/// With a count of 10 TSC ticks: divide value 1.
fn with_entry(entry: u32) -> LocalApic<OwnedPage> {
    let mut apic = xapic();
    assert_eq!(write(&mut apic, LVT_TIMER, entry), Effect::TimerChanged);
    assert_eq!(write(&mut apic, TIMER_DIVIDE, 0xb), Effect::TimerChanged);
    apic
}

fn count(apic: &mut LocalApic<OwnedPage>, now: u64) -> u32 {
    apic.read_register(TIMER_CURRENT_COUNT, now)
}

#[test]
fn one_shot_counts_once() {
    let mut apic = with_entry(ONE_SHOT);
    assert_eq!(
        apic.write_register(TIMER_INITIAL_COUNT, 100, 5000),
        Effect::TimerChanged
    );
    assert_eq!(apic.timer_deadline(), Some(6000));
    for (now, expected) in [
        (5000, 100),
        (5001, 100),
        (5010, 99),
        (5999, 1),
        (6000, 0),
        (9000, 0),
    ] {
        assert_eq!(count(&mut apic, now), expected, "{now}");
    }
    assert!(!apic.expire(5999));
    assert!(apic.expire(6000));
    assert_eq!(apic.timer_deadline(), None);
    assert!(!apic.expire(7000));
    assert_eq!(apic.acknowledge(), Some(0x41));
    let _ = apic.write_register(TIMER_INITIAL_COUNT, 100, 0);
    let _ = apic.write_register(TIMER_INITIAL_COUNT, 0, 10);
    assert_eq!(apic.timer_deadline(), None, "0 stops");
}

#[test]
fn periodic_counts_again_and_coalesces() {
    let mut apic = with_entry(PERIODIC);
    let _ = apic.write_register(TIMER_INITIAL_COUNT, 100, 0);
    assert!(apic.expire(1000));
    assert_eq!(apic.timer_deadline(), Some(2000));
    assert_eq!(count(&mut apic, 1500), 50);
    assert_eq!(count(&mut apic, 2200), 80, "due but not yet expired");
    assert!(apic.expire(5700), "three periods, one interrupt");
    assert_eq!(apic.timer_deadline(), Some(6000));
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.acknowledge(), None);
    // Made one-shot, the running period is the last.
    let _ = apic.write_register(LVT_TIMER, ONE_SHOT, 5800);
    assert_eq!(apic.timer_deadline(), Some(6000));
    assert!(apic.expire(6000));
    assert_eq!(apic.timer_deadline(), None);
}

#[test]
fn every_divide_value() {
    for (configuration, divisor) in [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
    ] {
        let mut apic = with_entry(ONE_SHOT);
        let _ = write(&mut apic, TIMER_DIVIDE, configuration);
        let _ = write(&mut apic, TIMER_INITIAL_COUNT, 3);
        assert_eq!(
            apic.timer_deadline(),
            Some(30 * divisor),
            "{configuration:#b}"
        );
    }
    let mut apic = xapic();
    let _ = write(&mut apic, TIMER_INITIAL_COUNT, 100);
    assert_eq!(apic.timer_deadline(), Some(2000), "2 after reset");
    let _ = apic.write_register(TIMER_DIVIDE, 0xb, 1000);
    assert_eq!(apic.timer_deadline(), Some(1500), "50 counts were left");
}

#[test]
fn a_masked_timer_runs_without_interrupts() {
    let mut apic = with_entry(PERIODIC | MASKED);
    let _ = write(&mut apic, TIMER_INITIAL_COUNT, 100);
    assert!(!apic.expire(1000));
    assert_eq!(apic.timer_deadline(), Some(2000));
    assert_eq!(apic.deliverable(), None);
    let mut apic = with_entry(ONE_SHOT & !0xff);
    let _ = write(&mut apic, TIMER_INITIAL_COUNT, 1);
    assert!(!apic.expire(10), "vector 0 is an error");
    let _ = write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0x40);
}

#[test]
fn tsc_deadline_fires_once_and_clears_its_msr() {
    let mut apic = with_entry(TSC_DEADLINE);
    assert_eq!(apic.write_tsc_deadline(5000), Effect::TimerChanged);
    assert_eq!(apic.tsc_deadline(), 5000);
    assert_eq!(count(&mut apic, 10), 0);
    assert_eq!(
        apic.write_register(TIMER_INITIAL_COUNT, 100, 10),
        Effect::None
    );
    assert_eq!(read(&mut apic, TIMER_INITIAL_COUNT), 0);
    assert_eq!(apic.timer_deadline(), Some(5000), "the count is ignored");
    assert!(!apic.expire(4999));
    assert!(apic.expire(5000));
    assert_eq!(apic.tsc_deadline(), 0);
    assert_eq!(apic.write_tsc_deadline(1), Effect::TimerChanged);
    assert!(apic.expire(6000), "in the past: at once");
    assert_eq!(apic.write_tsc_deadline(7000), Effect::TimerChanged);
    assert_eq!(apic.write_tsc_deadline(0), Effect::TimerChanged);
    assert_eq!(apic.timer_deadline(), None, "0 disarms");
    let mut masked = with_entry(TSC_DEADLINE | MASKED);
    let _ = masked.write_tsc_deadline(5000);
    assert!(!masked.expire(5000));
    assert_eq!(masked.tsc_deadline(), 0);
}

#[test]
fn changing_to_or_from_tsc_deadline_disarms() {
    for (from, to) in [
        (ONE_SHOT, TSC_DEADLINE),
        (PERIODIC, TSC_DEADLINE),
        (TSC_DEADLINE, ONE_SHOT),
        (TSC_DEADLINE, PERIODIC),
        (ONE_SHOT, 0x6_0041),
        (TSC_DEADLINE, 0x6_0041),
    ] {
        let mut apic = with_entry(from);
        let _ = write(&mut apic, TIMER_INITIAL_COUNT, 100);
        let _ = apic.write_tsc_deadline(5000);
        assert!(apic.timer_deadline().is_some());
        let _ = write(&mut apic, LVT_TIMER, to);
        assert_eq!(apic.timer_deadline(), None, "{from:#x} to {to:#x}");
        assert_eq!(apic.tsc_deadline(), 0);
        // Masking is no change of mode.
        let mut apic = with_entry(from);
        let _ = write(&mut apic, TIMER_INITIAL_COUNT, 100);
        let _ = apic.write_tsc_deadline(5000);
        let _ = write(&mut apic, LVT_TIMER, from | MASKED);
        assert!(apic.timer_deadline().is_some());
    }
    let mut apic = with_entry(ONE_SHOT);
    assert_eq!(
        apic.write_tsc_deadline(5000),
        Effect::None,
        "ignored in the other modes"
    );
    let mut plain = configuration(0);
    plain.features.tsc_deadline = false;
    let mut apic = LocalApic::new(plain);
    let _ = write(&mut apic, LVT_TIMER, TSC_DEADLINE);
    assert_eq!(
        apic.timer_mode(),
        TimerMode::OneShot,
        "the bit is reserved without the feature"
    );
}

#[test]
fn changing_the_tsc_moves_counts_and_not_deadlines() {
    let mut apic = with_entry(ONE_SHOT);
    let _ = apic.write_register(TIMER_INITIAL_COUNT, 100, 5000);
    let _ = apic.shift_time(5000u64.wrapping_neg());
    assert_eq!(apic.timer_deadline(), Some(1000));
    let mut apic = with_entry(TSC_DEADLINE);
    let _ = apic.write_tsc_deadline(9000);
    let _ = apic.shift_time(5000u64.wrapping_neg());
    assert_eq!(apic.timer_deadline(), Some(9000));
}

#[test]
fn extreme_times_do_not_wrap() {
    let mut slow = configuration(0);
    slow.tsc_ticks_per_timer_count = NonZeroU32::MAX;
    let mut apic = LocalApic::new(slow);
    let _ = write(&mut apic, LVT_TIMER, PERIODIC);
    let _ = write(&mut apic, TIMER_DIVIDE, 0b1010);
    let _ = apic.write_register(TIMER_INITIAL_COUNT, u32::MAX, u64::MAX - 1);
    assert_eq!(apic.timer_deadline(), Some(u64::MAX));
    let _ = apic.expire(u64::MAX);
    assert_eq!(apic.timer_deadline(), Some(u64::MAX));
    let _ = apic.timer_count(0);
}

/// A virtual machine's timer: a period that is too short takes longer, one-shot and deadline do not.
#[test]
fn a_period_has_a_floor() {
    let mut floored = configuration(0);
    floored.shortest_timer_period = 1000;
    let start = |mode: u32, count| {
        let mut apic = LocalApic::new(floored);
        let _ = apic.write_register(SPURIOUS_VECTOR, 0x1ff, 0);
        let _ = apic.write_register(TIMER_DIVIDE, 0b1011, 0);
        let _ = apic.write_register(LVT_TIMER, mode << 17 | 0x40, 0);
        let _ = apic.write_register(TIMER_INITIAL_COUNT, count, 0);
        apic
    };
    let mut periodic = start(1, 3);
    assert_eq!(periodic.timer_deadline(), Some(1000));
    for (now, count) in [(0, 3), (969, 3), (970, 3), (971, 3), (981, 2), (999, 1)] {
        assert_eq!(periodic.timer_count(now), count, "{now}");
    }
    assert!(periodic.expire(1000));
    assert_eq!(periodic.timer_deadline(), Some(2000));
    // Late: the periods keep their places.
    assert!(periodic.expire(4200));
    assert_eq!(periodic.timer_deadline(), Some(5000));
    assert_eq!(start(1, 100).timer_deadline(), Some(1000));
    assert_eq!(start(1, 101).timer_deadline(), Some(1010));
    assert_eq!(start(0, 3).timer_deadline(), Some(30), "one-shot");
    let mut deadline = start(2, 0);
    let _ = deadline.write_tsc_deadline(5);
    assert_eq!(deadline.timer_deadline(), Some(5));
}
