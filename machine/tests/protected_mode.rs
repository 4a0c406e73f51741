//! Delivery of events, privilege changes and the checks of segment loads, in 64-bit mode.

mod support;
#[path = "support/tables.rs"]
mod tables;

use apic::non_maskable::Handling;
use arch::control_register::{efer, rflags};
use arch::exception;
use posthaste_machine::cpu::raise::{Exception, Source};
use posthaste_machine::cpu::segment::{Segment, register};
use posthaste_machine::cpu::{Activity, Cpu, Inhibit, Stop};
use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::Deterministic;
use support::{CODE, STACK, step};
use tables::*;

fn event(vector: u8, source: Source) -> Exception {
    Exception {
        vector,
        error_code: None,
        detail: 0,
        source,
    }
}

/// The quadwords from the top of the stack.
fn stack<const N: usize>(cpu: &Cpu) -> [u64; N] {
    std::array::from_fn(|i| cpu.ram.load(cpu.registers[4] + i as u64 * 8))
}

// SDM 6.14.2 64-bit mode stack frame, 6.14.5 Interrupt stack table
#[test]
fn a_fault_at_cpl_3_switches_to_the_stack_of_cpl_0_and_iretq_returns() {
    // UD2
    let mut processor = user(&[0x0f, 0x0b]);
    set_gate(&mut processor.cpu, 6, HANDLER, CODE_64, 0x8e, 0);
    // IRETQ at the handler.
    processor
        .cpu
        .platform
        .bus_agent()
        .write_bytes(HANDLER, &[0x48, 0xcf]);
    processor.cpu.system_flags |= rflags::IF;
    step(&mut processor, 1);
    let cpu = &mut processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    assert_eq!(cpu.registers[4], KERNEL_STACK - 40);
    assert_eq!(cpu.segments[register::SS as usize].selector, 0);
    assert_eq!(cpu.system_flags & rflags::IF, 0);
    let frame: [u64; 5] = stack(cpu);
    assert_eq!(frame[0], CODE);
    assert_eq!(frame[1], u64::from(USER_CODE_64 | 3));
    assert_eq!(
        frame[2] & (rflags::RF | rflags::IF),
        rflags::RF | rflags::IF
    );
    assert_eq!(frame[3..], [STACK, u64::from(USER_DATA | 3)]);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (CODE, 3));
    assert_eq!(cpu.registers[4], STACK);
    assert_eq!(cpu.segments[register::SS as usize].selector, USER_DATA | 3);
    assert!(cpu.system_flags & rflags::IF != 0);
}

#[test]
fn the_interrupt_stack_table_is_used_at_every_privilege_and_the_frame_is_aligned() {
    for mut processor in [kernel(&[0x0f, 0x0b]), user(&[0x0f, 0x0b])] {
        set_gate(&mut processor.cpu, 6, HANDLER, CODE_64, 0x8e, 1);
        step(&mut processor, 1);
        assert_eq!(processor.cpu.registers[4], INTERRUPT_STACK - 40);
    }
    let mut processor = kernel(&[0x0f, 0x0b]);
    processor.cpu.registers[4] = STACK - 5;
    set_gate(&mut processor.cpu, 6, HANDLER, CODE_64, 0x8f, 0);
    processor.cpu.system_flags |= rflags::IF;
    step(&mut processor, 1);
    assert_eq!(processor.cpu.registers[4], STACK - 16 - 40);
    // A trap gate leaves IF.
    assert!(processor.cpu.system_flags & rflags::IF != 0);
    assert_eq!(stack::<5>(&processor.cpu)[3], STACK - 5);
}

#[test]
fn a_page_fault_sets_cr2_and_pushes_its_error_code() {
    // MOV RAX, [RBX]
    let mut processor = user(&[0x48, 0x8b, 0x03]);
    processor.cpu.registers[3] = 0x1_2345_6000;
    assert_eq!(fault_of(&mut processor), Some((14, 4)));
    assert_eq!(processor.cpu.cr2, 0x1_2345_6000);
}

