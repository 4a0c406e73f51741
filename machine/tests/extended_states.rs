//! The XSAVE feature set (SDM volume 1, chapter 13 Managing state using the XSAVE feature set).

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4};
use arch::msr;
use posthaste_machine::cpu::x87::X87;
use posthaste_machine::cpu::{Cpu, Processor};
use support::{CODE, DATA};
use tables::*;

const XSAVE: &[u8] = &[0x0f, 0xae, 0x27];
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XRSTOR: &[u8] = &[0x0f, 0xae, 0x2f];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2f];
const XSAVEOPT: &[u8] = &[0x0f, 0xae, 0x37];
const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x27];
const XSAVES: &[u8] = &[0x0f, 0xc7, 0x2f];
const XRSTORS: &[u8] = &[0x0f, 0xc7, 0x1f];
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const COMPACTED: u64 = 1 << 63;
const X87_BIT: u64 = 1;
const SSE_BIT: u64 = 2;
const MXCSR: u32 = 0x1fa0;

/// A kernel that has enabled both components, with state in them, and the area at RDI.
fn enabled(code: &[u8], request: u64) -> Processor {
    let mut processor = kernel(code);
    prepare(&mut processor.cpu, request);
    processor
}

fn prepare(cpu: &mut Cpu, request: u64) {
    cpu.write_cr4(cpu.cr4 | cr4::OSXSAVE).unwrap();
    cpu.xcr0 = 3;
    cpu.registers[7] = DATA;
    cpu.registers[0] = request & 0xffff_ffff | 0xdead << 32;
    cpu.registers[2] = request >> 32 | 0xbeef << 32;
    for (i, register) in (1..).zip(&mut cpu.xmm) {
        *register = i * 0x0101_0101_0101_0101_0101_0101_0101_0101;
    }
    cpu.mxcsr = MXCSR;
    cpu.x87.control = 0x27f;
    cpu.x87.set_top(7);
    cpu.x87.tag = 0x3fff;
    cpu.x87.registers[7] = [1, 2, 3, 4, 5, 6, 7, 0x88, 0xff, 0x3f];
    cpu.x87.instruction_pointer = 0x1122_3344_5566;
    for at in (0..1024).step_by(8) {
        cpu.store(DATA + at, u64::MAX / 3);
    }
    for at in (512..576).step_by(8) {
        cpu.store(DATA + at, 0_u64);
    }
}

const UNTOUCHED: u64 = u64::MAX / 3;

fn word(processor: &Processor, at: u64) -> u64 {
    processor.cpu.ram.load(DATA + at)
}

/// What XSAVE and its kin leave in an area: components x87, MXCSR and SSE, header.
fn saved(processor: &Processor) -> (bool, bool, bool, u64, u64) {
    let x87 = word(processor, 0) != UNTOUCHED;
    let mxcsr = word(processor, 24) != UNTOUCHED;
    let sse = word(processor, 160) != UNTOUCHED;
    if x87 {
        assert_eq!(word(processor, 0) as u16, processor.cpu.x87.control);
        assert_ne!(word(processor, 32), UNTOUCHED, "ST0");
    }
    if mxcsr {
        assert_eq!(
            word(processor, 24),
            u64::from(processor.cpu.mxcsr) | 0xffff << 32
        );
    }
    if sse {
        for (at, register) in (0..).zip(processor.cpu.xmm) {
            assert_eq!(word(processor, 160 + at * 16), register as u64);
        }
    }
    // What lies between the registers and the header is software's; nothing lies behind it.
    for at in [416, 464, 504, 576, 640] {
        assert_eq!(word(processor, at), UNTOUCHED);
    }
    for at in (528..576).step_by(8) {
        assert_eq!(word(processor, at), 0);
    }
    (x87, mxcsr, sse, word(processor, 512), word(processor, 520))
}

