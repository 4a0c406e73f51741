//! A program on the bare machine and under the hypervisor.

use machine::cpu::Engine;
use machine::machine::{Configuration, Kernel, Machine, Report, Schedule};
use machine::platform::{Outcome as End, Platform};
use posthaste::guest_run::GuestRun;

use crate::case::Outcome;
use crate::program::Program;

/// Bytes of the machine's RAM, and MiB of the guest's.
const MEMORY: u64 = 64 << 20;
const GUEST_MEMORY: u64 = 32;
/// More than any program here needs.
const LIMIT: u64 = 4_000_000_000;
/// Translates what is executed more than once.
const TRANSLATOR: Engine = Engine::Translator { after: 2 };
/// What a program writes to the debug-exit port at its end.
const SUCCESS: End = End::Exit(0x10);

fn results(program: &Program, platform: &Platform) -> Vec<Outcome> {
    let ram = &platform.ram;
    program
        .results(ram.size(), |at, bytes| ram.read_bytes(at, bytes))
        .expect("the program has left its results in memory")
}

#[track_caller]
fn check_end(report: &Report, console: &str) {
    assert_eq!(report.outcome, SUCCESS, "{console}");
    assert_eq!(report.unimplemented, [], "{console}");
}

/// What the program leaves behind on the bare machine.
#[track_caller]
pub(crate) fn bare(program: &Program, engine: Engine) -> Vec<Outcome> {
    let image = program.image();
    let configuration = Configuration {
        processors: 1,
        memory: MEMORY,
        model: Default::default(),
        schedule: Schedule::Deterministic { seed: 1 },
        limit: LIMIT,
        engine,
        events: None,
    };
    let kernel = Kernel {
        image: &image,
        command_line: "",
        modules: &[],
        protocol: None,
    };
    let mut machine = Machine::new(&configuration, &kernel, Box::new(std::io::sink())).unwrap();
    let report = machine.run();
    check_end(&report, "");
    results(program, machine.platform())
}

/// What it leaves behind as a guest.
#[track_caller]
pub(crate) fn guest(program: &Program, engine: Engine) -> Vec<Outcome> {
    let mut kept = None;
    let console = posthaste::console::Console::new(Box::new(|_, _| {}));
    let finished = GuestRun {
        guest: Some(program.image()),
        guest_memory_mib: Some(GUEST_MEMORY),
        vcpus: 1,
        processors: 1,
        memory: MEMORY,
        limit: LIMIT,
        engine,
        ..GuestRun::default()
    }
    .run_on(console, |platform| kept = Some(platform.clone()))
    .unwrap();
    check_end(&finished.report, &finished.console);
    results(program, &kept.expect("it ran"))
}

/// Runs a program on the bare machine and as a guest, with both engines, and compares what each case
/// leaves behind; gives that.
#[track_caller]
pub(crate) fn compare(program: &Program) -> Vec<Outcome> {
    let wanted = bare(program, Engine::Interpreter);
    for (what, found) in [
        ("bare, translated", bare(program, TRANSLATOR)),
        ("guest", guest(program, Engine::Interpreter)),
        ("guest, translated", guest(program, TRANSLATOR)),
    ] {
        let mut failures = Vec::new();
        for ((number, case), (wanted, found)) in program
            .cases
            .iter()
            .enumerate()
            .zip(wanted.iter().zip(&found))
        {
            if wanted != found {
                failures.push(format!(
                    "{}, case {number}, {}: {:#?}",
                    what,
                    case.name,
                    wanted.differences(found)
                ));
            }
        }
        let shown = failures.len().min(10);
        assert!(
            failures.is_empty(),
            "{} of {} cases differ\n{}",
            failures.len(),
            program.cases.len(),
            failures[..shown].join("\n")
        );
    }
    wanted
}
