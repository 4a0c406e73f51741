//! Breakpoints on data and ports, single-stepping, and alignment checks.

mod support;
#[path = "support/tables.rs"]
mod tables;

use apic::non_maskable::Handling;
use arch::control_register::{cr0, cr4, efer, rflags};
use arch::{exception, msr};
use posthaste_machine::cpu::segment::{Segment, register};
use posthaste_machine::cpu::{Activity, Cpu, Processor, Stop};
use support::{CODE, DATA, long_mode, step};
use tables::*;

const HANDLER: u64 = 0x18_0000;
const SINGLE_STEP: u64 = 1 << 14;

/// 64-bit mode at CPL 0; each vector has a handler that halts, 16 bytes apart.
fn kernel(code: &[u8]) -> Processor {
    let mut processor = long_mode(code);
    let cpu = &mut processor.cpu;
    load(cpu);
    for vector in 0..32_u8 {
        let handler = HANDLER + u64::from(vector) * 16;
        cpu.store(handler, 0xf4_u8);
        set_gate(cpu, vector, handler, CODE_64, 0x8e, 1);
    }
    cpu.registers[6] = DATA;
    cpu.registers[7] = DATA;
    processor
}

fn user(code: &[u8]) -> Processor {
    let mut processor = kernel(code);
    let cpu = &mut processor.cpu;
    cpu.segments[register::CS as usize] = Segment::from_descriptor(USER_CODE_64 | 3, flat(0xa0fb));
    cpu.segments[register::SS as usize] = Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3));
    cpu.refresh_mode();
    processor
}

/// The vector whose handler is about to run, and the RIP that it returns to.
fn delivered(cpu: &Cpu) -> Option<(u8, u64)> {
    let distance = cpu.rip().checked_sub(HANDLER).filter(|far| *far < 512)?;
    Some(((distance / 16) as u8, cpu.ram.load(cpu.registers[4])))
}

/// The same for #AC, whose error code is on top.
fn alignment_fault(cpu: &Cpu) -> Option<(u64, u64)> {
    let distance = cpu.rip().checked_sub(HANDLER)?;
    let vector = (distance / 16) as u8;
    let top = cpu.registers[4];
    (vector == exception::ALIGNMENT_CHECK).then(|| (cpu.ram.load(top), cpu.ram.load(top + 8)))
}

/// Enables breakpoint `number` with DR7's R/W and LEN.
fn set_breakpoint(cpu: &mut Cpu, number: u8, address: u64, condition: u64, length: u64) {
    cpu.write_debug_register(number, address).unwrap();
    let old = cpu.read_debug_register(7).unwrap();
    let field = condition << (16 + number * 4) | length << (18 + number * 4);
    cpu.write_debug_register(7, old | field | 2 << (number * 2))
        .unwrap();
}

const WRITE: u64 = 1;
const PORT: u64 = 2;
const READ_OR_WRITE: u64 = 3;
/// LEN.
const LENGTHS: [(u64, u64); 4] = [(0, 1), (1, 2), (3, 4), (2, 8)];

// mov [rdi], eax; mov eax, [rdi]; nop
const STORE: &[u8] = &[0x89, 0x07, 0x90];
const LOAD: &[u8] = &[0x8b, 0x07, 0x90];
// lock add [rdi], eax
const MODIFY: &[u8] = &[0xf0, 0x01, 0x07, 0x90];

// SDM 17.2.4, 17.3.1.2: a trap after the instruction, for writes or any access.
#[test]
fn a_data_breakpoint_traps_after_the_access_that_it_waits_for() {
    for (code, condition, hit) in [
        (STORE, WRITE, true),
        (STORE, READ_OR_WRITE, true),
        (LOAD, WRITE, false),
        (LOAD, READ_OR_WRITE, true),
        (MODIFY, WRITE, true),
        (MODIFY, READ_OR_WRITE, true),
    ] {
        for number in 0..4 {
            let mut processor = kernel(code);
            // The page is cached before the breakpoint is.
            step(&mut processor, 1);
            processor.cpu.set_rip(CODE);
            set_breakpoint(&mut processor.cpu, number, DATA, condition, 3);
            step(&mut processor, 1);
            let cpu = &processor.cpu;
            let next = CODE + code.len() as u64 - 1;
            if hit {
                assert_eq!(delivered(cpu), Some((exception::DEBUG, next)), "{code:x?}");
                assert_eq!(cpu.dr[6], 0xffff_0ff0 | 1 << number);
            } else {
                assert_eq!((delivered(cpu), cpu.rip()), (None, next), "{code:x?}");
            }
        }
    }
}

