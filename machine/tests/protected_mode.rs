//! Delivery of events, privilege changes and the checks of segment loads, in 64-bit mode and on the
//! way there.

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4, efer, rflags};
use arch::{exception, msr};
use posthaste_machine::cpu::raise::{Exception, Pending, Source};
use posthaste_machine::cpu::segment::{Segment, register};
use posthaste_machine::cpu::state::Reset;
use posthaste_machine::cpu::{Activity, Cpu, Inhibit, Processor, Stop};
use posthaste_machine::platform::Outcome;
use posthaste_machine::schedule::Deterministic;
use support::{CODE, DATA, STACK, long_mode, step};
use tables::*;

const HANDLER: u64 = 0x18_0000;

/// 64-bit mode with tables, at CPL 0.
fn kernel(code: &[u8]) -> Processor {
    let mut processor = long_mode(code);
    load(&mut processor.cpu);
    processor.cpu.ram.store(HANDLER, 0xf4_u8);
    processor
}

/// The same at CPL 3.
fn user(code: &[u8]) -> Processor {
    let mut processor = kernel(code);
    let cpu = &mut processor.cpu;
    cpu.segments[register::CS as usize] = Segment::from_descriptor(USER_CODE_64 | 3, flat(0xa0fb));
    cpu.segments[register::SS as usize] = Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3));
    cpu.refresh_mode();
    assert_eq!(cpu.cpl, 3);
    processor
}

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

/// Runs one instruction and gives the exception that was delivered by it, through gates that all
/// lead to a stack of their own; `None` if there was none.
fn fault_of(processor: &mut Processor) -> Option<(u8, u64)> {
    for vector in 0..32 {
        set_gate(
            &mut processor.cpu,
            vector,
            HANDLER + u64::from(vector) * 16,
            CODE_64,
            0x8e,
            1,
        );
    }
    step(processor, 1);
    let cpu = &processor.cpu;
    if (HANDLER..HANDLER + 512).contains(&cpu.rip()) {
        let vector = ((cpu.rip() - HANDLER) / 16) as u8;
        Some((vector, cpu.ram.load(cpu.registers[4])))
    } else {
        None
    }
}

// SDM 6.14.2 64-bit mode stack frame, 6.14.5 Interrupt stack table
#[test]
fn a_fault_at_cpl_3_switches_to_the_stack_of_cpl_0_and_iretq_returns() {
    // UD2
    let mut processor = user(&[0x0f, 0x0b]);
    set_gate(&mut processor.cpu, 6, HANDLER, CODE_64, 0x8e, 0);
    // IRETQ at the handler.
    processor.cpu.ram.write_bytes(HANDLER, &[0x48, 0xcf]);
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
    let outcome = Deterministic::new(1, 1000).run(&platform, &mut processors);
    let expected = Outcome::TripleFault {
        processor: 0,
        rip: CODE,
    };
    assert_eq!(outcome, expected);
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
    cpu.ram.write_bytes(HANDLER, &[0x48, 0x0f, 0x07]);
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
    processor.cpu.ram.store(GDT + u64::from(FREE), flat(0xc092));
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
        processor.cpu.nmi_pending = true;
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
    processor.cpu.ram.write_bytes(HANDLER, &[0x90, 0x48, 0xcf]);
    processor.cpu.nmi_pending = true;
    processor.cpu.look_at_events();
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER + 1);
    assert!(processor.cpu.nmi_blocked && !processor.cpu.nmi_pending);
    processor.cpu.nmi_pending = true;
    processor.cpu.look_at_events();
    // IRET runs although the NMI is pending; then the NMI comes again.
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), HANDLER);
    assert!(processor.cpu.nmi_blocked && !processor.cpu.nmi_pending);
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
    cpu.ram
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

/// What raised, after a direct call of a state-changing function.
fn raised(cpu: &Cpu) -> u8 {
    match cpu.pending {
        Pending::Exception(exception) => exception.vector,
        other => panic!("not an exception: {other:?}"),
    }
}