#[test]
fn saving_follows_request_and_use() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Used,
        /// The XMM registers are 0, MXCSR is not its initial value.
        Mxcsr,
        Initial,
    }
    use State::{Initial, Mxcsr, Used};
    // Code, request, XCR0, state, XSTATE_BV before; x87, MXCSR, SSE written, XSTATE_BV, XCOMP_BV.
    let table = [
        (XSAVE, 3, 3, Used, 0_u64, (true, true, true, 3, 0)),
        (XSAVE64, 3, 3, Used, 0, (true, true, true, 3, 0)),
        (XSAVE, 1, 3, Used, 0, (true, false, false, 1, 0)),
        (XSAVE, 2, 3, Used, 0, (false, true, true, 2, 0)),
        (XSAVE, u64::MAX, 3, Used, 0, (true, true, true, 3, 0)),
        (XSAVE, 3, 1, Used, 0, (true, false, false, 1, 0)),
        (XSAVE, 0, 3, Used, 4, (false, false, false, 4, 0)),
        // Bits that are not requested stay, those that are requested follow the use.
        (XSAVE, 2, 3, Used, 5, (false, true, true, 7, 0)),
        (XSAVE, 3, 3, Initial, 7, (true, true, true, 4, 0)),
        (XSAVE, 3, 3, Mxcsr, 0, (true, true, true, 1, 0)),
        (XSAVEOPT, 3, 3, Used, 0, (true, true, true, 3, 0)),
        (XSAVEOPT, 3, 3, Initial, 7, (false, true, false, 4, 0)),
        (XSAVEOPT, 1, 3, Initial, 0, (false, false, false, 0, 0)),
        (XSAVEOPT, 3, 3, Mxcsr, 0, (true, true, false, 1, 0)),
        (
            XSAVEC,
            3,
            3,
            Used,
            0x70,
            (true, true, true, 3, 3 | COMPACTED),
        ),
        (
            XSAVEC,
            1,
            3,
            Used,
            0,
            (true, false, false, 1, 1 | COMPACTED),
        ),
        (
            XSAVEC,
            3,
            3,
            Initial,
            3,
            (false, false, false, 0, 3 | COMPACTED),
        ),
        (XSAVEC, 3, 3, Mxcsr, 0, (true, true, true, 3, 3 | COMPACTED)),
        (
            XSAVEC,
            3,
            1,
            Used,
            0,
            (true, false, false, 1, 1 | COMPACTED),
        ),
        (XSAVES, 3, 3, Used, 0, (true, true, true, 3, 3 | COMPACTED)),
        (
            XSAVES,
            2,
            3,
            Initial,
            0,
            (false, false, false, 0, 2 | COMPACTED),
        ),
    ];
    for (code, request, enabled_states, state, before, expected) in table {
        let mut processor = enabled(code, request);
        let cpu = &mut processor.cpu;
        cpu.xcr0 = enabled_states;
        if state != Used {
            cpu.xmm = [0; 16];
        }
        if state == Initial {
            cpu.mxcsr = 0x1f80;
            cpu.x87 = X87::default();
        }
        cpu.store(DATA + 512, before);
        assert_eq!(fault_of(&mut processor), None);
        let name = format!("{code:x?} {request:x} {enabled_states} {state:?}");
        assert_eq!(saved(&processor), expected, "{name}");
    }
    // Pointers have 64 bits with REX.W.
    for (code, pointer) in [(XSAVE, 0x3344_5566), (XSAVE64, 0x1122_3344_5566)] {
        let mut processor = enabled(code, 3);
        assert_eq!(fault_of(&mut processor), None);
        assert_eq!(word(&processor, 8), pointer);
    }
}

/// An area as XSAVE or XSAVEC of this state would leave it.
fn fill(cpu: &mut Cpu, present: u64, layout: u64) {
    cpu.store(DATA, 0x37b_u64);
    cpu.store(DATA + 8, 0_u64);
    cpu.store(DATA + 16, 0_u64);
    cpu.store(DATA + 24, 0x1f81_u32);
    for at in (32..160).step_by(8) {
        cpu.store(DATA + at, 0_u64);
    }
    for at in 0..16 {
        cpu.store(DATA + 160 + at * 16, 0xabc0_u64 + at);
        cpu.store(DATA + 168 + at * 16, 0_u64);
    }
    cpu.store(DATA + 512, present);
    cpu.store(DATA + 520, layout);
}

