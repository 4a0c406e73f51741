//! A second event that meets the delivery of a first (SDM 25.2, 26.6.1, 27.1, 27.2.4): exceptions, software
//! interrupts, external interrupts and NMIs, by themselves and injected by VM entry, whose delivery meets an
//! exception, an EPT violation or misconfiguration, the APIC-access page or a full page-modification log.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, pin, primary, secondary};
use vmx::*;

const RESUME: u64 = 1 << 16;
const INTERRUPT: u64 = 1 << 9;
/// The guest's 64-bit TSS, whose first interrupt stack is the page STACK.
const TSS: u64 = DATA;
const STACK: u64 = PAGES + 0x2_0000;
const STACK_ENTRY: u64 = PAGE_TABLE + 0x20 * 8;
const STACK_EPT_ENTRY: u64 = EPT + 0x3000 + 0x20 * 8;
/// The first push to it.
const PUSH: u64 = STACK + 0xff8;
/// A page that the guest reads and that is not there.
const ABSENT: u64 = PAGES + 0x2_1000;

/// A first event.
#[derive(Clone, Copy, Debug)]
struct First {
    name: &'static str,
    /// Interruption information without the valid bit, as VM entry takes it and as exits give it.
    information: u32,
    error_code: u32,
    /// Instruction that causes it; empty if it comes from outside.
    code: &'static [u8],
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

const FIRSTS: [First; 9] = [
    First {
        name: "#UD",
        information: 0x306,
        error_code: 0,
        code: &[0x0f, 0x0b],
        class: Class::Benign,
    },
    First {
        // mov ds, ecx with ECX = FFF8H
        name: "#GP",
        information: 0xb0d,
        error_code: 0xfff8,
        code: &[0x8e, 0xd9],
        class: Class::Contributory,
    },
    First {
        // div ebp with EBP = 0
        name: "#DE",
        information: 0x300,
        error_code: 0,
        code: &[0xf7, 0xf5],
        class: Class::Contributory,
    },
    First {
        // mov eax, [rdi] with RDI = ABSENT
        name: "#PF",
        information: 0xb0e,
        error_code: 0,
        code: &[0x8b, 0x07],
        class: Class::PageFault,
    },
    First {
        name: "INT 80H",
        information: 0x480,
        error_code: 0,
        code: &[0xcd, 0x80],
        class: Class::Benign,
    },
    First {
        name: "INT3",
        information: 0x603,
        error_code: 0,
        code: &[0xcc],
        class: Class::Benign,
    },
    First {
        name: "INT1",
        information: 0x501,
        error_code: 0,
        code: &[0xf1],
        class: Class::Benign,
    },
    First {
        name: "external interrupt",
        information: 0x051,
        error_code: 0,
        code: &[],
        class: Class::Benign,
    },
    First {
        name: "NMI",
        information: 0x202,
        error_code: 0,
        code: &[],
        class: Class::Benign,
    },
];

impl First {
    fn vector(&self) -> u64 {
        u64::from(self.information & 0xff)
    }

    fn kind(&self) -> u32 {
        self.information >> 8 & 7
    }

    fn is_software(&self) -> bool {
        matches!(self.kind(), 4..=6)
    }

    fn has_error_code(&self) -> bool {
        self.information & 1 << 11 != 0
    }
}

/// How the first event comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// In the guest, behind STI.
    Guest,
    /// By VM entry, with RF set in the guest.
    Injected,
}

/// What its delivery meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    /// The gate is no gate.
    GeneralProtection,
    /// The gate is not present.
    NotPresent,
    /// The stack is not there.
    PageFault,
    /// EPT does not map the stack.
    EptViolation,
    /// The same, where violations by instructions would be virtualization exceptions.
    ConvertibleEptViolation,
    EptMisconfiguration,
    /// The stack is the APIC-access page.
    ApicAccess,
    /// The stack is clean and the log full.
    LogFull,
}

const EXCEPTIONS: [Second; 3] = [
    Second::GeneralProtection,
    Second::NotPresent,
    Second::PageFault,
];

impl Second {
    const fn vector(self) -> u32 {
        match self {
            Self::GeneralProtection => 13,
            Self::NotPresent => 11,
            _ => 14,
        }
    }
}

fn gate(vector: u64) -> u64 {
    GUEST_IDT + vector * 16
}