// SDM volume 2, MOV—Move to/from control registers
#[test]
fn control_registers_refuse_what_the_manual_forbids() {
    let base = {
        let cpu = kernel(&[]).cpu;
        (cpu.cr0, cpu.cr4)
    };
    let cr0_cases = [
        ("high half", base.0 | 1 << 32),
        ("PG without PE", base.0 & !cr0::PE),
        ("NW without CD", base.0 | cr0::NW),
        ("PG off in 64-bit mode", base.0 & !cr0::PG),
    ];
    for (name, value) in cr0_cases {
        let mut cpu = kernel(&[]).cpu;
        assert!(cpu.write_cr0(value).is_err(), "{name}");
        assert_eq!((raised(&cpu), cpu.cr0), (13, base.0), "{name}");
    }
    let mut cpu = kernel(&[]).cpu;
    assert!(cpu.write_cr0(base.0 | cr0::CD | cr0::NW | 1 << 6).is_ok());
    assert_eq!(cpu.cr0, base.0 | cr0::CD | cr0::NW);

    let cr4_cases = [
        ("PAE off in IA-32e mode", base.1 & !cr4::PAE),
        ("PCIDE not offered", base.1 | cr4::PCIDE),
        ("OSXSAVE not offered", base.1 | cr4::OSXSAVE),
        ("VME not offered", base.1 | cr4::VME),
        ("undefined", base.1 | 1 << 63),
    ];
    for (name, value) in cr4_cases {
        let mut cpu = kernel(&[]).cpu;
        assert!(cpu.write_cr4(value).is_err(), "{name}");
        assert_eq!((raised(&cpu), cpu.cr4), (13, base.1), "{name}");
    }
    let mut cpu = kernel(&[]).cpu;
    assert!(cpu.write_cr3(1 << 46).is_err());
    assert!(cpu.write_cr3(0x1000).is_ok());
    assert!(cpu.write_efer(efer::LME).is_ok());
    assert_eq!(cpu.efer, efer::LME | efer::LMA);
    assert!(cpu.write_efer(0).is_err(), "LME with paging on");
    assert!(cpu.write_efer(efer::LME | 1 << 1).is_err(), "reserved");
}

#[test]
fn debug_registers_have_aliases_fixed_bits_and_general_detect() {
    let mut cpu = kernel(&[]).cpu;
    cpu.write_debug_register(5, 0x400).expect("DR5 is DR7");
    cpu.write_debug_register(4, 0).expect("DR4 is DR6");
    assert_eq!((cpu.dr[6], cpu.dr[7]), (0xffff_0ff0, 0x400));
    assert!(cpu.write_debug_register(6, 1 << 32).is_err());
    assert_eq!(raised(&cpu), 13);
    cpu.write_cr4(cpu.cr4 | cr4::DE).expect("DE");
    assert!(cpu.read_debug_register(4).is_err());
    assert_eq!(raised(&cpu), 6);
    cpu.write_debug_register(7, 1 << 13).expect("GD");
    assert!(cpu.read_debug_register(0).is_err());
    assert_eq!(raised(&cpu), 1);
}

/// Reserved bits and values of MSRs: each pair is a value that is refused and one that is kept.
#[test]
fn msrs_refuse_reserved_bits_and_keep_the_rest() {
    let cases = [
        (msr::IA32_PAT, 2, 0x0007_0406_0007_0406),
        (msr::IA32_MTRR_DEF_TYPE, 2, 0xc06),
        (0x200, 1 << 46, 0x8000_0006),
        (0x201, 1, 1 << 11),
        (0x250, 7, 0x0606_0606_0606_0606),
        (0x26f, 2, 0),
        (msr::IA32_LSTAR, 1 << 47, 0xffff_8000_0000_0000),
        (msr::IA32_FS_BASE, 1 << 63, 0x1000),
        (msr::IA32_KERNEL_GS_BASE, 1 << 48, 0x2000),
        (msr::IA32_FMASK, 1 << 32, 0x200),
        (msr::IA32_TSC_AUX, 1 << 32, 7),
        (msr::IA32_SYSENTER_EIP, 1 << 47, 0x3000),
        (msr::IA32_MCG_STATUS, 8, 0),
        (msr::IA32_FEATURE_CONTROL, 2, 5),
    ];
    let mut cpu = kernel(&[]).cpu;
    for (index, refused, kept) in cases {
        assert!(cpu.write_msr(index, refused).is_err(), "{index:x}");
        assert_eq!(raised(&cpu), 13);
        cpu.write_msr(index, kept).expect("a permitted value");
        assert_eq!(cpu.read_msr(index).expect("it exists"), kept, "{index:x}");
    }
    // Locked now.
    assert!(cpu.write_msr(msr::IA32_FEATURE_CONTROL, 5).is_err());
    // Read-only and unknown ones.
    assert!(cpu.write_msr(msr::IA32_MTRRCAP, 0).is_err());
    assert!(cpu.read_msr(0x1234).is_err() && cpu.read_msr(0x1234).is_err());
    assert_eq!(cpu.unknown_msrs.len(), 2);
}

