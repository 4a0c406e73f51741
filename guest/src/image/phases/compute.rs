//! No interrupts: integers, memory, branches, calls and string instructions, for a comparison of
//! speed between emulators. The same instructions on every one.
#![allow(
    unsafe_code,
    reason = "string instructions, which the compiler emits where it likes"
)]

use super::Context;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use posthaste_guest::random::Random;

/// Words of each of the two buffers, which are on the stack.
const WORDS: usize = 2048;

/// What the boot processor computed last.
static CHECKSUM: AtomicU64 = AtomicU64::new(0);

/// What the boot processor computed, for a comparison between emulators.
pub(in crate::image) fn checksum() -> u64 {
    CHECKSUM.load(Ordering::Relaxed)
}

pub(super) fn run(context: &Context) -> Option<&'static str> {
    if context.processor.index() == 0 {
        CHECKSUM.store(work(context), Ordering::Relaxed);
    }
    None
}

/// Not a part of its callers: the buffers fit on the boot processor's stack only.
#[inline(never)]
fn work(context: &Context) -> u64 {
    let mut words = [0u64; WORDS];
    let mut random = Random::new(context.seed, 0);
    words.fill_with(|| random.draw());
    let mut copy = [0u64; WORDS];
    let mut sum = 0u64;
    for round in 0..u64::from(context.rounds) {
        sum ^= mixed(&mut words, round);
        sum = sum.wrapping_add(sieved(&mut copy, 1500 + (sum & 0xff) as usize));
        for start in 1..60 {
            sum = sum.rotate_left(7) ^ trajectory(start + (round & 7));
        }
        sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ called(round, 12);
        copied(&words, &mut copy);
    }
    black_box(sum)
}

/// Reads and writes as many words as there are in an order that depends on them.
fn mixed(words: &mut [u64; WORDS], round: u64) -> u64 {
    let mut place = round as usize;
    let mut sum = round;
    for _ in 0..WORDS {
        let word = words[place % WORDS];
        sum = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        sum ^= sum >> 29;
        words[(place + 1) % WORDS] = sum;
        place = place.wrapping_add((word >> 17) as usize | 1);
    }
    sum
}

/// Counts primes: short loops and stores with a stride.
fn sieved(composite: &mut [u64; WORDS], below: usize) -> u64 {
    let below = below.min(WORDS);
    composite[..below].fill(0);
    let mut primes = 0;
    for number in 2..below {
        if composite[number] == 0 {
            primes += 1;
            let mut multiple = number * number;
            while multiple < below {
                composite[multiple] = 1;
                multiple += number;
            }
        }
    }
    primes
}

/// Steps until 1 is reached: branches that nobody predicts.
fn trajectory(start: u64) -> u64 {
    let mut number = start;
    let mut steps = 0;
    while number > 1 && steps < 300 {
        number = if number & 1 == 0 {
            number / 2
        } else {
            number * 3 + 1
        };
        steps += 1;
    }
    steps
}

/// Calls and returns.
#[inline(never)]
fn called(value: u64, depth: u32) -> u64 {
    if depth < 2 {
        return black_box(value);
    }
    called(value, depth - 1).wrapping_add(called(value ^ 1, depth - 2))
}

/// String instructions.
fn copied(from: &[u64; WORDS], to: &mut [u64; WORDS]) {
    // SAFETY: both buffers have WORDS words, and the direction flag is clear in all of this image.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") 512 => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
        asm!(
            "rep stosq",
            inout("rcx") 512 => _,
            inout("rdi") to.as_mut_ptr().add(512) => _,
            in("rax") 0,
            options(nostack, preserves_flags)
        );
    }
}
