//! 32-bit protected mode and virtual-8086 mode: delivery, call gates, task switches, system calls,
//! and the instructions that ask about descriptors.

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, rflags};
use posthaste_machine::cpu::raise::{Exception, Source};
use posthaste_machine::cpu::segment::{DescriptorTable, Segment, register, rights};
use posthaste_machine::cpu::{Cpu, Processor};
use support::{CODE, DATA, STACK, long_mode, step};
use tables::{
    CODE_32, FREE, GDT, IDT, KERNEL_STACK, NOT_PRESENT, STACK_0, TASK, TSS, USER_CODE_32,
    USER_DATA, flat, load,
};

const HANDLER: u64 = 0x18_0000;
/// A second TSS.
const OTHER_TASK: u16 = 0x70;
const OTHER_TSS: u64 = 0xb000;

/// 32-bit protected mode without paging, at CPL 0.
fn kernel(code: &[u8]) -> Processor {
    let mut processor = long_mode(code);
    let cpu = &mut processor.cpu;
    cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
    cpu.efer = 0;
    load(cpu);
    cpu.gdtr.limit = 0xff;
    cpu.segments[register::CS as usize] = Segment::from_descriptor(CODE_32, flat(0xc09b));
    cpu.segments[register::SS as usize] = Segment::from_descriptor(STACK_0, flat(0xc093));
    cpu.store(TSS + 4, KERNEL_STACK as u32);
    cpu.store(TSS + 8, u32::from(STACK_0));
    cpu.idtr = DescriptorTable {
        base: IDT,
        limit: 0x7ff,
    };
    cpu.refresh_mode();
    processor
}

/// The same at CPL 3.
fn user(code: &[u8]) -> Processor {
    let mut processor = kernel(code);
    let cpu = &mut processor.cpu;
    cpu.segments[register::CS as usize] = Segment::from_descriptor(USER_CODE_32 | 3, flat(0xc0fb));
    cpu.segments[register::SS as usize] = Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3));
    cpu.refresh_mode();
    assert_eq!(cpu.cpl, 3);
    processor
}

/// A gate of the 32-bit IDT or a call gate: `rights` is byte 5, `count` byte 4.
fn gate(target: u64, selector: u16, rights: u64, count: u64) -> u64 {
    target & 0xffff
        | u64::from(selector) << 16
        | count << 32
        | rights << 40
        | (target & 0xffff_0000) << 32
}

fn set_gate(cpu: &mut Cpu, vector: u8, target: u64, rights: u64) {
    cpu.store(
        IDT + u64::from(vector) * 8,
        gate(target, CODE_32, rights, 0),
    );
}

/// The doublewords from the top of the stack.
fn stack<const N: usize>(cpu: &Cpu) -> [u32; N] {
    std::array::from_fn(|i| cpu.ram.load(cpu.registers[4] + i as u64 * 4))
}

/// Runs one instruction; gives the vector and error code of a fault it raised at CPL 0.
fn fault_of(processor: &mut Processor) -> Option<(u8, u32)> {
    for vector in 0..32 {
        let at = HANDLER + u64::from(vector) * 16;
        set_gate(&mut processor.cpu, vector, at, 0x8e);
    }
    step(processor, 1);
    let cpu = &processor.cpu;
    (HANDLER..HANDLER + 512)
        .contains(&cpu.rip())
        .then(|| (((cpu.rip() - HANDLER) / 16) as u8, stack::<1>(cpu)[0]))
}

// SDM 6.12.1 Exception- or interrupt-handler procedures, figure 6-4
#[test]
fn an_interrupt_switches_stacks_by_the_tss_and_iretd_returns() {
    // INT 80H; the handler is IRETD.
    let mut processor = user(&[0xcd, 0x80]);
    set_gate(&mut processor.cpu, 0x80, HANDLER, 0xee);
    processor.cpu.store(HANDLER, 0xcf_u8);
    processor.cpu.system_flags |= rflags::IF;
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    assert_eq!(cpu.registers[4], KERNEL_STACK - 20);
    let frame: [u32; 5] = stack(cpu);
    assert_eq!(frame[0], CODE as u32 + 2);
    assert_eq!(frame[1], u32::from(USER_CODE_32 | 3));
    assert_eq!(frame[3..], [STACK as u32, u32::from(USER_DATA | 3)]);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (CODE + 2, 3));
    assert_eq!(cpu.registers[4], STACK);
    assert!(cpu.system_flags & rflags::IF != 0);
    // The data segments of DPL 0 became null on the way out.
    assert!(cpu.segments[register::DS as usize].has(rights::UNUSABLE));
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut processor = kernel(&[0xcd, 0x80]);
    set_gate(&mut processor.cpu, 0x80, 0xabcd_1234, 0x86);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.registers[4]), (0x1234, STACK - 6));
}