// SDM 17.17.3 Time-stamp counter adjustment
#[test]
fn writing_the_time_stamp_counter_moves_tsc_adjust() {
    let mut cpu = kernel(&[]).cpu;
    cpu.write_msr(msr::IA32_TIME_STAMP_COUNTER, 5000)
        .expect("TSC");
    assert_eq!(cpu.time_stamp_counter(), 5000);
    let adjust = cpu.read_msr(msr::IA32_TSC_ADJUST).expect("adjust");
    cpu.write_msr(msr::IA32_TSC_ADJUST, adjust + 10)
        .expect("adjust");
    assert_eq!(cpu.time_stamp_counter(), 5010);
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
    assert_eq!(run(|cpu| cpu.ram.store(TSS + 104 + 16, 2_u8)), protection);
    assert_eq!(run(|cpu| cpu.ram.store(TSS + 104 + 16, 0xfc_u8)), None);
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
    cpu.ram.store(GDT + u64::from(FREE), gate);
    cpu.ram.store(GDT + u64::from(FREE) + 8, 0_u64);
    // RETFQ
    cpu.ram.write_bytes(HANDLER, &[0x48, 0xcb]);
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

#[test]
fn a_far_jump_enters_compatibility_mode_and_a_far_return_leaves_it() {
    // JMP FAR [RIP+0]
    let mut code = vec![0xff, 0x2d, 0, 0, 0, 0];
    code.extend_from_slice(&(HANDLER as u32).to_le_bytes());
    code.extend_from_slice(&CODE_32.to_le_bytes());
    let mut processor = kernel(&code);
    processor.cpu.registers[4] = STACK - 16;
    // RETF with 32-bit operands.
    processor.cpu.ram.write_bytes(HANDLER, &[0xcb]);
    processor.cpu.ram.store(STACK - 16, CODE as u32 + 0x100);
    processor.cpu.ram.store(STACK - 12, u32::from(CODE_64));
    step(&mut processor, 1);
    assert!(!processor.cpu.mode_64 && processor.cpu.ia32e_mode());
    assert_eq!(
        (processor.cpu.rip(), processor.cpu.code_bits()),
        (HANDLER, 32)
    );
    step(&mut processor, 1);
    assert!(processor.cpu.mode_64);
    assert_eq!(processor.cpu.rip(), CODE + 0x100);
    assert_eq!(processor.cpu.registers[4], STACK - 8);
}

/// A processor in real mode at 0:7C00H.
fn real_mode(code: &[u8]) -> Processor {
    let mut processor = long_mode(&[]);
    let cpu = &mut processor.cpu;
    cpu.reset(Reset::PowerUp);
    cpu.segments[register::CS as usize].set_real_mode(0);
    cpu.set_rip(0x7c00);
    cpu.registers[4] = 0x7000;
    cpu.ram.write_bytes(0x7c00, code);
    processor
}

// SDM 20.1.4 Interrupt and exception handling
#[test]
fn real_mode_interrupts_go_through_the_vector_table_and_iret_returns() {
    // INT 21H; the handler is IRET.
    let mut processor = real_mode(&[0xcd, 0x21]);
    processor.cpu.ram.store(0x21 * 4, 0x1000_0010_u32);
    processor.cpu.ram.store(0x1_0010, 0xcf_u8);
    processor.cpu.system_flags |= rflags::IF;
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!(cpu.segments[register::CS as usize].selector, 0x1000);
    assert_eq!((cpu.rip(), cpu.registers[4]), (0x10, 0x7000 - 6));
    assert_eq!(cpu.system_flags & rflags::IF, 0);
    assert_eq!(cpu.ram.load::<u16>(0x7000 - 6), 0x7c02);
    assert_eq!(cpu.ram.load::<u16>(0x7000 - 4), 0);
    step(&mut processor, 1);
    let cpu = &processor.cpu;
    assert_eq!((cpu.rip(), cpu.registers[4]), (0x7c02, 0x7000));
    assert!(cpu.system_flags & rflags::IF != 0);
}

// SDM 9.9.1 Switching to protected mode, 9.8.5 Initializing IA-32e mode
#[test]
fn a_boot_stub_goes_from_real_mode_to_64_bit_mode() {
    #[rustfmt::skip]
    let code = [
        0xfa,                                     // cli
        0x0f, 0x01, 0x16, 0x00, 0x7e,             // lgdt [7e00]
        0x0f, 0x20, 0xc0,                         // mov eax, cr0
        0x0c, 0x01,                               // or al, 1
        0x0f, 0x22, 0xc0,                         // mov cr0, eax
        0x66, 0xea, 0x16, 0x7c, 0, 0, 0x40, 0,    // jmp 40:7c16, 32-bit code
        0x66, 0xb8, 0x10, 0x00,                   // mov ax, 10
        0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,       // mov ds, es, ss
        0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0,    // cr4 = PAE
        0xb8, 0, 0x10, 0, 0, 0x0f, 0x22, 0xd8,    // cr3 = 1000
        0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32,       // rdmsr c0000080
        0x0d, 0, 1, 0, 0, 0x0f, 0x30,             // or eax, LME; wrmsr
        0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80,    // mov eax, cr0; or eax, PG
        0x0f, 0x22, 0xc0,                         // mov cr0, eax
        0xea, 0x50, 0x7c, 0, 0, 8, 0,             // jmp 8:7c50, 64-bit code
        0x48, 0xc7, 0xc4, 0, 0, 0x20, 0,          // mov rsp, 200000
        0x48, 0xb8, 0x88, 0x77, 0x66, 0x55,
        0x44, 0x33, 0x22, 0x11,                   // mov rax, 1122334455667788
        0x50, 0xf4,                               // push rax; hlt
    ];
    let mut processor = real_mode(&code);
    let cpu = &mut processor.cpu;
    for (selector, descriptor) in [
        (CODE_64, flat(0xa09a)),
        (STACK_0, flat(0xc092)),
        (CODE_32, flat(0xc09a)),
    ] {
        cpu.ram.store(GDT + u64::from(selector), descriptor);
    }
    cpu.ram.store(0x7e00, 0x67_u16);
    cpu.ram.store(0x7e02, GDT as u32);
    cpu.slice_end = cpu.instructions + 100;
    assert_eq!(processor.run(), Stop::Idle);
    let cpu = &processor.cpu;
    assert_eq!(cpu.activity, Activity::Halted);
    assert!(cpu.mode_64);
    assert_eq!(cpu.efer, efer::LME | efer::LMA);
    assert_eq!(cpu.ram.load::<u64>(STACK - 8), 0x1122_3344_5566_7788);
    // The accessed flags were set on the way.
    assert_eq!(cpu.ram.load::<u64>(GDT + 8), flat(0xa09b));
}

// SDM 8.4.3 MP initialization protocol algorithm: INIT, then a start-up IPI
#[test]
fn init_resets_and_a_start_up_ipi_starts_an_application_processor() {
    let mut processor = kernel(&[0xf4]);
    processor.cpu.index = 0;
    processor.cpu.init_pending = true;
    processor.cpu.look_at_events();
    step(&mut processor, 0);
    let cpu = &processor.cpu;
    assert!(!cpu.protected_mode());
    assert_eq!(
        (cpu.rip(), cpu.segments[register::CS as usize].base),
        (0xfff0, 0xffff_0000)
    );

    let mut processor = kernel(&[0xf4]);
    processor.cpu.activity = Activity::WaitForStartUp;
    processor.cpu.look_at_events();
    assert_eq!(step(&mut processor, 1), Stop::Idle);
    processor.cpu.start_up_pending = Some(0x9a);
    step(&mut processor, 0);
    let cpu = &processor.cpu;
    assert_eq!(cpu.activity, Activity::Active);
    assert_eq!(cpu.segments[register::CS as usize].base, 0x9_a000);
}

#[test]
fn cpuid_names_the_processor_and_reports_its_topology() {
    let mut processor = kernel(&[0x0f, 0xa2]);
    step(&mut processor, 1);
    let registers = &processor.cpu.registers;
    let text: Vec<u8> = [registers[3], registers[2], registers[1]]
        .iter()
        .flat_map(|word| (*word as u32).to_le_bytes())
        .collect();
    assert_eq!(text, b"GenuineIntel");
    let cpu = &processor.cpu;
    assert_eq!(cpu.cpuid(0xb, 0).ecx, 0x100);
    assert_eq!(cpu.cpuid(0xb, 1).ebx, 1);
    assert_eq!(cpu.cpuid(0x15, 0).ebx * 100_000_000, 1_000_000_000);
    assert_eq!(cpu.cpuid(0x8000_0008, 0).eax, 46 | 48 << 8);
    // Beyond the last leaf: as the last basic leaf.
    assert_eq!(cpu.cpuid(0x9000_0000, 0), cpu.cpuid(0x1f, 0));
    assert_eq!(cpu.ram.load::<u8>(DATA), 0);
}

/// A feature bit is set exactly when its instruction is not #UD.
#[test]
fn cpuid_reports_the_instructions_that_execute() {
    // Leaf, register (EAX to EDX), bit, an instruction of the feature with its operand at RBX.
    let table: [(u32, usize, u32, &[u8]); 29] = [
        (1, 2, 0, &[0xf2, 0x0f, 0xd0, 0xc1]),        // SSE3: ADDSUBPS
        (1, 2, 3, &[0x0f, 0x01, 0xc8]),              // MONITOR
        (1, 2, 5, &[0x0f, 0x78, 0xc0]),              // VMX: VMREAD, #UD outside VMX operation
        (1, 2, 9, &[0x66, 0x0f, 0x38, 0x00, 0xc1]),  // SSSE3: PSHUFB
        (1, 2, 12, &[0xc4, 0xe2, 0xf1, 0x98, 0xc2]), // FMA
        (1, 2, 13, &[0x48, 0x0f, 0xc7, 0x0b]),       // CMPXCHG16B
        (1, 2, 19, &[0x66, 0x0f, 0x38, 0x17, 0xc1]), // SSE4.1: PTEST
        (1, 2, 20, &[0xf2, 0x0f, 0x38, 0xf0, 0xc1]), // SSE4.2: CRC32
        (1, 2, 22, &[0x0f, 0x38, 0xf0, 0x03]),       // MOVBE
        (1, 2, 23, &[0xf3, 0x0f, 0xb8, 0xc1]),       // POPCNT
        (1, 2, 26, &[0x0f, 0xae, 0x23]),             // XSAVE
        (1, 2, 28, &[0xc5, 0xf8, 0x58, 0xc1]),       // AVX
        (1, 2, 30, &[0x0f, 0xc7, 0xf0]),             // RDRAND
        (1, 3, 4, &[0x0f, 0x31]),                    // TSC
        (1, 3, 8, &[0x0f, 0xc7, 0x0b]),              // CMPXCHG8B
        (1, 3, 15, &[0x0f, 0x44, 0xc1]),             // CMOV
        (1, 3, 19, &[0x0f, 0xae, 0x3b]),             // CLFLUSH
        (1, 3, 23, &[0x0f, 0xfc, 0xc1]),             // MMX: PADDB
        (1, 3, 24, &[0x0f, 0xae, 0x03]),             // FXSAVE
        (1, 3, 25, &[0x0f, 0x58, 0xc1]),             // SSE: ADDPS
        (1, 3, 26, &[0x66, 0x0f, 0x58, 0xc1]),       // SSE2: ADDPD
        (7, 1, 3, &[0xc4, 0xe2, 0x70, 0xf2, 0xc2]),  // BMI1: ANDN
        (7, 1, 18, &[0x0f, 0xc7, 0xf8]),             // RDSEED
        (7, 1, 20, &[0x0f, 0x01, 0xca]),             // SMAP: CLAC
        (7, 1, 10, &[0x66, 0x0f, 0x38, 0x82, 0x03]), // INVPCID
        (7, 2, 22, &[0xf3, 0x0f, 0xc7, 0xf8]),       // RDPID
        (0x8000_0001, 2, 0, &[0x9f]),                // LAHF
        (0x8000_0001, 2, 8, &[0x0f, 0x0d, 0x0b]),    // PREFETCHW
        (0x8000_0001, 3, 27, &[0x0f, 0x01, 0xf9]),   // RDTSCP
    ];
    for (leaf, register, bit, code) in table {
        let mut processor = kernel(code);
        processor.cpu.registers[3] = DATA;
        let answer = processor.cpu.cpuid(leaf, 0);
        let words = [answer.eax, answer.ebx, answer.ecx, answer.edx];
        let offered = words[register] >> bit & 1 != 0;
        let fault = fault_of(&mut processor).map(|fault| fault.0);
        if (register, bit) == (2, 5) {
            assert!(offered && fault == Some(6));
            continue;
        }
        let expected = if offered { None } else { Some(6) };
        assert_eq!(fault, expected, "leaf {leaf:x} bit {bit}: {code:x?}");
    }
}
