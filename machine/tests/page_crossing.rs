//! Operands that span two pages, and instructions that write more than one: which page faults, what
//! CR2 is, and that nothing is written then; with both engines.
//!
//! Intel's processors report the first page that faults, and of the second page its first byte, but
//! for the images of FXSAVE and FNSAVE.

#[path = "support/faults.rs"]
mod faults;
mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::cr4;
use arch::exception as vector;
use faults::{DIRTY, Fault, PAGES, PRESENT, Ring, USER, WRITABLE, page_entry, run, set_page};
use posthaste_machine::cpu::segment::{register, rights};
use posthaste_machine::cpu::{Cpu, Processor};

const ALL: u64 = PRESENT | WRITABLE | USER;
const READ_ONLY: u64 = PRESENT | USER;
const ABSENT: u64 = WRITABLE | USER;
/// Error codes of #PF at CPL 3.
const WRITE_VIOLATION: u64 = 7;
const WRITE_ABSENT: u64 = 6;
const READ_ABSENT: u64 = 4;
/// What memory holds.
const FILL: u8 = 0x5a;

/// Runs `code` with RBX (and RDI) at `offset` of the pages, whose first two have these rights; other
/// registers differ from memory. Nothing may be written if it faults.
fn at(ring: Ring, code: &[u8], offset: u64, pages: [u64; 2]) -> (Option<Fault>, Processor) {
    let (fault, processor) = run(ring, code, |cpu| prepare(cpu, offset, pages));
    if fault.is_some() {
        let mut memory = vec![0; 3 * 4096];
        processor.cpu.ram.read_bytes(PAGES, &mut memory);
        let changed = memory.iter().position(|byte| *byte != FILL);
        assert_eq!(changed, None, "{code:02x?} at {offset:#x} wrote");
    }
    (fault, processor)
}

fn prepare(cpu: &mut Cpu, offset: u64, pages: [u64; 2]) {
    cpu.platform
        .bus_agent()
        .write_bytes(PAGES, &[FILL; 3 * 4096]);
    for (number, rights) in (0..).zip(pages) {
        set_page(cpu, number, rights);
    }
    for (number, register) in (0..).zip(&mut cpu.registers[..16]) {
        if number != 4 {
            *register = 0x1111_1111 * (number + 1);
        }
    }
    cpu.registers[3] = PAGES + offset;
    cpu.registers[7] = PAGES + offset;
    cpu.cr4 |= cr4::OSXSAVE;
    cpu.xcr0 = 3;
}

#[track_caller]
fn page_fault(fault: Option<Fault>, code: &[u8]) -> (u64, u64) {
    let fault = fault.unwrap_or_else(|| panic!("{code:02x?} does not fault"));
    assert_eq!(
        (fault.vector, fault.rip),
        (vector::PAGE_FAULT, 0),
        "{code:02x?}"
    );
    let cr2 = fault.cr2.expect("CR2 of #PF") - PAGES;
    (cr2, fault.error_code.expect("#PF has one"))
}

