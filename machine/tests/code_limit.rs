//! Instruction fetch in segments: the limit of CS holds for each instruction (SDM 5.3 Limit checking), and
//! the instruction pointer wraps at 4 GiB (SDM volume 1, 3.5 Instruction pointer).
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;
#[path = "support/tables.rs"]
mod tables;

use posthaste_machine::cpu::segment::{Segment, register, rights};
use posthaste_machine::cpu::{Processor, Stop};
use support::CODE;
use tables::{CODE_64, HANDLER, set_gate};

const NOP: u8 = 0x90;
const MOV_EAX: u8 = 0xb8;
const HLT: u8 = 0xf4;
const GENERAL_PROTECTION: u8 = 13;
/// Lengths of the slices in which each case is run.
const SLICES: [u64; 4] = [1, 3, 20, 1000];

/// Compatibility mode in a code segment of that base, limit and size, before the byte at `rip`.
fn in_segment(code: &[u8], base: u64, limit: u32, size: u32, rip: u64) -> Processor {
    let mut processor = tables::kernel(code);
    let cpu = &mut processor.cpu;
    set_gate(cpu, GENERAL_PROTECTION, HANDLER, CODE_64, 0x8e, 0);
    let cs = &mut cpu.segments[register::CS as usize];
    *cs = Segment {
        base,
        limit,
        rights: cs.rights & !rights::LONG | size,
        ..*cs
    };
    cpu.set_rip(rip);
    cpu.refresh_mode();
    processor
}

/// Runs to HLT in slices of that length.
fn run(processor: &mut Processor, slice: u64) {
    loop {
        processor.cpu.slice_end = processor.cpu.instructions + slice;
        if processor.run() == Stop::Idle {
            break;
        }
        assert!(processor.cpu.instructions < 10_000);
    }
}

/// Runs to the #GP(0) that must come; gives the instruction pointer it was raised at, and how many
/// instructions were executed before.
fn fault(processor: &mut Processor, slice: u64) -> (u64, u64) {
    let before = processor.cpu.instructions;
    run(processor, slice);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER + 1, "no #GP");
    let [error, rip] = [0, 8].map(|at| cpu.ram.load::<u64>(cpu.registers[4] + at));
    assert_eq!(error, 0);
    // Without the fetch that faulted and the handler's HLT.
    (rip, cpu.instructions - before - 2)
}

#[test]
fn no_instruction_beyond_the_limit_is_executed() {
    for slice in SLICES {
        for limit in 0..100 {
            for from in [0, limit / 2, limit] {
                let mut processor = in_segment(&[NOP; 200], CODE, limit, rights::BIG, from.into());
                let (rip, executed) = fault(&mut processor, slice);
                assert_eq!(rip, u64::from(limit) + 1);
                assert_eq!(executed, u64::from(limit - from) + 1);
            }
        }
    }
}

#[test]
fn an_instruction_across_the_limit_faults_at_its_start() {
    for slice in SLICES {
        // In one page, and with the limit or the instruction at the end of a page.
        for base in [CODE, CODE + 0xfe0, CODE + 0xfdf, CODE + 0xfdd] {
            let mut processor = in_segment(&[], base, 0x1f, rights::BIG, 0);
            let ram = processor.cpu.platform.bus_agent();
            ram.fill(base, 0x40, NOP);
            ram.store(base + 0x1e, MOV_EAX);
            assert_eq!(fault(&mut processor, slice), (0x1e, 0x1e));
        }
    }
}

#[test]
fn what_ends_at_the_limit_is_executed() {
    for slice in SLICES {
        let mut code = [NOP; 0x40];
        code[0x1b] = MOV_EAX;
        let mut processor = in_segment(&code, CODE, 0x1f, rights::BIG, 0);
        assert_eq!(fault(&mut processor, slice), (0x20, 0x1c));
        assert_eq!(processor.cpu.registers[0], 0x9090_9090);
    }
}

#[test]
fn sixteen_bit_code_does_not_go_on_at_0() {
    for slice in SLICES {
        let mut processor = in_segment(&[NOP; 64], CODE - 0xffe0, 0xffff, 0, 0xffe0);
        assert_eq!(fault(&mut processor, slice), (0x1_0000, 0x20));
    }
}

#[test]
fn the_instruction_pointer_wraps_at_4_gib() {
    for slice in SLICES {
        // In the middle of a page, and at a page's end.
        for base in [CODE + 0x800, CODE + 0x1000] {
            let mut processor = in_segment(&[], base, u32::MAX, rights::BIG, 0xffff_fff0);
            processor.cpu.platform.bus_agent().fill(base - 16, 32, NOP);
            processor.cpu.store(base + 4, HLT);
            run(&mut processor, slice);
            assert_eq!(processor.cpu.rip(), 5);
            assert_eq!(processor.cpu.instructions, 21);

            // An instruction across the end; what it pushes is an offset too.
            let mut processor = in_segment(&[], base, u32::MAX, rights::BIG, 0xffff_fffd);
            let call = [0xe8, 1, 0, 0, 0, HLT, HLT];
            processor
                .cpu
                .platform
                .bus_agent()
                .write_bytes(base - 3, &call);
            run(&mut processor, slice);
            assert_eq!(processor.cpu.rip(), 4);
            let top = processor.cpu.registers[4];
            assert_eq!(processor.cpu.ram.load::<u32>(top), 2);
        }
    }
}

#[test]
fn it_wraps_when_each_instruction_is_looked_at() {
    let mut processor = in_segment(&[], CODE + 0x800, u32::MAX, rights::BIG, 0xffff_ffff);
    processor.cpu.store(CODE + 0x7ff, NOP);
    support::step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), 0);
}