// SDM 6.12.1.1 Protection of exception- and interrupt-handler procedures
#[test]
fn software_interrupts_need_the_gates_privilege_and_hardware_does_not() {
    // INT 40H
    let code = [0xcd, 0x40];
    let mut processor = user(&code);
    set_gate(&mut processor.cpu, 0x40, HANDLER + 0x800, CODE_64, 0x8e, 0);
    assert_eq!(fault_of(&mut processor), Some((13, 0x40 * 8 + 2)));
    // The fault is at the instruction.
    assert_eq!(stack::<2>(&processor.cpu)[1], CODE);

    let mut processor = user(&code);
    set_gate(&mut processor.cpu, 0x40, HANDLER + 0x800, CODE_64, 0xee, 0);
    assert_eq!(fault_of(&mut processor), None);
    assert_eq!(processor.cpu.rip(), HANDLER + 0x800);
    // The handler returns after the instruction.
    assert_eq!(stack::<1>(&processor.cpu)[0], CODE + 2);

    let mut processor = user(&[0x90]);
    set_gate(&mut processor.cpu, 0x40, HANDLER, CODE_64, 0x8e, 0);
    processor
        .cpu
        .deliver_event(event(0x40, Source::ExternalInterrupt));
    assert_eq!(processor.cpu.rip(), HANDLER);
}

// SDM 6.13: what the error code of a fault during delivery says.
#[test]
fn faults_during_delivery_name_the_gate_or_segment_and_the_external_bit() {
    let cases = [
        // rights of the gate, selector, vector and error code for INT n
        (0x8e_u64, 0_u16, 13_u8, 0_u64),
        (0x8e, CODE_32, 13, CODE_32.into()),
        (0x8e, STACK_0, 13, STACK_0.into()),
        (0x8e, 0x60, 13, 0x60),
        (0x8e, 0x1000, 13, 0x1000),
        (0x0e, CODE_64, 11, 0x40 * 8 + 2),
        (0x8c, CODE_64, 13, 0x40 * 8 + 2),
        (0x86, CODE_64, 13, 0x40 * 8 + 2),
    ];
    for (rights, selector, vector, code) in cases {
        let mut processor = kernel(&[0xcd, 0x40]);
        set_gate(
            &mut processor.cpu,
            0x40,
            HANDLER + 0x800,
            selector,
            rights,
            0,
        );
        assert_eq!(
            fault_of(&mut processor),
            Some((vector, code)),
            "{rights:x} {selector:x}"
        );
        // The same from outside sets EXT.
        let mut processor = kernel(&[0x90]);
        set_gate(&mut processor.cpu, 0x40, HANDLER, selector, rights, 0);
        set_gate(&mut processor.cpu, vector, HANDLER + 16, CODE_64, 0x8e, 1);
        processor
            .cpu
            .deliver_event(event(0x40, Source::ExternalInterrupt));
        assert_eq!(processor.cpu.rip(), HANDLER + 16);
        assert_eq!(stack::<1>(&processor.cpu)[0], code | 1);
    }
}

// SDM 6.15 Interrupt 8—Double fault exception
#[test]
fn a_fault_in_delivering_a_fault_is_a_double_fault_and_another_shuts_down() {
    // MOV RAX, [RBX]: #PF whose gate is not present.
    let mut processor = kernel(&[0x48, 0x8b, 0x03]);
    processor.cpu.registers[3] = 0x1_2345_6000;
    set_gate(&mut processor.cpu, 8, HANDLER, CODE_64, 0x8e, 1);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER);
    assert_eq!(stack::<2>(cpu), [0, CODE]);
    assert_eq!(cpu.delivering, None);

    let mut processor = kernel(&[0x0f, 0x0b]);
    assert_eq!(step(&mut processor, 5), Stop::Idle);
    assert_eq!(processor.cpu.activity, Activity::Shutdown);
    assert_eq!(processor.cpu.rip(), CODE);
    // The schedule ends the machine's run for it.
    let processor = kernel(&[0x0f, 0x0b]);
    let platform = processor.cpu.platform.clone();
    let mut processors = [processor];
    let outcome = Deterministic::new(1).run_until(&platform, &mut processors, 1000);
    let expected = Outcome::TripleFault {
        processor: 0,
        rip: CODE,
    };
    assert_eq!(outcome, Some(expected));
}

#[test]
fn a_page_fault_on_the_handlers_stack_leaves_the_stack_pointer_alone() {
    let mut processor = kernel(&[0x0f, 0x0b]);
    processor.cpu.registers[4] = 0x1_0000_0000 + 0x1000;
    set_gate(&mut processor.cpu, 6, HANDLER, CODE_64, 0x8e, 0);
    set_gate(&mut processor.cpu, 14, HANDLER + 16, CODE_64, 0x8e, 1);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER + 16);
    // error code, RIP, CS, RFLAGS, RSP
    let frame: [u64; 5] = stack(cpu);
    assert_eq!(frame[0], u64::from(exception::page_fault::WRITE));
    assert_eq!(frame[4], 0x1_0000_1000);
}

