//! Accesses to devices take virtual time, and others go on meanwhile.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;

use posthaste_machine::cpu::{Engine, Processor};
use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::{Deterministic, run_parallel};
use support::{DATA, long_mode_processors};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator { after: 1 }];
const LIMIT: u64 = 1 << 40;
const ACCESSES: u32 = 1000;

/// Code that executes `body` [`ACCESSES`] times with RBX at `address`, a port or memory in DX and RDX and RDI
/// at the data, and leaves in R8 how many ticks that took.
fn timed(body: &[u8], address: u32) -> Vec<u8> {
    let mut code = vec![0x0f, 0x31, 0x41, 0x89, 0xc0]; // rdtsc; mov r8d, eax
    code.push(0xbb); // mov ebx, address
    code.extend(address.to_le_bytes());
    code.extend([0xbf]); // mov edi, DATA
    code.extend((DATA as u32).to_le_bytes());
    code.extend([0x66, 0xba, 0x80, 0x00]); // mov dx, 80h
    code.extend([0x41, 0xb9]); // mov r9d, ACCESSES
    code.extend(ACCESSES.to_le_bytes());
    code.extend(body);
    code.extend([0x41, 0xff, 0xc9]); // dec r9d
    code.extend([0x75, (-(body.len() as i8) - 5) as u8]); // jnz body
    code.extend([0x0f, 0x31, 0x44, 0x29, 0xc0, 0x41, 0x89, 0xc0]); // rdtsc; sub eax, r8d; mov r8d, eax
    code.extend([0xfa, 0xf4]); // cli; hlt
    code
}

fn processors<const COUNT: usize>(codes: [&[u8]; COUNT], engine: Engine) -> [Processor; COUNT] {
    long_mode_processors(codes).map(|processor| Processor::with_engine(processor.cpu, engine))
}

/// How many ticks that takes in the deterministic schedule, without a tick for each instruction.
fn ticks(body: &[u8], address: u32) -> u64 {
    let code = timed(body, address);
    let [one, other] = ENGINES.map(|engine| {
        let mut processors = processors([&code], engine);
        let platform = processors[0].cpu.platform.clone();
        let outcome = Deterministic::new(1).run_until(&platform, &mut processors, LIMIT);
        assert_eq!(outcome, Some(Outcome::Deadlock));
        // A few of them come before the first look at the time and after the last.
        processors[0].cpu.registers[8] + 10 - processors[0].cpu.instructions
    });
    assert_eq!(one, other);
    one - one % 10
}

const IO_APIC: u32 = 0xfec0_0000;
const LOCAL_APIC: u32 = 0xfee0_0030;
const NOTHING: u32 = 0xfd00_0000;

#[test]
fn a_thousand_accesses_take_a_millisecond() {
    let accesses: [(&str, &[u8], u32); 7] = [
        ("IN", &[0xec], 0),
        ("OUT", &[0xe6, 0x80], 0),
        ("INS", &[0x6c], 0),
        ("OUTS", &[0x6e], 0),
        ("a read of the I/O APIC", &[0x8b, 0x03], IO_APIC),
        ("a write of the I/O APIC", &[0x89, 0x03], IO_APIC),
        ("a read of nothing", &[0x8b, 0x03], NOTHING),
    ];
    for (name, body, address) in accesses {
        assert_eq!(ticks(body, address), 1_000_000, "{name}");
    }
    // A read, then a write.
    let add = [0x01, 0x03];
    assert_eq!(ticks(&add, NOTHING), 2_000_000);
}

#[test]
fn what_is_inside_the_processor_takes_no_more_than_an_instruction() {
    for body in [[0x8b, 0x03], [0x89, 0x03]] {
        assert_eq!(ticks(&body, LOCAL_APIC), 0);
        assert_eq!(ticks(&body, DATA as u32 + 0x1000), 0);
    }
}

#[test]
fn each_iteration_of_a_repeated_instruction_takes_that_time() {
    // mov ecx, 10, then rep insb, rep outsb, or rep movsd from or to the I/O APIC's address.
    let from = [
        0x89, 0xde, 0xb9, 10, 0, 0, 0, 0xf3, 0xa5, 0xbf, 0, 0, 0x30, 0,
    ];
    let insb = [0xb9, 10, 0, 0, 0, 0xf3, 0x6c];
    let outsb = [0xbe, 0, 0, 0x30, 0, 0xb9, 10, 0, 0, 0, 0xf3, 0x6e];
    for body in [&insb[..], &outsb, &from] {
        assert_eq!(ticks(body, IO_APIC), 10_000_000);
    }
}

#[test]
fn others_go_on_while_a_device_is_accessed() {
    let reader = timed(&[0xec], 0);
    // again: inc rax; jmp again
    let counter = [0x48, 0xff, 0xc0, 0xeb, 0xfb];
    for engine in ENGINES {
        for seed in 1..5 {
            let mut processors = processors([&reader, &counter], engine);
            let platform = processors[0].cpu.platform.clone();
            let mut schedule = Deterministic::new(seed);
            schedule.run_until(&platform, &mut processors, 2_000_000);
            let [reader, counter] = processors.map(|processor| processor.cpu);
            assert_eq!(reader.instructions, u64::from(ACCESSES) * 3 + 11);
            // About an instruction a tick for whoever does not wait.
            let per_tick = counter.instructions as f64 / counter.now() as f64;
            assert!((0.99..1.3).contains(&per_tick), "{per_tick}");
            // The reader's next turn comes when the counter's is over.
            let ticks = reader.registers[8];
            assert!((1_000_000..1_700_000).contains(&ticks), "{ticks}");
            println!("{per_tick} {ticks}");
        }
    }
}

#[test]
fn time_passes_in_the_parallel_schedule_too() {
    let code = timed(&[0xec], 0);
    let mut processors = processors([&code, &code], Engine::TRANSLATOR);
    let platform = processors[0].cpu.platform.clone();
    let outcome = run_parallel(&platform, &mut processors, LIMIT);
    assert_eq!(outcome, Outcome::Deadlock);
    for processor in processors {
        let ticks = processor.cpu.registers[8];
        assert!(ticks >= 1_000_000, "{ticks}");
    }
}