// SDM 17.2.5: the address is aligned to the length, and one common byte is enough.
#[test]
fn a_data_breakpoint_covers_its_length() {
    for (field, length) in LENGTHS {
        for distance in -5_i64..10 {
            let mut processor = kernel(STORE);
            let cpu = &mut processor.cpu;
            set_breakpoint(cpu, 0, DATA + 0x10, WRITE, field);
            cpu.registers[7] = (DATA + 0x10).wrapping_add_signed(distance);
            step(&mut processor, 1);
            let overlap = distance < length as i64 && distance + 4 > 0;
            let hit = delivered(&processor.cpu).is_some();
            assert_eq!(hit, overlap, "{length} bytes, write of 4 at {distance}");
        }
    }
    // The low bits of the address do not count.
    let mut processor = kernel(STORE);
    set_breakpoint(&mut processor.cpu, 1, DATA + 7, WRITE, 3);
    processor.cpu.registers[7] = DATA + 4;
    step(&mut processor, 1);
    assert!(delivered(&processor.cpu).is_some());
    // Across two pages.
    let mut processor = kernel(STORE);
    set_breakpoint(&mut processor.cpu, 1, DATA + 0x1000, WRITE, 0);
    processor.cpu.registers[7] = DATA + 0xffe;
    step(&mut processor, 1);
    assert!(delivered(&processor.cpu).is_some());
}

#[test]
fn a_disabled_breakpoint_and_another_page_do_nothing() {
    let mut processor = kernel(STORE);
    set_breakpoint(&mut processor.cpu, 0, DATA, WRITE, 3);
    processor
        .cpu
        .write_debug_register(7, 1 << 16 | 3 << 18)
        .unwrap();
    step(&mut processor, 1);
    assert_eq!(delivered(&processor.cpu), None);
    let mut processor = kernel(STORE);
    set_breakpoint(&mut processor.cpu, 0, DATA + 0x1000, WRITE, 3);
    step(&mut processor, 1);
    assert_eq!(delivered(&processor.cpu), None);
}

#[test]
fn several_breakpoints_and_a_single_step_are_one_exception() {
    let mut processor = kernel(STORE);
    let cpu = &mut processor.cpu;
    set_breakpoint(cpu, 0, DATA, WRITE, 3);
    set_breakpoint(cpu, 3, DATA + 2, READ_OR_WRITE, 0);
    cpu.set_rflags(rflags::TF);
    step(&mut processor, 1);
    assert_eq!(
        delivered(&processor.cpu),
        Some((exception::DEBUG, CODE + 2))
    );
    assert_eq!(processor.cpu.dr[6], 0xffff_0ff0 | SINGLE_STEP | 1 | 8);
}

// SDM 17.3.1.2: a repeated string instruction traps after the iteration.
#[test]
fn a_repeated_store_traps_after_the_iteration() {
    // rep stosb
    let mut processor = kernel(&[0xf3, 0xaa, 0x90]);
    let cpu = &mut processor.cpu;
    set_breakpoint(cpu, 0, DATA + 3, WRITE, 0);
    cpu.registers[1] = 8;
    step(&mut processor, 4);
    let cpu = &processor.cpu;
    assert_eq!(delivered(cpu), Some((exception::DEBUG, CODE)));
    assert_eq!((cpu.registers[1], cpu.registers[7]), (4, DATA + 4));
}

#[test]
fn an_instruction_that_faults_traps_not() {
    // push [rdi] with a stack that is not canonical: the read is done, the instruction is not.
    let mut processor = kernel(&[0xff, 0x37]);
    let cpu = &mut processor.cpu;
    set_breakpoint(cpu, 0, DATA, READ_OR_WRITE, 0);
    cpu.registers[4] = 1 << 63;
    step(&mut processor, 1);
    let vector = (processor.cpu.rip() - HANDLER) / 16;
    assert_eq!(vector as u8, exception::STACK_FAULT);
    assert_eq!(processor.cpu.dr[6], 0xffff_0ff0);
}