#[test]
fn a_bad_inner_stack_is_an_invalid_tss() {
    let cases = [
        (0_u32, 10, 0),
        (u32::from(CODE_32), 10, u32::from(CODE_32)),
        (u32::from(USER_DATA), 10, u32::from(USER_DATA)),
        (u32::from(NOT_PRESENT), 12, u32::from(NOT_PRESENT)),
    ];
    for (selector, vector, code) in cases {
        let mut processor = user(&[0x0f, 0x0b]);
        let cpu = &mut processor.cpu;
        set_gate(cpu, 6, HANDLER, 0x8e);
        cpu.store(TSS + 8, selector);
        // The fault's own handler is a conforming segment: it runs on the stack in use.
        cpu.store(GDT + u64::from(FREE), flat(0xc09f));
        let at = IDT + vector * 8;
        cpu.store(at, gate(HANDLER + 16, FREE, 0x8e, 0));
        step(&mut processor, 1);
        let cpu = &processor.cpu;
        assert_eq!((cpu.rip(), cpu.cpl), (HANDLER + 16, 3), "{selector:x}");
        // The first event came from the program's own fault: EXT is set (SDM 6.13).
        assert_eq!(stack::<1>(cpu)[0], code | 1);
    }
}

/// Enters virtual-8086 mode at 2000:10 by IRETD, with the flags `extra`.
fn virtual_8086(code: &[u8], extra: u64) -> Processor {
    let mut processor = kernel(&[0xcf]);
    let cpu = &mut processor.cpu;
    cpu.platform.bus_agent().write_bytes(0x2_0010, code);
    let flags = (rflags::VM | rflags::RESERVED_1 | extra) as u32;
    let frame = [
        0x10, 0x2000, flags, 0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000,
    ];
    cpu.registers[4] = STACK - 36;
    for (i, word) in (0..).zip(frame) {
        cpu.store(STACK - 36 + i * 4, word);
    }
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert!(cpu.virtual_8086());
    assert_eq!((cpu.rip(), cpu.cpl, cpu.code_bits()), (0x10, 3, 16));
    assert_eq!(cpu.registers[4], 0xfff0);
    let bases = [4, 2, 3, 5, 6, 7].map(|base| base << 16);
    for (number, base) in bases.into_iter().enumerate() {
        assert_eq!(cpu.segments[number].base, base, "segment {number}");
        assert_eq!(cpu.segments[number].rights, 0xf3);
    }
    processor
}

// SDM 20.2.5 Entering virtual-8086 mode, 20.3.1 Class 1
#[test]
fn virtual_8086_mode_is_entered_by_iretd_and_left_by_an_interrupt() {
    // INT 40H
    let mut processor = virtual_8086(&[0xcd, 0x40], rflags::IOPL);
    set_gate(&mut processor.cpu, 0x40, HANDLER, 0xee);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(
        (cpu.rip(), cpu.cpl, cpu.virtual_8086()),
        (HANDLER, 0, false)
    );
    let frame: [u32; 9] = stack(cpu);
    assert_eq!(frame[..2], [0x12, 0x2000]);
    assert_eq!(frame[2] & rflags::VM as u32, rflags::VM as u32);
    assert_eq!(frame[3..], [0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000]);
    assert!(cpu.segments[register::GS as usize].has(rights::UNUSABLE));
    // Handler back again.
    processor.cpu.store(HANDLER, 0xcf_u8);
    step(&mut processor, 1);
    assert!(processor.cpu.virtual_8086());
    assert_eq!(processor.cpu.rip(), 0x12);
}

// SDM 20.2.7 Sensitive instructions
#[test]
fn virtual_8086_mode_needs_iopl_3_for_sensitive_instructions() {
    let table: [(&str, &[u8]); 5] = [
        ("INT", &[0xcd, 0x40]),
        ("IRET", &[0xcf]),
        ("CLI", &[0xfa]),
        ("STI", &[0xfb]),
        ("HLT", &[0xf4]),
    ];
    for (name, code) in table {
        let mut processor = virtual_8086(code, 0);
        assert_eq!(fault_of(&mut processor), Some((13, 0)), "{name}");
    }
    let mut processor = virtual_8086(&[0xfa], rflags::IOPL | rflags::IF);
    assert_eq!(fault_of(&mut processor), None);
    assert_eq!(processor.cpu.system_flags & rflags::IF, 0);
    // LLDT is not recognized there.
    let mut processor = virtual_8086(&[0x0f, 0x00, 0xd0], rflags::IOPL);
    assert_eq!(fault_of(&mut processor).map(|fault| fault.0), Some(6));
}

