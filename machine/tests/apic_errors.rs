//! Errors of the local APIC (SDM 10.5.3 Error Handling), as the program that makes them sees them at its next
//! instruction.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;
#[path = "support/tables.rs"]
mod tables;

use posthaste_machine::cpu::{Activity, Engine, Processor, Stop};

use support::CODE;

/// Vector of the error interrupt.
const ERROR: u8 = 0x52;
const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator { after: 1 }];
/// The local APIC's registers that are used, with RBX at the page.
const ERROR_STATUS: u32 = 0x280;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;

/// `mov dword [rbx + register], value`.
fn write(register: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x83];
    code.extend(register.to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// `mov eax, [rbx + register]`.
fn read(register: u32) -> Vec<u8> {
    let mut code = vec![0x8b, 0x83];
    code.extend(register.to_le_bytes());
    code
}

/// Runs `code` behind the enabling of the local APIC and its error interrupt, up to a HLT.
fn run(engine: Engine, code: &[Vec<u8>]) -> Processor {
    let mut program = vec![0xbb, 0, 0, 0xe0, 0xfe]; // mov ebx, 0fee00000h
    program.extend(write(0xf0, 0x1ff));
    program.extend(write(0x370, ERROR.into()));
    program.extend(code.concat());
    program.push(0xf4); // hlt
    let kernel = tables::kernel(&program);
    let mut processor = Processor::with_engine(kernel.cpu, engine);
    let cpu = &mut processor.cpu;
    // The handler moves 1 to ECX and returns.
    let handler = [0xb9, 1, 0, 0, 0, 0x48, 0xcf];
    cpu.platform
        .bus_agent()
        .write_bytes(tables::HANDLER, &handler);
    tables::set_gate(cpu, ERROR, tables::HANDLER, tables::CODE_64, 0x8e, 0);
    cpu.publish_identity();
    cpu.registers[1] = 0;
    let end = cpu.instructions + 1000;
    // What is sent to a processor ends a slice early.
    while processor.cpu.instructions < end {
        processor.cpu.slice_end = end;
        if processor.run() == Stop::Idle {
            break;
        }
    }
    assert_eq!(processor.cpu.activity, Activity::Halted);
    assert_eq!(
        processor.cpu.rip(),
        CODE + program.len() as u64,
        "{engine:?}"
    );
    processor
}

/// ESR behind `code`.
fn errors_of(engine: Engine, code: &[Vec<u8>]) -> u64 {
    let status = [write(ERROR_STATUS, 0), read(ERROR_STATUS)];
    let processor = run(engine, &[code, &status].concat());
    processor.cpu.registers[0]
}

#[test]
fn an_illegal_vector_to_oneself_is_sent_and_received() {
    for engine in ENGINES {
        for (command, sent) in [
            // Self; all including self; a destination that is this processor.
            (0x4_400f, 0x60),
            (0x8_400f, 0x60),
            (0x0_400f, 0x60),
            // All but self.
            (0xc_400f, 0x20),
            (0x4_4041, 0),
        ] {
            let code = [write(COMMAND_HIGH, 0), write(COMMAND, command)];
            assert_eq!(errors_of(engine, &code), sent, "{engine:?} {command:#x}");
        }
    }
}

#[test]
fn an_error_interrupts_at_the_next_instruction() {
    // STI, and the instruction behind it; CLI before HLT, so that only between can it come.
    let (open, close) = (vec![0xfb, 0x90], vec![0x90, 0xfa]);
    for engine in ENGINES {
        for (code, wanted) in [
            (read(0x40), 1),
            (write(0x40, 0), 1),
            (write(COMMAND, 0x4_4005), 1),
            (read(0x30), 0),
        ] {
            let processor = run(engine, &[open.clone(), code.clone(), close.clone()]);
            assert_eq!(processor.cpu.registers[1], wanted, "{engine:?} {code:x?}");
        }
    }
}