fn prepare(first: &First, origin: Origin, second: Second) -> Guest {
    let code = match origin {
        // sti, which blocks interrupts for the next instruction; NMIs too.
        Origin::Guest => [&[0xfb][..], first.code, &[0x90; 4]].concat(),
        Origin::Injected => vec![0x90; 8],
    };
    let mut guest = Guest::new(&code);
    let controls = guest.get(vmcs::PIN_BASED_CONTROLS);
    guest.set(vmcs::PIN_BASED_CONTROLS, controls & !pin::NMI_EXITING);
    guest.cpu().registers[1] = 0xfff8;
    guest.cpu().registers[7] = ABSENT;
    guest.ram().store(PAGE_TABLE + 0x21 * 8, 0_u64);
    guest.set(vmcs::GUEST_TR_BASE, TSS);
    guest.ram().store(TSS + 0x24, STACK + 0x1000);
    guest.cpu().cr2 = 0x1234;
    if origin == Origin::Injected {
        guest.set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT | RESUME);
        let valid = 1 << 31;
        guest.set(
            vmcs::ENTRY_INTERRUPTION_INFORMATION,
            first.information | valid,
        );
        guest.set(vmcs::ENTRY_EXCEPTION_ERROR_CODE, first.error_code);
        guest.set(vmcs::ENTRY_INSTRUCTION_LENGTH, first.code.len() as u32);
    }
    arrange(&mut guest, first.vector(), second);
    guest
}

/// Makes the delivery of `vector` meet `second`.
fn arrange(guest: &mut Guest, vector: u64, second: Second) {
    let word: u64 = guest.ram().load(gate(vector));
    match second {
        Second::GeneralProtection => guest.ram().store(gate(vector) + 5, 0x80_u8),
        Second::NotPresent => guest.ram().store(gate(vector) + 5, 0x0e_u8),
        _ => guest.ram().store(gate(vector), word | 1 << 32),
    }
    match second {
        Second::GeneralProtection | Second::NotPresent => {}
        Second::PageFault => guest.ram().store(STACK_ENTRY, 0_u64),
        Second::EptViolation => {
            guest.with_ept();
            guest.ram().store(STACK_EPT_ENTRY, 0_u64);
        }
        Second::ConvertibleEptViolation => {
            guest.with_ept();
            guest.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
            guest.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, DATA + 0x1000);
            guest.ram().store(STACK_EPT_ENTRY, 0_u64);
        }
        Second::EptMisconfiguration => {
            guest.with_ept();
            guest.ram().store(STACK_EPT_ENTRY, STACK | 0x32);
        }
        Second::ApicAccess => {
            guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            guest.set(vmcs::APIC_ACCESS_ADDRESS, STACK);
        }
        Second::LogFull => {
            guest.with_ept();
            guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
            guest.add_secondary(secondary::ENABLE_PML);
            guest.set(vmcs::PML_ADDRESS, DATA + 0x1000);
            // Two pages become dirty before: those of the guest's page tables and of the GDT.
            guest.set(vmcs::PML_INDEX, 0xffff);
            for table in 0..512_u64 {
                for base in [EPT + 0x2000, EPT + 0x3000] {
                    let at = base + table * 8;
                    let entry: u64 = guest.ram().load(at);
                    if at != STACK_EPT_ENTRY {
                        guest.ram().store(at, entry | 1 << 8 | 1 << 9);
                    }
                }
            }
            for table in [EPT, EPT + 0x1000, EPT + 0x2008] {
                let entry: u64 = guest.ram().load(table);
                guest.ram().store(table, entry & !(1 << 9) | 1 << 8);
            }
        }
    }
}

/// Runs until the second event has happened.
fn run(guest: &mut Guest, first: &First, origin: Origin) {
    if origin == Origin::Injected {
        guest.launch(1);
        return;
    }
    guest.launch(2);
    if first.code.is_empty() {
        // Behind a NOP STI blocks no longer.
        guest.go_on(1);
        let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
        if first.kind() == 2 {
            mailbox.post_non_maskable();
        } else {
            let edge = arch::interrupt_command::TriggerMode::Edge;
            mailbox.post_vector(first.information as u8, edge);
        }
        guest.cpu().look_at_events();
    }
    guest.go_on(1);
}

