//! INS and OUTS: everything that their memory operand can do wrong, and what they leave when it does not.

use crate::case::{Case, NOTHING, OPEN, Outcome, PAGES, RAM, Run, STACK, selector};
use crate::compare::compare;
use crate::program::{Program, descriptor};
use crate::random::Random;

const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;
/// A port that gives back what was written to it.
const PORT: u64 = 0x80;
/// IOPL 3: every privilege level may use ports.
const IOPL: u64 = 3 << 12;
const TF: u64 = 1 << 8;
const DF: u64 = 1 << 10;
const AC: u64 = 1 << 18;
const AM: u64 = 1 << 18;
const WP: u64 = 1 << 16;
const SMAP: u64 = 1 << 21;

/// INSB, INSW, INSD, OUTSB, OUTSW, OUTSD in 32- and 64-bit code: bytes of an element, and the encoding.
const FORMS: [(u64, &[u8]); 6] = [
    (1, &[0x6c]),
    (2, &[0x66, 0x6d]),
    (4, &[0x6d]),
    (1, &[0x6e]),
    (2, &[0x66, 0x6f]),
    (4, &[0x6f]),
];

const fn is_ins(form: &[u8]) -> bool {
    form[form.len() - 1] < 0x6e
}

/// Both pointers at `offset`, three elements.
fn case(name: &str, run: Run, prefixes: &[u8], form: &[u8], offset: u64) -> Case {
    let code = [prefixes, form].concat();
    let mut case = Case::new(format!("{name} {code:x?} at {offset:#x}"), run, &code)
        .register(RDX, PORT)
        .register(RCX, 3)
        .register(RSI, offset)
        .register(RDI, offset);
    case.flags = IOPL;
    case
}

/// Descriptors of a page-sized segment over the window, for both privilege levels each.
mod own {
    use super::{PAGES, descriptor, selector};

    pub(super) const READ_WRITE: u16 = selector::OWN;
    pub(super) const READ_ONLY: u16 = selector::OWN + 0x10;
    pub(super) const EXPAND_DOWN: u16 = selector::OWN + 0x20;
    pub(super) const EXECUTE_ONLY: u16 = selector::OWN + 0x30;
    /// Ends with the window's first page at offset FFFFH, where 16-bit addresses wrap.
    pub(super) const HIGH: u16 = selector::OWN + 0x40;

    pub(super) fn descriptors() -> Vec<u64> {
        let window = PAGES as u32;
        [
            (window, 0xfff, 0x4093),
            (window, 0xfff, 0x4091),
            (window - 0x1000, 0x1fff, 0x4097),
            (0, 0xf_ffff, 0xc099),
            (window - 0xf000, 0xf_ffff, 0xc093),
        ]
        .into_iter()
        .flat_map(|(base, limit, rights)| {
            [rights, rights | 3 << 5].map(|rights| descriptor(base, limit, rights))
        })
        .collect()
    }
}

fn program(cases: Vec<Case>) -> Program {
    Program {
        descriptors: own::descriptors(),
        cases,
    }
}

fn vectors(outcomes: &[Outcome]) -> Vec<u64> {
    let mut vectors: Vec<u64> = outcomes.iter().map(Outcome::vector).collect();
    vectors.sort_unstable();
    vectors.dedup();
    vectors
}

#[test]
fn segments_limit_what_is_moved() {
    let mut cases = Vec::new();
    for (size, form) in FORMS {
        for level in [0, 3] {
            for prefixes in [&[][..], &[0xf3]] {
                for segment in [own::READ_WRITE, own::READ_ONLY, own::EXPAND_DOWN, 0] {
                    let segment = if segment == 0 {
                        0
                    } else {
                        crate::case::at_level(segment, level)
                    };
                    for offset in [0, 0x1000 - size, 0x1001 - size, 0x1000, 0x2000, 0x2004] {
                        let run = Run::Bits32(level);
                        let mut case = case("segment", run, prefixes, form, offset);
                        case.ds = segment;
                        case.es = segment;
                        case.window[3] = NOTHING | OPEN;
                        cases.push(case);
                    }
                }
                // OUTS from SS.
                if !is_ins(form) {
                    let prefixes = [&[0x36], prefixes].concat();
                    let mut case = case("stack", Run::Bits32(level), &prefixes, form, 0xfff);
                    case.ss = crate::case::at_level(own::READ_WRITE, level);
                    cases.push(case);
                    // And from code that cannot be read.
                    let mut case = self::case("code", Run::Bits32(level), &[0x2e], form, PAGES);
                    case.cs = Some(crate::case::at_level(own::EXECUTE_ONLY, level));
                    cases.push(case);
                }
            }
        }
    }
    let outcomes = compare(&program(cases));
    // Some were #SS, some #GP, the others completed.
    assert_eq!(vectors(&outcomes), [12, 13, 0x40]);
}

