//! Null selectors, and the segments that a change of privilege leaves: every way to load a segment
//! register, LDTR or TR; with both engines.

#[path = "support/faults.rs"]
mod faults;
mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::exception as vector;
use faults::{PAGES, Ring, run};
use posthaste_machine::cpu::Cpu;
use posthaste_machine::cpu::segment::{Segment, register, rights};
use support::CODE;
use tables::{
    CODE_32, CODE_64, CONFORMING, FREE, GDT, STACK_0, USER_CODE_32, USER_CODE_64, USER_DATA, flat,
};

const DATA_SEGMENTS: [u8; 4] = [register::ES, register::DS, register::FS, register::GS];
/// Bases that only WRMSR or WRFSBASE gives.
const FS_BASE: u64 = 0x1234_5678_9000;
const GS_BASE: u64 = 0xffff_8000_0000_1000;

fn selectors(cpu: &Cpu) -> [u16; 4] {
    DATA_SEGMENTS.map(|number| cpu.segments[number as usize].selector)
}

fn set(cpu: &mut Cpu, number: u8, segment: Segment) {
    cpu.segments[number as usize] = segment;
}

/// Quadwords at the top of the stack, which is in the pages.
fn stack(cpu: &mut Cpu, values: &[u64]) {
    cpu.registers[4] = PAGES + 0x800;
    for (at, value) in (PAGES + 0x800..).step_by(8).zip(values) {
        cpu.store(at, *value);
    }
}

const IRETQ: &[u8] = &[0x48, 0xcf];
const RETF: &[u8] = &[0x48, 0xcb];
const IRETD: &[u8] = &[0xcf];

/// A frame that returns to the end of the code at CPL 3, in a segment and with a stack of ours.
fn frame(code: &[u8], cs: u16, ss: u16) -> Vec<u64> {
    let rip = CODE + code.len() as u64;
    let (cs, ss) = (cs.into(), ss.into());
    if code == IRETQ {
        vec![rip, cs, 2, PAGES + 0x1000, ss]
    } else {
        vec![rip, cs, PAGES + 0x1000, ss]
    }
}

/// SDM volume 2, IRET and RET, RETURN-TO-OUTER-PRIVILEGE-LEVEL.
#[test]
fn a_return_to_an_outer_level_clears_null_selectors_and_inner_segments() {
    for code in [IRETQ, RETF] {
        for cs in [USER_CODE_64 | 3, USER_CODE_32 | 3] {
            let returned = |prepare: fn(&mut Cpu)| {
                let (fault, processor) = run(Ring::Zero, code, |cpu| {
                    stack(cpu, &frame(code, cs, USER_DATA | 3));
                    prepare(cpu);
                });
                assert_eq!(fault, None, "{code:x?}");
                assert_eq!(
                    processor
                        .cpu
                        .ram
                        .load::<u64>(processor.cpu.registers[4] + 8),
                    cs.into()
                );
                processor.cpu
            };
            let cpu = returned(|cpu| {
                for (number, selector) in DATA_SEGMENTS.into_iter().zip([1, 2, 3, 0]) {
                    set(cpu, number, Segment::unusable(selector));
                }
                cpu.segments[register::FS as usize].base = FS_BASE;
                cpu.segments[register::GS as usize].base = GS_BASE;
            });
            assert_eq!(selectors(&cpu), [0; 4], "{code:x?}");
            assert_eq!(cpu.segments[register::FS as usize].base, FS_BASE);
            assert_eq!(cpu.segments[register::GS as usize].base, GS_BASE);
            // Data of CPL 0 and code of CPL 0 that is not conforming.
            let cpu = returned(|cpu| {
                set(
                    cpu,
                    register::ES,
                    Segment::from_descriptor(CODE_32, flat(0xc09b)),
                );
                for number in [register::DS, register::FS, register::GS] {
                    set(cpu, number, Segment::from_descriptor(STACK_0, flat(0xc093)));
                }
                cpu.segments[register::FS as usize].base = FS_BASE;
            });
            assert_eq!(selectors(&cpu), [0; 4], "{code:x?}");
            assert_eq!(cpu.segments[register::FS as usize].base, FS_BASE);
            for number in DATA_SEGMENTS {
                assert!(cpu.segments[number as usize].has(rights::UNUSABLE));
            }
            // Data of CPL 3 and conforming code stay.
            let cpu = returned(|cpu| {
                set(
                    cpu,
                    register::ES,
                    Segment::from_descriptor(CONFORMING, flat(0xa09f)),
                );
                for number in [register::DS, register::FS, register::GS] {
                    set(
                        cpu,
                        number,
                        Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3)),
                    );
                }
            });
            let data = USER_DATA | 3;
            assert_eq!(selectors(&cpu), [CONFORMING, data, data, data]);
        }
    }
}