// SDM 5.8.5 Stack switching: parameters are copied, and RETF releases them on both stacks.
#[test]
fn a_call_gate_copies_its_parameters() {
    // CALL FAR gate
    let mut code = vec![0x9a, 0, 0, 0, 0];
    code.extend_from_slice(&(FREE | 3).to_le_bytes());
    let mut processor = user(&code);
    let cpu = &mut processor.cpu;
    cpu.store(GDT + u64::from(FREE), gate(HANDLER, CODE_32, 0xec, 2));
    // RETF 8
    cpu.platform.bus_agent().write_bytes(HANDLER, &[0xca, 8, 0]);
    cpu.registers[4] = STACK - 8;
    cpu.store(STACK - 8, 0x1111_u32);
    cpu.store(STACK - 4, 0x2222_u32);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    let frame = [
        CODE as u32 + 7,
        u32::from(USER_CODE_32 | 3),
        0x1111,
        0x2222,
        STACK as u32 - 8,
        u32::from(USER_DATA | 3),
    ];
    assert_eq!(stack::<6>(cpu), frame);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (CODE + 7, 3));
    assert_eq!(cpu.registers[4], STACK);
}

// SDM 5.8.7 Performing fast calls to system procedures with SYSENTER and SYSEXIT
#[test]
fn sysenter_and_sysexit_change_privilege_and_back() {
    let mut processor = user(&[0x0f, 0x34]);
    let cpu = &mut processor.cpu;
    cpu.msrs.sysenter_cs = CODE_32.into();
    cpu.msrs.sysenter_esp = KERNEL_STACK;
    cpu.msrs.sysenter_eip = HANDLER;
    cpu.system_flags |= rflags::IF;
    // SYSEXIT
    cpu.platform.bus_agent().write_bytes(HANDLER, &[0x0f, 0x35]);
    cpu.registers[2] = CODE + 2;
    cpu.registers[1] = STACK;
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    assert_eq!(cpu.registers[4], KERNEL_STACK);
    assert_eq!(cpu.system_flags & rflags::IF, 0);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl, cpu.registers[4]), (CODE + 2, 3, STACK));
    assert_eq!(
        cpu.segments[register::CS as usize].selector,
        (CODE_32 + 16) | 3
    );

    let mut processor = user(&[0x0f, 0x34]);
    processor.cpu.msrs.sysenter_cs = 3;
    assert_eq!(fault_of(&mut processor), Some((13, 0)));
}

/// A second 32-bit TSS whose task starts at `HANDLER` with its own stack.
fn add_task(cpu: &mut Cpu) {
    let descriptor = 0x0000_8900_0000_0067 | OTHER_TSS << 16;
    cpu.store(GDT + u64::from(OTHER_TASK), descriptor);
    let task = OTHER_TSS;
    cpu.store(task + 32, HANDLER as u32);
    cpu.store(task + 36, rflags::RESERVED_1 as u32);
    cpu.store(task + 40, 0x1234_5678_u32);
    cpu.store(task + 56, KERNEL_STACK as u32);
    for (offset, selector) in [(72, STACK_0), (76, CODE_32), (80, STACK_0), (84, STACK_0)] {
        cpu.store(task + offset, u32::from(selector));
    }
}

fn descriptor_type(cpu: &Cpu, selector: u16) -> u8 {
    cpu.ram.load::<u8>(GDT + u64::from(selector) + 5) & 0xf
}