#[test]
fn addresses_must_be_canonical() {
    let mut cases = Vec::new();
    for (size, form) in FORMS {
        for prefixes in [&[][..], &[0xf3], &[0x64], &[0x36], &[0x67]] {
            for offset in [
                0x8000_0000_0000,
                0x7fff_ffff_ffff,
                0xffff_7fff_ffff_ffff,
                0xffff_8000_0000_0000,
                0x8000_0000_0000 - size,
                u64::MAX - 1,
                0xaaaa_0000_0000_0000 | PAGES,
                PAGES,
            ] {
                let mut case = case("canonical", Run::Bits64(0), prefixes, form, offset);
                case.fs_base = 0x10;
                cases.push(case);
            }
        }
    }
    let outcomes = compare(&program(cases));
    assert!(vectors(&outcomes).starts_with(&[13, 14]));
}

#[test]
fn pages_allow_or_fault() {
    let mut cases = Vec::new();
    let entries = [
        RAM[1] | OPEN,
        RAM[1] | 5,
        RAM[1] | 3,
        RAM[1] | 6,
        RAM[1] | OPEN | 1 << 63,
        RAM[1] | OPEN | 1 << 51,
        RAM[1] | 0x67,
        NOTHING | OPEN,
    ];
    for (size, form) in FORMS {
        for entry in entries {
            for run in [
                Run::Bits64(0),
                Run::Bits64(3),
                Run::Bits32(3),
                Run::Bits32(0),
            ] {
                for offset in [0x1000, 0x1001 - size, 0xffe] {
                    for (cr4, flags) in [(0, 0), (SMAP, 0), (SMAP, AC)] {
                        let prefixes = [0xf3];
                        let mut case = case("page", run, &prefixes, form, PAGES + offset);
                        case.name += &format!(", {entry:#x} {run:?} {cr4:#x} {flags:#x}");
                        case.window[1] = entry;
                        case.cr4 = cr4;
                        case.flags |= flags;
                        cases.push(case);
                    }
                }
            }
        }
        let mut without = case("WP = 0", Run::Bits64(0), &[0xf3], form, PAGES);
        without.cr0 = WP;
        without.window[0] = RAM[0] | 5;
        cases.push(without);
    }
    let mut codes = Vec::new();
    let halves = cases.chunks(crate::program::MOST_CASES);
    for half in halves {
        let outcomes = compare(&program(half.to_vec()));
        codes.extend(
            outcomes
                .iter()
                .filter(|one| one.vector() == 14)
                .map(Outcome::error_code),
        );
        assert!(outcomes.iter().all(|one| matches!(one.vector(), 14 | 0x40)));
    }
    codes.sort_unstable();
    codes.dedup();
    // Reads and writes, by both privileges; not present, protected, reserved bits.
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15]);
}

#[test]
fn alignment_is_checked() {
    let mut cases = Vec::new();
    for (_, form) in FORMS {
        for level in [0, 3] {
            for offset in [0, 1, 2, 3, 0xffd] {
                let mut case = case("aligned", Run::Bits64(level), &[], form, PAGES + offset);
                case.flags |= AC;
                case.cr0 = AM;
                cases.push(case);
            }
        }
    }
    assert_eq!(vectors(&compare(&program(cases))), [17, 0x40]);
}

#[test]
fn each_iteration_is_a_step() {
    let mut cases = Vec::new();
    for (_, form) in FORMS {
        for run in [Run::Bits64(0), Run::Bits32(3), Run::Bits64(3)] {
            for (prefixes, count, offset, direction) in [
                (&[0xf3][..], 5, 0x10, 0),
                (&[0xf3], 1, 0x10, 0),
                (&[0xf3], 0, 0x10, 0),
                (&[0xf2], 3, 0x10, DF),
                (&[], 3, 0x10, 0),
                // It faults on the way.
                (&[0xf3], 9, 0x1ff0, 0),
            ] {
                let offset = PAGES + offset;
                let mut case = case("step", run, prefixes, form, offset).register(RCX, count);
                case.name += &format!(", {count}");
                case.flags |= TF | direction;
                case.traps = 20;
                cases.push(case);
            }
        }
    }
    let outcomes = compare(&program(cases));
    // Five iterations, and the step behind INT.
    assert_eq!(outcomes[0].traps(), 5);
    assert!(outcomes.iter().any(|one| one.vector() == 14));
}