/// Instructions on `[rbx]` or `[rdi]` that write, with an offset at which the operand crosses.
const WRITES: &[(&[u8], u64)] = &[
    // add dword [rbx], 1; lock
    (&[0x83, 0x03, 0x01], 0xffe),
    (&[0xf0, 0x83, 0x03, 0x01], 0xffe),
    // add qword [rbx], 1; lock
    (&[0x48, 0x83, 0x03, 0x01], 0xff9),
    (&[0xf0, 0x48, 0x83, 0x03, 0x01], 0xff9),
    // inc word [rbx]; not, neg dword [rbx]
    (&[0x66, 0xff, 0x03], 0xfff),
    (&[0xf7, 0x13], 0xffd),
    (&[0xf7, 0x1b], 0xffd),
    // shl dword [rbx], 3; shld [rbx], eax, 3
    (&[0xc1, 0x23, 0x03], 0xfff),
    (&[0x0f, 0xa4, 0x03, 0x03], 0xfff),
    // xadd [rbx], rax; lock; xchg [rbx], eax
    (&[0x48, 0x0f, 0xc1, 0x03], 0xffd),
    (&[0xf0, 0x48, 0x0f, 0xc1, 0x03], 0xffd),
    (&[0x87, 0x03], 0xfff),
    // cmpxchg [rbx], ecx, which fails; cmpxchg8b [rbx]; bts dword [rbx], 1; bts [rbx], eax
    (&[0x0f, 0xb1, 0x0b], 0xffe),
    (&[0x0f, 0xc7, 0x0b], 0xffc),
    (&[0x0f, 0xba, 0x2b, 0x01], 0xffe),
    // mov [rbx], eax; mov [rbx], rax; mov word [rbx], imm; movbe [rbx], eax; movnti [rbx], rax
    (&[0x89, 0x03], 0xffe),
    (&[0x48, 0x89, 0x03], 0xff9),
    (&[0x66, 0xc7, 0x03, 0x34, 0x12], 0xfff),
    (&[0x0f, 0x38, 0xf1, 0x03], 0xffe),
    (&[0x48, 0x0f, 0xc3, 0x03], 0xffc),
    // movups [rbx], xmm0; movq [rbx], mm0; movsd [rbx], xmm0
    (&[0x0f, 0x11, 0x03], 0xff9),
    (&[0x0f, 0x7f, 0x03], 0xffc),
    (&[0xf2, 0x0f, 0x11, 0x03], 0xffc),
    // mov [rbx], ds
    (&[0x8c, 0x1b], 0xfff),
    // fld1; fst dword, fstp qword, fistp qword, fstp tbyte [rbx]
    (&[0xd9, 0xe8, 0xd9, 0x13], 0xffe),
    (&[0xd9, 0xe8, 0xdd, 0x1b], 0xffc),
    (&[0xd9, 0xe8, 0xdf, 0x3b], 0xffc),
    (&[0xd9, 0xe8, 0xdb, 0x3b], 0xffa),
    (&[0xd9, 0xe8, 0xdb, 0x3b], 0xff7),
    (&[0xd9, 0xe8, 0xdb, 0x3b], 0xff8),
    // fld1; fbstp [rbx]
    (&[0xd9, 0xe8, 0xdf, 0x33], 0xffa),
    // sgdt [rbx]; sidt [rbx]
    (&[0x0f, 0x01, 0x03], 0xffa),
    (&[0x0f, 0x01, 0x0b], 0xfff),
    // stosq; pop qword [rbx]
    (&[0x48, 0xab], 0xff9),
    (&[0x8f, 0x03], 0xff9),
];

/// Skips FLD1 before the instruction that faults.
fn fault_at(fault: Option<Fault>, code: &[u8]) -> (u64, u64) {
    let skipped = if code.starts_with(&[0xd9, 0xe8]) {
        2
    } else {
        0
    };
    let fault = fault.map(|fault| Fault {
        rip: fault.rip - skipped,
        ..fault
    });
    page_fault(fault, code)
}

#[test]
fn the_first_page_that_faults_is_reported() {
    for (code, offset) in WRITES {
        let second = (0x1000, WRITE_VIOLATION);
        let (fault, _) = at(Ring::Three, code, *offset, [ALL, READ_ONLY]);
        assert_eq!(fault_at(fault, code), second, "{code:02x?}");
        let (fault, _) = at(Ring::Three, code, *offset, [ALL, ABSENT]);
        assert_eq!(fault_at(fault, code), (0x1000, WRITE_ABSENT), "{code:02x?}");
        for pages in [
            [READ_ONLY, ABSENT],
            [READ_ONLY, ALL],
            [READ_ONLY, READ_ONLY],
        ] {
            let (fault, _) = at(Ring::Three, code, *offset, pages);
            let first = (*offset, WRITE_VIOLATION);
            assert_eq!(fault_at(fault, code), first, "{code:02x?} {pages:x?}");
        }
        let (fault, _) = at(Ring::Three, code, *offset, [ABSENT, READ_ONLY]);
        let first = (*offset, WRITE_ABSENT);
        assert_eq!(fault_at(fault, code), first, "{code:02x?}");
        let (fault, processor) = at(Ring::Three, code, *offset, [ALL, ALL]);
        assert_eq!(fault, None, "{code:02x?}");
        for number in [0, 1] {
            assert!(
                page_entry(&processor.cpu, number) & DIRTY != 0,
                "{code:02x?}"
            );
        }
    }
}

#[test]
fn a_load_reports_the_page_that_is_absent() {
    let loads: [(&[u8], u64); 6] = [
        (&[0x8b, 0x03], 0xffe),
        (&[0x48, 0x8b, 0x03], 0xff9),
        (&[0x0f, 0x10, 0x03], 0xff9),
        (&[0xdb, 0x2b], 0xffa),
        (&[0xdf, 0x23], 0xff9),
        (&[0x83, 0x3b, 0x01], 0xffe),
    ];
    for (code, offset) in loads {
        let (fault, _) = at(Ring::Three, code, offset, [READ_ONLY, ABSENT]);
        assert_eq!(
            page_fault(fault, code),
            (0x1000, READ_ABSENT),
            "{code:02x?}"
        );
        let (fault, _) = at(Ring::Three, code, offset, [ABSENT, ABSENT]);
        assert_eq!(
            page_fault(fault, code),
            (offset, READ_ABSENT),
            "{code:02x?}"
        );
        let (fault, _) = at(Ring::Three, code, offset, [READ_ONLY, READ_ONLY]);
        assert_eq!(fault, None, "{code:02x?}");
    }
}

