//! What other controls make of EPT: page-modification logging, mode-based execute control, virtualization
//! exceptions and EPTP switching.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::control_register::cr0;
use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, primary, secondary, vm_function};
use vmx::*;

/// Guest-physical page of the tests, and the EPT entry that maps it.
const PAGE: u64 = PAGES + 0xc000;
const ENTRY: u64 = EPT + 0x3000 + 0xc * 8;
/// The guest's page-table entry of that page.
const GUEST_ENTRY: u64 = PAGE_TABLE + 0xc * 8;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;

fn ept(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_ept();
    guest.add_primary(primary::HLT_EXITING);
    guest
}

/// The log is at DATA; accessed and dirty flags are in use.
fn logging(code: &[u8], index: u16) -> Guest {
    let mut guest = ept(code);
    guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
    guest.add_secondary(secondary::ENABLE_PML);
    guest.set(vmcs::PML_ADDRESS, DATA);
    guest.set(vmcs::PML_INDEX, index);
    guest
}

// SDM 28.3.6 Page-modification logging
#[test]
fn pages_that_become_dirty_are_logged() {
    let code = program(&[
        load_u32(PAGE),
        store_u32(PAGE + 0x123, 1),
        store_u32(PAGE, 1),
        store_u32(PAGE + 0x1004, 1),
    ]);
    let logged = |guest: &Guest| -> Vec<u64> {
        (0..512)
            .rev()
            .map(|index| guest.ram().load::<u64>(DATA + index * 8))
            .filter(|entry| *entry != 0)
            .collect()
    };
    // The first access to the guest's page tables sets the dirty flag of their 2 MBytes.
    let mut guest = logging(&code, 511);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    assert_eq!(logged(&guest), [TABLES, PAGE, PAGE + 0x1000]);
    assert_eq!(guest.get(vmcs::PML_INDEX), 508);
    // The index may pass 0.
    let mut guest = logging(&code, 2);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    assert_eq!(logged(&guest), [TABLES, PAGE, PAGE + 0x1000]);
    assert_eq!(guest.get(vmcs::PML_INDEX), 0xffff);
    // What is dirty before is not logged.
    let mut guest = logging(&code, 511);
    let entry: u64 = guest.ram().load(ENTRY);
    guest.ram().store(ENTRY, entry | DIRTY);
    guest.launch(10);
    assert_eq!(logged(&guest), [TABLES, PAGE + 0x1000]);
    // Without the control, and without the flags.
    for control in [true, false] {
        let mut guest = logging(&code, 511);
        if control {
            guest.set(vmcs::EPT_POINTER, EPT | 0x1e);
        } else {
            guest.remove_secondary(secondary::ENABLE_PML);
        }
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(logged(&guest), []);
        assert_eq!(guest.get(vmcs::PML_INDEX), 511);
    }
}

// 28.3.6: with an index outside 0 to 511 there is an exit before an accessed or dirty flag is set.
#[test]
fn a_full_log_exits_before_anything_changes() {
    for index in [512, 0x8000, 0xffff] {
        let mut guest = logging(&program(&[store_u32(PAGE, 7)]), 1);
        guest.launch(1);
        guest.go_on(0);
        guest.expect_no_exit();
        let mut guest = logging(&program(&[store_u32(PAGE, 7)]), index);
        // The path to the guest's code and tables is marked; the page is not.
        for at in [EPT, EPT + 0x1000, EPT + 0x2000, EPT + 0x2008] {
            let entry: u64 = guest.ram().load(at);
            guest.ram().store(at, entry | ACCESSED | DIRTY);
        }
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::PageModificationLogFull), 0);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
        assert_ne!(guest.get(vmcs::GUEST_RFLAGS) & 1 << 16, 0, "RF");
        assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), 0);
        assert_eq!(guest.ram().load::<u64>(ENTRY) & (ACCESSED | DIRTY), 0);
        assert_eq!(guest.ram().load::<u32>(PAGE), 0);
        assert_eq!(guest.get(vmcs::PML_INDEX), index);
        // Emptied, it goes on.
        guest.set(vmcs::PML_INDEX, 511);
        guest.resume(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(guest.ram().load::<u64>(DATA + 511 * 8), PAGE);
        assert_eq!(guest.ram().load::<u32>(PAGE), 7);
    }
    // A full log does not matter where every flag is set.
    let mut guest = logging(&program(&[store_u32(PAGE, 7)]), 512);
    for at in [EPT, EPT + 0x1000, EPT + 0x2000, EPT + 0x2008, ENTRY] {
        let entry: u64 = guest.ram().load(at);
        guest.ram().store(at, entry | ACCESSED | DIRTY);
    }
    guest.launch(10);
    guest.expect_exit(R::Hlt);
}

