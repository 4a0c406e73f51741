//! `cargo xtask peers boot`: the same kernel and RAM disk on the machine, in Bochs and in QEMU's TCG.
//!
//! `cargo bench --bench boot -- KERNEL INITRD`. Time is the host's, from the end of the kernel's
//! "Linux version" line to the first line of init, so that firmware and the CD do not count.
//! The runs are taken in turn. Guest instructions are counted once, by the machine with one processor
//! and the deterministic schedule; the peers' rates are that count over their time: what they got done,
//! not what they executed.
#![allow(missing_docs, reason = "a program")]

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod measure;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, Module, Schedule};
use measure::bochs_run::{Bochs, Settings};
use measure::{StopAt, Watch, Watched, iso, median};
use serde::Serialize;

const RUNS: usize = 3;
const MEMORY_MIB: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(3000);
const COMMAND_LINE: &str = "console=ttyS0 panic=-1";
const DETERMINISTIC: Schedule = Schedule::Deterministic { seed: 1 };

fn watch() -> Watch {
    Watch::new("Linux version", "#ph linux nproc=")
}

/// A kernel and its RAM disk.
struct Boot {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    kernel_path: String,
    initrd_path: String,
}

/// Who boots it.
#[derive(Clone, Copy)]
enum Booter {
    Posthaste(Schedule, usize),
    Bochs,
    Qemu(usize),
}

impl Booter {
    const ALL: [Self; 7] = [
        Self::Posthaste(DETERMINISTIC, 1),
        Self::Posthaste(DETERMINISTIC, 4),
        Self::Posthaste(Schedule::Parallel, 1),
        Self::Posthaste(Schedule::Parallel, 4),
        Self::Bochs,
        Self::Qemu(1),
        Self::Qemu(4),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Posthaste(Schedule::Deterministic { .. }, _) => "Posthaste, deterministic",
            Self::Posthaste(Schedule::Parallel, _) => "Posthaste, parallel",
            Self::Bochs => "Bochs 2.7",
            Self::Qemu(_) => "QEMU TCG",
        }
    }

    fn processors(self) -> usize {
        match self {
            Self::Posthaste(_, processors) | Self::Qemu(processors) => processors,
            // It does not get through with four.
            Self::Bochs => 1,
        }
    }

    fn seconds(self, boot: &Boot) -> Result<f64, String> {
        match self {
            Self::Posthaste(schedule, processors) => {
                Ok(on_the_machine(boot, schedule, processors, StopAt::End)?.0)
            }
            Self::Bochs => on_bochs(boot),
            Self::Qemu(processors) => on_qemu(boot, processors),
        }
    }
}

/// Seconds between the lines (not a number if it is stopped at the first), and the instructions of all
/// processors until it is stopped.
fn on_the_machine(
    boot: &Boot,
    schedule: Schedule,
    processors: usize,
    stop_at: StopAt,
) -> Result<(f64, u64), String> {
    let watched = Watched::new(watch(), stop_at);
    let mut machine = Machine::new(
        &Configuration {
            processors,
            memory: u64::from(MEMORY_MIB) << 20,
            model: CpuModel::default(),
            schedule,
            engine: Engine::default(),
            limit: u64::MAX,
            events: None,
        },
        &Kernel {
            image: &boot.kernel,
            command_line: COMMAND_LINE,
            modules: &[Module {
                bytes: &boot.initrd,
                command_line: "",
            }],
            protocol: None,
        },
        Box::new(watched.clone()),
    )
    .map_err(|error| error.to_string())?;
    watched.connect(machine.platform());
    let report = machine.run();
    let instructions = report.processors.iter().map(|p| p.instructions).sum();
    let watch = watched.watch();
    let seconds = match stop_at {
        StopAt::Begin if watch.has_begun() => f64::NAN,
        _ => watch.seconds()?,
    };
    Ok((seconds, instructions))
}

fn on_bochs(boot: &Boot) -> Result<f64, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bochs-boot");
    // The options without which it hangs: it offers these features and does not quite have them.
    let commands =
        format!(" linux /boot/kernel {COMMAND_LINE} clearcpuid=fsrm,pku\n initrd /boot/initrd");
    let iso = iso(
        &directory,
        &commands,
        &[("kernel", &boot.kernel), ("initrd", &boot.initrd)],
    )?;
    let mut bochs = Bochs::start(
        &directory.join("run"),
        &iso,
        &Settings {
            memory: MEMORY_MIB,
            instructions_per_second: 50_000_000,
            ignore_unknown_msrs: true,
            ..Settings::default()
        },
    );
    let mut watch = watch();
    bochs.wait(LIMIT, |text| {
        watch.push(text.as_bytes().get(watch.text.len()..).unwrap_or_default());
        watch.is_over()
    });
    watch.seconds()
}

