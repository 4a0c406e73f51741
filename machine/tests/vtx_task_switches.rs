//! Task switches in VMX non-root operation (SDM 25.4.2 Treatment of task switches; 27.2.1, table 27-2): what is
//! checked before the exit, and what the exit says of the event that met a task gate.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, secondary};
use vmx::*;

/// Selectors of TSS descriptors in the guest's GDT.
const AVAILABLE: u16 = 0x20;
const BUSY: u16 = 0x28;
const NOT_PRESENT: u16 = 0x30;
const SHORT: u16 = 0x38;
const NO_TSS: u16 = 0x10;
const BEYOND: u16 = 0x48;
/// The interrupt with a task gate.
const VECTOR: u64 = 0x40;
const OLD_TSS: u64 = DATA;
const NEW_TSS: u64 = DATA + 0x200;
const RESUME: u64 = 1 << 16;
const NESTED_TASK: u64 = 1 << 14;
const INTERRUPT: u64 = 1 << 9;

fn tss(kind: u64, limit: u64) -> u64 {
    limit | (NEW_TSS & 0xff_ffff) << 16 | kind << 40
}

/// A guest in 32-bit protected mode without paging, whose task gates at [`VECTOR`] and of #UD lead to `task`.
fn guest(code: &[u8], task: u16) -> Guest {
    let mut guest = Guest::new(&[code, &[0x90; 4]].concat());
    guest.with_ept();
    guest.add_secondary(secondary::UNRESTRICTED_GUEST);
    let controls = guest.get(vmcs::ENTRY_CONTROLS);
    guest.set(vmcs::ENTRY_CONTROLS, controls & !entry::IA32E_MODE_GUEST);
    guest
        .set(vmcs::GUEST_CR0, 0x31)
        .set(vmcs::GUEST_CR4, 0x2000)
        .set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT);
    guest.set(vmcs::GUEST_EFER, 0);
    for field in 0..6 {
        guest.write(0x4814 + field * 2, if field == 1 { 0xc09b } else { 0xc093 });
    }
    guest
        .set(vmcs::GUEST_TR_BASE, OLD_TSS)
        .set(vmcs::GUEST_GDTR_BASE, GUEST_GDT);
    guest.set(vmcs::GUEST_GDTR_LIMIT, 0x3f);
    let ram = guest.ram();
    ram.store(OLD_TSS, task);
    ram.store(GUEST_GDT + u64::from(AVAILABLE), tss(0x89, 0x67));
    ram.store(GUEST_GDT + u64::from(BUSY), tss(0x8b, 0x67));
    ram.store(GUEST_GDT + u64::from(NOT_PRESENT), tss(0x09, 0x67));
    ram.store(GUEST_GDT + u64::from(SHORT), tss(0x89, 0x66));
    for vector in [6, VECTOR] {
        let gate = u64::from(task) << 16 | 0x8500 << 32;
        ram.store(GUEST_IDT + vector * 8, gate);
    }
    guest
}

/// What switches tasks, its code for a selector, its number in the exit qualification, and the event whose
/// delivery it is, if it is one.
struct Source {
    name: &'static str,
    code: fn(u16) -> Vec<u8>,
    number: u64,
    event: Option<u32>,
    injected: bool,
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let [low, high] = selector.to_le_bytes();
    vec![opcode, 0, 0, 0, 0, low, high]
}

const SOURCES: [Source; 7] = [
    Source {
        name: "JMP",
        code: |selector| far(0xea, selector),
        number: 2,
        event: None,
        injected: false,
    },
    Source {
        name: "CALL",
        code: |selector| far(0x9a, selector),
        number: 0,
        event: None,
        injected: false,
    },
    Source {
        name: "IRET",
        code: |_| vec![0xcf],
        number: 1,
        event: None,
        injected: false,
    },
    Source {
        name: "INT",
        code: |_| vec![0xcd, VECTOR as u8],
        number: 3,
        event: Some(0x440),
        injected: false,
    },
    Source {
        name: "#UD",
        code: |_| vec![0x0f, 0x0b],
        number: 3,
        event: Some(0x306),
        injected: false,
    },
    Source {
        name: "external interrupt",
        code: |_| vec![],
        number: 3,
        event: Some(0x040),
        injected: false,
    },
    Source {
        name: "injected INT",
        code: |_| vec![],
        number: 3,
        event: Some(0x440),
        injected: true,
    },
];

