//! A slice ends after any instruction, with either engine, and so does a run; where a run is stopped
//! changes nothing.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;

use posthaste_machine::cpu::{Engine, Processor};
use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::{Deterministic, run_parallel};
use support::{DATA, long_mode_processors};

const ENGINES: [Engine; 3] = [
    Engine::Interpreter,
    Engine::Translator { after: 1 },
    Engine::TRANSLATOR,
];
const LIMIT: u64 = 2_000_000;

/// Processors of one machine that execute those codes with RBX and RDI pointing at the data.
fn processors<const COUNT: usize>(codes: [&[u8]; COUNT], engine: Engine) -> [Processor; COUNT] {
    long_mode_processors(codes).map(|processor| {
        let mut cpu = processor.cpu;
        cpu.registers[3] = DATA;
        cpu.registers[7] = DATA + 0x1000;
        Processor::with_engine(cpu, engine)
    })
}

/// What can be seen of processors: registers and RIP, flags, instructions, traces with their times.
fn state(processors: &[Processor]) -> Vec<([u64; 18], u64, u64, u64, u64)> {
    let one = |Processor { cpu, .. }: &Processor| {
        let mut registers = [0; 18];
        registers.copy_from_slice(&cpu.registers[..18]);
        let hash = cpu.trace.hash();
        (registers, cpu.rflags(), cpu.instructions, cpu.now(), hash)
    };
    processors.iter().map(one).collect()
}

fn run_until(
    schedule: &mut Deterministic,
    processors: &mut [Processor],
    instructions: u64,
) -> Option<Outcome> {
    let platform = processors[0].cpu.platform.clone();
    schedule.run_until(&platform, processors, instructions)
}

/// Frees a lock and takes it again in one straight line, until the other has had it.
const OWNER: &[u8] = &[
    0xc7, 0x03, 0, 0, 0, 0, // again: mov dword [rbx], 0
    0xf3, 0x90, // wait: pause
    0xf0, 0x0f, 0xba, 0x2b, 0x00, // lock bts dword [rbx], 0
    0x72, 0xf7, // jc wait
    0x83, 0x7b, 0x04, 0x02, // cmp dword [rbx + 4], 2
    0x75, 0xe9, // jne again
    0xb0, 0x10, 0xe6, 0xf4, // mov al, 10h; out 0f4h, al
    0xf4,
];
const CONTENDER: &[u8] = &[
    0xf3, 0x90, // wait: pause
    0xf0, 0x0f, 0xba, 0x2b, 0x00, // lock bts dword [rbx], 0
    0x72, 0xf7, // jc wait
    0xff, 0x43, 0x04, // inc dword [rbx + 4]
    0xc7, 0x03, 0, 0, 0, 0, // mov dword [rbx], 0
    0xfa, 0xf4, // cli; hlt
];

#[test]
fn a_lock_that_is_free_for_one_instruction_is_obtained() {
    for seed in 1..=20 {
        let [first, ..] = ENGINES.map(|engine| {
            let mut processors = processors([OWNER, CONTENDER], engine);
            let ram = processors[0].cpu.platform.bus_agent();
            ram.store(DATA, 1_u32);
            ram.store(DATA + 4, 1_u32);
            let outcome = run_until(&mut Deterministic::new(seed), &mut processors, LIMIT);
            assert_eq!(
                outcome,
                Some(Outcome::Exit(0x10)),
                "seed {seed}, {engine:?}"
            );
            state(&processors)
        });
        assert_ne!(first[1].2, 0);
    }
}

/// Counts a common number up a thousand times, not atomically.
const COUNTER: &[u8] = &[
    0xfa, 0xb9, 0xe8, 0x03, 0, 0, // cli; mov ecx, 1000
    0x8b, 0x03, // again: mov eax, [rbx]
    0xff, 0xc0, // inc eax
    0x90, 0x90, // nop; nop
    0x89, 0x03, // mov [rbx], eax
    0xff, 0xc9, // dec ecx
    0x75, 0xf4, // jnz again
    0xf4,
];