/// A return that does not change CPL leaves all of them.
#[test]
fn a_return_to_the_same_level_leaves_data_segments() {
    let prepare = |cpu: &mut Cpu| {
        for (number, selector) in DATA_SEGMENTS.into_iter().zip([1, 2, 3, 0]) {
            set(cpu, number, Segment::unusable(selector));
        }
    };
    for code in [IRETQ, RETF] {
        let (fault, processor) = run(Ring::Zero, code, |cpu| {
            stack(cpu, &frame(code, CODE_64, STACK_0));
            prepare(cpu);
        });
        assert_eq!(fault, None, "{code:x?}");
        assert_eq!(selectors(&processor.cpu), [1, 2, 3, 0]);
    }
    // IRETD at CPL 3 in compatibility mode pops three doublewords.
    let (fault, processor) = run(Ring::Three32, IRETD, |cpu| {
        let cs = u64::from(USER_CODE_32 | 3);
        stack(cpu, &[(CODE + 1) | cs << 32, 2]);
        prepare(cpu);
    });
    assert_eq!(fault, None);
    assert_eq!(selectors(&processor.cpu), [1, 2, 3, 0]);
}

/// SYSRET and SYSEXIT load CS and SS alone (SDM volume 2).
#[test]
fn fast_returns_leave_data_segments() {
    for code in [&[0x48, 0x0f, 0x07][..], &[0x48, 0x0f, 0x35], &[0x0f, 0x07]] {
        let (fault, processor) = run(Ring::Zero, code, |cpu| {
            for (number, selector) in DATA_SEGMENTS.into_iter().zip([1, 2, 3, STACK_0]) {
                set(cpu, number, Segment::unusable(selector));
                cpu.segments[number as usize].base = FS_BASE;
            }
            let end = CODE + code.len() as u64;
            if code[code.len() - 1] == 7 {
                // SYSRET
                cpu.registers[1] = end;
                cpu.registers[11] = 2;
            } else {
                cpu.registers[1] = PAGES + 0x800;
                cpu.registers[2] = end;
            }
            cpu.msrs.star = u64::from(USER_CODE_32) << 48;
            cpu.msrs.sysenter_cs = CODE_64.into();
        });
        assert_eq!(fault, None, "{code:x?}");
        let cpu = processor.cpu;
        assert_eq!(selectors(&cpu), [1, 2, 3, STACK_0]);
        assert_eq!(cpu.segments[register::FS as usize].base, FS_BASE);
        let frame: u64 = cpu.ram.load(cpu.registers[4] + 8);
        assert_eq!(frame & 3, 3);
    }
}

/// MOV and POP accept a null selector but for SS, which only 64-bit mode below CPL 3 lets have one
/// whose RPL is CPL. The base of FS and GS becomes 0.
#[test]
fn null_selectors_are_loaded_by_mov_pop_and_far_pointers() {
    // MOV DS, ES, FS, GS, SS from AX
    let moves: [(&[u8], u8); 4] = [
        (&[0x8e, 0xd8], register::DS),
        (&[0x8e, 0xc0], register::ES),
        (&[0x8e, 0xe0], register::FS),
        (&[0x8e, 0xe8], register::GS),
    ];
    // POP FS, POP GS; LFS EAX, [RBX]; LGS
    let others: [(&[u8], u8); 4] = [
        (&[0x0f, 0xa1], register::FS),
        (&[0x0f, 0xa9], register::GS),
        (&[0x0f, 0xb4, 0x03], register::FS),
        (&[0x0f, 0xb5, 0x03], register::GS),
    ];
    for (code, number) in moves.into_iter().chain(others) {
        for ring in [Ring::Zero, Ring::Three, Ring::Three32] {
            for selector in 0..4_u16 {
                let (fault, processor) = run(ring, code, |cpu| {
                    stack(cpu, &[selector.into()]);
                    cpu.registers[0] = selector.into();
                    cpu.registers[3] = PAGES;
                    cpu.store(PAGES + 4, selector);
                    cpu.segments[number as usize].base = 0x1000;
                });
                assert_eq!(fault, None, "{code:x?}");
                let loaded = processor.cpu.segments[number as usize];
                assert_eq!(loaded, Segment::unusable(selector), "{code:x?}");
            }
        }
    }
    let load_ss: [&[u8]; 2] = [&[0x8e, 0xd0], &[0x0f, 0xb2, 0x03]];
    for code in load_ss {
        for (ring, cpl) in [(Ring::Zero, 0), (Ring::Three, 3), (Ring::Three32, 3)] {
            for selector in 0..4_u16 {
                let (fault, _) = run(ring, code, |cpu| {
                    cpu.registers[0] = selector.into();
                    cpu.registers[3] = PAGES;
                    cpu.store(PAGES, 0_u32);
                    cpu.store(PAGES + 4, selector);
                });
                let expected = (ring != Ring::Zero || selector != cpl)
                    .then_some((vector::GENERAL_PROTECTION, Some(0)));
                let fault = fault.map(|fault| (fault.vector, fault.error_code));
                assert_eq!(fault, expected, "{code:x?} {ring:?} {selector}");
            }
        }
    }
}