#[test]
fn restoring_loads_initializes_or_leaves() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Now {
        Loaded,
        Initial,
        Kept,
    }
    use Now::{Initial, Kept, Loaded};
    // Code, request, XSTATE_BV, XCOMP_BV; what becomes of x87, XMM and MXCSR.
    let table = [
        (XRSTOR, 3, 3, 0, (Loaded, Loaded, Loaded)),
        (XRSTOR64, 3, 3, 0, (Loaded, Loaded, Loaded)),
        (XRSTOR, 3, 1, 0, (Loaded, Initial, Loaded)),
        (XRSTOR, 3, 0, 0, (Initial, Initial, Loaded)),
        (XRSTOR, 1, 3, 0, (Loaded, Kept, Kept)),
        (XRSTOR, 2, 3, 0, (Kept, Loaded, Loaded)),
        (XRSTOR, 0, 3, 0, (Kept, Kept, Kept)),
        (XRSTOR, u64::MAX, 3, 0, (Loaded, Loaded, Loaded)),
        (XRSTOR, 3, 3, 3 | COMPACTED, (Loaded, Loaded, Loaded)),
        (XRSTOR, 3, 1, 3 | COMPACTED, (Loaded, Initial, Initial)),
        (XRSTOR, 3, 1, 1 | COMPACTED, (Loaded, Initial, Initial)),
        (XRSTOR, 1, 3, 3 | COMPACTED, (Loaded, Kept, Kept)),
        (XRSTORS, 3, 3, 3 | COMPACTED, (Loaded, Loaded, Loaded)),
        (XRSTORS, 3, 0, 3 | COMPACTED, (Initial, Initial, Initial)),
        (XRSTORS, 2, 2, 2 | COMPACTED, (Kept, Loaded, Loaded)),
    ];
    for (code, request, present, layout, expected) in table {
        let mut processor = enabled(code, request);
        fill(&mut processor.cpu, present, layout);
        let before = processor.cpu.x87;
        assert_eq!(fault_of(&mut processor), None);
        let cpu = &processor.cpu;
        let x87 = match cpu.x87.control {
            0x37b => Loaded,
            _ if cpu.x87 == before => Kept,
            _ if cpu.x87 == X87::default() => Initial,
            other => panic!("{other:x}"),
        };
        let xmm = match cpu.xmm[15] {
            0xabcf => Loaded,
            0 => Initial,
            _ => Kept,
        };
        assert!((0..16).all(|i| xmm != Loaded || cpu.xmm[i] == 0xabc0 + i as u128));
        let mxcsr = match cpu.mxcsr {
            0x1f81 => Loaded,
            0x1f80 => Initial,
            MXCSR => Kept,
            other => panic!("{other:x}"),
        };
        let name = format!("{code:x?} {request:x} {present:x} {layout:x}");
        assert_eq!((x87, xmm, mxcsr), expected, "{name}");
    }
}