// 27.2.4: a full log met while an event is delivered.
#[test]
fn a_full_log_during_event_delivery_says_which_event() {
    let mut guest = logging(&[0xcc], 0xffff);
    for at in [EPT, EPT + 0x1000, EPT + 0x2000, EPT + 0x2008] {
        let entry: u64 = guest.ram().load(at);
        guest.ram().store(at, entry | ACCESSED | DIRTY);
    }
    guest.set(vmcs::GUEST_RSP, PAGE + 0x800);
    guest.launch(10);
    guest.expect_exit(R::PageModificationLogFull);
    assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), 0x8000_0603);
    assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 1);
}

/// Lets user-mode addresses execute everywhere in the EPT.
fn permit_user_fetches(guest: &Guest) {
    for at in (0..0x4000).step_by(8) {
        let entry: u64 = guest.ram().load(EPT + at);
        if entry & 7 != 0 {
            guest.ram().store(EPT + at, entry | 1 << 10);
        }
    }
}

// SDM 28.3.3.2 EPT violations, on instruction fetches; table 27-7, bits 5 and 6.
#[test]
fn fetches_follow_the_mode_of_their_linear_address() {
    const X: u64 = 1 << 2;
    const XU: u64 = 1 << 10;
    // Control, user page, EPT rights beside read, qualification of the violation.
    let table = [
        (false, true, X, None),
        (false, true, XU, Some(0x18c)),
        (false, false, X | XU, None),
        (true, false, X, None),
        (true, false, XU, Some(0x1cc)),
        (true, false, 0, Some(0x18c)),
        (true, true, XU, None),
        (true, true, X | XU, None),
        (true, true, X, Some(0x1ac)),
    ];
    for (control, user, rights, expected) in table {
        for read_before in [false, true] {
            let mut guest = ept(&program(&[load_u32(PAGE)]));
            permit_user_fetches(&guest);
            guest.ram().store(ENTRY, PAGE | 0x31 | rights);
            guest
                .ram()
                .store(GUEST_ENTRY, PAGE | if user { 7 } else { 3 });
            guest.store(PAGE, &[0xf4]);
            if control {
                guest.add_secondary(secondary::MODE_BASED_EXECUTE);
            }
            if read_before {
                // The same translation, cached for a read first: jmp to the page instead of hlt.
                let at = GUEST_CODE + load_u32(PAGE).len() as u64;
                let distance = (PAGE as u32).wrapping_sub(at as u32 + 5).to_le_bytes();
                guest.store(at, &[&[0xe9], distance.as_slice()].concat());
            } else {
                guest.set(vmcs::GUEST_RIP, PAGE);
            }
            guest.launch(10);
            let name = format!("{control} {user} {rights:#x} {read_before}");
            match expected {
                None => {
                    guest.expect_exit(R::Hlt);
                    assert_eq!(guest.get(vmcs::GUEST_RIP), PAGE, "{name}");
                }
                Some(value) => assert_eq!(guest.expect_exit(R::EptViolation), value, "{name}"),
            }
        }
    }
}

// 28.3.2: with the control an entry is present if bit 10 is 1 alone.
#[test]
fn an_entry_with_bit_10_alone_is_present_with_the_control() {
    for (control, expected) in [(true, R::Hlt), (false, R::EptViolation)] {
        let mut guest = ept(&[]);
        permit_user_fetches(&guest);
        guest.ram().store(ENTRY, PAGE | 0x30 | 1 << 10);
        guest.store(PAGE, &[0xf4]);
        guest.set(vmcs::GUEST_RIP, PAGE);
        if control {
            guest.add_secondary(secondary::MODE_BASED_EXECUTE);
        }
        guest.launch(10);
        let qualification = guest.expect_exit(expected);
        if !control {
            assert_eq!(qualification, 0x184);
        }
    }
}

