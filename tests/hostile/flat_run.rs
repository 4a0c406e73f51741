//! Runs flat images, as guests and on the bare machine.

use std::io::sink;

use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, Schedule};
use machine::platform::Outcome;
use posthaste::guest_run::GuestRun;

use crate::flat_image::FlatImage;

const SUCCESS: Outcome = Outcome::Exit(0x10);

/// An image as a guest of one virtual processor.
pub(crate) fn guest(image: FlatImage) -> GuestRun {
    GuestRun {
        guest: Some(image.build()),
        vcpus: 1,
        processors: 1,
        memory: 64 << 20,
        guest_memory_mib: Some(32),
        limit: 20_000_000,
        ..GuestRun::default()
    }
}

/// Runs an image as a guest with both engines; it must succeed with each.
#[track_caller]
pub(crate) fn succeeds(image: FlatImage) {
    for engine in [Engine::Interpreter, Engine::default()] {
        let finished = GuestRun {
            engine,
            ..guest(image.clone())
        }
        .run_to_end(Box::new(|_, _| {}))
        .expect("the hypervisor starts");
        let (outcome, console) = (finished.report.outcome, finished.console);
        assert_eq!(outcome, SUCCESS, "{engine:?}: {console}");
    }
}

/// The same on the bare machine.
#[track_caller]
pub(crate) fn succeeds_bare(image: FlatImage) {
    let image = image.build();
    for engine in [Engine::Interpreter, Engine::default()] {
        let mut machine = Machine::new(
            &Configuration {
                processors: 1,
                memory: 32 << 20,
                model: CpuModel::default(),
                schedule: Schedule::Deterministic { seed: 1 },
                engine,
                limit: 1_000_000,
                events: None,
            },
            &Kernel {
                image: &image,
                command_line: "",
                modules: &[],
                protocol: None,
            },
            Box::new(sink()),
        )
        .expect("the image loads");
        assert_eq!(machine.run().outcome, SUCCESS, "bare, {engine:?}");
    }
}