/// Where the guest was interrupted.
fn interrupted(first: &First, origin: Origin) -> u64 {
    match origin {
        Origin::Injected => GUEST_CODE,
        Origin::Guest if first.code.is_empty() => GUEST_CODE + 2,
        Origin::Guest => GUEST_CODE + 1,
    }
}

/// The guest was left in the delivery of `first`; of none if that is `None`.
#[track_caller]
fn expect_vectoring(guest: &Guest, first: Option<(u32, u32)>, context: &str) {
    let (information, error_code) = first.map_or((0, 0), |(i, e)| (i | 1 << 31, e));
    let found = guest.get(vmcs::IDT_VECTORING_INFORMATION);
    assert_eq!(found, information, "IDT-vectoring information, {context}");
    if information & 1 << 11 != 0 {
        let found = guest.get(vmcs::IDT_VECTORING_ERROR_CODE);
        assert_eq!(found, error_code, "its error code, {context}");
    }
}

/// SDM 27.1: an event that causes an exit indirectly has ended blocking by STI and MOV SS and the inactive
/// state; an NMI blocks NMIs before the exit.
#[track_caller]
fn expect_indirect(guest: &Guest, first: &First, context: &str) {
    let blocking = guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE);
    assert_eq!(blocking, if first.kind() == 2 { 8 } else { 0 }, "{context}");
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0, "{context}");
    if first.is_software() {
        let length = guest.get(vmcs::EXIT_INSTRUCTION_LENGTH) as usize;
        assert_eq!(length, first.code.len(), "instruction length, {context}");
    }
}

fn every_first(mut check: impl FnMut(&First, Origin)) {
    for first in &FIRSTS {
        for origin in [Origin::Guest, Origin::Injected] {
            check(first, origin);
        }
    }
}

/// CR2 when the first event has been delivered or has failed to be.
fn cr2_of(first: &First, origin: Origin) -> u64 {
    if first.class == Class::PageFault && origin == Origin::Guest {
        ABSENT
    } else {
        0x1234
    }
}

/// The error code of an exception at the gate of `first`: EXT unless a program asked for the first (6.13).
fn gate_error(first: &First) -> u32 {
    let external = !matches!(first.kind(), 4 | 6);
    (first.vector() as u32) << 3 | 2 | u32::from(external)
}

// SDM 25.2: the exception bitmap is looked at for the second exception, whatever the first and it would
// become together.
#[test]
fn an_intercepted_second_exception_exits_in_the_delivery_of_the_first() {
    every_first(|first, origin| {
        for second in EXCEPTIONS {
            let context = format!("{second:?} in {} {origin:?}", first.name);
            let mut guest = prepare(first, origin, second);
            guest.set(vmcs::EXCEPTION_BITMAP, 1 << second.vector() | 1 << 8);
            if first.vector() == u64::from(second.vector()) && origin == Origin::Guest {
                // The first would exit itself; the filter of error codes tells two page faults apart.
                if second != Second::PageFault {
                    continue;
                }
                guest.set(vmcs::PAGE_FAULT_ERROR_CODE_MASK, 2);
                guest.set(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, 2);
            }
            run(&mut guest, first, origin);
            let qualification = guest.expect_exit(R::ExceptionOrNmi);
            let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
            assert_eq!(information, 0x8000_0b00 | second.vector(), "{context}");
            let error_code = guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE);
            if second == Second::PageFault {
                assert_eq!((qualification, error_code), (PUSH, 2), "{context}");
            } else {
                assert_eq!(error_code, gate_error(first), "{context}");
            }
            expect_vectoring(
                &guest,
                Some((first.information, first.error_code)),
                &context,
            );
            expect_indirect(&guest, first, &context);
            // The first has changed CR2, the second has not.
            assert_eq!(guest.cpu().cr2, cr2_of(first, origin), "{context}");
            let rip = guest.get(vmcs::GUEST_RIP);
            assert_eq!(rip, interrupted(first, origin), "{context}");
            // The second is a fault.
            assert_ne!(guest.get(vmcs::GUEST_RFLAGS) & RESUME, 0, "{context}");
        }
    });
}

/// SDM table 6-5.
fn double_faults(first: &First, second: Second) -> bool {
    match first.class {
        Class::Benign => false,
        Class::Contributory => second != Second::PageFault,
        Class::PageFault => true,
    }
}