/// Protected mode without paging.
fn without_paging(guest: &mut Guest) {
    guest.add_secondary(secondary::UNRESTRICTED_GUEST);
    let value = guest.get(vmcs::GUEST_CR0);
    guest.set(vmcs::GUEST_CR0, value & !cr0::PG);
    guest.set(vmcs::GUEST_EFER, 0);
    let value = guest.get(vmcs::ENTRY_CONTROLS);
    guest.set(vmcs::ENTRY_CONTROLS, value & !entry::IA32E_MODE_GUEST);
    guest.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
}

// 28.3.3.2: "if paging is disabled (CR0.PG = 0), every linear address is a user-mode address".
#[test]
fn without_paging_every_address_is_a_user_mode_address() {
    for (rights, expected) in [(1_u64 << 10, R::Hlt), (1 << 2, R::EptViolation)] {
        let mut guest = ept(&[0xf4]);
        permit_user_fetches(&guest);
        guest.ram().store(EPT + 0x2000, 0xb3 | rights);
        guest.add_secondary(secondary::MODE_BASED_EXECUTE);
        without_paging(&mut guest);
        guest.launch(10);
        guest.expect_exit(expected);
    }
}

/// Virtualization-exception information.
const AREA: u64 = DATA + 0x1000;
const SUPPRESS: u64 = 1 << 63;
const VE_HANDLER: u64 = GUEST_HANDLERS + 20 * 16;

fn excepting(code: &[u8]) -> Guest {
    let mut guest = ept(code);
    guest.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
    guest.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, AREA);
    guest.set(vmcs::EPTP_INDEX, 0x123);
    guest
}

// SDM 25.5.7 Virtualization exceptions: what is saved, and where the guest goes on.
#[test]
fn a_convertible_violation_is_an_exception_of_the_guest() {
    let modify = [
        &[0xff, 0x04, 0x25],
        (PAGE as u32 + 4).to_le_bytes().as_slice(),
    ]
    .concat();
    for (code, entry, qualification) in [
        (load_u32(PAGE + 4), 0, 0x181_u64),
        (store_u32(PAGE + 4, 1), PAGE | 0x35, 0x1aa),
        (modify, PAGE | 0x31, 0x18b),
    ] {
        let mut guest = excepting(&program(std::slice::from_ref(&code)));
        guest.ram().store(ENTRY, entry);
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(guest.get(vmcs::GUEST_RIP), VE_HANDLER);
        let word = |at| guest.ram().load::<u64>(AREA + at);
        assert_eq!(word(0), 48 | 0xffff_ffff << 32);
        assert_eq!(word(8), qualification);
        assert_eq!(word(16), PAGE + 4, "guest-linear address");
        assert_eq!(word(24), PAGE + 4, "guest-physical address");
        assert_eq!(guest.ram().load::<u16>(AREA + 32), 0x123, "EPTP index");
        // No error code: RIP is on top of the stack, with RF in the flags behind it.
        let stack = guest.get(vmcs::GUEST_RSP);
        assert_eq!(guest.ram().load::<u64>(stack), GUEST_CODE);
        assert_ne!(guest.ram().load::<u64>(stack + 16) & 1 << 16, 0);
    }
}

