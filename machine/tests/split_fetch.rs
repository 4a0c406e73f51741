//! Instructions that span two pages: which bytes they are follows from both pages as they are now (SDM 4.10.2.2, 4.7, 8.1.3),
//! however often they have been executed.

mod support;
#[path = "support/tables.rs"]
mod tables;

use posthaste_machine::cpu::{Activity, Engine, Processor, Stop};
use tables::{CODE_64, HANDLER, set_gate};

/// A region of 4-KByte pages, its page table, and the frames that it maps.
const REGION: u64 = 0x40_0000;
const PAGE_TABLE: u64 = 0x20_0000;
const FIRST: u64 = 0x50_0000;
const SECOND: u64 = 0x50_1000;
const OTHER_SECOND: u64 = 0x50_2000;
/// The last three bytes of the first page: where `mov eax, imm32` begins, which HLT follows.
const START: u64 = REGION + 0xffd;
/// The same in another pair of pages.
const ALIAS: u64 = 0x10_0000;
const PRESENT: u64 = 3;
const ACCESSED: u64 = 1 << 5;
const EXECUTE_DISABLE: u64 = 1 << 63;
/// Page-fault error codes: a fetch; and a page that is present.
const FETCH: u64 = 0x10;
const PROTECTION: u64 = 1;

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator { after: 1 }];

fn set_page(processor: &mut Processor, linear: u64, entry: u64) {
    let at = PAGE_TABLE + ((linear - REGION) >> 12) * 8;
    processor.cpu.platform.bus_agent().store(at, entry);
}

fn processor(engine: Engine) -> Processor {
    let mut processor = Processor::with_engine(tables::kernel(&[]).cpu, engine);
    set_gate(&mut processor.cpu, 14, HANDLER, CODE_64, 0x8e, 0);
    let agent = processor.cpu.platform.bus_agent();
    agent.store(0x3000 + (REGION >> 21) * 8, PAGE_TABLE | PRESENT);
    agent.write_bytes(FIRST + 0xffd, &[0xb8, 0x11, 0x11]);
    agent.write_bytes(SECOND, &[0x22, 0x22, 0xf4]);
    agent.write_bytes(OTHER_SECOND, &[0x33, 0x33, 0xf4]);
    set_page(&mut processor, REGION, FIRST | PRESENT);
    set_page(&mut processor, REGION + 0x1000, SECOND | PRESENT);
    set_page(&mut processor, REGION + ALIAS, FIRST | PRESENT);
    set_page(
        &mut processor,
        REGION + ALIAS + 0x1000,
        OTHER_SECOND | PRESENT,
    );
    processor
}

/// Runs from `rip` until the processor halts; gives EAX.
fn run_at(processor: &mut Processor, rip: u64) -> u64 {
    let cpu = &mut processor.cpu;
    cpu.activity = Activity::Active;
    cpu.registers[0] = 0;
    cpu.registers[4] = support::STACK;
    cpu.set_rip(rip);
    cpu.slice_end = cpu.instructions + 100;
    cpu.check_events = true;
    assert_eq!(processor.run(), Stop::Idle);
    assert_eq!(processor.cpu.activity, Activity::Halted);
    processor.cpu.registers[0]
}

/// Often enough that it is decoded, kept and translated.
fn warm_up(processor: &mut Processor) {
    for _ in 0..4 {
        assert_eq!(run_at(processor, START), 0x2222_1111);
    }
}

/// That the fetch faults on the second page's first byte, before anything is executed.
fn expect_fault(processor: &mut Processor, code: u64) {
    assert_eq!(run_at(processor, START), 0);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER + 1);
    assert_eq!(cpu.cr2, REGION + 0x1000);
    let frame: [u64; 2] = [0, 8].map(|distance| cpu.ram.load(cpu.registers[4] + distance));
    assert_eq!(frame, [code, START]);
}

#[test]
fn the_second_page_is_what_it_is_mapped_to() {
    for engine in ENGINES {
        let mut processor = processor(engine);
        for _ in 0..3 {
            warm_up(&mut processor);
            set_page(&mut processor, REGION + 0x1000, OTHER_SECOND | PRESENT);
            processor.cpu.tlb.flush_page(REGION + 0x1000);
            for _ in 0..3 {
                assert_eq!(run_at(&mut processor, START), 0x3333_1111, "{engine:?}");
            }
            set_page(&mut processor, REGION + 0x1000, SECOND | PRESENT);
            processor.cpu.tlb.flush();
        }
    }
}