// SDM 6.15, table 6-5; 27.2.4: the exit for a double fault is not one in the delivery of the first event.
#[test]
fn a_second_exception_that_is_not_intercepted_is_served_or_doubles() {
    every_first(|first, origin| {
        for second in EXCEPTIONS {
            for intercepted in [false, true] {
                let context = format!("{second:?} in {} {origin:?}", first.name);
                let mut guest = prepare(first, origin, second);
                guest.set(vmcs::EXCEPTION_BITMAP, u32::from(intercepted) << 8);
                run(&mut guest, first, origin);
                let doubles = double_faults(first, second);
                // CR2 has the address of the second page fault, even if it becomes a double fault.
                let cr2 = match second {
                    Second::PageFault => PUSH,
                    _ => cr2_of(first, origin),
                };
                assert_eq!(guest.cpu().cr2, cr2, "{context}");
                if !doubles {
                    guest.expect_no_exit();
                    assert_eq!(guest.handler(), Some(second.vector() as u8), "{context}");
                } else if intercepted {
                    guest.expect_exit(R::ExceptionOrNmi);
                    let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
                    assert_eq!(information, 0x8000_0b08, "{context}");
                    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE), 0);
                    expect_vectoring(&guest, None, &context);
                    expect_indirect(&guest, first, &context);
                    let rip = guest.get(vmcs::GUEST_RIP);
                    assert_eq!(rip, interrupted(first, origin), "{context}");
                } else {
                    guest.expect_no_exit();
                    assert_eq!(guest.handler(), Some(8), "{context}");
                    assert_eq!(guest.ram().load::<u64>(guest.processor.cpu.registers[4]), 0);
                }
            }
        }
    });
}

// SDM 25.2, 6.15: an exception in the delivery of a double fault exits if the bitmap says so, in the delivery
// of that double fault; otherwise it is a triple fault, which is in the delivery of nothing.
#[test]
fn a_third_exception_exits_or_is_a_triple_fault() {
    every_first(|first, origin| {
        for second in EXCEPTIONS.into_iter().filter(|s| double_faults(first, *s)) {
            for intercepted in [false, true] {
                let context = format!("{second:?} in {} {origin:?}", first.name);
                let mut guest = prepare(first, origin, second);
                // The gate of #DF is not present.
                guest.ram().store(gate(8) + 5, 0x0e_u8);
                if intercepted && second == Second::NotPresent {
                    // It would exit before the double fault.
                    continue;
                }
                guest.set(vmcs::EXCEPTION_BITMAP, u32::from(intercepted) << 11);
                run(&mut guest, first, origin);
                if intercepted {
                    guest.expect_exit(R::ExceptionOrNmi);
                    let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
                    assert_eq!(information, 0x8000_0b0b, "{context}");
                    let error_code = guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE);
                    assert_eq!(error_code, 8 << 3 | 2 | 1, "{context}");
                    expect_vectoring(&guest, Some((0xb08, 0)), &context);
                } else {
                    guest.expect_exit(R::TripleFault);
                    expect_vectoring(&guest, None, &context);
                    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0);
                }
                assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0, "{context}");
                let rip = guest.get(vmcs::GUEST_RIP);
                assert_eq!(rip, interrupted(first, origin), "{context}");
            }
        }
    });
    // A page fault in the delivery of a double fault leaves its address in CR2.
    let mut guest = prepare(&FIRSTS[1], Origin::Guest, Second::PageFault);
    guest.ram().store(gate(13) + 5, 0x0e_u8);
    let word: u64 = guest.ram().load(gate(8));
    guest.ram().store(gate(8), word | 1 << 32);
    run(&mut guest, &FIRSTS[1], Origin::Guest);
    guest.expect_exit(R::TripleFault);
    assert_eq!(guest.cpu().cr2, PUSH);
}