fn run(source: &Source, selector: u16, bitmap: u32) -> Guest {
    let mut guest = guest(&(source.code)(selector), selector);
    guest.set(vmcs::EXCEPTION_BITMAP, bitmap);
    if source.number == 1 {
        guest.set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT | NESTED_TASK);
    }
    if source.injected {
        let information = source.event.unwrap_or(0) | 1 << 31;
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.set(vmcs::ENTRY_INSTRUCTION_LENGTH, 2);
    }
    guest.launch(1);
    if source.name == "external interrupt" {
        guest.expect_no_exit();
        let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
        mailbox.post_vector(VECTOR as u8, arch::interrupt_command::TriggerMode::Edge);
        guest.cpu().look_at_events();
    }
    guest.go_on(1);
    guest
}

#[track_caller]
fn expect_vectoring(guest: &Guest, source: &Source) {
    let found = guest.get(vmcs::IDT_VECTORING_INFORMATION);
    let expected = source.event.map_or(0, |event| event | 1 << 31);
    assert_eq!(found, expected, "{}", source.name);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE, "{}", source.name);
}

#[test]
fn a_task_switch_exits_when_its_checks_pass() {
    for source in &SOURCES {
        let selector = if source.number == 1 { BUSY } else { AVAILABLE };
        let guest = run(source, selector, 0);
        let qualification = guest.expect_exit(R::TaskSwitch);
        let expected = u64::from(selector) | source.number << 30;
        assert_eq!(qualification, expected, "{}", source.name);
        expect_vectoring(&guest, source);
        // RF is that of the image in the old TSS: 1 for a fault.
        let resume = guest.get(vmcs::GUEST_RFLAGS) & RESUME != 0;
        assert_eq!(resume, source.name == "#UD", "{}", source.name);
        // SDM 27.1: nothing is modified.
        assert_eq!(guest.ram().load::<u16>(OLD_TSS + 0x20), 0);
        let descriptor: u64 = guest.ram().load(GUEST_GDT + u64::from(selector));
        let kind = if source.number == 1 { 0x8b } else { 0x89 };
        assert_eq!(descriptor, tss(kind, 0x67), "{}", source.name);
        if source.number != 3 || source.event == Some(0x440) {
            let length = guest.get(vmcs::EXIT_INSTRUCTION_LENGTH) as usize;
            let code = (source.code)(selector).len();
            let expected = if source.injected { 2 } else { code };
            assert_eq!(length, expected, "{}", source.name);
        }
    }
}

// "Only if checks 1-4 all pass (do not generate faults) might a VM exit occur."
#[test]
fn a_fault_of_the_checks_comes_before_the_exit() {
    const INVALID_TSS: u32 = 10;
    const ABSENT: u32 = 11;
    const PROTECTION: u32 = 13;
    for source in &SOURCES {
        let returns = source.number == 1;
        let complaint = if returns { INVALID_TSS } else { PROTECTION };
        for (selector, vector) in [
            (if returns { AVAILABLE } else { BUSY }, complaint),
            (NO_TSS, complaint),
            (BEYOND, complaint),
            (NOT_PRESENT, if returns { INVALID_TSS } else { ABSENT }),
            (SHORT, INVALID_TSS),
        ] {
            if matches!(source.name, "JMP" | "CALL") && selector == NO_TSS {
                // A far transfer to a data segment is none to a task.
                continue;
            }
            let guest = run(source, selector, 1 << 10 | 1 << 11 | 1 << 13);
            guest.expect_exit(R::ExceptionOrNmi);
            let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
            let context = format!("{} {selector:#x}", source.name);
            assert_eq!(information, 0x8000_0b00 | vector, "{context}");
            // SDM 6.13: EXT, unless a program asked for it.
            let external = matches!(source.event, Some(0x306 | 0x040));
            let code = guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE);
            assert_eq!(code, u32::from(selector) | u32::from(external), "{context}");
            expect_vectoring(&guest, source);
        }
    }
}

// A task gate's own checks come first of all.
#[test]
fn the_task_gate_is_checked_first() {
    for (rights, vector, error_code) in [(0x0500_u64, 11, 0x202), (0x8500, 13, 0x202)] {
        let mut guest = guest(&[0xcd, VECTOR as u8], AVAILABLE);
        let gate = u64::from(AVAILABLE) << 16 | rights << 32;
        guest.ram().store(GUEST_IDT + VECTOR * 8, gate);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 11 | 1 << 13);
        if vector == 13 {
            // CPL 3 above the gate's DPL.
            for field in 0..6 {
                guest.write(0x0800 + field * 2, if field == 1 { 0x0b } else { 0x13 });
                guest.write(0x4814 + field * 2, if field == 1 { 0xc0fb } else { 0xc0f3 });
            }
        }
        guest.launch(2);
        guest.expect_exit(R::ExceptionOrNmi);
        let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
        assert_eq!(information, 0x8000_0b00 | vector);
        let code = guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE);
        assert_eq!(code, error_code);
    }
}
