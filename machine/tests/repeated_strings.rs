//! Faults of string instructions, and which segment an operand is in, with both engines.

#[path = "support/faults.rs"]
mod faults;
mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::rflags;
use arch::exception as vector;
use faults::{PAGES, Ring, USER, WRITABLE, run, set_page};
use posthaste_machine::cpu::Cpu;
use posthaste_machine::cpu::flags::Flags;

const REPNE_SCASB: &[u8] = &[0xf2, 0xae];
const REPE_CMPSB: &[u8] = &[0xf3, 0xa6];
const REPE_CMPSD: &[u8] = &[0xf3, 0xa7];
const REP_STOSB: &[u8] = &[0xf3, 0xaa];

/// Page 1 is absent; strings in page 0 are ones, and AL is none.
fn absent_second_page(cpu: &mut Cpu, flags: u64) {
    set_page(cpu, 1, WRITABLE | USER);
    cpu.platform.bus_agent().write_bytes(PAGES, &[1; 4096]);
    cpu.registers[0] = 7;
    cpu.flags = Flags::from_rflags(flags);
}

/// SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ: a fault in a repeated CMPS or SCAS leaves the flags of
/// before the instruction, and the registers of the iteration.
#[test]
fn a_fault_in_a_comparison_restores_the_flags() {
    for flags in [0, rflags::STATUS, rflags::CF | rflags::PF, rflags::OF] {
        for (code, count, before_fault) in [
            (REPNE_SCASB, 100, 10),
            (REPE_CMPSB, 100, 10),
            (REPE_CMPSD, 100, 2),
            // The first iteration faults.
            (REPNE_SCASB, 3, 0),
            // More iterations than are done at a time.
            (REPNE_SCASB, 5000, 3000),
            (REPE_CMPSB, 5000, 3000),
        ] {
            let size = if code == REPE_CMPSD { 4 } else { 1 };
            let (fault, processor) = run(Ring::Three, code, |cpu| {
                absent_second_page(cpu, flags);
                cpu.registers[7] = PAGES + 4096 - before_fault * size;
                cpu.registers[6] = PAGES;
                cpu.registers[1] = count;
            });
            let fault = fault.unwrap_or_else(|| panic!("{code:x?} does not fault"));
            assert_eq!(fault.vector, vector::PAGE_FAULT);
            assert_eq!(fault.cr2, Some(PAGES + 4096));
            assert_eq!(fault.rflags & rflags::STATUS, flags, "{code:x?} {flags:x}");
            assert!(fault.rflags & rflags::RF != 0);
            assert_eq!(processor.cpu.registers[1], count - before_fault);
            assert_eq!(processor.cpu.registers[7], PAGES + 4096);
        }
    }
}

/// A comparison that comes to its end has the flags of its last iteration, however long it is.
#[test]
fn a_comparison_that_ends_sets_the_flags() {
    for (code, count) in [(REPNE_SCASB, 3000), (REPE_CMPSB, 3000), (REPE_CMPSB, 3)] {
        let (fault, processor) = run(Ring::Three, code, |cpu| {
            absent_second_page(cpu, rflags::STATUS);
            cpu.registers[7] = PAGES;
            cpu.registers[6] = PAGES;
            cpu.registers[1] = count;
        });
        assert_eq!(fault, None);
        let zero = if code == REPE_CMPSB { rflags::ZF } else { 0 };
        let rflags = processor
            .cpu
            .ram
            .load::<u64>(processor.cpu.registers[4] + 16);
        assert_eq!(rflags & (rflags::ZF | rflags::AF), zero);
    }
}

/// What is not a comparison leaves the flags alone, fault or not.
#[test]
fn a_fault_in_a_store_leaves_the_flags() {
    let (fault, processor) = run(Ring::Three, REP_STOSB, |cpu| {
        absent_second_page(cpu, rflags::CF | rflags::ZF);
        cpu.registers[7] = PAGES + 4000;
        cpu.registers[1] = 1000;
    });
    let fault = fault.expect("it faults");
    assert_eq!(fault.rflags & rflags::STATUS, rflags::CF | rflags::ZF);
    assert_eq!(processor.cpu.registers[1], 1000 - 96);
    assert_eq!(
        processor.cpu.ram.load::<u64>(PAGES + 4088),
        0x0707_0707_0707_0707
    );
}

