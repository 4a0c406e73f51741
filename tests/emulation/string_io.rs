//! INS and OUTS: everything that their memory operand can do wrong, and what they leave when it does not.

use crate::case::{Case, NOTHING, OPEN, Outcome, Run, WINDOW, selector};
use crate::compare::compare;
use crate::program::{Program, descriptor};

const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;
/// A port that gives back what was written to it.
const PORT: u64 = 0x80;
/// IOPL 3: every privilege level may use ports.
const IOPL: u64 = 3 << 12;
const DF: u64 = 1 << 10;
const AC: u64 = 1 << 18;
const AM: u64 = 1 << 18;

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
    use super::{WINDOW, descriptor, selector};

    pub(super) const READ_WRITE: u16 = selector::OWN;
    pub(super) const READ_ONLY: u16 = selector::OWN + 0x10;
    pub(super) const EXPAND_DOWN: u16 = selector::OWN + 0x20;
    pub(super) const EXECUTE_ONLY: u16 = selector::OWN + 0x30;
    /// Ends with the window's first page at offset FFFFH, where 16-bit addresses wrap.
    pub(super) const HIGH: u16 = selector::OWN + 0x40;

    pub(super) fn descriptors() -> Vec<u64> {
        let window = WINDOW as u32;
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
                    let mut case = self::case("code", Run::Bits32(level), &[0x2e], form, WINDOW);
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
fn alignment_is_checked() {
    let mut cases = Vec::new();
    for (_, form) in FORMS {
        for level in [0, 3] {
            for offset in [0, 1, 2, 3, 0xffd] {
                let mut case = case("aligned", Run::Bits64(level), &[], form, WINDOW + offset);
                case.flags |= AC;
                case.cr0 = AM;
                cases.push(case);
            }
        }
    }
    assert_eq!(vectors(&compare(&program(cases))), [17, 0x40]);
}

#[test]
fn registers_go_on_as_wide_as_addresses_are() {
    let mut cases = Vec::new();
    let high = 0xdead_beef_0000_0000;
    for (size, form) in FORMS {
        for (prefixes, run, offset, count, flags) in [
            (&[0xf3][..], Run::Bits64(0), WINDOW + 0x20, 100, 0),
            (&[0xf3], Run::Bits64(0), WINDOW + 0xf00, 70, DF),
            (&[0xf3, 0x67], Run::Bits64(0), high | WINDOW, high | 3, 0),
            (&[0xf3], Run::Bits32(3), WINDOW, 0x1_0000_0000 | 5, 0),
            // The pointer wraps at 64 KiB, to where nothing is mapped.
            (&[0xf3, 0x67], Run::Bits32(0), 0xfff8, 0x5555_0009, 0),
            (&[0xf3, 0x67], Run::Bits32(3), 0x7777_fff8, 0x5555_0009, 0),
            (&[0xf3, 0x67], Run::Bits32(3), 0xfffb + size, 2, DF),
            (&[], Run::Bits64(0), WINDOW, 0, DF),
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
