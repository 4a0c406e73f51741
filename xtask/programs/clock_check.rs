//! `clock_check SECONDS`: whether a mostly idle guest's clock and wakeups are right for so long.
//!
//! Each CPU has a thread with a periodic timer and a thread that sleeps for ever other times. Now and
//! then one wakes a thread on another CPU that has long been idle. Every wakeup must come, and come in
//! time; every period must be counted once; the clock must go as the time-stamp counter and the real-time
//! clock do.
//!
//! It is between the marks of phase 16 of the machine, which has a clock that no guest can touch.

use std::arch::{asm, x86_64};
use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MARK_PORT: u16 = 0xf5;
const PHASE: u32 = 16;
const BEGIN: u32 = 0x0100_0000;
const END: u32 = 0x0200_0000;
const SYS_SCHED_SETAFFINITY: u64 = 203;
const SYS_IOPERM: u64 = 173;
const SYS_TIMERFD_CREATE: u64 = 283;
const SYS_TIMERFD_SETTIME: u64 = 286;
const CLOCK_MONOTONIC: u64 = 1;
const PERIOD: Duration = Duration::from_millis(250);
/// Linux may put a sleep's end off by 50 microseconds to wake a CPU less often; the rest is its work.
const LATE: Duration = Duration::from_millis(1);
/// What the clock may differ from the time-stamp counter, of a million: Linux scales by a multiplier of
/// 24 bits or more.
const PARTS_PER_MILLION: u64 = 1;
const CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn system_call(number: u64, arguments: [u64; 4]) -> Result<u64> {
    let [first, second, third, fourth] = arguments;
    let result: i64;
    // SAFETY: the callers pass numbers and pointers to memory that they own, as the call asks for.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second,
             in("rdx") third, in("r10") fourth, out("rcx") _, out("r11") _);
    }
    u64::try_from(result).map_err(|_| Error::from_raw_os_error((-result) as i32).into())
}

fn mark(value: u32) {
    // SAFETY: main was given the port; what is there touches no memory.
    unsafe { asm!("out dx, eax", in("dx") MARK_PORT, in("eax") value) };
}

fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has it, and Linux lets programs use it.
    unsafe { x86_64::_rdtsc() }
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) -> Result<()> {
    let mut set = [0u64; 16];
    *set.get_mut(cpu / 64).ok_or("no such CPU")? |= 1 << (cpu % 64);
    let size = size_of_val(&set) as u64;
    system_call(
        SYS_SCHED_SETAFFINITY,
        [0, size, set.as_ptr() as u64, 0],
    )?;
    Ok(())
}

/// How late the latest wakeup was, in nanoseconds.
#[derive(Default)]
struct Latest(AtomicU64);

impl Latest {
    fn came(&self, due: Instant) {
        let late = Instant::now().saturating_duration_since(due);
        self.0.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// A periodic timer from `start` on.
fn timer(start: Instant, periods: u64, latest: &Latest) -> Result<u64> {
    let descriptor = system_call(SYS_TIMERFD_CREATE, [CLOCK_MONOTONIC, 0, 0, 0])?;
    // SAFETY: the kernel made it for this thread.
    let mut timer = unsafe { File::from_raw_fd(descriptor as i32) };
    let nanoseconds = |time: Duration| u64::from(time.subsec_nanos());
    let first = (start + PERIOD).saturating_duration_since(Instant::now());
    // Period, then first expiry, in seconds and nanoseconds each (struct itimerspec).
    let times = [
        PERIOD.as_secs(),
        nanoseconds(PERIOD),
        first.as_secs(),
        nanoseconds(first),
    ];
    system_call(
        SYS_TIMERFD_SETTIME,
        [descriptor, 0, times.as_ptr() as u64, 0],
    )?;
    let mut seen = 0;
    let armed = Instant::now() + first - PERIOD;
    while seen < periods {
        let mut count = [0; 8];
        timer.read_exact(&mut count)?;
        seen += u64::from_le_bytes(count);
        latest.came(armed + PERIOD * seen as u32);
    }
    Ok(seen)
}

/// Sleeps of 1 to 256 milliseconds.
fn sleeper(seed: u64, end: Instant, latest: &Latest) -> u64 {
    let mut random = seed.wrapping_mul(2).wrapping_add(1);
    let mut slept = 0;
    while Instant::now() < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let time = Duration::from_millis(1 + (random >> 56));
        let due = Instant::now() + time;
        thread::sleep(time);
        latest.came(due);
        slept += 1;
    }
    slept
}

/// Wakes a thread on `cpu` that has long been asleep.
fn waker(cpu: usize, end: Instant, latest: &Arc<Latest>) -> Result<u64> {
    let (sender, receiver) = mpsc::channel::<Instant>();
    let far_latest = Arc::clone(latest);
    let far = thread::spawn(move || {
        pin(cpu)?;
        let mut woken = 0;
        for sent in receiver {
            far_latest.came(sent);
            woken += 1;
        }
        Ok(woken)
    });
    let mut sent = 0;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(487));
        sender.send(Instant::now())?;
        sent += 1;
    }
    drop(sender);
    let woken: u64 = join(far)?;
    if woken == sent {
        Ok(woken)
    } else {
        Err(format!("{sent} wakeups were sent and {woken} came").into())
    }
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| "a thread panicked")?
}