// SDM 27.2.4, 27.3.3: other exits in the delivery of an event, with RF as its delivery would have saved it.
#[test]
fn exits_for_addresses_name_the_event_that_was_delivered() {
    every_first(|first, origin| {
        for (second, reason, qualification) in [
            (Second::EptViolation, R::EptViolation, 0x182),
            (Second::ConvertibleEptViolation, R::EptViolation, 0x182),
            (Second::EptMisconfiguration, R::EptMisconfiguration, 0),
            (Second::ApicAccess, R::ApicAccess, 0x3ff8),
            (Second::LogFull, R::PageModificationLogFull, 0),
        ] {
            let context = format!("{second:?} in {} {origin:?}", first.name);
            let mut guest = prepare(first, origin, second);
            run(&mut guest, first, origin);
            assert_eq!(guest.expect_exit(reason), qualification, "{context}");
            expect_vectoring(
                &guest,
                Some((first.information, first.error_code)),
                &context,
            );
            expect_indirect(&guest, first, &context);
            assert_eq!(guest.cpu().cr2, cr2_of(first, origin), "{context}");
            let rip = guest.get(vmcs::GUEST_RIP);
            assert_eq!(rip, interrupted(first, origin), "{context}");
            // A fault saves 1, an injected event what the guest has, others nothing.
            let saves = first.kind() == 3 || origin == Origin::Injected;
            let resume = guest.get(vmcs::GUEST_RFLAGS) & RESUME != 0;
            assert_eq!(resume, saves, "{context}");
            assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0);
        }
    });
}

// SDM 26.6.1.1: the pushed RF is the guest's for each type of injected event; CR2, DR6, DR7 and IA32_DEBUGCTL
// stay. In the guest a fault pushes 1, a software interrupt 0.
#[test]
fn what_delivery_pushes_for_rf() {
    for first in &FIRSTS {
        for resume in [0, RESUME] {
            let mut guest = Guest::new(&[first.code, &[0x90; 4]].concat());
            guest.cpu().registers[1] = 0xfff8;
            guest.cpu().registers[7] = ABSENT;
            guest.ram().store(PAGE_TABLE + 0x21 * 8, 0_u64);
            guest.set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT | resume);
            let pushed = |guest: &mut Guest| {
                assert_eq!(
                    guest.handler(),
                    Some(first.vector() as u8),
                    "{}",
                    first.name
                );
                let frame = guest.cpu().registers[4] + u64::from(first.has_error_code()) * 8;
                guest.ram().load::<u64>(frame + 16) & RESUME
            };
            if !first.code.is_empty() {
                guest.launch(2);
                let expected = if first.is_software() { 0 } else { RESUME };
                assert_eq!(pushed(&mut guest), expected, "{}", first.name);
            }
            let mut guest = Guest::new(&[0x90; 4]);
            guest.set(vmcs::GUEST_RFLAGS, 2 | INTERRUPT | resume);
            let valid = 1 << 31;
            guest.set(
                vmcs::ENTRY_INTERRUPTION_INFORMATION,
                first.information | valid,
            );
            guest.set(vmcs::ENTRY_EXCEPTION_ERROR_CODE, first.error_code);
            guest.launch(1);
            assert_eq!(pushed(&mut guest), resume, "{} injected", first.name);
        }
    }
}

#[test]
fn an_injected_debug_exception_or_page_fault_changes_no_register() {
    for information in [0x8000_0301_u32, 0x8000_0501, 0x8000_0b0e] {
        let mut guest = Guest::new(&[0x90; 4]);
        let controls = guest.get(vmcs::ENTRY_CONTROLS);
        guest.set(vmcs::ENTRY_CONTROLS, controls | entry::LOAD_DEBUG_CONTROLS);
        guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, information);
        guest.set(vmcs::GUEST_DR7, 0x2400);
        guest.set(vmcs::GUEST_DEBUGCTL, 3);
        guest.cpu().dr[6] = 0xffff_0ff5;
        guest.cpu().cr2 = 0x1234;
        guest.launch(1);
        assert_eq!(guest.handler(), Some(information as u8));
        let cpu = guest.cpu();
        assert_eq!(
            (cpu.dr[6], cpu.dr[7], cpu.cr2),
            (0xffff_0ff5, 0x2400, 0x1234)
        );
        assert_eq!(cpu.msrs.debugctl, 3);
    }
}