// Volume 2, XRSTOR and XRSTORS, exceptions: each clause alone; nothing is restored then.
#[test]
fn areas_that_cannot_be_restored() {
    type Case = (&'static str, &'static [u8], fn(&mut Cpu));
    let table: &[Case] = &[
        ("XSTATE_BV beyond XCR0", XRSTOR, |c| fill(c, 4, 0)),
        ("XSTATE_BV beyond a smaller XCR0", XRSTOR, |c| {
            c.xcr0 = 1;
            fill(c, 3, 0);
        }),
        ("XCOMP_BV without bit 63", XRSTOR, |c| fill(c, 3, 3)),
        ("bytes 23:16 of the header", XRSTOR, |c| {
            fill(c, 3, 0);
            c.store(DATA + 528, 1_u64);
        }),
        ("MXCSR", XRSTOR, |c| {
            fill(c, 0, 0);
            c.store(DATA + 24, 0x1_1f80_u32);
        }),
        ("compacted: XCOMP_BV beyond XCR0", XRSTOR, |c| {
            fill(c, 3, 7 | COMPACTED)
        }),
        ("compacted: XSTATE_BV beyond XCOMP_BV", XRSTOR, |c| {
            fill(c, 3, 1 | COMPACTED)
        }),
        ("compacted: bytes 63:16 of the header", XRSTOR, |c| {
            fill(c, 3, 3 | COMPACTED);
            c.store(DATA + 568, 1_u8);
        }),
        ("compacted: MXCSR", XRSTOR, |c| {
            fill(c, 3, 3 | COMPACTED);
            c.store(DATA + 24, 0x1_1f80_u32);
        }),
        ("XRSTORS: the standard format", XRSTORS, |c| fill(c, 3, 0)),
        ("XRSTORS: XSTATE_BV beyond XCOMP_BV", XRSTORS, |c| {
            fill(c, 2, 1 | COMPACTED)
        }),
        ("alignment", XRSTOR, |c| {
            fill(c, 3, 0);
            c.registers[7] += 32;
        }),
        ("alignment", XSAVE, |c| c.registers[7] += 16),
        ("alignment", XSAVEC, |c| c.registers[7] += 8),
    ];
    for (name, code, change) in table {
        let mut processor = enabled(code, 3);
        change(&mut processor.cpu);
        let state = (processor.cpu.xmm, processor.cpu.mxcsr, processor.cpu.x87);
        assert_eq!(fault_of(&mut processor), Some((13, 0)), "{name}");
        let cpu = &processor.cpu;
        assert!(state == (cpu.xmm, cpu.mxcsr, cpu.x87), "{name}");
    }
    // What is wrong and does not matter: bytes 63:24 of the standard format, MXCSR that is not asked for.
    let mut processor = enabled(XRSTOR, 1);
    fill(&mut processor.cpu, 3, 0);
    processor.cpu.store(DATA + 536, 1_u64);
    processor.cpu.store(DATA + 24, u32::MAX);
    assert_eq!(fault_of(&mut processor), None);
    let mut processor = enabled(XRSTOR, 3);
    fill(&mut processor.cpu, 1, 3 | COMPACTED);
    processor.cpu.store(DATA + 24, u32::MAX);
    assert_eq!(fault_of(&mut processor), None);
}

// Volume 2: #UD without CR4.OSXSAVE, #NM with CR0.TS (not for XGETBV and XSETBV), #GP(0) above CPL 0 for
// those of the supervisor.
#[test]
fn instructions_need_their_enables() {
    let all = [
        XSAVE, XRSTOR, XSAVEOPT, XSAVEC, XSAVES, XRSTORS, XGETBV, XSETBV,
    ];
    for code in all {
        let run = |change: fn(&mut Cpu), user_mode: bool| {
            let mut processor = if user_mode { user(code) } else { kernel(code) };
            prepare(&mut processor.cpu, 3);
            let standard = code == XRSTOR;
            fill(
                &mut processor.cpu,
                3,
                if standard { 0 } else { 3 | COMPACTED },
            );
            change(&mut processor.cpu);
            fault_of(&mut processor).map(|fault| fault.0)
        };
        assert_eq!(run(|_| {}, false), None, "{code:x?}");
        let closed = run(|cpu| cpu.cr4 &= !cr4::OSXSAVE, false);
        assert_eq!(closed, Some(6), "{code:x?}");
        let switched = run(|cpu| cpu.cr0 |= cr0::TS, false);
        let registers = code == XGETBV || code == XSETBV;
        assert_eq!(switched, (!registers).then_some(7), "{code:x?}");
        // CR0.EM does not matter.
        assert_eq!(run(|cpu| cpu.cr0 |= cr0::EM, false), None, "{code:x?}");
        let supervisor = [XSAVES, XRSTORS, XSETBV].contains(&code);
        assert_eq!(run(|_| {}, true), supervisor.then_some(13), "{code:x?}");
    }
}

