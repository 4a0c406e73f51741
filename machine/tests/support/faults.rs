//! Runs code in 64-bit mode over pages of 4 KBytes, with both engines, and says which fault ended it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use posthaste_machine::cpu::segment::{Segment, register};
use posthaste_machine::cpu::{Activity, Cpu, Engine, Processor, Stop};

use crate::support::CODE;
use crate::tables;

/// Where the pages are; each is at the same physical address.
pub const PAGES: u64 = 0x40_0000;
/// The page table of [`PAGES`].
const PAGE_TABLE: u64 = 0xb000;
/// What INT raises behind the code.
const END: u8 = 0x80;
/// Bits of a page-table entry.
pub const PRESENT: u64 = 1;
/// The page may be written.
pub const WRITABLE: u64 = 2;
/// Ring 3 has access.
pub const USER: u64 = 4;
/// The page was accessed.
pub const ACCESSED: u64 = 0x20;
/// The page was written.
pub const DIRTY: u64 = 0x40;

/// An exception that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u8,
    pub error_code: Option<u64>,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
    /// CR2, if it is #PF.
    pub cr2: Option<u64>,
}

/// In which mode and at which privilege the code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// 64-bit mode, CPL 0.
    Zero,
    /// 64-bit mode, CPL 3.
    Three,
    /// 32-bit code in compatibility mode, CPL 3.
    Three32,
}

/// The rights of page `number` of [`PAGES`].
pub fn set_page(cpu: &mut Cpu, number: u64, rights: u64) {
    let entry = (PAGES + number * 4096) | rights;
    cpu.store(PAGE_TABLE + number * 8, entry);
}

/// The page-table entry of page `number` of [`PAGES`].
pub fn page_entry(cpu: &Cpu, number: u64) -> u64 {
    cpu.ram.load(PAGE_TABLE + number * 8)
}

/// Runs `code` from a state that `prepare` changes until an exception or the code's end, with each
/// engine; both must agree. Gives the exception, if there was one, and the processor.
pub fn run(ring: Ring, code: &[u8], prepare: impl Fn(&mut Cpu)) -> (Option<Fault>, Processor) {
    let [interpreted, translated] = [Engine::Interpreter, Engine::Translator { after: 1 }]
        .map(|engine| run_with(engine, ring, code, &prepare));
    assert_eq!(interpreted.0, translated.0, "{code:02x?}");
    let state = |processor: &Processor| {
        let cpu = &processor.cpu;
        let mut pages = vec![0; 16 * 4096];
        cpu.ram.read_bytes(PAGES, &mut pages);
        let entries: Vec<u64> = (0..16).map(|number| page_entry(cpu, number)).collect();
        (cpu.registers, cpu.xmm, cpu.x87, pages, entries)
    };
    assert_eq!(state(&interpreted.1), state(&translated.1), "{code:02x?}");
    translated
}

fn run_with(
    engine: Engine,
    ring: Ring,
    code: &[u8],
    prepare: &impl Fn(&mut Cpu),
) -> (Option<Fault>, Processor) {
    let code = [code, &[0xcd, END]].concat();
    let mut processor = match ring {
        Ring::Zero => tables::kernel(&code),
        Ring::Three | Ring::Three32 => tables::user(&code),
    };
    let cpu = &mut processor.cpu;
    if ring == Ring::Three32 {
        cpu.segments[register::CS as usize] =
            Segment::from_descriptor(tables::USER_CODE_32 | 3, tables::flat(0xc0fb));
    }
    cpu.store(0x3010, PAGE_TABLE | 7);
    for number in 0..512 {
        set_page(cpu, number, PRESENT | WRITABLE | USER);
    }
    for vector in 0..=END {
        let handler = tables::HANDLER + u64::from(vector) * 16;
        cpu.store(handler, 0xf4_u8);
        tables::set_gate(cpu, vector, handler, tables::CODE_64, 0xee, 1);
    }
    prepare(cpu);
    cpu.refresh_mode();
    let mut processor = Processor::with_engine(processor.cpu, engine);
    processor.cpu.slice_end = processor.cpu.instructions + 100_000;
    assert_eq!(processor.run(), Stop::Idle, "{code:02x?}");
    let cpu = &processor.cpu;
    assert_eq!(cpu.activity, Activity::Halted, "{code:02x?}");
    let vector = ((cpu.rip() - tables::HANDLER) / 16) as u8;
    if vector == END {
        return (None, processor);
    }
    let has_code = matches!(vector, 8 | 10..=14 | 17);
    let frame = cpu.registers[4];
    let word = |index: u64| {
        cpu.ram
            .load::<u64>(frame + (index + u64::from(has_code)) * 8)
    };
    let fault = Fault {
        vector,
        error_code: has_code.then(|| cpu.ram.load(frame)),
        rip: word(0) - CODE,
        rflags: word(2),
        rsp: word(3),
        cr2: (vector == 14).then_some(cpu.cr2),
    };
    (Some(fault), processor)
}