/// FXSAVE and the XSAVE family look at the last byte of their area first, FNSAVE and FNSTENV at the
/// first byte and then at the last.
#[test]
fn images_are_written_whole_or_not_at_all() {
    let images: [(&[u8], u64, u64, bool); 9] = [
        (&[0x0f, 0xae, 0x03], 0xe10, 511, true),
        (&[0x48, 0x0f, 0xae, 0x03], 0xff0, 511, true),
        (&[0x0f, 0xae, 0x23], 0xe40, 575, true),
        (&[0x0f, 0xae, 0x33], 0xfc0, 575, true),
        (&[0x0f, 0xc7, 0x23], 0xfc0, 575, true),
        (&[0xdd, 0x33], 0xfa0, 107, false),
        (&[0x66, 0xdd, 0x33], 0xfa4, 93, false),
        (&[0xd9, 0x33], 0xff0, 27, false),
        (&[0x66, 0xd9, 0x33], 0xff6, 13, false),
    ];
    for (code, offset, last, last_first) in images {
        let end = offset + last;
        // XSAVE and its relatives save what EDX:EAX says.
        let prefix: &[u8] = &[0x31, 0xd2, 0xb8, 0x03, 0, 0, 0];
        let code = &[prefix, code].concat()[..];
        let skip = |fault: Option<Fault>| {
            fault.map(|fault| Fault {
                rip: fault.rip - 7,
                ..fault
            })
        };
        let check = |pages, expected| {
            let (fault, _) = at(Ring::Three, code, offset, pages);
            assert_eq!(
                page_fault(skip(fault), code),
                expected,
                "{code:02x?} {pages:x?}"
            );
        };
        check([ALL, READ_ONLY], (end, WRITE_VIOLATION));
        check([READ_ONLY, ALL], (offset, WRITE_VIOLATION));
        let both = if last_first {
            (end, WRITE_ABSENT)
        } else {
            (offset, WRITE_VIOLATION)
        };
        check([READ_ONLY, ABSENT], both);
        let (fault, _) = at(Ring::Three, code, offset, [ALL, ALL]);
        assert_eq!(fault, None, "{code:02x?}");
    }
}

/// MASKMOVDQU and MASKMOVQ store all selected bytes or none.
#[test]
fn masked_stores_are_whole() {
    for code in [&[0x66, 0x0f, 0xf7, 0xc1][..], &[0x0f, 0xf7, 0xc1]] {
        let with_mask = |mask: u128, pages| {
            let (fault, processor) = run(Ring::Three, code, |cpu| {
                prepare(cpu, 0xffc, pages);
                cpu.xmm[1] = mask;
                cpu.x87.registers[1][..8].copy_from_slice(&mask.to_le_bytes()[..8]);
            });
            (fault, processor.cpu.ram.load::<u32>(PAGES + 0xffc))
        };
        let (fault, low) = with_mask(u128::MAX, [ALL, ABSENT]);
        assert_eq!(
            page_fault(fault, code),
            (0x1000, WRITE_ABSENT),
            "{code:02x?}"
        );
        assert_eq!(low, 0x5a5a_5a5a);
        let (fault, low) = with_mask(0xff00_00ff_ffff, [ALL, ABSENT]);
        assert_eq!(
            page_fault(fault, code),
            (0x1001, WRITE_ABSENT),
            "{code:02x?}"
        );
        assert_eq!(low, 0x5a5a_5a5a);
        // Bytes that are not selected do not fault.
        let (fault, low) = with_mask(0xffff_ffff, [ALL, ABSENT]);
        assert_eq!((fault, low), (None, 0), "{code:02x?}");
    }
}

/// The stack pointer at `offset` of the pages.
fn with_stack(ring: Ring, code: &[u8], offset: u64, pages: [u64; 2]) -> (Option<Fault>, Processor) {
    let (fault, processor) = run(ring, code, |cpu| {
        prepare(cpu, offset, pages);
        cpu.registers[4] = PAGES + offset;
        cpu.registers[5] = PAGES + 0x800 + offset;
    });
    let mut memory = vec![0; 3 * 4096];
    processor.cpu.ram.read_bytes(PAGES, &mut memory);
    if fault.is_some() {
        let changed = memory.iter().position(|byte| *byte != FILL);
        assert_eq!(changed, None, "{code:02x?} at {offset:#x} wrote");
    }
    (fault, processor)
}