// 25.5.7.1 Convertible EPT violations, 25.5.7.2: each condition violated alone.
#[test]
fn violations_that_do_not_convert_exit() {
    type Case = (&'static str, u64, fn(&mut Guest), R);
    let table: &[Case] = &[
        ("it converts", 0, |_| {}, R::Hlt),
        (
            "the control is 0",
            0,
            |g| {
                g.remove_secondary(secondary::EPT_VIOLATION_EXCEPTION);
            },
            R::EptViolation,
        ),
        (
            "suppressed where not present",
            SUPPRESS,
            |_| {},
            R::EptViolation,
        ),
        (
            "suppressed where not permitted",
            SUPPRESS | PAGE | 0x34,
            |_| {},
            R::EptViolation,
        ),
        (
            "suppressed above the leaf, which does not count",
            0,
            |g| {
                let entry: u64 = g.ram().load(EPT + 0x2008);
                g.ram().store(EPT + 0x2008, entry | SUPPRESS);
            },
            R::Hlt,
        ),
        (
            "the area is in use",
            0,
            |g| g.ram().store(AREA + 4, 1_u32),
            R::EptViolation,
        ),
        (
            "a misconfiguration",
            PAGE | 0x32,
            |_| {},
            R::EptMisconfiguration,
        ),
        (
            "intercepted as an exception",
            0,
            |g| {
                g.set(vmcs::EXCEPTION_BITMAP, 1 << 20);
            },
            R::ExceptionOrNmi,
        ),
        (
            "another exception is intercepted",
            0,
            |g| {
                g.set(vmcs::EXCEPTION_BITMAP, !(1 << 20));
            },
            R::Hlt,
        ),
    ];
    for (name, entry, change, expected) in table {
        let mut guest = excepting(&program(&[load_u32(PAGE)]));
        guest.ram().store(ENTRY, *entry);
        change(&mut guest);
        guest.launch(10);
        let found = guest.get(vmcs::EXIT_REASON);
        assert_eq!(found, *expected as u32, "{name}");
        let written = guest.ram().load::<u32>(AREA) != 0;
        assert_eq!(
            written,
            matches!(expected, R::Hlt | R::ExceptionOrNmi),
            "{name}"
        );
        if *expected == R::ExceptionOrNmi {
            let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
            assert_eq!(information, 0x8000_0314, "{name}");
        }
    }
    // While an event is delivered.
    let mut guest = excepting(&[0xcc]);
    guest.ram().store(ENTRY, 0_u64);
    guest.set(vmcs::GUEST_RSP, PAGE + 0x800);
    guest.launch(10);
    guest.expect_exit(R::EptViolation);
    assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), 0x8000_0603);
    assert_eq!(guest.ram().load::<u32>(AREA), 0);
    // With CR0.PE = 0. The first 2 MBytes may be fetched and not read: mov al, [0].
    let mut guest = excepting(&[]);
    without_paging(&mut guest);
    let value = guest.get(vmcs::GUEST_CR0);
    guest.set(vmcs::GUEST_CR0, value & !cr0::PE);
    for field in 0..6 {
        guest.write(0x0800 + field * 2, 0x5000);
        guest.write(0x4800 + field * 2, 0xffff);
        guest.write(0x4814 + field * 2, if field == 1 { 0x9b } else { 0x93 });
        guest.write(0x6806 + field * 2, 0x5_0000);
    }
    guest.store(0x5_1000, &[0xa0, 0, 0]);
    guest.set(vmcs::GUEST_RIP, 0x1000);
    guest.ram().store(EPT + 0x2000, 0xb4_u64);
    guest.launch(10);
    guest.expect_exit(R::EptViolation);
    assert_eq!(guest.ram().load::<u32>(AREA), 0);
}

/// A second EPT, in which the page is another, and the list of pointers.
const OTHER_EPT: u64 = 0x32_0000;
const LIST: u64 = DATA;

fn vmfunc(function: u32, index: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(function.to_le_bytes());
    code.push(0xb9);
    code.extend(index.to_le_bytes());
    code.extend([0x0f, 0x01, 0xd4]);
    code
}

fn switching(code: &[u8]) -> Guest {
    let mut guest = ept(code);
    for (at, from) in [
        (0, EPT),
        (0x1000, EPT + 0x1000),
        (0x2000, EPT + 0x2000),
        (0x3000, EPT + 0x3000),
    ] {
        for i in (0..4096).step_by(8) {
            let entry: u64 = guest.ram().load(from + i);
            guest.ram().store(OTHER_EPT + at + i, entry);
        }
    }
    guest.ram().store(OTHER_EPT, OTHER_EPT + 0x1000 | 7);
    guest
        .ram()
        .store(OTHER_EPT + 0x1000, OTHER_EPT + 0x2000 | 7);
    guest
        .ram()
        .store(OTHER_EPT + 0x2008, OTHER_EPT + 0x3000 | 7);
    guest
        .ram()
        .store(OTHER_EPT + 0x3000 + 0xc * 8, PAGE + 0x1000 | 0x37);
    guest.ram().store(PAGE, 0x11_u32);
    guest.ram().store(PAGE + 0x1000, 0x22_u32);
    for (index, pointer) in [
        (0, EPT | 0x1e),
        (1, OTHER_EPT | 0x1e),
        (2, OTHER_EPT | 0x1c),
        (3, OTHER_EPT | 0x9e),
        (4, 1 << 46 | 0x1e),
        (511, OTHER_EPT | 0x5e),
    ] {
        guest.ram().store(LIST + index * 8, pointer);
    }
    guest.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
    guest.set(vmcs::VM_FUNCTION_CONTROLS, vm_function::EPTP_SWITCHING);
    guest.set(vmcs::EPTP_LIST_ADDRESS, LIST);
    guest
}

