//! Supervisor-mode access and execution prevention (SDM 4.6 Access rights).

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4, efer, rflags};
use posthaste_machine::cpu::tlb::{Access, Privilege};
use posthaste_machine::cpu::{Cpu, Processor};
use support::{CODE, step};
use tables::*;

/// The page directory of the support module.
const DIRECTORY: u64 = 0x3000;
/// A user page of 2 MBytes; all others are supervisor pages.
const USER_PAGE: u64 = 0x40_0000;
/// Present, writable, user, accessed, dirty, large.
const USER_ENTRY: u64 = USER_PAGE | 0xe7;

fn isolate(processor: &mut Processor, user_entry: u64) {
    let cpu = &mut processor.cpu;
    for i in 0..512_u64 {
        cpu.store(DIRECTORY + i * 8, i << 21 | 0xe3);
    }
    cpu.store(DIRECTORY + (USER_PAGE >> 21) * 8, user_entry);
    cpu.write_cr4(cpu.cr4 | cr4::SMAP).unwrap();
    cpu.registers[7] = USER_PAGE + 0x100;
}

fn set_access_control(cpu: &mut Cpu, on: bool) {
    let flags = cpu.rflags() & !rflags::AC;
    cpu.set_rflags(flags | if on { rflags::AC } else { 0 });
}

// SDM 4.6.1: supervisor-mode reads and writes of user-mode addresses, with CR4.SMAP, RFLAGS.AC, CR0.WP
// and the R/W flag; once where nothing is cached, and once after RFLAGS.AC was 1.
#[test]
fn explicit_accesses_reach_user_pages_with_access_control_only() {
    const READ: &[u8] = &[0x8a, 0x07]; // mov al, [rdi]
    const WRITE: &[u8] = &[0x88, 0x07]; // mov [rdi], al
    const MODIFY: &[u8] = &[0xfe, 0x07]; // inc byte [rdi]
    const STRING: &[u8] = &[0xaa]; // stosb
    // Code, SMAP, AC, WP, R/W, error code of the page fault.
    let table = [
        (READ, false, false, true, true, None),
        (READ, true, true, true, true, None),
        (READ, true, true, true, false, None),
        (READ, true, false, true, true, Some(1)),
        (READ, true, false, false, true, Some(1)),
        (WRITE, true, true, true, true, None),
        (WRITE, true, true, true, false, Some(3)),
        (WRITE, true, true, false, false, None),
        (WRITE, true, false, true, true, Some(3)),
        (WRITE, true, false, false, false, Some(3)),
        (WRITE, false, false, true, false, Some(3)),
        (WRITE, false, false, false, false, None),
        (MODIFY, true, false, true, true, Some(3)),
        (MODIFY, true, true, true, true, None),
        (STRING, true, false, true, true, Some(3)),
        (STRING, true, true, true, true, None),
    ];
    for (code, smap, access_control, protected, writable, expected) in table {
        for warm in [false, true] {
            let mut processor = kernel(code);
            let entry = if writable {
                USER_ENTRY
            } else {
                USER_ENTRY & !2
            };
            isolate(&mut processor, entry);
            let cpu = &mut processor.cpu;
            if !protected {
                cpu.write_cr0(cpu.cr0 & !cr0::WP).unwrap();
            }
            if !smap {
                cpu.write_cr4(cpu.cr4 & !cr4::SMAP).unwrap();
            }
            if warm {
                set_access_control(cpu, true);
                cpu.platform
                    .bus_agent()
                    .write_bytes(CODE + 64, &[0x8a, 0x07]);
                cpu.set_rip(CODE + 64);
                step(&mut processor, 1);
                processor.cpu.set_rip(CODE);
            }
            set_access_control(&mut processor.cpu, access_control);
            let fault = fault_of(&mut processor);
            let name = format!(
                "{code:x?} SMAP {smap} AC {access_control} WP {protected} {writable} {warm}"
            );
            assert_eq!(fault, expected.map(|code| (14, code)), "{name}");
            if expected.is_some() {
                assert_eq!(processor.cpu.cr2, USER_PAGE + 0x100, "{name}");
            }
        }
    }
    // User-mode accesses do not care.
    let mut processor = user(&[0x8a, 0x07]);
    isolate(&mut processor, USER_ENTRY);
    processor
        .cpu
        .platform
        .bus_agent()
        .write_bytes(USER_PAGE, &[0x8a, 0x07]);
    processor.cpu.set_rip(USER_PAGE);
    assert_eq!(fault_of(&mut processor), None);
}

// SDM 4.6: accesses to descriptor tables and TSSs are implicit supervisor-mode accesses whatever CPL
// and RFLAGS.AC; 4.6.1: with CR4.SMAP they do not reach user pages.
#[test]
fn implicit_accesses_never_reach_user_pages() {
    // mov ds, ax
    const LOAD: &[u8] = &[0x8e, 0xd8];
    for (at_user, smap, expected) in [
        (false, true, Some((14, 1))),
        (true, true, Some((14, 1))),
        (false, false, None),
        (true, false, None),
    ] {
        let mut processor = if at_user { user(&[]) } else { kernel(LOAD) };
        isolate(&mut processor, USER_ENTRY);
        let cpu = &mut processor.cpu;
        if !smap {
            cpu.write_cr4(cpu.cr4 & !cr4::SMAP).unwrap();
        }
        if at_user {
            cpu.platform.bus_agent().write_bytes(USER_PAGE, LOAD);
            cpu.set_rip(USER_PAGE);
        }
        // The part of the GDT above 4 KBytes is on the user page; the selectors in use are not looked up.
        let table = USER_PAGE - 0x1000;
        for at in (0..0x68).step_by(8) {
            let entry: u64 = cpu.ram.load(GDT + at);
            cpu.store(table + at, entry);
        }
        cpu.store(table + 0x1008, flat(0xc0f3));
        cpu.gdtr.base = table;
        cpu.gdtr.limit = 0x1fff;
        cpu.registers[0] = 0x100b;
        set_access_control(cpu, true);
        assert_eq!(fault_of(&mut processor), expected, "{at_user} {smap}");
    }
}

