//! `cargo bench --bench compute`: one compute image on the machine and on Bochs, and the ratio of
//! guest instructions per second.
//!
//! Both run the guest's `compute` phase on one processor. The machine counts its instructions; the
//! checksum that the guest prints must be the same on both, so Bochs executed the same work. Time is the
//! host's, from the end of the guest's first line on the serial port to the first byte after it.
#![allow(missing_docs, reason = "a program")]

#[path = "../tests/peers/bochs_run.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod bochs_run;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bochs_run::Bochs;
use devices::debug_port::PhaseMark;
use machine::cpu::CpuModel;
use machine::machine::{Configuration, Kernel, Machine, Schedule};
use posthaste::images;
use posthaste_guest::phase::Phase;

/// Rounds of the compute phase: some hundred million instructions.
const ROUNDS: u32 = 4000;
const RUNS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);

/// A serial port's text, and when the guest's work began and ended.
#[derive(Clone, Debug, Default)]
struct Watch {
    text: String,
    begin: Option<Instant>,
    end: Option<Instant>,
}

impl Watch {
    /// The line that the guest prints before its phases.
    fn began(text: &str) -> Option<usize> {
        let line = text.find("guest: ")?;
        text[line..].find('\n').map(|end| line + end + 1)
    }

    fn look(&mut self) {
        if let Some(begun) = Self::began(&self.text) {
            self.begin.get_or_insert_with(Instant::now);
            if self.text.len() > begun {
                self.end.get_or_insert_with(Instant::now);
            }
        }
    }

    fn seconds(&self) -> Result<f64, String> {
        match (self.begin, self.end) {
            (Some(begin), Some(end)) => Ok((end - begin).as_secs_f64()),
            _ => Err(format!("the guest did not come to its end:\n{}", self.text)),
        }
    }

    fn checksum(&self) -> Result<String, String> {
        let line = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix("#ph compute checksum="));
        line.map(str::to_owned)
            .ok_or_else(|| format!("no checksum:\n{}", self.text))
    }
}

#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Watch>>);

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut watch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watch.text.push_str(&String::from_utf8_lossy(bytes));
        watch.look();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Seconds, checksum and the exact number of instructions.
fn on_the_machine(command_line: &str) -> Result<(f64, String, u64), String> {
    let watched = Watched::default();
    let mut machine = Machine::new(
        &Configuration {
            processors: 1,
            memory: 256 << 20,
            model: CpuModel::default(),
            schedule: Schedule::Deterministic { seed: 1 },
            limit: u64::MAX,
            keep_events: false,
        },
        &Kernel {
            image: images::GUEST,
            command_line,
            modules: &[],
            protocol: None,
        },
        Box::new(watched.clone()),
    )
    .map_err(|error| error.to_string())?;
    let report = machine.run();
    let instructions_at = |mark| {
        let mark = report.marks.iter().find(|place| place.mark == mark)?;
        Some(mark.snapshots.first()?.as_ref()?.instructions)
    };
    let number = Phase::Compute.number();
    let (Some(begin), Some(end)) = (
        instructions_at(PhaseMark::Begin(number)),
        instructions_at(PhaseMark::End(number)),
    ) else {
        return Err("the guest marked no phase".to_owned());
    };
    let watch = watched
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok((watch.seconds()?, watch.checksum()?, end - begin))
}

fn on_bochs(command_line: &str) -> Result<(f64, String), String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bochs-compute");
    let tree = directory.join("tree");
    let iso = directory.join("guest.iso");
    let failed = |error: io::Error| error.to_string();
    std::fs::create_dir_all(tree.join("boot/grub")).map_err(failed)?;
    std::fs::write(tree.join("boot/guest"), images::GUEST).map_err(failed)?;
    let menu = format!(
        "set timeout=0\nmenuentry guest {{\n multiboot2 /boot/guest {command_line}\n boot\n}}\n"
    );
    std::fs::write(tree.join("boot/grub/grub.cfg"), menu).map_err(failed)?;
    let output = Command::new("grub-mkrescue")
        .args(["-d", "/usr/lib/grub/i386-pc", "-o"])
        .args([&iso, &tree])
        .args(["--fonts=", "--locales=", "--themes="])
        .output()
        .map_err(|error| format!("grub-mkrescue: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut bochs = Bochs::start(&directory.join("run"), &iso, 1);
    let watch = Mutex::new(Watch::default());
    let text = bochs.wait(LIMIT, |text| {
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut watch.text);
        watch.look();
        text.contains("#ph guest verdict=")
    });
    let mut watch = watch.into_inner().unwrap_or_else(PoisonError::into_inner);
    watch.text = text;
    Ok((watch.seconds()?, watch.checksum()?))
}

fn run() -> Result<(), String> {
    let command_line = format!("apic=xapic phases=compute rounds={ROUNDS}");
    println!(
        "the guest's compute phase, {ROUNDS} rounds, one processor; median of {RUNS} runs, taken in turn"
    );
    let mut machine = Vec::new();
    let mut bochs = Vec::new();
    let mut instructions = 0;
    for _ in 0..RUNS {
        let (seconds, ours, count) = on_the_machine(&command_line)?;
        let (peer_seconds, theirs) = on_bochs(&command_line)?;
        if ours != theirs {
            return Err(format!("the machine computed {ours}, Bochs {theirs}"));
        }
        machine.push(seconds);
        bochs.push(peer_seconds);
        instructions = count;
    }
    let mut rates = Vec::new();
    for (name, mut seconds) in [("machine", machine), ("Bochs 2.7", bochs)] {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[RUNS / 2];
        let rate = instructions as f64 / median / 1e6;
        println!(
            "{name:<10} {instructions} instructions in {median:.3} s: {rate:.1} million a second"
        );
        rates.push(rate);
    }
    println!("ratio, machine to Bochs: {:.2}", rates[0] / rates[1]);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compute: {error}");
            ExitCode::FAILURE
        }
    }
}
