//! Random sequences of the same forms, as blocks that the translator translates and the interpreter
//! interprets: everything must come out the same, flags that the manual leaves undefined included.

use std::fmt::Write;

use iced_x86::Mnemonic;
use posthaste_machine::cpu::Engine as Kind;

use crate::case::{CODE, STACK_WINDOW, WINDOW};
use crate::compare::{Engine, random_state, random_windows, text};
use crate::forms::{self, Form};
use crate::random::Random;

/// Sequences.
const SEQUENCES: u64 = 20_000;
/// States from which each runs.
const STATES: u64 = 12;
/// Sequences after which the processors are new: some write over their page tables.
const RENEWAL: u64 = 32;
/// JMP to itself.
const STAY: [u8; 2] = [0xeb, 0xfe];

/// Gives how many sequences there were, and descriptions of those that differed.
pub fn run() -> (u64, Vec<String>) {
    let mut random = Random::new(0x5eed_0002);
    let all: Vec<Form> = forms::all();
    let integer: Vec<Form> = all
        .iter()
        .copied()
        .filter(|form| {
            let features = format!("{:?}", form.code.cpuid_features());
            !["SSE", "FPU", "MMX"]
                .iter()
                .any(|name| features.contains(name))
        })
        .collect();
    let mut interpreter = Engine::new(Kind::Interpreter);
    let mut translator = Engine::new(Kind::Translator { after: 1 });
    let mut rip = CODE;
    let mut differences = Vec::new();
    let mut sequences = 0;
    let mut completed = 0;
    let mut translations = 0;
    while sequences < SEQUENCES {
        sequences += 1;
        if sequences % RENEWAL == 0 {
            translations += translator.processor.translations();
            interpreter = Engine::new(Kind::Interpreter);
            translator = Engine::new(Kind::Translator { after: 1 });
            rip = CODE;
        }
        let mut code = Vec::new();
        let mut listing = String::new();
        let mut parts = Vec::new();
        let length = 1 + random.below(10);
        // Mostly one operand in memory, and mostly the first, whose address nothing changes.
        let memory = if random.chance(60) {
            0
        } else {
            random.below(20)
        };
        for number in 0..length {
            let form = if random.chance(80) {
                random.pick(&integer)
            } else {
                random.pick(&all)
            };
            if form.memory != (number == memory) && random.chance(95)
                || form.code.mnemonic() == Mnemonic::Div
                || form.code.mnemonic() == Mnemonic::Idiv
            {
                continue;
            }
            let Some(encoded) = forms::encode(form, rip + code.len() as u64, &mut random) else {
                continue;
            };
            let _ = write!(listing, "{}; ", text(&encoded.instruction));
            code.extend(&encoded.bytes);
            parts.push((form, encoded));
        }
        let Some((form, last)) = parts.last() else {
            continue;
        };
        let count = parts.len() as u64 + 1;
        code.extend(STAY);
        interpreter.write(rip, &code);
        translator.write(rip, &code);
        for _ in 0..STATES {
            let mut before = random_state(*form, last, &mut random);
            for (_, part) in &parts {
                if let Some(address) = &part.address {
                    address.set(&mut before.registers, &mut random);
                }
            }
            before.registers[4] = crate::case::STACK;
            let windows = random_windows(last, &mut before, None, &mut random);
            let mut ends = [&mut interpreter, &mut translator].map(|engine| {
                let mut state = before.clone();
                engine.write(WINDOW, &windows.data);
                engine.write(STACK_WINDOW, &windows.stack);
                let begin = engine.processor.cpu.instructions;
                let stopped = engine.run(rip, count, &mut state);
                let cpu = &engine.processor.cpu;
                let facts = (stopped, cpu.instructions - begin, cpu.rip());
                (state, facts, engine.windows())
            });
            completed += u64::from(!ends[0].1.0);
            let [(ours, ..), (theirs, ..)] = &mut ends;
            let mut text = String::new();
            for number in 0..16 {
                if ours.registers[number] != theirs.registers[number] {
                    let _ = write!(
                        text,
                        " register {number}: {:#x}, translated {:#x};",
                        ours.registers[number], theirs.registers[number]
                    );
                }
            }
            if ours.flags != theirs.flags {
                let _ = write!(
                    text,
                    " flags {:#x}, translated {:#x};",
                    ours.flags, theirs.flags
                );
            }
            if ours.fx != theirs.fx {
                text.push_str(" FX image;");
            }
            if ends[0].1 != ends[1].1 {
                let _ = write!(text, " {:x?}, translated {:x?};", ends[0].1, ends[1].1);
            }
            if ends[0].2 != ends[1].2 {
                text.push_str(" memory;");
            }
            if !text.is_empty() {
                differences.push(format!(
                    "{listing}{text} before {:x?} {:#x}",
                    before.registers, before.flags
                ));
                break;
            }
        }
        rip += (code.len() as u64).next_multiple_of(16);
    }
    assert!(
        translations > SEQUENCES / 2,
        "{translations} blocks translated"
    );
    println!("{sequences} sequences, {completed} runs complete, {translations} translations");
    assert!(completed > SEQUENCES, "{completed} runs without a fault");
    (sequences, differences)
}
