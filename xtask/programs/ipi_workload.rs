//! Programs of the guest whose work is IPIs: `ipi_workload NAME ROUNDS ...`, each NAME one of
//!
//! * `pipe`: two threads on two CPUs pass a byte to and fro (rescheduling IPIs);
//! * `futex`: two threads on two CPUs park and unpark each other (rescheduling IPIs);
//! * `membarrier`: one thread asks for barriers on CPUs that others keep busy (function-call IPIs);
//! * `mprotect`: one thread takes write access from a page away that the others' CPUs may have in their
//!   TLBs (function-call IPIs);
//! * `hackbench`: Debian's, with sixteen processes on all CPUs, each sender with so many messages.
//!
//! In `membarrier` and `mprotect` the others are on all CPUs but the last: asked for all CPUs but itself,
//! Linux uses the shorthand that no processor virtualizes.
//!
//! All of it is between the marks of phase 1 of the machine, and each workload between those of a phase
//! from 16 on. The kernel's counts in /proc/interrupts are read on both sides of each mark: what the
//! machine counts between the marks lies between `received` and `received_at_most`.

use std::arch::asm;
use std::io::{Error, Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

const MARK_PORT: u16 = 0xf5;
const BEGIN: u32 = 0x0100_0000;
const END: u32 = 0x0200_0000;
/// The phase of everything.
const ALL: u32 = 1;
/// The phase of the first workload.
const FIRST: u32 = 16;
const SYS_MPROTECT: u64 = 10;
const SYS_SCHED_SETAFFINITY: u64 = 203;
const SYS_IOPERM: u64 = 173;
const SYS_MEMBARRIER: u64 = 324;
/// MEMBARRIER_CMD_PRIVATE_EXPEDITED and the registration for it (Linux, uapi/linux/membarrier.h).
const PRIVATE_EXPEDITED: u64 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: u64 = 1 << 4;
const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PAGE: usize = 4096;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[repr(align(4096))]
struct Page([u8; PAGE]);

fn system_call(number: u64, first: u64, second: u64, third: u64) -> Result<()> {
    let result: i64;
    // SAFETY: the callers pass numbers and pointers to memory that they own, as the call asks for.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second,
             in("rdx") third, out("rcx") _, out("r11") _);
    }
    match i32::try_from(-result) {
        Ok(error) if error > 0 => Err(Error::from_raw_os_error(error).into()),
        _ => Ok(()),
    }
}

fn mark(value: u32) {
    // SAFETY: main was given the port; what is there touches no memory.
    unsafe { asm!("out dx, eax", in("dx") MARK_PORT, in("eax") value) };
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) -> Result<()> {
    let mut set = [0u64; 16];
    *set.get_mut(cpu / 64).ok_or("no such CPU")? |= 1 << (cpu % 64);
    let size = size_of_val(&set) as u64;
    system_call(SYS_SCHED_SETAFFINITY, 0, size, set.as_ptr() as u64)
}

/// IPIs that the CPUs have received, by the kernel's count; its self-IPIs are among them.
fn received() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/interrupts")?;
    let counts = text.lines().filter_map(|line| {
        let line = line.trim_start();
        ["RES:", "CAL:", "IWI:", "NMI:"]
            .into_iter()
            .find_map(|kind| line.strip_prefix(kind))
    });
    Ok(counts
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|word| word.parse::<u64>().ok())
        .sum())
}

/// Threads that keep CPUs busy until they are told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Busy {
    fn start(cpus: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(AtomicUsize::new(0));
        let last = (cpus - 1).max(2).min(cpus);
        let threads: Vec<_> = (1..last)
            .map(|cpu| {
                let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
                thread::spawn(move || {
                    let pinned = pin(cpu);
                    ready.fetch_add(1, Ordering::SeqCst);
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    pinned
                })
            })
            .collect();
        while ready.load(Ordering::SeqCst) < threads.len() {
            thread::yield_now();
        }
        Self { stop, threads }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().try_for_each(join)
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| "a thread panicked")?
}

/// What a workload computed, so that two runs can be compared (FNV-1a).
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn pipe(rounds: u32) -> Result<Digest> {
    let mut digest = Digest::new();
    let (mut near_reader, mut far_writer) = std::io::pipe()?;
    let (mut far_reader, mut near_writer) = std::io::pipe()?;
    let far = thread::spawn(move || {
        pin(1)?;
        let mut byte = [0];
        for _ in 0..rounds {
            far_reader.read_exact(&mut byte)?;
            far_writer.write_all(&byte)?;
        }
        Ok(())
    });
    for round in 0..rounds {
        let mut byte = [round as u8];
        near_writer.write_all(&byte)?;
        near_reader.read_exact(&mut byte)?;
        if byte != [round as u8] {
            return Err("the pipe gave back another byte".into());
        }
        digest.add(&byte);
    }
    join(far)?;
    Ok(digest)
}