// SDM 5.8.8 Fast system calls in 64-bit mode
#[test]
fn syscall_and_sysret_change_privilege_and_back() {
    let mut processor = user(&[0x0f, 0x05]);
    let cpu = &mut processor.cpu;
    // SYSRETQ at the target.
    cpu.platform
        .bus_agent()
        .write_bytes(HANDLER, &[0x48, 0x0f, 0x07]);
    cpu.msrs.lstar = HANDLER;
    cpu.msrs.star = u64::from(CODE_64) << 32 | u64::from(USER_CODE_32) << 48;
    cpu.msrs.fmask = rflags::IF;
    cpu.system_flags |= rflags::IF;
    let before = cpu.rflags();
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    assert_eq!((cpu.registers[1], cpu.registers[11]), (CODE + 2, before));
    assert_eq!(cpu.system_flags & rflags::IF, 0);
    assert_eq!(cpu.segments[register::CS as usize].selector, CODE_64);
    assert_eq!(cpu.segments[register::SS as usize].selector, STACK_0);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (CODE + 2, 3));
    assert_eq!(cpu.rflags(), before);
    assert_eq!(
        cpu.segments[register::CS as usize].selector,
        USER_CODE_64 | 3
    );
    assert!(cpu.mode_64);
}

#[test]
fn syscall_needs_the_enable_bit() {
    let mut processor = kernel(&[0x0f, 0x05]);
    processor.cpu.efer &= !efer::SCE;
    assert_eq!(fault_of(&mut processor).map(|fault| fault.0), Some(6));
}

/// Instructions that CPL 0 alone may execute (SDM 5.9 Privileged instructions).
#[test]
fn privileged_instructions_fault_above_cpl_0() {
    let table: &[(&str, &[u8])] = &[
        ("HLT", &[0xf4]),
        ("CLI", &[0xfa]),
        ("STI", &[0xfb]),
        ("CLTS", &[0x0f, 0x06]),
        ("INVD", &[0x0f, 0x08]),
        ("WBINVD", &[0x0f, 0x09]),
        ("RDMSR", &[0x0f, 0x32]),
        ("WRMSR", &[0x0f, 0x30]),
        ("LGDT", &[0x0f, 0x01, 0x10]),
        ("LIDT", &[0x0f, 0x01, 0x18]),
        ("LMSW AX", &[0x0f, 0x01, 0xf0]),
        ("INVLPG", &[0x0f, 0x01, 0x38]),
        ("SWAPGS", &[0x0f, 0x01, 0xf8]),
        ("MOV CR0", &[0x0f, 0x22, 0xc0]),
        ("MOV from CR3", &[0x0f, 0x20, 0xd8]),
        ("MOV from DR7", &[0x0f, 0x21, 0xf8]),
        ("LLDT AX", &[0x0f, 0x00, 0xd0]),
        ("LTR AX", &[0x0f, 0x00, 0xd8]),
        ("IN AL, DX", &[0xec]),
        ("OUT DX, AL", &[0xee]),
        ("SYSRET", &[0x48, 0x0f, 0x07]),
        ("RDPMC", &[0x0f, 0x33]),
    ];
    for (name, code) in table {
        let mut processor = user(code);
        assert_eq!(fault_of(&mut processor), Some((13, 0)), "{name}");
    }
}