/// A segment that a null selector left is no operand outside 64-bit mode, and like any other in it.
#[test]
fn a_null_segment_is_used_in_64_bit_mode_only() {
    for number in DATA_SEGMENTS {
        let prefix = [0x26, 0, 0, 0x3e, 0x64, 0x65][number as usize];
        // MOV EAX, [EBX]
        let code = [prefix, 0x8b, 0x03];
        for ring in [Ring::Three, Ring::Three32] {
            let (fault, _) = run(ring, &code, |cpu| {
                set(cpu, number, Segment::unusable(3));
                cpu.registers[3] = PAGES;
            });
            let expected = (ring == Ring::Three32).then_some((vector::GENERAL_PROTECTION, Some(0)));
            let fault = fault.map(|fault| (fault.vector, fault.error_code));
            assert_eq!(fault, expected, "{number} {ring:?}");
        }
    }
}

/// CS is never null: far jumps, calls and returns raise #GP(0).
#[test]
fn no_transfer_takes_a_null_code_selector() {
    let gp = Some((vector::GENERAL_PROTECTION, Some(0)));
    for selector in 0..4_u16 {
        for code in [IRETQ, RETF] {
            let (fault, _) = run(Ring::Zero, code, |cpu| {
                stack(cpu, &frame(code, selector, USER_DATA | 3));
            });
            assert_eq!(fault.map(|fault| (fault.vector, fault.error_code)), gp);
        }
        // JMP and CALL FAR [RBX]
        for code in [&[0xff, 0x2b][..], &[0xff, 0x1b]] {
            let (fault, _) = run(Ring::Zero, code, |cpu| {
                cpu.registers[3] = PAGES;
                cpu.store(PAGES, CODE as u32 + 2);
                cpu.store(PAGES + 4, selector);
            });
            assert_eq!(fault.map(|fault| (fault.vector, fault.error_code)), gp);
        }
    }
}

/// SS may be null where a return goes to 64-bit code below CPL 3, with its RPL.
#[test]
fn returns_take_a_null_stack_selector_to_64_bit_code_only() {
    for (cs, ss, accepted) in [
        (CODE_64, 0, true),
        (CODE_64, 1, false),
        (CODE_64, 3, false),
        (CODE_32, 0, false),
        (USER_CODE_64 | 3, 3, false),
        (USER_CODE_64 | 3, 0, false),
        (USER_CODE_32 | 3, 3, false),
    ] {
        for code in [IRETQ, RETF] {
            if code == RETF && cs & 3 == 0 {
                // It pops no SS without a change of privilege.
                continue;
            }
            let (fault, processor) = run(Ring::Zero, code, |cpu| {
                stack(cpu, &frame(code, cs, ss));
            });
            let expected = (!accepted).then_some((vector::GENERAL_PROTECTION, Some(0)));
            let fault = fault.map(|fault| (fault.vector, fault.error_code));
            assert_eq!(fault, expected, "{cs:x} {ss}");
            if accepted {
                let stack = processor.cpu.segments[register::SS as usize];
                assert!(stack.has(rights::UNUSABLE) && stack.selector == ss);
            }
        }
    }
}

/// LLDT takes a null selector, after which nothing is in the LDT; LTR does not (SDM volume 2).
#[test]
fn a_null_local_table_is_none_and_a_null_task_is_refused() {
    for selector in 0..4_u16 {
        // LLDT AX; SLDT ECX; MOV FS, DX
        let code = [0x0f, 0x00, 0xd0, 0x0f, 0x00, 0xc1, 0x8e, 0xe2];
        let (fault, processor) = run(Ring::Zero, &code, |cpu| {
            cpu.store(GDT + u64::from(FREE), 0x0000_8200_0000_ffff_u64 | GDT << 16);
            cpu.store(GDT + u64::from(FREE) + 8, 0_u64);
            cpu.load_ldtr(FREE).unwrap();
            cpu.registers[0] = selector.into();
            cpu.registers[2] = u64::from(STACK_0 | 4);
        });
        let fault = fault.expect("there is no LDT");
        let expected = (vector::GENERAL_PROTECTION, Some(u64::from(STACK_0 | 4)));
        assert_eq!((fault.vector, fault.error_code), expected);
        assert_eq!(processor.cpu.registers[1], selector.into());
        // LTR AX
        let (fault, _) = run(Ring::Zero, &[0x0f, 0x00, 0xd8], |cpu| {
            cpu.registers[0] = selector.into();
        });
        let gp = Some((vector::GENERAL_PROTECTION, Some(0)));
        assert_eq!(fault.map(|fault| (fault.vector, fault.error_code)), gp);
    }
}