/// A child that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_qemu(boot: &Boot, processors: usize) -> Result<f64, String> {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-m", &MEMORY_MIB.to_string()])
        .args(["-smp", &processors.to_string(), "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-kernel", &boot.kernel_path, "-initrd", &boot.initrd_path])
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("qemu-system-x86_64: {error}; cargo xtask test installs it"))?;
    let output = child.stdout.take();
    let running = Arc::new(Mutex::new(Running(child)));
    // Reading blocks; whoever is too slow is killed, which ends the reading.
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let guard = running.clone();
    let killer = std::thread::spawn(move || {
        if is_done.recv_timeout(LIMIT).is_err() {
            let mut running = guard.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have ended by itself.
            let _ = running.0.kill();
        }
    });
    let mut watch = watch();
    let mut buffer = [0; 4096];
    let mut output = output.ok_or("QEMU has no output")?;
    while !watch.is_over() {
        match output.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => watch.push(&buffer[..count]),
        }
    }
    // It waits no longer if it has given up.
    let _ = done.send(());
    let _ = killer.join();
    drop(running);
    watch.seconds()
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    processors: usize,
    /// Host seconds from "Linux version" to init.
    seconds: Vec<f64>,
    median_seconds: f64,
    /// Millions, of the machine's count with one processor, in a host second; not for several
    /// processors, which execute more.
    million_instructions_per_second: Option<f64>,
    /// How many times as fast as Bochs.
    ratio_to_bochs: f64,
}

#[derive(Debug, Serialize)]
struct Peers {
    schema: u32,
    kernel: String,
    /// Guest instructions from "Linux version" to init, one processor, deterministic.
    instructions: u64,
    lines: Vec<Line>,
}

fn measure(boot: &Boot) -> Result<Peers, String> {
    let (_, before) = on_the_machine(boot, DETERMINISTIC, 1, StopAt::Begin)?;
    let (_, after) = on_the_machine(boot, DETERMINISTIC, 1, StopAt::End)?;
    let instructions = after.saturating_sub(before);
    let mut seconds = vec![Vec::new(); Booter::ALL.len()];
    for run in 1..=RUNS {
        for (booter, seconds) in Booter::ALL.iter().zip(&mut seconds) {
            let start = Instant::now();
            let took = booter
                .seconds(boot)
                .map_err(|error| format!("{}: {error}", booter.name()))?;
            eprintln!(
                "run {run} of {RUNS}: {}, {} CPUs: {took:.2} s ({:.0} s in all)",
                booter.name(),
                booter.processors(),
                start.elapsed().as_secs_f64()
            );
            seconds.push(took);
        }
    }
    let bochs = Booter::ALL
        .iter()
        .position(|booter| matches!(booter, Booter::Bochs))
        .and_then(|index| seconds.get(index))
        .map_or(f64::NAN, |seconds| median(seconds.clone()));
    let lines = Booter::ALL
        .iter()
        .zip(seconds)
        .map(|(booter, seconds)| {
            let median = median(seconds.clone());
            Line {
                name: booter.name(),
                processors: booter.processors(),
                seconds,
                median_seconds: median,
                million_instructions_per_second: (booter.processors() == 1)
                    .then_some(instructions as f64 / median / 1e6),
                ratio_to_bochs: bochs / median,
            }
        })
        .collect();
    Ok(Peers {
        schema: 1,
        kernel: boot.kernel_path.clone(),
        instructions,
        lines,
    })
}

fn print(peers: &Peers) {
    println!(
        "{}: {} million instructions from \"Linux version\" to init with one CPU",
        peers.kernel,
        peers.instructions / 1_000_000
    );
    println!(
        "{:<26}{:>5}{:>12}{:>16}{:>12}",
        "", "CPUs", "median, s", "million instr/s", "to Bochs"
    );
    for line in &peers.lines {
        let rate = line
            .million_instructions_per_second
            .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        println!(
            "{:<26}{:>5}{:>12.2}{:>16}{:>12.2}",
            line.name, line.processors, line.median_seconds, rate, line.ratio_to_bochs
        );
    }
}

fn run() -> Result<(), String> {
    // Cargo adds an option of its own.
    let paths: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let [kernel_path, initrd_path] = paths.as_slice() else {
        return Err("give a kernel and a RAM disk; cargo xtask peers boot does".to_owned());
    };
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let boot = Boot {
        kernel: read(kernel_path)?,
        initrd: read(initrd_path)?,
        kernel_path: kernel_path.clone(),
        initrd_path: initrd_path.clone(),
    };
    let peers = measure(&boot)?;
    print(&peers);
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers-boot.json");
    serde_json::to_vec_pretty(&peers)
        .map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(&json, text))
        .map_err(|error| format!("{}: {error}", json.display()))?;
    println!("as JSON: {}", json.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}