// SDM 7.3 Task switching, 7.4 Task linking
#[test]
fn a_call_to_a_tss_nests_and_iret_returns_to_the_caller() {
    let mut code = vec![0x9a, 0, 0, 0, 0];
    code.extend_from_slice(&OTHER_TASK.to_le_bytes());
    let mut processor = kernel(&code);
    add_task(&mut processor.cpu);
    processor.cpu.registers[0] = 0xcafe;
    processor.cpu.store(HANDLER, 0xcf_u8);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.registers[0]), (HANDLER, 0x1234_5678));
    assert_eq!(cpu.registers[4], KERNEL_STACK);
    assert_eq!(cpu.tr.selector, OTHER_TASK);
    assert!(cpu.system_flags & rflags::NT != 0 && cpu.cr0 & cr0::TS != 0);
    assert_eq!(cpu.ram.load::<u16>(OTHER_TSS), TASK);
    assert_eq!(
        (descriptor_type(cpu, TASK), descriptor_type(cpu, OTHER_TASK)),
        (11, 11)
    );
    assert_eq!(cpu.ram.load::<u32>(TSS + 32), CODE as u32 + 7);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.registers[0]), (CODE + 7, 0xcafe));
    assert_eq!(cpu.tr.selector, TASK);
    assert_eq!(cpu.system_flags & rflags::NT, 0);
    assert_eq!(
        (descriptor_type(cpu, TASK), descriptor_type(cpu, OTHER_TASK)),
        (11, 9)
    );
}

// SDM 7.3 Task switching, step 7: nothing is written of a switch that cannot be written whole.
#[test]
fn a_task_switch_that_faults_has_written_nothing() {
    const DIRECTORY: u64 = 0x1000;
    const PAGES: u64 = 0x2000;
    // CALL, which writes the new TSS's link, and JMP, which does not.
    for (opcode, read_only, faults) in [
        (0x9a, OTHER_TSS, true),
        (0x9a, TSS, true),
        (0x9a, GDT, true),
        (0xea, OTHER_TSS, false),
        (0xea, TSS, true),
        (0xea, GDT, true),
    ] {
        let mut code = vec![opcode, 0, 0, 0, 0];
        code.extend_from_slice(&OTHER_TASK.to_le_bytes());
        let mut processor = kernel(&code);
        let cpu = &mut processor.cpu;
        add_task(cpu);
        cpu.store(OTHER_TSS + 28, DIRECTORY as u32);
        // The first 4 MBytes, where one page is read-only even for CPL 0.
        cpu.store(DIRECTORY, PAGES as u32 | 7);
        for page in 0..1024_u32 {
            cpu.store(PAGES + u64::from(page) * 4, page << 12 | 7);
        }
        cpu.store(PAGES + (read_only >> 12) * 4, read_only as u32 | 5);
        cpu.cr4 = 0;
        cpu.cr3 = DIRECTORY;
        cpu.cr0 |= cr0::PG | cr0::WP;
        cpu.tlb.flush();
        cpu.refresh_mode();
        let memory = |cpu: &Cpu| {
            let mut bytes = vec![0; 0x4000];
            cpu.ram.read_bytes(GDT, &mut bytes);
            // But for the IDT, which the test fills.
            bytes[(IDT - GDT) as usize..][..0x1000].fill(0);
            bytes
        };
        let before = memory(cpu);
        let fault = fault_of(&mut processor);
        let cpu = &processor.cpu;
        if faults {
            assert_eq!(fault, Some((14, 3)), "{opcode:x} {read_only:x}");
            assert_eq!(cpu.cr2 & !0xfff, read_only, "{opcode:x}");
            assert!(memory(cpu) == before, "{opcode:x} {read_only:x}");
            assert_eq!(cpu.tr.selector, TASK);
        } else {
            // The new task begins where the first handler is.
            assert_eq!((cpu.rip(), cpu.tr.selector), (HANDLER, OTHER_TASK));
        }
    }
}

#[test]
fn a_jump_to_a_tss_frees_the_old_task_and_a_busy_one_is_refused() {
    let mut code = vec![0xea, 0, 0, 0, 0];
    code.extend_from_slice(&OTHER_TASK.to_le_bytes());
    let mut processor = kernel(&code);
    add_task(&mut processor.cpu);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER);
    assert_eq!(cpu.system_flags & rflags::NT, 0);
    assert_eq!(
        (descriptor_type(cpu, TASK), descriptor_type(cpu, OTHER_TASK)),
        (9, 11)
    );

    let mut processor = kernel(&code);
    add_task(&mut processor.cpu);
    processor
        .cpu
        .store(GDT + u64::from(OTHER_TASK) + 5, 0x8b_u8);
    assert_eq!(fault_of(&mut processor), Some((13, OTHER_TASK.into())));
}

