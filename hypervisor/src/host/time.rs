//! Time: the TSC, its frequency, and the processor's one timer.
#![allow(unsafe_code, reason = "writes IA32_TSC_DEADLINE")]

use super::instructions::{cpuid, in_8, out_8, read_time_stamp, write_msr};
use super::local_apic;
use arch::{apic_register, msr};
use core::sync::atomic::{AtomicU64, Ordering};

/// Ticks of the TSC in a second.
static TSC_HERTZ: AtomicU64 = AtomicU64::new(1_000_000_000);
/// Ticks of the local APIC's timer (divided by 1) in a second; 0: the TSC-deadline timer is used.
static APIC_TIMER_HERTZ: AtomicU64 = AtomicU64::new(0);

const PIT_HERTZ: u64 = 1_193_182;
const LVT_TSC_DEADLINE: u32 = 2 << 17;

/// Where the TSC's frequency came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPUID.15H with all three numbers.
    CrystalClock,
    /// CPUID.15H's ratio is absent; CPUID.16H's base frequency.
    BaseFrequency,
    /// Counted against the 8254.
    Calibrated,
}

/// Ticks in a second.
pub fn tsc_hertz() -> u64 {
    TSC_HERTZ.load(Ordering::Relaxed)
}

/// Nanoseconds as TSC ticks, rounded down, at least 1 for a non-zero time.
pub fn ticks(nanoseconds: u64) -> u64 {
    let product = u128::from(nanoseconds) * u128::from(tsc_hertz()) / 1_000_000_000;
    (product as u64).max(u64::from(nanoseconds != 0))
}

/// Ticks as nanoseconds, rounded down.
pub fn nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(tsc_hertz())) as u64
}

/// Waits by spinning.
pub fn spin(nanoseconds: u64) {
    let start = read_time_stamp();
    let wait = ticks(nanoseconds);
    while read_time_stamp().wrapping_sub(start) < wait {
        core::hint::spin_loop();
    }
}

/// The TSC's frequency from CPUID leaves 15H and 16H, if they say it (SDM 18.7.3).
pub fn frequency_from_cpuid(
    leaf_15h: (u32, u32, u32),
    leaf_16h_base_mhz: u32,
) -> Option<(u64, Source)> {
    let (denominator, numerator, crystal) = leaf_15h;
    if denominator != 0 && numerator != 0 && crystal != 0 {
        let hertz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
        return Some((hertz, Source::CrystalClock));
    }
    (leaf_16h_base_mhz != 0).then(|| {
        (
            u64::from(leaf_16h_base_mhz) * 1_000_000,
            Source::BaseFrequency,
        )
    })
}

/// Counts the TSC during 10 ms of the 8254's channel 2.
fn calibrate() -> u64 {
    const COUNT: u64 = PIT_HERTZ / 100;
    // Gate off, speaker off; channel 2, both bytes, mode 0; gate on.
    let port_61 = in_8(0x61) & !3;
    out_8(0x61, port_61);
    out_8(0x43, 0xb0);
    out_8(0x42, COUNT as u8);
    out_8(0x42, (COUNT >> 8) as u8);
    out_8(0x61, port_61 | 1);
    let start = read_time_stamp();
    for _ in 0..100_000_000u32 {
        if in_8(0x61) & 1 << 5 != 0 {
            break;
        }
    }
    let elapsed = read_time_stamp().wrapping_sub(start);
    (elapsed * PIT_HERTZ / COUNT).max(1)
}

/// Finds the frequencies; the boot processor calls this once, after its local APIC is on.
pub fn initialize() -> Source {
    let highest = cpuid(0, 0).eax;
    let leaf_15h = if highest >= 0x15 {
        let leaf = cpuid(0x15, 0);
        (leaf.eax, leaf.ebx, leaf.ecx)
    } else {
        (0, 0, 0)
    };
    let base = if highest >= 0x16 {
        cpuid(0x16, 0).eax & 0xffff
    } else {
        0
    };
    let (hertz, source) =
        frequency_from_cpuid(leaf_15h, base).unwrap_or_else(|| (calibrate(), Source::Calibrated));
    TSC_HERTZ.store(hertz, Ordering::Relaxed);
    if !local_apic::has_tsc_deadline() {
        // Count the APIC timer for 10 ms, divided by 1.
        local_apic::write(apic_register::TIMER_DIVIDE, 0b1011);
        local_apic::write(apic_register::TIMER_INITIAL_COUNT, u32::MAX);
        spin(10_000_000);
        let left = local_apic::read(apic_register::TIMER_CURRENT_COUNT);
        local_apic::write(apic_register::TIMER_INITIAL_COUNT, 0);
        APIC_TIMER_HERTZ.store(u64::from(u32::MAX - left).max(1) * 100, Ordering::Relaxed);
    }
    source
}

/// Sets up this processor's timer to raise `vector` when armed.
pub fn initialize_timer(vector: u8) {
    if APIC_TIMER_HERTZ.load(Ordering::Relaxed) == 0 {
        local_apic::write(
            apic_register::LVT_TIMER,
            LVT_TSC_DEADLINE | u32::from(vector),
        );
        // The write to the LVT must be seen before IA32_TSC_DEADLINE is (SDM 10.5.4.1).
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        local_apic::write(apic_register::TIMER_DIVIDE, 0b1011);
        local_apic::write(apic_register::LVT_TIMER, u32::from(vector));
    }
}

/// Arms this processor's timer for TSC value `deadline`; `None` disarms it. A deadline that has
/// passed fires at once.
pub fn arm(deadline: Option<u64>) {
    match APIC_TIMER_HERTZ.load(Ordering::Relaxed) {
        0 => {
            // 0 disarms; a deadline of 0 cannot be meant.
            let value = deadline.map_or(0, |d| d.max(1));
            // SAFETY: arms a timer; memory keeps its meaning.
            unsafe { write_msr(msr::IA32_TSC_DEADLINE, value) };
        }
        hertz => {
            let count = deadline.map_or(0, |d| {
                let left = d.saturating_sub(read_time_stamp());
                let count = u128::from(left) * u128::from(hertz) / u128::from(tsc_hertz());
                (count as u64).clamp(1, u64::from(u32::MAX)) as u32
            });
            local_apic::write(apic_register::TIMER_INITIAL_COUNT, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_gives_the_frequency_when_it_can() {
        // Our machine: a 100 MHz crystal times 10.
        assert_eq!(
            frequency_from_cpuid((1, 10, 100_000_000), 0),
            Some((1_000_000_000, Source::CrystalClock))
        );
        assert_eq!(
            frequency_from_cpuid((2, 188, 0), 2400),
            Some((2_400_000_000, Source::BaseFrequency))
        );
        assert_eq!(frequency_from_cpuid((0, 0, 0), 0), None);
    }
}