// SDM 6.8.3: debug exceptions wait for the instruction after MOV SS.
#[test]
fn after_mov_ss_the_trap_comes_one_instruction_later() {
    // mov ss, [rdi]; nop; nop
    let mut processor = kernel(&[0x8e, 0x17, 0x90, 0x90]);
    let cpu = &mut processor.cpu;
    cpu.store(DATA, cpu.segments[register::SS as usize].selector);
    set_breakpoint(cpu, 0, DATA, READ_OR_WRITE, 0);
    step(&mut processor, 1);
    assert_eq!(
        (delivered(&processor.cpu), processor.cpu.rip()),
        (None, CODE + 2)
    );
    step(&mut processor, 1);
    assert_eq!(
        delivered(&processor.cpu),
        Some((exception::DEBUG, CODE + 3))
    );
    assert_eq!(processor.cpu.dr[6], 0xffff_0ff1);
}

// SDM 17.2.4: R/W 10B is a port if CR4.DE is set.
#[test]
fn a_port_breakpoint_traps_after_in_and_out() {
    // out 80h, al; in al, 80h; out 80h, eax at port 7EH
    for (code, port, extensions, hit) in [
        (&[0xe6, 0x80][..], 0x80, true, true),
        (&[0xe4, 0x80], 0x80, true, true),
        (&[0xe4, 0x80], 0x80, false, false),
        (&[0xe4, 0x80], 0x81, true, false),
        (&[0xe7, 0x7e], 0x80, true, true),
        (&[0xe7, 0x7c], 0x80, true, false),
    ] {
        let mut processor = kernel(code);
        let cpu = &mut processor.cpu;
        if extensions {
            cpu.write_cr4(cpu.cr4 | cr4::DE).unwrap();
        }
        set_breakpoint(cpu, 2, port, PORT, 0);
        step(&mut processor, 1);
        let wanted = hit.then_some((exception::DEBUG, CODE + 2));
        assert_eq!(delivered(&processor.cpu), wanted, "{code:x?}");
    }
}

fn checked(code: &[u8]) -> Processor {
    let mut processor = user(code);
    let cpu = &mut processor.cpu;
    cpu.cr0 |= cr0::AM;
    cpu.set_rflags(rflags::AC);
    processor
}

// SDM 6.15, "Interrupt 17": CR0.AM, RFLAGS.AC and CPL 3 together.
#[test]
fn a_misaligned_access_faults_if_alignment_is_checked() {
    let store_2 = &[0x66, 0x89, 0x07][..];
    let store_8 = &[0x48, 0x89, 0x07][..];
    for (code, size) in [
        (store_2, 2),
        (STORE, 4),
        (LOAD, 4),
        (MODIFY, 4),
        (store_8, 8),
    ] {
        for distance in 0..16 {
            let mut processor = checked(code);
            processor.cpu.registers[7] = DATA + distance;
            step(&mut processor, 1);
            let wanted = (distance % size != 0).then_some((0, CODE));
            assert_eq!(
                alignment_fault(&processor.cpu),
                wanted,
                "{code:x?} at {distance}"
            );
        }
    }
}

#[test]
fn alignment_is_not_checked_without_am_ac_or_at_cpl_0() {
    for (mask, flag, unprivileged) in [
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ] {
        let mut processor = if unprivileged {
            user(STORE)
        } else {
            kernel(STORE)
        };
        let cpu = &mut processor.cpu;
        cpu.cr0 |= if mask { cr0::AM } else { 0 };
        cpu.set_rflags(if flag { rflags::AC } else { 0 });
        cpu.registers[7] = DATA + 1;
        step(&mut processor, 1);
        assert_eq!(processor.cpu.rip(), CODE + 2);
    }
}