fn real_time_clock() -> Result<u64> {
    Ok(std::fs::read_to_string(CLOCK)?.trim().parse()?)
}

/// Says so if a minute went by and nothing was heard of the threads, so that a lost wakeup is told from a
/// slow machine.
fn watch(ended: &AtomicBool, end: Instant) -> Result<()> {
    let hopeless = end + Duration::from_secs(60);
    while !ended.load(Ordering::Relaxed) {
        if Instant::now() > hopeless {
            println!("clock_check: a thread still waits a minute after the end: a wakeup was lost");
            std::process::exit(1);
        }
        thread::sleep(Duration::from_secs(5));
    }
    Ok(())
}

fn main() -> Result<()> {
    let seconds: u64 = std::env::args().nth(1).ok_or("give the seconds")?.parse()?;
    let cpus = thread::available_parallelism()?.get();
    system_call(SYS_IOPERM, [u64::from(MARK_PORT), 4, 1, 0])?;
    let length = Duration::from_secs(seconds);
    let periods = (length.as_nanos() / PERIOD.as_nanos()) as u64;
    let latest = Arc::new(Latest::default());
    let ended = Arc::new(AtomicBool::new(false));

    let clock = real_time_clock()?;
    let start = Instant::now();
    let stamp = time_stamp();
    mark(BEGIN | PHASE);
    let end = start + length;
    let watcher = {
        let ended = Arc::clone(&ended);
        thread::spawn(move || watch(&ended, end + PERIOD))
    };
    let mut timers = Vec::new();
    let mut sleepers = Vec::new();
    for cpu in 0..cpus {
        let its = Arc::clone(&latest);
        timers.push(thread::spawn(move || {
            pin(cpu)?;
            timer(start, periods, &its)
        }));
        let its = Arc::clone(&latest);
        sleepers.push(thread::spawn(move || {
            pin(cpu)?;
            Ok(sleeper(cpu as u64, end, &its))
        }));
    }
    let its = Arc::clone(&latest);
    let waker = thread::spawn(move || {
        pin(0)?;
        waker(cpus - 1, end, &its)
    });
    thread::sleep(end.saturating_duration_since(Instant::now()));
    let time = start.elapsed().as_nanos() as u64;
    let ticks = time_stamp().wrapping_sub(stamp);
    mark(END | PHASE);

    let counts: Result<Vec<u64>> = timers.into_iter().map(join).collect();
    let expired: u64 = counts?.iter().sum();
    let counts: Result<Vec<u64>> = sleepers.into_iter().map(join).collect();
    let slept: u64 = counts?.iter().sum();
    let woken = join(waker)?;
    let clock = real_time_clock()?.wrapping_sub(clock);
    ended.store(true, Ordering::Relaxed);
    let late = latest.0.load(Ordering::Relaxed);
    println!(
        "#ph clock seconds={seconds} time={time} ticks={ticks} expired={expired} slept={slept} woken={woken} late={late} rtc={clock}"
    );
    join(watcher)?;
    let mut wrong = Vec::new();
    // The time-stamp counter of the machine goes at 1 GHz.
    if time.abs_diff(ticks) > time / 1_000_000 * PARTS_PER_MILLION + 100_000 {
        wrong.push("the clock and the time-stamp counter differ");
    }
    if clock.abs_diff(seconds) > 2 {
        wrong.push("the clock and the real-time clock differ");
    }
    if expired != periods * cpus as u64 {
        wrong.push("timers expired too often");
    }
    if u128::from(late) > LATE.as_nanos() {
        wrong.push("a wakeup was late");
    }
    if wrong.is_empty() {
        println!(
            "#ph work name=clock phase={PHASE} rounds={seconds} result={:016x}",
            expired
        );
        Ok(())
    } else {
        Err(wrong.join(", ").into())
    }
}