// SDM 6.12.2 Interrupt tasks
#[test]
fn a_task_gate_runs_the_handler_as_a_task_with_the_error_code_on_its_stack() {
    let mut processor = kernel(&[0x90]);
    let cpu = &mut processor.cpu;
    add_task(cpu);
    cpu.store(IDT + 13 * 8, gate(0, OTHER_TASK, 0x85, 0));
    cpu.deliver_event(Exception {
        vector: 13,
        error_code: Some(0x50),
        detail: 0,
        source: Source::Fault,
    });
    assert_eq!(cpu.rip(), HANDLER);
    assert_eq!(cpu.registers[4], KERNEL_STACK - 4);
    assert_eq!(stack::<1>(cpu), [0x50]);
    let saved: u32 = cpu.ram.load(TSS + 32);
    assert_eq!(saved, CODE as u32);
}

// SDM volume 2: LAR, LSL, VERR, VERW
#[test]
fn questions_about_descriptors_are_answered_in_zf() {
    let lar = [0x0f, 0x02, 0xc1];
    let lsl = [0x0f, 0x03, 0xc1];
    let verr = [0x0f, 0x00, 0xe1];
    let verw = [0x0f, 0x00, 0xe9];
    type Case = ([u8; 3], u16, bool, u64);
    let unchanged = 0x5555;
    let cases: [Case; 14] = [
        (lar, STACK_0, true, 0x00cf_9300),
        (lar, CODE_32, true, 0x00cf_9b00),
        (lar, TASK, true, 0x0000_8b00),
        (lar, 0, false, unchanged),
        (lar, 0x1000, false, unchanged),
        (lsl, STACK_0, true, 0xffff_ffff),
        (lsl, TASK, true, 0x67),
        (lsl, FREE, false, unchanged),
        (verr, CODE_32, true, unchanged),
        (verr, TASK, false, unchanged),
        (verr, STACK_0 | 3, false, unchanged),
        (verw, STACK_0, true, unchanged),
        (verw, CODE_32, false, unchanged),
        (verw, 0x1000, false, unchanged),
    ];
    for (code, selector, zero, value) in cases {
        let mut processor = kernel(&code);
        let cpu = &mut processor.cpu;
        // A call gate has rights and no limit.
        cpu.store(GDT + u64::from(FREE), gate(0, CODE_32, 0x8c, 0));
        cpu.registers[0] = unchanged;
        cpu.registers[1] = selector.into();
        assert_eq!(fault_of(&mut processor), None);
        let cpu = &processor.cpu;
        assert_eq!(cpu.flags.zf(), zero, "{code:x?} {selector:x}");
        assert_eq!(cpu.registers[0], value, "{code:x?} {selector:x}");
    }
}

#[test]
fn arpl_raises_the_requested_privilege_level() {
    for (destination, source, zero, result) in [(0x10, 0x0b, true, 0x13), (0x13, 0x09, false, 0x13)]
    {
        // ARPL AX, CX
        let mut processor = kernel(&[0x63, 0xc8]);
        processor.cpu.registers[0] = destination;
        processor.cpu.registers[1] = source;
        step(&mut processor, 1);
        assert_eq!(processor.cpu.flags.zf(), zero);
        assert_eq!(processor.cpu.registers[0], result);
    }
}

// SDM volume 2, INS and REP
#[test]
fn rep_insb_reads_a_port_that_nobody_answers_as_ones() {
    // REP INSB
    let mut processor = kernel(&[0xf3, 0x6c, 0x90]);
    processor.cpu.registers[1] = 3;
    processor.cpu.registers[2] = 0x1234;
    processor.cpu.registers[7] = DATA;
    step(&mut processor, 3);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.registers[1]), (CODE + 2, 0));
    assert_eq!(cpu.registers[7], DATA + 3);
    assert_eq!(cpu.ram.load::<u32>(DATA), 0x00ff_ffff);
}

// SDM 5.3 Limit checking, 5.5 Privilege levels: LDS loads both halves or nothing.
#[test]
fn a_far_pointer_load_that_faults_changes_no_register() {
    // LDS EAX, [EBX]
    let mut processor = kernel(&[0xc5, 0x03]);
    let cpu = &mut processor.cpu;
    cpu.registers[3] = DATA;
    cpu.registers[0] = 7;
    cpu.store(DATA, 0x1111_2222_u32);
    cpu.store(DATA + 4, NOT_PRESENT);
    assert_eq!(fault_of(&mut processor), Some((11, u32::from(NOT_PRESENT))));
    assert_eq!(processor.cpu.registers[0], 7);
    assert_eq!(processor.cpu.segments[register::DS as usize].selector, 0x10);
}
