//! `cargo bench --bench compute`: one compute image on the machine and on Bochs, and the ratio of
//! guest instructions per second.
//!
//! Both run the guest's `compute` phase on one processor. The machine counts its instructions; the
//! checksum that the guest prints must be the same on both, so Bochs executed the same work. Time is the
//! host's, from the end of the guest's first line on the serial port to the first byte after it.
#![allow(missing_docs, reason = "a program")]

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod measure;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use devices::debug_port::PhaseMark;
use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, Schedule};
use measure::bochs_run::{Bochs, Settings};
use measure::{StopAt, Watch, Watched, iso, median};
use posthaste::images;
use posthaste_guest::phase::Phase;

/// Rounds of the compute phase: some hundred million instructions.
const ROUNDS: u32 = 4000;
const RUNS: usize = 3;
const LIMIT: Duration = Duration::from_secs(3000);

/// From the end of the line that the guest prints before its phases to the first byte after it.
fn watch() -> Watch {
    Watch::new("guest: ", "#")
}

fn checksum(text: &str) -> Result<String, String> {
    text.lines()
        .find_map(|line| line.strip_prefix("#ph compute checksum="))
        .map(str::to_owned)
        .ok_or_else(|| format!("no checksum:\n{text}"))
}

/// Seconds, checksum and the exact number of instructions.
fn on_the_machine(command_line: &str) -> Result<(f64, String, u64), String> {
    let watched = Watched::new(watch(), StopAt::Never);
    let mut machine = Machine::new(
        &Configuration {
            processors: 1,
            memory: 256 << 20,
            model: CpuModel::default(),
            schedule: Schedule::Deterministic { seed: 1 },
            engine: Engine::default(),
            limit: u64::MAX,
            events: None,
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
    let watch = watched.watch();
    Ok((watch.seconds()?, checksum(&watch.text)?, end - begin))
}

fn on_bochs(command_line: &str) -> Result<(f64, String), String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bochs-compute");
    let iso = iso(
        &directory,
        &format!(" multiboot2 /boot/guest {command_line}"),
        &[("guest", images::GUEST)],
    )?;
    let mut bochs = Bochs::start(&directory.join("run"), &iso, &Settings::default());
    let mut watch = watch();
    let text = bochs.wait(LIMIT, |text| {
        watch.push(text.as_bytes().get(watch.text.len()..).unwrap_or_default());
        text.contains("#ph guest verdict=")
    });
    Ok((watch.seconds()?, checksum(&text)?))
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
    for (name, seconds) in [("machine", machine), ("Bochs 2.7", bochs)] {
        let median = median(seconds);
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
