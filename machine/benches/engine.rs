//! Guest instructions per second of the engine, by kind of code: `cargo bench -p posthaste-machine`.
//!
//! Each loop runs for a fixed number of instructions with either engine; the best of five runs counts.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use posthaste_machine::cpu::raise::Pending;
use posthaste_machine::cpu::{Engine, Processor};
use support::long_mode;

const INSTRUCTIONS: u64 = 20_000_000;

fn main() {
    let loops: [(&str, &[u8]); 4] = [
        (
            "register arithmetic",
            // add rax, rbx; xor rcx, rax; lea rdx, [rax+rcx*4+8]; shr rdx, 3; inc rsi; test rdx, rdx; jmp
            &[
                0x48, 0x01, 0xd8, 0x48, 0x31, 0xc1, 0x48, 0x8d, 0x54, 0x88, 0x08, 0x48, 0xc1, 0xea,
                0x03, 0x48, 0xff, 0xc6, 0x48, 0x85, 0xd2, 0xeb, 0xe9,
            ],
        ),
        (
            "loads and stores",
            // mov [rsp-64], rax; mov rcx, [rsp-64]; add [rsp-56], rcx; movzx edx, byte [rsp-60]; push rdx; pop rbx; jmp
            &[
                0x48, 0x89, 0x44, 0x24, 0xc0, 0x48, 0x8b, 0x4c, 0x24, 0xc0, 0x48, 0x01, 0x4c, 0x24,
                0xc8, 0x0f, 0xb6, 0x54, 0x24, 0xc4, 0x52, 0x5b, 0xeb, 0xe8,
            ],
        ),
        (
            "calls and returns",
            // call +2; jmp start; inc rax; ret
            &[
                0xe8, 0x02, 0x00, 0x00, 0x00, 0xeb, 0xf9, 0x48, 0xff, 0xc0, 0xc3,
            ],
        ),
        (
            "branches on data",
            // imul rax, rax, 0x19660d; add rax, 0x3c6ef35f; bt eax, 17; jc +3; inc rbx; dec rcx; jnz start; jmp start
            &[
                0x48, 0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00, 0x48, 0x05, 0x5f, 0xf3, 0x6e, 0x3c, 0x0f,
                0xba, 0xe0, 0x11, 0x72, 0x03, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc9, 0x75, 0xe5, 0xeb,
                0xe3,
            ],
        ),
    ];
    for (name, code) in loops {
        let mut best = [f64::MAX; 2];
        for _ in 0..5 {
            let engines = [Engine::Interpreter, Engine::default()];
            for (engine, best) in engines.into_iter().zip(&mut best) {
                let mut processor = Processor::with_engine(long_mode(code).cpu, engine);
                processor.cpu.slice_end = INSTRUCTIONS;
                let start = Instant::now();
                processor.run();
                assert_eq!(processor.cpu.pending, Pending::Again, "no fault");
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        let [interpreter, translator] = best.map(|time| INSTRUCTIONS as f64 / time / 1e6);
        println!(
            "{name}: {interpreter:.0} million instructions a second interpreted, \
             {translator:.0} translated: {:.1} times",
            translator / interpreter
        );
    }
}