// SDM 25.5.6.3 EPTP switching; 28.4.1: what is cached of one EPT does not serve another.
#[test]
fn vmfunc_switches_to_another_ept_and_back() {
    let code = program(&[
        load_u32(PAGE),
        vec![0x89, 0xc3], // mov ebx, eax
        vmfunc(0, 1),
        load_u32(PAGE),
        vec![0x89, 0xc6], // mov esi, eax
        vmfunc(0, 0),
        load_u32(PAGE),
    ]);
    for vpid in [0, 7] {
        for exceptions in [false, true] {
            let mut guest = switching(&code);
            if vpid != 0 {
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, vpid);
            }
            guest.set(vmcs::EPTP_INDEX, 0x77);
            if exceptions {
                guest.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
                guest.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, AREA);
            }
            guest.launch(7);
            guest.expect_no_exit();
            assert_eq!(guest.get(vmcs::EPT_POINTER), OTHER_EPT | 0x1e);
            let index = if exceptions { 1 } else { 0x77 };
            assert_eq!(guest.get(vmcs::EPTP_INDEX), index);
            guest.go_on(20);
            guest.expect_exit(R::Hlt);
            let registers = guest.cpu().registers;
            assert_eq!(
                (registers[3], registers[6], registers[0]),
                (0x11, 0x22, 0x11)
            );
            assert_eq!(guest.get(vmcs::EPT_POINTER), EPT | 0x1e);
        }
    }
    // The last entry of the list, at CPL 3.
    let mut guest = switching(&program(&[
        vmfunc(0, 511),
        load_u32(PAGE),
        vec![0x0f, 0xa2],
    ]));
    for (field, selector, rights) in [(1, 0x1b, 0xa0fb), (2, 0x23, 0xc0f3)] {
        guest.write(0x0800 + field * 2, selector);
        guest.write(0x4814 + field * 2, rights);
    }
    guest.launch(4);
    assert_eq!(guest.get(vmcs::EPT_POINTER), OTHER_EPT | 0x5e);
    guest.go_on(1);
    assert_eq!(guest.cpu().registers[0], 0x22);
}

// 25.5.6.2 General operation of the VMFUNC instruction; 25.5.6.3.
#[test]
fn vmfunc_refuses_or_exits() {
    enum End {
        InvalidOpcode,
        Exit,
    }
    type Case = (&'static str, u32, u32, fn(&mut Guest), End);
    let table: &[Case] = &[
        (
            "VM functions are not enabled",
            0,
            1,
            |g| {
                g.remove_secondary(secondary::ENABLE_VM_FUNCTIONS);
            },
            End::InvalidOpcode,
        ),
        ("function 64", 64, 1, |_| {}, End::InvalidOpcode),
        (
            "function FFFFFFFFH",
            u32::MAX,
            1,
            |_| {},
            End::InvalidOpcode,
        ),
        ("function 1", 1, 1, |_| {}, End::Exit),
        ("function 63", 63, 1, |_| {}, End::Exit),
        (
            "EPTP switching is off",
            0,
            1,
            |g| {
                g.set(vmcs::VM_FUNCTION_CONTROLS, 0);
            },
            End::Exit,
        ),
        ("index 512", 0, 512, |_| {}, End::Exit),
        ("index FFFFFFFFH", 0, u32::MAX, |_| {}, End::Exit),
        ("memory type 4", 0, 2, |_| {}, End::Exit),
        ("reserved bit of the pointer", 0, 3, |_| {}, End::Exit),
        ("beyond the physical-address width", 0, 4, |_| {}, End::Exit),
        ("an empty entry", 0, 5, |_| {}, End::Exit),
        (
            "a list where there is no memory",
            0,
            1,
            |g| {
                g.set(vmcs::EPTP_LIST_ADDRESS, 1 << 40);
            },
            End::Exit,
        ),
    ];
    for (name, function, index, change, end) in table {
        let mut guest = switching(&vmfunc(*function, *index));
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
        change(&mut guest);
        guest.launch(10);
        match end {
            End::InvalidOpcode => {
                guest.expect_exit(R::ExceptionOrNmi);
                let information = guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION);
                assert_eq!(information, 0x8000_0306, "{name}");
            }
            End::Exit => {
                guest.expect_exit(R::Vmfunc);
                assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 3, "{name}");
            }
        }
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 10, "{name}");
        assert_eq!(guest.get(vmcs::EPT_POINTER), EPT | 0x1e, "{name}");
    }
}