#[test]
fn a_race_inside_a_block_is_seen() {
    let mut lost = 0;
    for seed in 1..=20 {
        let mut runs = ENGINES.map(|engine| {
            let mut processors = processors([COUNTER, COUNTER], engine);
            let outcome = run_until(&mut Deterministic::new(seed), &mut processors, LIMIT);
            assert_eq!(outcome, Some(Outcome::Deadlock));
            let count: u32 = processors[0].cpu.ram.load(DATA);
            (count, state(&processors))
        });
        let [one, others @ ..] = &mut runs;
        assert!(others.iter().all(|other| other == one), "seed {seed}");
        lost += u32::from(one.0 < 2000);
    }
    assert!(lost >= 10, "only {lost} of 20 seeds lose an update");
}

/// A straight line, a repeated instruction that takes several turns, a loop, ports and a call.
const MIXTURE: &[u8] = &[
    0x31, 0xc0, // xor eax, eax
    0xb9, 0xd0, 0x07, 0, 0, // mov ecx, 2000
    0x83, 0xc0, 0x03, // add eax, 3
    0x89, 0x03, // mov [rbx], eax
    0x48, 0x0f, 0xaf, 0xc0, // imul rax, rax
    0x48, 0x01, 0xc3, // add rbx, rax
    0x48, 0x29, 0xc3, // sub rbx, rax
    0x0f, 0xa2, // cpuid
    0xb8, 0x41, 0, 0, 0, // mov eax, 41h
    0xb9, 0xd0, 0x07, 0, 0, // mov ecx, 2000
    0xbb, 0, 0, 0x30, 0, // mov ebx, DATA
    0xf3, 0xaa, // rep stosb
    0xe6, 0x80, // out 80h, al
    0xb9, 0x06, 0, 0, 0, // mov ecx, 6
    0x01, 0x0b, // again: add [rbx], ecx
    0xe8, 0x05, 0, 0, 0, // call next
    0xff, 0xc9, // dec ecx
    0x75, 0xf5, // jnz again
    0xf4, // hlt
    0x0f, 0x31, // next: rdtsc
    0x01, 0x43, 0x08, // add [rbx + 8], eax
    0xc3, // ret
];

#[test]
fn a_run_stops_after_any_number_of_instructions() {
    let mut repetitions = 0;
    for number in 1..=90 {
        let [one, two, three] = ENGINES.map(|engine| {
            let mut processors = processors([MIXTURE, MIXTURE], engine);
            let outcome = run_until(&mut Deterministic::new(3), &mut processors, number);
            assert_eq!(outcome, None);
            let sum: u64 = processors.iter().map(|p| p.cpu.instructions).sum();
            assert_eq!(sum, number);
            state(&processors)
        });
        assert_eq!(one, two, "after {number}");
        assert_eq!(one, three, "after {number}");
        repetitions += u32::from(one[0].0[1] % 2000 != 0 && one[0].0[1] > 6);
    }
    assert!(repetitions > 0, "no stop in the repeated instruction");
}

#[test]
fn where_a_run_is_stopped_changes_nothing() {
    for engine in ENGINES {
        let whole = {
            let mut processors = processors([COUNTER, MIXTURE], engine);
            run_until(&mut Deterministic::new(7), &mut processors, 4001);
            state(&processors)
        };
        for step in [1, 2, 3, 7, 31, 100, 1000] {
            let mut processors = processors([COUNTER, MIXTURE], engine);
            let mut schedule = Deterministic::new(7);
            for stop in (1..4001).step_by(step).chain([4001]) {
                let outcome = run_until(&mut schedule, &mut processors, stop);
                assert_eq!(outcome, None);
            }
            assert_eq!(state(&processors), whole, "{engine:?}, every {step}");
        }
    }
}

#[test]
fn a_parallel_run_ends_after_so_many_instructions_of_all_processors() {
    // again: inc eax; nop; jmp again
    const SPIN: &[u8] = &[0xff, 0xc0, 0x90, 0xeb, 0xfb];
    for engine in ENGINES {
        for limit in [0, 1, 77, 50_000, 1_000_003] {
            let mut processors = processors([SPIN, SPIN, SPIN, SPIN], engine);
            let platform = processors[0].cpu.platform.clone();
            let outcome = run_parallel(&platform, &mut processors, limit);
            let limit_reached = Outcome::Limit {
                instructions: limit,
            };
            assert_eq!(outcome, limit_reached);
            let executed: u64 = processors.iter().map(|p| p.cpu.instructions).sum();
            assert_eq!(executed, limit, "{engine:?}");
        }
    }
}
