//! Programs of the guest whose work is IPIs: `ipi_workload NAME ROUNDS ...`, each NAME one of
//!
//! * `pipe`: two threads on two CPUs pass a byte to and fro (rescheduling IPIs);
//! * `futex`: two threads on two CPUs park and unpark each other (rescheduling IPIs);
//! * `membarrier`: one thread asks for barriers on CPUs that others keep busy (function-call IPIs);
//! * `mprotect`: one thread takes write access from a page away that the others' CPUs may have in their
//!   TLBs (function-call IPIs).
//!
//! The others are on all CPUs but the last: asked for all CPUs but itself, Linux uses the shorthand that
//! no processor virtualizes. Everything is between the marks of phase 1 of the machine. The closing line
//! has what the kernel counted in /proc/interrupts.

use std::arch::asm;
use std::io::{Error, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

const MARK_PORT: u16 = 0xf5;
const BEGIN: u32 = 0x0100_0001;
const END: u32 = 0x0200_0001;
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

/// IPIs that the CPUs have received, by the kernel's count.
fn received() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/interrupts")?;
    let counts = text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("RES:").or_else(|| line.strip_prefix("CAL:"))
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

fn pipe(rounds: u32) -> Result<()> {
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
    }
    join(far)
}

fn futex(rounds: u32) -> Result<()> {
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
    }
    join(far)
}

fn membarrier(rounds: u32, cpus: usize) -> Result<()> {
    system_call(SYS_MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0, 0)?;
    let busy = Busy::start(cpus);
    for _ in 0..rounds {
        system_call(SYS_MEMBARRIER, PRIVATE_EXPEDITED, 0, 0)?;
    }
    busy.end()
}

fn mprotect(rounds: u32, cpus: usize) -> Result<()> {
    let mut page = Box::new(Page([0; PAGE]));
    let address = page.0.as_ptr() as u64;
    let busy = Busy::start(cpus);
    for round in 0..rounds {
        let first = page.0.first_mut().ok_or("an empty page")?;
        // SAFETY: a reference is a valid place; volatile so that the page is really touched.
        unsafe { std::ptr::write_volatile(first, round as u8) };
        system_call(SYS_MPROTECT, address, PAGE as u64, PROT_READ)?;
        system_call(SYS_MPROTECT, address, PAGE as u64, PROT_READ | PROT_WRITE)?;
    }
    busy.end()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cpus = thread::available_parallelism()?.get();
    if cpus < 2 {
        return Err("one CPU has nobody to interrupt".into());
    }
    pin(0)?;
    system_call(SYS_IOPERM, u64::from(MARK_PORT), 4, 1)?;
    let before = received()?;
    mark(BEGIN);
    for pair in arguments.chunks(2) {
        let [name, rounds] = pair else {
            return Err("give names and rounds in turn".into());
        };
        let rounds = rounds.parse()?;
        match name.as_str() {
            "pipe" => pipe(rounds)?,
            "futex" => futex(rounds)?,
            "membarrier" => membarrier(rounds, cpus)?,
            "mprotect" => mprotect(rounds, cpus)?,
            _ => return Err(format!("no workload is called {name}").into()),
        }
    }
    mark(END);
    let sent = received()?.saturating_sub(before);
    println!("#ph phase name=unicast apic=linux vcpus={cpus} sent={sent} lost=0 verdict=pass");
    Ok(())
}
