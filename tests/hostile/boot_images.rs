//! Boot images and modules with anything changed: the machine loads them or says why not.

use std::io::sink;
use std::panic::{AssertUnwindSafe, catch_unwind};

use machine::cpu::{CpuModel, Engine};
use machine::machine::{Configuration, Kernel, Machine, MachineError, Module, Schedule};
use posthaste::images;

use crate::random::Random;

fn configuration(limit: u64) -> Configuration {
    Configuration {
        processors: 2,
        memory: 64 << 20,
        model: CpuModel::default(),
        schedule: Schedule::Deterministic { seed: 1 },
        engine: Engine::default(),
        limit,
        events: None,
    }
}

/// Changes some bytes, mostly in the headers, or cuts the image.
fn mutate(random: &mut Random, image: &mut Vec<u8>) {
    // ELF header, program headers and notes are at the front, section headers at the end.
    for _ in 0..1 + random.below(4) {
        let near = random.pick(&[0x40, 0x200, 0x1000, image.len() as u64]);
        let at = random.below(near) as usize;
        let width = random.pick(&[1, 2, 4, 8]);
        let value = random.value().to_le_bytes();
        if let Some(bytes) = image.get_mut(at..at + width) {
            bytes.copy_from_slice(&value[..width]);
        }
    }
    if random.chance(10) {
        image.truncate(random.below(image.len() as u64) as usize);
    }
}

fn start(kernel: &[u8], module: &[u8], limit: u64) -> Result<Machine, MachineError> {
    Machine::new(
        &configuration(limit),
        &Kernel {
            image: kernel,
            command_line: "vcpus=2",
            modules: &[Module {
                bytes: module,
                command_line: "apic=x2apic",
            }],
            protocol: None,
        },
        Box::new(sink()),
    )
}

#[test]
fn a_changed_kernel_is_loaded_or_refused() {
    let mut refused = 0;
    for seed in 0..1500 {
        let mut random = Random::new(seed);
        let mut image = random.pick(&[images::HYPERVISOR, images::GUEST]).to_vec();
        mutate(&mut random, &mut image);
        let run = AssertUnwindSafe(|| match start(&image, images::GUEST, 20_000) {
            Ok(mut machine) => {
                machine.run();
                false
            }
            Err(error) => !error.to_string().is_empty(),
        });
        match catch_unwind(run) {
            Ok(not) => refused += u32::from(not),
            Err(_) => panic!("seed {seed} panicked"),
        }
    }
    assert!(refused > 50, "only {refused} images were refused");
}

#[test]
fn a_changed_guest_is_started_or_refused_by_the_hypervisor() {
    for seed in 0..25 {
        let mut random = Random::new(seed);
        let mut image = images::GUEST.to_vec();
        // Headers only: what its code does is in the tests with hostile guests.
        for _ in 0..2 {
            let at = random.below(0x180) as usize;
            image[at] ^= 1 << random.below(8);
        }
        if random.chance(20) {
            image.truncate(random.below(0x2000) as usize);
        }
        let finished = posthaste::guest_run::GuestRun {
            guest: Some(image),
            hypervisor_options: "memory=32".to_owned(),
            vcpus: 2,
            processors: 2,
            memory: 64 << 20,
            limit: 40_000_000,
            ..Default::default()
        }
        .run_to_end(Box::new(|_, _| {}))
        .expect("the hypervisor starts");
        let console = &finished.console;
        assert!(
            !console.contains("panic") && !console.contains("entry-failure"),
            "seed {seed}: {console}"
        );
    }
}