// SDM 4.6: the frame that an event leaves on the inner stack is written by explicit accesses.
#[test]
fn frames_of_events_follow_access_control() {
    for (access_control, vector) in [(false, 14), (true, 3)] {
        let mut processor = user(&[]);
        isolate(&mut processor, USER_ENTRY);
        let cpu = &mut processor.cpu;
        cpu.platform.bus_agent().write_bytes(USER_PAGE, &[0xcc]);
        cpu.set_rip(USER_PAGE);
        cpu.store(TSS + 4, USER_PAGE + 0x1000);
        set_gate(cpu, 3, HANDLER + 3 * 16, CODE_64, 0xee, 0);
        set_gate(cpu, 14, HANDLER + 14 * 16, CODE_64, 0x8e, 1);
        set_access_control(cpu, access_control);
        step(&mut processor, 1);
        assert_eq!(processor.cpu.rip(), HANDLER + vector * 16);
        if vector == 14 {
            assert_eq!(processor.cpu.ram.load::<u64>(processor.cpu.registers[4]), 3);
        }
    }
}

// SMAP does not concern fetches; what they cache does not serve accesses.
#[test]
fn fetches_from_user_pages_need_no_access_control() {
    let mut processor = kernel(&[]);
    isolate(&mut processor, USER_ENTRY);
    let cpu = &mut processor.cpu;
    // nop; mov al, [rip]
    cpu.platform
        .bus_agent()
        .write_bytes(USER_PAGE, &[0x90, 0x8a, 0x05, 0, 0, 0, 0]);
    cpu.set_rip(USER_PAGE);
    assert_eq!(fault_of(&mut processor), None);
    assert_eq!(fault_of(&mut processor), Some((14, 1)));
    assert_eq!(processor.cpu.cr2, USER_PAGE + 7);
}

// SDM volume 2, CLAC and STAC.
#[test]
fn clac_and_stac_are_for_the_kernel() {
    for (code, before, after) in [
        ([0x0f, 0x01, 0xca], true, false),
        ([0x0f, 0x01, 0xca], false, false),
        ([0x0f, 0x01, 0xcb], false, true),
        ([0x0f, 0x01, 0xcb], true, true),
    ] {
        let mut processor = kernel(&code);
        set_access_control(&mut processor.cpu, before);
        assert_eq!(fault_of(&mut processor), None);
        assert_eq!(processor.cpu.rflags() & rflags::AC != 0, after);
        assert_eq!(fault_of(&mut user(&code)), Some((6, user_stack_top())));
    }
    // In the middle of a block: clac; mov al, [rdi].
    let mut processor = kernel(&[0x0f, 0x01, 0xcb, 0x8a, 0x07, 0x0f, 0x01, 0xca, 0x8a, 0x07]);
    isolate(&mut processor, USER_ENTRY);
    set_gate(&mut processor.cpu, 14, HANDLER, CODE_64, 0x8e, 1);
    processor.cpu.slice_end = processor.cpu.instructions + 20;
    processor.run();
    assert_eq!(processor.cpu.cr2, USER_PAGE + 0x100);
    let frame = processor.cpu.registers[4];
    assert_eq!(processor.cpu.ram.load::<u64>(frame + 8), CODE + 8);
}

/// What lies on top of the stack after an exception without error code: RIP.
fn user_stack_top() -> u64 {
    CODE
}

// SDM 4.6.1: with CR4.SMEP a supervisor-mode fetch from a user page faults, in every paging mode, though
// a read has cached the page before.
#[test]
fn execution_is_prevented_where_a_read_is_cached() {
    let mut cpu = kernel(&[]).cpu;
    cpu.cr0 &= !cr0::PG;
    cpu.efer = 0;
    cpu.cr4 = cr4::PSE | cr4::SMEP;
    cpu.cr3 = 0x70_0000;
    cpu.store(0x70_0004, USER_ENTRY as u32);
    // A directory entry of a 4-KByte page.
    cpu.store(0x70_0008, 0x70_1007_u32);
    cpu.store(0x70_1000, USER_ENTRY as u32 & !0x80);
    cpu.cr0 |= cr0::PG;
    cpu.tlb.flush();
    assert_eq!(cpu.efer & efer::LMA, 0);
    for linear in [USER_PAGE, 2 * USER_PAGE] {
        cpu.translate(linear, Access::Read, Privilege::Supervisor)
            .unwrap();
        let lookup = |cpu: &Cpu, access| {
            cpu.tlb
                .lookup::<u8>(linear, access, Privilege::Supervisor)
                .is_some()
        };
        assert!(lookup(&cpu, Access::Read));
        assert!(!lookup(&cpu, Access::Execute));
        assert!(
            cpu.translate(linear, Access::Execute, Privilege::Supervisor)
                .is_err()
        );
    }
}
