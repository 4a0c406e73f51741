//! From one mode to another: real mode, protected mode, compatibility mode, INIT.

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{efer, rflags};
use posthaste_machine::cpu::segment::register;
use posthaste_machine::cpu::state::Reset;
use posthaste_machine::cpu::{Activity, Processor, Stop};
use support::{CODE, STACK, long_mode, step};
use tables::*;

#[test]
fn a_far_jump_enters_compatibility_mode_and_a_far_return_leaves_it() {
    // JMP FAR [RIP+0]
    let mut code = vec![0xff, 0x2d, 0, 0, 0, 0];
    code.extend_from_slice(&(HANDLER as u32).to_le_bytes());
    code.extend_from_slice(&CODE_32.to_le_bytes());
    let mut processor = kernel(&code);
    processor.cpu.registers[4] = STACK - 16;
    // RETF with 32-bit operands.
    processor
        .cpu
        .platform
        .bus_agent()
        .write_bytes(HANDLER, &[0xcb]);
    processor.cpu.store(STACK - 16, CODE as u32 + 0x100);
    processor.cpu.store(STACK - 12, u32::from(CODE_64));
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
    cpu.platform.bus_agent().write_bytes(0x7c00, code);
    processor
}

// SDM 20.1.4 Interrupt and exception handling
#[test]
fn real_mode_interrupts_go_through_the_vector_table_and_iret_returns() {
    // INT 21H; the handler is IRET.
    let mut processor = real_mode(&[0xcd, 0x21]);
    processor.cpu.store(0x21 * 4, 0x1000_0010_u32);
    processor.cpu.store(0x1_0010, 0xcf_u8);
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
        cpu.store(GDT + u64::from(selector), descriptor);
    }
    cpu.store(0x7e00, 0x67_u16);
    cpu.store(0x7e02, GDT as u32);
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

/// SDM volume 2, MOV to control registers: paging with IA32_EFER.LME needs a TSS that IA-32e mode has.
#[test]
fn ia_32e_mode_begins_with_no_16_bit_tss() {
    for (kind, refused) in [(0x81, true), (0x83, true), (0x8b, false), (0x10000, false)] {
        // MOV CR0, EAX
        let mut processor = long_mode(&[0x0f, 0x22, 0xc0]);
        load(&mut processor.cpu);
        let cpu = &mut processor.cpu;
        let on = cpu.cr0;
        cpu.cr0 &= !arch::control_register::cr0::PG;
        cpu.efer &= !efer::LMA;
        let code = &mut cpu.segments[register::CS as usize];
        code.rights = code.rights & !arch::segment::rights::LONG | arch::segment::rights::BIG;
        cpu.tr.rights = kind;
        cpu.registers[0] = on;
        cpu.refresh_mode();
        step(&mut processor, 1);
        let cpu = &processor.cpu;
        assert_eq!(cpu.ia32e_mode(), !refused, "{kind:x}");
        assert_eq!(cpu.rip() == CODE + 3, !refused, "{kind:x}");
    }
}