#[test]
fn setting_ac_takes_effect_on_pages_used_before() {
    // mov eax, [rdi]; pushfq; or qword [rsp], 40000h; popfq; mov eax, [rdi]
    let code = [
        0x8b, 0x07, 0x9c, 0x48, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d, 0x8b, 0x07,
    ];
    let mut processor = user(&code);
    let cpu = &mut processor.cpu;
    cpu.cr0 |= cr0::AM;
    cpu.registers[7] = DATA + 1;
    // Not one at a time, as tests step otherwise.
    cpu.slice_end = cpu.instructions + 5;
    processor.run();
    assert_eq!(alignment_fault(&processor.cpu), Some((0, CODE + 12)));
}

/// Processors never come to the end of such a series, and take no event meanwhile; a run goes on
/// counting.
#[test]
fn an_alignment_check_whose_delivery_raises_another_goes_on_for_ever() {
    // A gate to a conforming segment stays at CPL 3, on a misaligned stack.
    let mut processor = checked(STORE);
    let cpu = &mut processor.cpu;
    cpu.efer &= !efer::LMA & !efer::LME;
    cpu.cr0 &= !cr0::PG;
    cpu.cr4 &= !cr4::PAE;
    let conforming = FREE;
    cpu.store(GDT + u64::from(conforming), flat(0xc0ff));
    cpu.gdtr.limit = cpu.gdtr.limit.max(conforming + 7);
    for number in [register::SS, register::DS] {
        cpu.segments[number as usize] = Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3));
    }
    cpu.segments[register::CS as usize] = Segment::from_descriptor(conforming | 3, flat(0xc0ff));
    let gate = u64::from(exception::ALIGNMENT_CHECK) * 8;
    let handler =
        HANDLER & 0xffff | u64::from(conforming) << 16 | 0x8e00 << 32 | HANDLER >> 16 << 48;
    cpu.store(cpu.idtr.base + gate, handler);
    cpu.refresh_mode();
    cpu.registers[7] = DATA + 1;
    cpu.registers[4] -= 2;
    let begin = processor.cpu.instructions;
    for slice in [1, 1000, 100_000] {
        let cpu = &mut processor.cpu;
        cpu.slice_end = cpu.instructions + slice;
        assert_eq!(processor.run(), Stop::SliceEnd);
        let cpu = &processor.cpu;
        assert_eq!((cpu.activity, cpu.rip()), (Activity::Active, CODE));
        assert_eq!(cpu.instructions, cpu.slice_end);
        assert_eq!(cpu.nmi_pending.is_pending(), slice != 1);
        processor.cpu.nmi_pending.accept(1, Handling::No);
        processor.cpu.look_at_events();
    }
    assert_eq!(processor.cpu.instructions, begin + 101_001);
}

// SDM 6.8.3: an instruction breakpoint behind MOV SS is not triggered.
#[test]
fn an_instruction_breakpoint_behind_mov_ss_is_lost() {
    // mov ss, eax; nop; nop
    for (address, hit) in [(CODE + 2, false), (CODE + 3, true)] {
        let mut processor = kernel(&[0x8e, 0xd0, 0x90, 0x90]);
        let cpu = &mut processor.cpu;
        cpu.registers[0] = STACK_0.into();
        set_breakpoint(cpu, 0, address, 0, 0);
        // Delivered, if at all, before the last of them.
        step(&mut processor, 3);
        assert_eq!(processor.cpu.dr[6] & 1 != 0, hit, "{address:#x}");
    }
}

// SDM 17.4.3: with BTF, TF traps after branches that are taken; the trap clears BTF.
#[test]
fn single_stepping_on_branches() {
    // nop; jz; jnz to the next but one; nop; nop
    let mut processor = kernel(&[0x90, 0x74, 0, 0x75, 1, 0x90, 0x90]);
    let cpu = &mut processor.cpu;
    cpu.write_msr(msr::IA32_DEBUGCTL, 2).unwrap();
    cpu.set_rflags(rflags::TF);
    step(&mut processor, 2);
    assert_eq!(delivered(&processor.cpu), None);
    step(&mut processor, 1);
    assert_eq!(
        delivered(&processor.cpu),
        Some((exception::DEBUG, CODE + 6))
    );
    assert_eq!(processor.cpu.read_msr(msr::IA32_DEBUGCTL).unwrap(), 0);
    assert!(processor.cpu.write_msr(msr::IA32_DEBUGCTL, 4).is_err());
}
