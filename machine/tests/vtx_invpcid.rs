//! INVPCID in VMX non-root operation (SDM 25.1.3 Instructions that cause VM exits conditionally, 25.3
//! Changes to instruction behavior in VMX non-root operation), and PCIDs across VM entries and exits.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::control_register::cr4;
use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

/// `invpcid rbx, [rdi + rcx*4 + 20h]`
const INVPCID: &[u8] = &[0x66, 0x0f, 0x38, 0x82, 0x5c, 0x8f, 0x20];

fn guest(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.add_primary(primary::HLT_EXITING);
    guest.cpu().registers[3] = 2;
    guest.cpu().registers[7] = DATA;
    guest.cpu().registers[1] = 0;
    guest
}

// 25.3: "#UD if the "enable INVPCID" VM-execution control is 0"; 25.1.3: an exit if that and "INVLPG
// exiting" are both 1; otherwise it executes.
#[test]
fn invpcid_follows_two_controls() {
    for (enabled, exiting, outcome) in [
        (false, false, None),
        (false, true, None),
        (true, true, Some(R::Invpcid)),
        (true, false, Some(R::Hlt)),
    ] {
        let mut guest = guest(&[INVPCID, &[0xf4]].concat());
        if enabled {
            guest.add_secondary(secondary::ENABLE_INVPCID);
        }
        if exiting {
            guest.add_primary(primary::INVLPG_EXITING);
        }
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
        guest.launch(10);
        match outcome {
            Some(reason) => {
                let qualification = guest.expect_exit(reason);
                if reason == R::Invpcid {
                    // 27.2.5, table 27-9: scaling 4, 64-bit address, DS, RCX, RDI, RBX.
                    let expected = 2 | 2 << 7 | 3 << 15 | 1 << 18 | 7 << 23 | 3 << 28;
                    assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_INFORMATION), expected);
                    assert_eq!(qualification, 0x20);
                    assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 7);
                }
            }
            None => {
                guest.expect_exit(R::ExceptionOrNmi);
                assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0306);
            }
        }
    }
}

// 25.1.1: the fault for CPL comes before the exit, that for the operand after it.
#[test]
fn invpcid_faults_before_and_after_its_exit() {
    for (cpl, exiting, reason) in [
        (3, true, R::ExceptionOrNmi),
        (0, true, R::Invpcid),
        (0, false, R::ExceptionOrNmi),
    ] {
        let mut guest = guest(INVPCID);
        guest.add_secondary(secondary::ENABLE_INVPCID);
        if exiting {
            guest.add_primary(primary::INVLPG_EXITING);
        }
        if cpl == 3 {
            for (field, selector, rights) in [(1, 0x1b, 0xa0fb), (2, 0x23, 0xc0f3)] {
                guest.write(0x0800 + field * 2, selector);
                guest.write(0x4814 + field * 2, rights);
            }
        }
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.cpu().registers[3] = 4;
        guest.launch(10);
        guest.expect_exit(reason);
    }
}

// SDM 4.10.4.1, 28.4.3.1: VM exits load CR3 with another PCID, whose translations are not the old one's.
#[test]
fn an_exit_to_another_pcid_leaves_the_translations_of_the_first() {
    let mut guest = guest(&[0xf4]);
    guest.add_secondary(secondary::ENABLE_VPID);
    guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 1);
    let value = guest.cpu().cr4 | cr4::PCIDE;
    guest.cpu().write_cr4(value).unwrap();
    // Another set of tables, in which the page at DATA is another.
    const OTHER: u64 = PAGES + 0x20_0000;
    for (at, from) in [
        (0, TABLES),
        (0x1000, TABLES + 0x1000),
        (0x2000, TABLES + 0x2000),
        (0x3000, PAGE_TABLE),
    ] {
        for i in (0..4096).step_by(8) {
            let entry: u64 = guest.ram().load(from + i);
            guest.ram().store(OTHER + at + i, entry);
        }
    }
    guest.ram().store(OTHER, OTHER + 0x1000 | 7);
    guest.ram().store(OTHER + 0x1000, OTHER + 0x2000 | 7);
    guest.ram().store(OTHER + 0x2008, OTHER + 0x3000 | 7);
    guest
        .ram()
        .store(OTHER + 0x3000 + (DATA - PAGES) / 512, DATA + 0x1000 | 7);
    guest.ram().store(DATA, 0x11_u32);
    guest.ram().store(DATA + 0x1000, 0x22_u32);
    guest.set(vmcs::HOST_CR4, value);
    guest.set(vmcs::HOST_CR3, OTHER | 3);
    // The page is used before the entry and after the exit.
    guest.run_root(&load_u32(DATA));
    assert_eq!(guest.cpu().registers[0], 0x11);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    assert_eq!(guest.cpu().cr3, OTHER | 3);
    guest.run_root(&load_u32(DATA));
    assert_eq!(guest.cpu().registers[0], 0x22);
}