// SDM 27.1: an event that causes the exit directly changes nothing: blocking by STI stays, NMIs are blocked
// only in the host, HLT is left only behind the exit.
#[test]
fn an_event_that_exits_directly_changes_nothing() {
    for first in FIRSTS.iter().filter(|first| first.vector() < 32) {
        let mut guest = prepare(first, Origin::Guest, Second::GeneralProtection);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << first.vector());
        guest.add_pin(pin::NMI_EXITING);
        run(&mut guest, first, Origin::Guest);
        guest.expect_exit(R::ExceptionOrNmi);
        let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
        assert_eq!(information, first.information | 1 << 31, "{}", first.name);
        expect_vectoring(&guest, None, first.name);
        let sti = u32::from(!first.code.is_empty());
        let blocking = guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE);
        assert_eq!(blocking, sti, "{}", first.name);
        assert_eq!(guest.cpu().cr2, 0x1234);
    }
}

// SDM 27.1: an interrupt or NMI that wakes the guest from HLT and whose delivery exits leaves it active.
#[test]
fn an_event_that_exits_indirectly_has_ended_halt() {
    for (first, reason, activity) in [
        (&FIRSTS[7], R::EptViolation, 0),
        (&FIRSTS[8], R::EptViolation, 0),
        (&FIRSTS[7], R::ExternalInterrupt, 1),
        (&FIRSTS[8], R::ExceptionOrNmi, 1),
    ] {
        let mut guest = prepare(first, Origin::Guest, Second::EptViolation);
        guest.store(GUEST_CODE, &[0xfb, 0xf4, 0x90]);
        if reason != R::EptViolation {
            guest.add_pin(pin::NMI_EXITING | pin::EXTERNAL_INTERRUPT_EXITING);
        }
        run(&mut guest, first, Origin::Guest);
        guest.expect_exit(reason);
        assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), activity, "{first:?}");
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 2);
    }
}

// SDM 27.1: with virtual NMIs, an injected NMI whose delivery exits blocks virtual NMIs before the exit.
#[test]
fn an_injected_nmi_blocks_virtual_nmis_before_an_exit() {
    for second in [Second::EptViolation, Second::ApicAccess, Second::PageFault] {
        let mut guest = prepare(&FIRSTS[8], Origin::Injected, second);
        guest.add_pin(pin::NMI_EXITING | pin::VIRTUAL_NMIS);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 14);
        guest.launch(1);
        assert!(!guest.cpu().vmx.non_root, "{second:?}");
        assert_eq!(guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE), 8);
        assert!(!guest.cpu().nmi_blocked);
    }
}

// SDM 27.1: a debug exception that is delivered has changed DR6, one that exits has not.
#[test]
fn a_debug_exception_changes_dr6_unless_it_exits_itself() {
    for direct in [false, true] {
        let mut guest = Guest::new(&[0x90; 4]);
        arrange(&mut guest, 1, Second::NotPresent);
        guest.set(vmcs::GUEST_RFLAGS, 0x102);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 11 | u32::from(direct) << 1);
        guest.cpu().dr[6] = 0xffff_0ff0;
        guest.launch(2);
        let qualification = guest.expect_exit(R::ExceptionOrNmi);
        let step = 1 << 14;
        if direct {
            assert_eq!(qualification, step);
            assert_eq!(guest.cpu().dr[6], 0xffff_0ff0);
            expect_vectoring(&guest, None, "#DB");
        } else {
            assert_eq!(guest.cpu().dr[6], 0xffff_0ff0 | step);
            expect_vectoring(&guest, Some((0x301, 0)), "#DB");
        }
        assert_eq!(guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 1);
    }
}

// A virtual interrupt is delivered as an external interrupt is.
#[test]
fn a_virtual_interrupt_whose_delivery_exits_is_an_external_interrupt() {
    let mut guest = Guest::new(&[0x90; 4]);
    guest.with_apic_virtualization();
    guest.with_interrupts_enabled();
    guest.set(vmcs::GUEST_TR_BASE, TSS);
    guest.ram().store(TSS + 0x24, STACK + 0x1000);
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x61);
    guest.set_virtual_apic(0x230, 2);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 1);
    arrange(&mut guest, 0x61, Second::EptViolation);
    guest.launch(2);
    guest.expect_exit(R::EptViolation);
    expect_vectoring(&guest, Some((0x061, 0)), "virtual interrupt");
    assert_eq!(guest.get(vmcs::GUEST_INTERRUPT_STATUS), 0x6100);
    assert_eq!(guest.get(vmcs::GUEST_ACTIVITY_STATE), 0);
    guest.add_primary(primary::HLT_EXITING);
}