fn futex(rounds: u32) -> Result<Digest> {
    let mut digest = Digest::new();
    let turn = Arc::new(AtomicUsize::new(0));
    let near = thread::current();
    let far_turn = Arc::clone(&turn);
    let wait = |turn: &AtomicUsize, wanted: usize| {
        while turn.load(Ordering::SeqCst) != wanted {
            thread::park();
        }
    };
    let rounds = rounds as usize;
    let far = thread::spawn(move || {
        pin(1)?;
        for round in 0..rounds {
            wait(&far_turn, 2 * round + 1);
            far_turn.store(2 * round + 2, Ordering::SeqCst);
            near.unpark();
        }
        Ok(())
    });
    for round in 0..rounds {
        turn.store(2 * round + 1, Ordering::SeqCst);
        far.thread().unpark();
        wait(&turn, 2 * round + 2);
        digest.add(&turn.load(Ordering::SeqCst).to_le_bytes());
    }
    join(far)?;
    Ok(digest)
}

fn membarrier(rounds: u32, cpus: usize) -> Result<Digest> {
    let mut digest = Digest::new();
    system_call(SYS_MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0, 0)?;
    let busy = Busy::start(cpus);
    for round in 0..rounds {
        system_call(SYS_MEMBARRIER, PRIVATE_EXPEDITED, 0, 0)?;
        digest.add(&round.to_le_bytes());
    }
    busy.end()?;
    Ok(digest)
}

fn mprotect(rounds: u32, cpus: usize) -> Result<Digest> {
    let mut digest = Digest::new();
    let mut page = Box::new(Page([0; PAGE]));
    let address = page.0.as_ptr() as u64;
    let busy = Busy::start(cpus);
    for round in 0..rounds {
        let first = page.0.first_mut().ok_or("an empty page")?;
        // SAFETY: a reference is a valid place; volatile so that the page is really touched.
        unsafe { std::ptr::write_volatile(first, round as u8) };
        system_call(SYS_MPROTECT, address, PAGE as u64, PROT_READ)?;
        digest.add(&page.0);
        system_call(SYS_MPROTECT, address, PAGE as u64, PROT_READ | PROT_WRITE)?;
    }
    busy.end()?;
    Ok(digest)
}

/// Two groups of four senders and four receivers each.
fn hackbench(rounds: u32) -> Result<Digest> {
    let output = Command::new("hackbench")
        .args(["-g", "2", "-f", "4", "-l", &rounds.to_string()])
        .output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("hackbench: {}; {}", output.status, error.trim()).into());
    }
    let mut digest = Digest::new();
    let said = String::from_utf8_lossy(&output.stdout);
    // It measures time, which is no result.
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("Time:")).collect();
    for line in &lines {
        digest.add(line.as_bytes());
    }
    let whole = said.lines().any(|line| line.starts_with("Time:"));
    if whole && !lines.is_empty() {
        Ok(digest)
    } else {
        Err(format!("hackbench did not come to its end: {}", said.trim()).into())
    }
}

fn work(name: &str, rounds: u32, cpus: usize) -> Result<Digest> {
    // Its processes are to be on all CPUs.
    if name != "hackbench" {
        pin(0)?;
    }
    match name {
        "pipe" => pipe(rounds),
        "futex" => futex(rounds),
        "membarrier" => membarrier(rounds, cpus),
        "mprotect" => mprotect(rounds, cpus),
        "hackbench" => hackbench(rounds),
        _ => Err(format!("no workload is called {name}").into()),
    }
}

/// What the kernel counted around a phase.
struct Received {
    least: u64,
    most: u64,
}

/// Does something between the marks of a phase.
fn in_phase<T>(phase: u32, act: impl FnOnce() -> Result<T>) -> Result<(T, Received)> {
    let before = received()?;
    mark(BEGIN | phase);
    let after_begin = received()?;
    let value = act()?;
    let before_end = received()?;
    mark(END | phase);
    let after = received()?;
    let received = Received {
        least: before_end.saturating_sub(after_begin),
        most: after.saturating_sub(before),
    };
    Ok((value, received))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cpus = thread::available_parallelism()?.get();
    if cpus < 2 {
        return Err("one CPU has nobody to interrupt".into());
    }
    system_call(SYS_IOPERM, u64::from(MARK_PORT), 4, 1)?;
    let ((), all) = in_phase(ALL, || {
        for (phase, pair) in (FIRST..).zip(arguments.chunks(2)) {
            let [name, rounds] = pair else {
                return Err("give names and rounds in turn".into());
            };
            let rounds = rounds.parse()?;
            let worker = name.clone();
            let (digest, received) = in_phase(phase, || {
                let worker = thread::spawn(move || work(&worker, rounds, cpus));
                worker.join().map_err(|_| "a thread panicked")?
            })?;
            println!(
                "#ph work name={name} phase={phase} rounds={rounds} result={:016x} received={} received_at_most={}",
                digest.0, received.least, received.most
            );
        }
        Ok(())
    })?;
    println!(
        "#ph phase name=unicast apic=linux vcpus={cpus} sent={} lost=0 verdict=pass",
        all.least
    );
    Ok(())
}