/// PUSHA, ENTER and far calls push all or nothing; the faulting push is reported.
#[test]
fn several_pushes_are_whole() {
    let code_32 = u64::from(tables::USER_CODE_32 | 3);
    // CALL 1BH:100020H
    let far_call = [0x9a, 0x20, 0, 0x10, 0, code_32 as u8, 0];
    let cases: [(Ring, &[u8], u64, u64); 9] = [
        // PUSHAD, PUSHA
        (Ring::Three32, &[0x60], 0x1010, 0xffc),
        (Ring::Three32, &[0x60], 0x1012, 0xffe),
        (Ring::Three32, &[0x66, 0x60], 0x1004, 0xffe),
        // ENTER 0, 4; ENTER 1000H, 0; ENTER 8, 2
        (Ring::Three32, &[0xc8, 0, 0, 4], 0x1008, 0xffc),
        (Ring::Three, &[0xc8, 0, 0, 4], 0x1010, 0xff8),
        (Ring::Three, &[0xc8, 0, 0x10, 0], 0x1020, 0x18),
        (Ring::Three, &[0xc8, 8, 0, 2], 0x1018, 0xff8),
        (Ring::Three32, &far_call, 0x1004, 0xffc),
        // PUSH RAX across the boundary
        (Ring::Three, &[0x50], 0x1004, 0xffc),
    ];
    for (ring, code, offset, cr2) in cases {
        let (fault, processor) = with_stack(ring, code, offset, [READ_ONLY, ALL]);
        assert_eq!(
            page_fault(fault, code),
            (cr2, WRITE_VIOLATION),
            "{code:02x?}"
        );
        assert_eq!(
            fault.map(|fault| fault.rsp),
            Some(PAGES + offset),
            "{code:02x?}"
        );
        assert_eq!(processor.cpu.registers[5], PAGES + 0x800 + offset);
    }
}

/// A fault in the frame of an event writes nothing of it.
#[test]
fn the_frame_of_an_event_is_whole() {
    let (fault, processor) = run(Ring::Three, &[0x0f, 0x0b], |cpu| {
        prepare(cpu, 0, [READ_ONLY, ALL]);
        // #UD goes to the stack of CPL 0, whose last two quadwords are in a page that is read-only.
        tables::set_gate(cpu, 6, tables::HANDLER + 6 * 16, tables::CODE_64, 0xee, 0);
        cpu.store(tables::TSS + 4, PAGES + 0x1000 + 16);
    });
    let fault = fault.expect("it faults");
    assert_eq!(fault.vector, vector::PAGE_FAULT);
    assert_eq!(fault.cr2, Some(PAGES + 0xff8));
    let words: [u64; 2] = [0, 8].map(|at| processor.cpu.ram.load(PAGES + 0x1000 + at));
    assert_eq!(words, [0x5a5a_5a5a_5a5a_5a5a; 2]);
}

/// SDM volume 2, ENTER and LEAVE: the frame pointer is as wide as operands, the stack pointer moves as
/// wide as the stack.
#[test]
fn enter_and_leave_with_a_16_bit_stack() {
    let with_16_bit_stack = |code: &[u8], rsp: u64, rbp: u64| {
        let (fault, processor) = run(Ring::Three32, code, |cpu| {
            prepare(cpu, 0, [ALL, ALL]);
            let stack = &mut cpu.segments[register::SS as usize];
            stack.rights &= !rights::BIG;
            stack.base = PAGES;
            cpu.registers[4] = rsp;
            cpu.registers[5] = rbp;
        });
        assert_eq!(fault, None, "{code:02x?}");
        let cpu = processor.cpu;
        // The pushed frame of INT holds RSP.
        let pushed: u64 = cpu.ram.load(cpu.registers[4] + 24);
        (pushed, cpu.registers[5])
    };
    // ENTER 8, 0; with 16-bit operands; ENTER 8, 1; a stack pointer that wraps; LEAVE
    let cases: [(&[u8], u64, u64, u64, u64); 6] = [
        (&[0xc8, 8, 0, 0], 0x1_1000, 0x7_0800, 0x1_0ff4, 0x1_0ffc),
        (
            &[0x66, 0xc8, 8, 0, 0],
            0x1_1000,
            0x7_0800,
            0x1_0ff6,
            0x7_0ffe,
        ),
        (&[0xc8, 8, 0, 1], 0x1_1000, 0x7_0800, 0x1_0ff0, 0x1_0ffc),
        (&[0xc8, 8, 0, 3], 0x1_1000, 0x7_0800, 0x1_0fe8, 0x1_0ffc),
        (&[0xc9], 0x1_1000, 0x7_0800, 0x1_0804, 0x5a5a_5a5a),
        (&[0x66, 0xc9], 0x1_1000, 0x7_0800, 0x1_0802, 0x7_5a5a),
    ];
    for (code, rsp, rbp, new_rsp, new_rbp) in cases {
        let end = with_16_bit_stack(code, rsp, rbp);
        assert_eq!(end, (new_rsp, new_rbp), "{code:02x?}");
    }
}