/// MOV Sreg, AX: the checks of SDM 5.6 and 5.7 and the volume 2 description of MOV.
#[test]
fn segment_loads_check_selector_privilege_type_and_presence() {
    let ds = [0x8e, 0xd8];
    let ss = [0x8e, 0xd0];
    let cs = [0x8e, 0xc8];
    type Case = (&'static str, [u8; 2], u16, Option<(u8, u64)>);
    let kernel_cases: [Case; 11] = [
        ("null DS", ds, 3, None),
        ("data", ds, STACK_0, None),
        ("code that can be read", ds, CODE_64, None),
        ("beyond the limit", ds, 0x1000, Some((13, 0x1000))),
        ("in an LDT that is not there", ds, 0x14, Some((13, 0x14))),
        ("RPL above DPL", ds, STACK_0 | 3, Some((13, STACK_0.into()))),
        (
            "not present",
            ds,
            NOT_PRESENT,
            Some((11, NOT_PRESENT.into())),
        ),
        ("a system segment", ds, TASK, Some((13, TASK.into()))),
        ("null SS of CPL 0", ss, 0, None),
        (
            "SS not present",
            ss,
            NOT_PRESENT,
            Some((12, NOT_PRESENT.into())),
        ),
        ("SS with code", ss, CODE_64, Some((13, CODE_64.into()))),
    ];
    for (name, code, selector, expected) in kernel_cases {
        let mut processor = kernel(&code);
        processor.cpu.registers[0] = selector.into();
        processor.cpu.inhibit = Inhibit::None;
        assert_eq!(fault_of(&mut processor), expected, "{name}");
    }
    let user_cases: [Case; 5] = [
        ("data of DPL 0", ds, STACK_0, Some((13, STACK_0.into()))),
        ("conforming code", ds, CONFORMING, None),
        ("null SS of CPL 3", ss, 3, Some((13, 0))),
        ("SS with RPL 0", ss, USER_DATA, Some((13, USER_DATA.into()))),
        ("SS", ss, USER_DATA | 3, None),
    ];
    for (name, code, selector, expected) in user_cases {
        let mut processor = user(&code);
        processor.cpu.registers[0] = selector.into();
        assert_eq!(fault_of(&mut processor), expected, "{name}");
    }
    let mut processor = kernel(&cs);
    assert_eq!(fault_of(&mut processor).map(|fault| fault.0), Some(6));
}

#[test]
fn a_load_sets_the_accessed_flag_in_the_descriptor() {
    let mut processor = kernel(&[0x8e, 0xd8]);
    processor.cpu.store(GDT + u64::from(FREE), flat(0xc092));
    processor.cpu.registers[0] = FREE.into();
    assert_eq!(fault_of(&mut processor), None);
    let descriptor: u64 = processor.cpu.ram.load(GDT + u64::from(FREE));
    assert_eq!(descriptor, flat(0xc093));
}

// SDM 6.8.3 Masking exceptions and interrupts when switching stacks; STI in volume 2
#[test]
fn mov_ss_and_sti_hold_off_an_nmi_for_one_instruction() {
    for code in [[0x8e, 0xd0, 0x90, 0x90], [0xfb, 0x90, 0x90, 0x90]] {
        let mut processor = kernel(&code);
        set_gate(&mut processor.cpu, 2, HANDLER, CODE_64, 0x8e, 1);
        processor.cpu.registers[0] = STACK_0.into();
        step(&mut processor, 1);
        let after_the_first = processor.cpu.rip();
        processor.cpu.nmi_pending.accept(1, Handling::No);
        processor.cpu.look_at_events();
        step(&mut processor, 1);
        // The NOP ran, then the NMI came.
        assert_eq!(processor.cpu.rip(), HANDLER);
        assert_eq!(stack::<1>(&processor.cpu)[0], after_the_first + 1);
    }
}

// SDM 6.7.1 Handling multiple NMIs
#[test]
fn an_nmi_is_blocked_until_iret() {
    let mut processor = kernel(&[0x90, 0x90, 0x90]);
    set_gate(&mut processor.cpu, 2, HANDLER, CODE_64, 0x8e, 1);
    processor
        .cpu
        .platform
        .bus_agent()
        .write_bytes(HANDLER, &[0x90, 0x48, 0xcf]);
    processor.cpu.nmi_pending.accept(1, Handling::No);
    processor.cpu.look_at_events();
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER + 1);
    assert!(processor.cpu.nmi_blocked && !processor.cpu.nmi_pending.is_pending());
    processor.cpu.nmi_pending.accept(1, Handling::No);
    processor.cpu.look_at_events();
    // IRET runs although the NMI is pending; then the NMI comes again.
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER);
    assert!(processor.cpu.nmi_blocked && !processor.cpu.nmi_pending.is_pending());
    assert_eq!(stack::<1>(&processor.cpu)[0], CODE);
}