#[test]
fn one_first_page_has_as_many_second_pages_as_views() {
    for engine in ENGINES {
        let mut processor = processor(engine);
        for _ in 0..4 {
            assert_eq!(run_at(&mut processor, START), 0x2222_1111, "{engine:?}");
            assert_eq!(
                run_at(&mut processor, START + ALIAS),
                0x3333_1111,
                "{engine:?}"
            );
        }
    }
}

#[test]
fn a_second_page_that_cannot_be_fetched_from_faults() {
    for engine in ENGINES {
        let mut processor = processor(engine);
        for _ in 0..2 {
            warm_up(&mut processor);
            set_page(&mut processor, REGION + 0x1000, SECOND);
            processor.cpu.tlb.flush_page(REGION + 0x1000);
            expect_fault(&mut processor, FETCH);
            set_page(
                &mut processor,
                REGION + 0x1000,
                SECOND | PRESENT | EXECUTE_DISABLE,
            );
            expect_fault(&mut processor, FETCH | PROTECTION);
            set_page(&mut processor, REGION + 0x1000, SECOND | PRESENT);
        }
        warm_up(&mut processor);
    }
}

#[test]
fn a_fetch_from_the_second_page_sets_its_accessed_flag() {
    for engine in ENGINES {
        let mut processor = processor(engine);
        let at = PAGE_TABLE + 8;
        for _ in 0..3 {
            warm_up(&mut processor);
            assert_ne!(
                processor.cpu.ram.load::<u64>(at) & ACCESSED,
                0,
                "{engine:?}"
            );
            set_page(&mut processor, REGION + 0x1000, SECOND | PRESENT);
            processor.cpu.tlb.flush_page(REGION + 0x1000);
        }
    }
}

#[test]
fn either_page_can_be_overwritten() {
    for engine in ENGINES {
        let mut processor = processor(engine);
        for value in [0x44_u8, 0x55, 0x66] {
            for (at, shift) in [(SECOND, 16), (FIRST + 0xffe, 0)] {
                let before = run_at(&mut processor, START);
                // By the processor, and by somebody else.
                processor.cpu.store(at, value);
                let expected = before & !(0xff << shift) | u64::from(value) << shift;
                assert_eq!(run_at(&mut processor, START), expected, "{engine:?}");
                processor.cpu.platform.bus_agent().store(at, value + 1);
                let expected = before & !(0xff << shift) | u64::from(value + 1) << shift;
                for _ in 0..3 {
                    assert_eq!(run_at(&mut processor, START), expected, "{engine:?}");
                }
            }
        }
    }
}

/// A loop of a block before the instruction, the instruction, and a branch back into the first page.
#[test]
fn a_loop_with_such_an_instruction_is_kept_and_translated() {
    let mut counts = Vec::new();
    for engine in ENGINES {
        let mut processor = processor(engine);
        let agent = processor.cpu.platform.bus_agent();
        // inc ecx; then add edx, imm32 with three bytes here; cmp ecx, 1000; jb the first; hlt
        agent.write_bytes(FIRST + 0xffb, &[0xff, 0xc1, 0x81, 0xc2, 0x05]);
        agent.write_bytes(
            SECOND,
            &[0, 0, 0, 0x81, 0xf9, 0xe8, 0x03, 0, 0, 0x72, 0xf0, 0xf4],
        );
        processor.cpu.registers[1] = 0;
        processor.cpu.registers[2] = 0;
        let cpu = &mut processor.cpu;
        cpu.registers[4] = support::STACK;
        cpu.set_rip(REGION + 0xffb);
        cpu.slice_end = cpu.instructions + 10_000;
        assert_eq!(processor.run(), Stop::Idle);
        assert_eq!(processor.cpu.registers[1], 1000, "{engine:?}");
        assert_eq!(processor.cpu.registers[2], 5000, "{engine:?}");
        counts.push(processor.cpu.instructions);
        if engine != Engine::Interpreter && cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            // The block before, the instruction, the block behind, HLT.
            assert_eq!(processor.translations(), 4);
        }
    }
    assert_eq!(counts[0], counts[1]);
}