#[test]
fn registers_go_on_as_wide_as_addresses_are() {
    let mut cases = Vec::new();
    let high = 0xdead_beef_0000_0000;
    for (size, form) in FORMS {
        for (prefixes, run, offset, count, flags) in [
            (&[0xf3][..], Run::Bits64(0), PAGES + 0x20, 100, 0),
            (&[0xf3], Run::Bits64(0), PAGES + 0xf00, 70, DF),
            (&[0xf3, 0x67], Run::Bits64(0), high | PAGES, high | 3, 0),
            (&[0xf3], Run::Bits32(3), PAGES, 0x1_0000_0000 | 5, 0),
            // The pointer wraps at 64 KiB, to where nothing is mapped.
            (&[0xf3, 0x67], Run::Bits32(0), 0xfff8, 0x5555_0009, 0),
            (&[0xf3, 0x67], Run::Bits32(3), 0x7777_fff8, 0x5555_0009, 0),
            (&[0xf3, 0x67], Run::Bits32(3), 0xfffb + size, 2, DF),
            (&[], Run::Bits64(0), PAGES, 0, DF),
        ] {
            let mut case = case("width", run, prefixes, form, offset).register(RCX, count);
            case.name += &format!(", {count:#x}");
            case.flags |= flags;
            if let Run::Bits32(level) = run
                && prefixes.contains(&0x67)
            {
                case.ds = crate::case::at_level(own::HIGH, level);
                case.es = case.ds;
            }
            cases.push(case);
        }
        // 16-bit code: operand and address size are 16 bits without a prefix.
        for offset in [0xfff0, 0xffff] {
            let form = match form {
                [0x66, opcode] => vec![*opcode],
                [0x6d | 0x6f] => vec![0x66, form[0]],
                other => other.to_vec(),
            };
            let mut case = case("16 bits", Run::Bits16(0), &[0xf3], &form, high | offset);
            case.ds = own::HIGH;
            case.es = own::HIGH;
            case.registers[RCX] = high | 0x1_0003;
            cases.push(case);
        }
    }
    let outcomes = compare(&program(cases));
    assert!(vectors(&outcomes).contains(&14));
    assert!(vectors(&outcomes).contains(&0x40));
}

/// A sequence with a random one in random circumstances.
#[test]
fn random_strings() {
    let mut random = Random::new(6);
    let mut cases = Vec::new();
    for _ in 0..1500 {
        let (_, form) = random.pick(&FORMS);
        let run = random.pick(&[
            Run::Bits64(0),
            Run::Bits64(3),
            Run::Bits32(0),
            Run::Bits32(3),
        ]);
        let prefixes = random.pick(&[
            &[][..],
            &[0xf3],
            &[0xf3],
            &[0xf2],
            &[0x67, 0xf3],
            &[0x2e, 0xf3],
            &[0x36],
            &[0x64, 0xf3],
        ]);
        let offset = PAGES + random.pick(&[0, 0x1000, 0x2000, 0x3000]) + random.below(64) - 32;
        let mut case = case("random", run, prefixes, form, offset);
        case.registers[RSI] = case.registers[RSI].wrapping_add(random.below(16));
        case.registers[RCX] = random.pick(&[0, 1, 2, 20, 80]);
        case.flags |= random.pick(&[0, DF, TF, AC, TF | DF, 0, 0]);
        case.traps = 8;
        case.cr0 = random.pick(&[0, AM]);
        case.cr4 = random.pick(&[0, 0, SMAP]);
        case.fs_base = random.below(64);
        for entry in &mut case.window {
            let page = random.pick(&[RAM[0], RAM[1], NOTHING]);
            *entry = page | random.pick(&[OPEN, OPEN, OPEN, 3, 5, 0]);
        }
        // Stacks of cases are elsewhere.
        assert_eq!(case.registers[4], STACK);
        cases.push(case);
    }
    compare(&program(cases));
}