// SDM 17.3.1.4 Single-step exception condition
#[test]
fn the_trap_flag_traps_after_each_instruction_but_not_after_mov_ss() {
    let mut processor = kernel(&[0x90, 0x90]);
    set_gate(&mut processor.cpu, 1, HANDLER, CODE_64, 0x8e, 1);
    processor.cpu.system_flags |= rflags::TF;
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(cpu.rip(), HANDLER);
    assert_eq!(cpu.dr[6] & 1 << 14, 1 << 14);
    assert_eq!(cpu.system_flags & rflags::TF, 0);
    let frame: [u64; 3] = stack(cpu);
    assert_eq!(frame[0], CODE + 1);
    assert_eq!(frame[2] & (rflags::TF | rflags::RF), rflags::TF);

    let mut processor = kernel(&[0x8e, 0xd0, 0x90]);
    set_gate(&mut processor.cpu, 1, HANDLER, CODE_64, 0x8e, 1);
    processor.cpu.registers[0] = STACK_0.into();
    processor.cpu.system_flags |= rflags::TF;
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), CODE + 2);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER);
    assert_eq!(stack::<1>(&processor.cpu)[0], CODE + 3);
}

// SDM 17.3.1.1 Instruction-breakpoint exception condition
#[test]
fn an_instruction_breakpoint_faults_before_the_instruction_and_rf_lets_it_run() {
    let mut processor = kernel(&[0x90, 0x90, 0x90]);
    set_gate(&mut processor.cpu, 1, HANDLER, CODE_64, 0x8e, 1);
    let cpu = &mut processor.cpu;
    cpu.dr[0] = CODE + 1;
    cpu.write_debug_register(7, 1).expect("DR7");
    // Handler: OR DWORD [RSP+18], 10000H (RF in the image); IRETQ
    cpu.platform
        .bus_agent()
        .write_bytes(HANDLER, &[0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0, 0x48, 0xcf]);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER);
    assert_eq!(stack::<1>(&processor.cpu)[0], CODE + 1);
    assert_eq!(processor.cpu.dr[6] & 0xf, 1);
    step(&mut processor, 1);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), CODE + 1);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), CODE + 2);
    assert_eq!(processor.cpu.system_flags & rflags::RF, 0);
}

// SDM volume 1, 19.5.2 I/O permission bit map
#[test]
fn the_io_permission_map_decides_above_iopl() {
    // IN AX, 80H: ports 80H and 81H.
    let code = [0x66, 0xe5, 0x80];
    let run = |prepare: fn(&mut Cpu)| {
        let mut processor = user(&code);
        processor.cpu.tr.limit = 0x67 + 0x100;
        prepare(&mut processor.cpu);
        fault_of(&mut processor)
    };
    let protection = Some((13, 0));
    assert_eq!(run(|_| {}), None);
    assert_eq!(run(|cpu| cpu.store(TSS + 104 + 16, 2_u8)), protection);
    assert_eq!(run(|cpu| cpu.store(TSS + 104 + 16, 0xfc_u8)), None);
    assert_eq!(run(|cpu| cpu.tr.limit = 104 + 16), protection);
    assert_eq!(run(|cpu| cpu.tr.limit = 104 + 17), None);
    let through_iopl = run(|cpu| {
        cpu.tr.limit = 0x67;
        cpu.system_flags |= rflags::IOPL;
    });
    assert_eq!(through_iopl, None);
}

// SDM 5.8.4 Accessing a code segment through a call gate, 5.8.5.1 in 64-bit mode
#[test]
fn a_call_gate_changes_privilege_and_a_far_return_comes_back() {
    // CALL FAR [RIP+0] to the gate.
    let mut code = vec![0xff, 0x1d, 0, 0, 0, 0];
    code.extend_from_slice(&[0, 0, 0, 0]);
    code.extend_from_slice(&(FREE | 3).to_le_bytes());
    let mut processor = user(&code);
    let cpu = &mut processor.cpu;
    let gate =
        (HANDLER & 0xffff) | u64::from(CODE_64) << 16 | 0xec << 40 | (HANDLER & 0xffff_0000) << 32;
    cpu.store(GDT + u64::from(FREE), gate);
    cpu.store(GDT + u64::from(FREE) + 8, 0_u64);
    // RETFQ
    cpu.platform.bus_agent().write_bytes(HANDLER, &[0x48, 0xcb]);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (HANDLER, 0));
    let frame = [
        CODE + 6,
        u64::from(USER_CODE_64 | 3),
        STACK,
        u64::from(USER_DATA | 3),
    ];
    assert_eq!(stack::<4>(cpu), frame);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.cpl), (CODE + 6, 3));
    assert_eq!(cpu.registers[4], STACK);
    // SDM 5.8.6: data segments of DPL 0 became null.
    assert_eq!(cpu.segments[register::DS as usize], Segment::unusable(0));
}