/// Where both operands fault, Intel's processors report ES:RDI of CMPS and the source of MOVS.
#[test]
fn one_of_two_absent_strings_is_reported() {
    for (code, cr2) in [
        (&[0xa6][..], PAGES + 4104),
        (REPE_CMPSB, PAGES + 4104),
        (REPE_CMPSD, PAGES + 4104),
        (&[0xa4], PAGES + 4096),
        (&[0xf3, 0x48, 0xa5], PAGES + 4096),
    ] {
        let (fault, _) = run(Ring::Three, code, |cpu| {
            absent_second_page(cpu, 0);
            cpu.registers[6] = PAGES + 4096;
            cpu.registers[7] = PAGES + 4104;
            cpu.registers[1] = 2;
        });
        let fault = fault.unwrap_or_else(|| panic!("{code:x?} does not fault"));
        assert_eq!(
            (fault.cr2, fault.error_code),
            (Some(cr2), Some(4)),
            "{code:x?}"
        );
    }
}

/// SDM volume 1, 3.3.7.1: a non-canonical address is #SS where it is relative to RSP or RBP, and
/// #GP elsewhere; in 64-bit mode the prefixes of CS, DS, ES and SS do not change that, and those of
/// FS and GS do.
#[test]
fn prefixes_of_flat_segments_are_ignored_in_64_bit_mode() {
    let (ss, gp) = (vector::STACK_FAULT, vector::GENERAL_PROTECTION);
    let (rax_based, rbp_based, r13_based): (&[u8], &[u8], &[u8]) = (
        &[0x8b, 0x00],
        &[0x8b, 0x45, 0x00],
        &[0x41, 0x8b, 0x45, 0x00],
    );
    // [rsp+rax], [rax+rbp], [rbp+rax]
    let with_index: [(&[u8], u8); 3] = [
        (&[0x8b, 0x04, 0x04], ss),
        (&[0x8b, 0x04, 0x28], gp),
        (&[0x8b, 0x44, 0x05, 0x00], ss),
    ];
    let cases = [(rax_based, gp), (rbp_based, ss), (r13_based, gp)];
    for (code, expected) in cases.into_iter().chain(with_index) {
        for prefix in [
            None,
            Some(0x26),
            Some(0x2e),
            Some(0x36),
            Some(0x3e),
            Some(0x64),
            Some(0x65),
        ] {
            let expected = match prefix {
                Some(0x64 | 0x65) => gp,
                _ => expected,
            };
            let code = [prefix.as_slice(), code].concat();
            let (fault, _) = run(Ring::Three, &code, |cpu| {
                cpu.registers[0] = 0x7fff_f000_0000_0000;
                cpu.registers[5] = 1 << 47;
                cpu.registers[13] = 1 << 47;
            });
            let fault = fault.unwrap_or_else(|| panic!("{code:x?} does not fault"));
            assert_eq!(
                (fault.vector, fault.error_code),
                (expected, Some(0)),
                "{code:x?}"
            );
        }
    }
    // A store, a read-modify-write, a push of memory, an SSE load and a string by RSI.
    let siblings: [(&[u8], u8); 6] = [
        (&[0x3e, 0x89, 0x45, 0x00], ss),
        (&[0x3e, 0x01, 0x45, 0x00], ss),
        (&[0x3e, 0xff, 0x75, 0x00], ss),
        (&[0x36, 0x0f, 0x10, 0x00], gp),
        (&[0x36, 0xac], gp),
        (&[0x36, 0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0xff, 0x7f], gp),
    ];
    for (code, expected) in siblings {
        let (fault, _) = run(Ring::Three, code, |cpu| {
            cpu.registers[0] = 1 << 47;
            cpu.registers[5] = 1 << 47;
            cpu.registers[6] = 1 << 47;
        });
        let fault = fault.unwrap_or_else(|| panic!("{code:x?} does not fault"));
        assert_eq!(
            (fault.vector, fault.error_code),
            (expected, Some(0)),
            "{code:x?}"
        );
    }
}