// 13.3; volume 2, XGETBV and XSETBV.
#[test]
fn extended_control_registers() {
    for (index, value, accepted) in [
        (0, 3, true),
        (0, 1, true),
        (0, 0, false),
        (0, 2, false),
        (0, 7, false),
        (0, 1 | 1 << 63, false),
        (1, 3, false),
        (1 << 32, 3, true),
    ] {
        let mut processor = enabled(XSETBV, value);
        processor.cpu.xcr0 = 1;
        processor.cpu.registers[1] = index;
        let fault = fault_of(&mut processor);
        assert_eq!(fault, (!accepted).then_some((13, 0)), "{index} {value:x}");
        assert_eq!(processor.cpu.xcr0, if accepted { value } else { 1 });
    }
    for (index, initial, expected) in [
        (0, false, Some(3)),
        (0, true, Some(3)),
        (1, false, Some(3)),
        (1, true, Some(0)),
        (2, false, None),
    ] {
        let mut processor = enabled(XGETBV, u64::MAX);
        processor.cpu.registers[1] = index;
        if initial {
            processor.cpu.xmm = [0; 16];
            processor.cpu.mxcsr = 0x1f80;
            processor.cpu.x87 = X87::default();
        }
        let fault = fault_of(&mut processor);
        assert_eq!(fault, expected.is_none().then_some((13, 0)));
        if let Some(value) = expected {
            let registers = processor.cpu.registers;
            assert_eq!((registers[0], registers[2]), (value, 0));
        }
    }
    // XCR0 is 1 after reset, and there is no supervisor state component.
    let mut cpu = kernel(&[]).cpu;
    assert_eq!(cpu.xcr0, 1);
    assert_eq!(cpu.read_msr(msr::IA32_XSS).unwrap(), 0);
    assert!(cpu.write_msr(msr::IA32_XSS, 0).is_ok());
    assert!(cpu.write_msr(msr::IA32_XSS, 1 << 8).is_err());
}

// 13.2; volume 2, CPUID.
#[test]
fn cpuid_describes_the_states() {
    let mut cpu = kernel(&[]).cpu;
    assert_eq!(cpu.cpuid(1, 0).ecx >> 26 & 3, 1, "XSAVE without OSXSAVE");
    cpu.write_cr4(cpu.cr4 | cr4::OSXSAVE).unwrap();
    assert_eq!(cpu.cpuid(1, 0).ecx >> 26 & 3, 3);
    let leaf = cpu.cpuid(0xd, 0);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (3, 576, 576, 0));
    let leaf = cpu.cpuid(0xd, 1);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (15, 576, 0, 0));
    for subleaf in [2, 3, 62, 63] {
        let leaf = cpu.cpuid(0xd, subleaf);
        assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (0, 0, 0, 0));
    }
}

// Outside 64-bit mode there are eight XMM registers: the others are neither saved nor restored, nor
// initialized (13.5.2 SSE state).
#[test]
fn compatibility_mode_has_eight_registers() {
    let compatibility = |code: &[u8], request| {
        let mut processor = enabled(code, request);
        let cpu = &mut processor.cpu;
        cpu.segments[1] =
            posthaste_machine::cpu::segment::Segment::from_descriptor(CODE_32, flat(0xc09b));
        cpu.refresh_mode();
        processor
    };
    let mut processor = compatibility(XSAVE, 3);
    assert_eq!(fault_of(&mut processor), None);
    assert_ne!(word(&processor, 160 + 7 * 16), UNTOUCHED);
    assert_eq!(word(&processor, 160 + 8 * 16), UNTOUCHED);
    for present in [SSE_BIT | X87_BIT, X87_BIT] {
        let mut processor = compatibility(XRSTOR, 3);
        fill(&mut processor.cpu, present, 0);
        let before = processor.cpu.xmm;
        assert_eq!(fault_of(&mut processor), None);
        assert_ne!(processor.cpu.xmm[..8], before[..8]);
        assert_eq!(processor.cpu.xmm[8..], before[8..]);
    }
}

// A fault on the second page of an area comes before anything is written to the first.
#[test]
fn an_area_that_spans_two_pages_is_written_whole_or_not() {
    let mut processor = enabled(XSAVE, 3);
    let cpu = &mut processor.cpu;
    // The last 256 bytes of a page of 2 MBytes whose successor is not present.
    let area = 0x40_0000 - 256;
    cpu.registers[7] = area;
    cpu.store(0x3000 + 2 * 8, 0_u64);
    cpu.store(area, UNTOUCHED);
    let fault = fault_of(&mut processor);
    assert_eq!(fault, Some((14, 2)));
    assert_eq!(processor.cpu.cr2, area + 575);
    assert_eq!(processor.cpu.ram.load::<u64>(area), UNTOUCHED);
    assert_eq!(processor.cpu.ram.load::<u64>(CODE) & 0xff_ffff, 0x27_ae0f);
}
