//! Shadow VMCSs (SDM 24.10 VMCS types: ordinary and shadow), and VMREAD and VMWRITE in VMX non-root
//! operation (25.1.3; chapter "VMX instruction reference", VMREAD and VMWRITE).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs::{self, Field64, FieldNatural, instruction_error as error};
use arch::vmx_control::{primary, secondary};
use posthaste_machine::vtx::vmcs::{Field, REVISION, SHADOW};
use vmx::*;

/// The shadow VMCS.
const SHADOW_VMCS: u64 = PAGES + 0x1_0000;
const VMREAD_BITMAP: u64 = DATA;
const VMWRITE_BITMAP: u64 = DATA + 0x1000;
/// `vmread rax, rcx`, `vmwrite rcx, rax`, and their forms with `[rdi]`.
const VMREAD: &[u8] = &[0x0f, 0x78, 0xc8];
const VMWRITE: &[u8] = &[0x0f, 0x79, 0xc8];
const VMREAD_MEMORY: &[u8] = &[0x0f, 0x78, 0x0f];
const VMWRITE_MEMORY: &[u8] = &[0x0f, 0x79, 0x0f];
const OPERAND: u64 = DATA + 0x2000;
const FIELD: FieldNatural = vmcs::GUEST_RSP;
const FIELD_64: Field64 = vmcs::TSC_OFFSET;

fn shadowed(code: &[u8]) -> Guest {
    let mut guest = Guest::new(&[code, &[0xf4]].concat());
    guest.add_primary(primary::HLT_EXITING);
    guest.add_secondary(secondary::VMCS_SHADOWING);
    guest.set(vmcs::VMREAD_BITMAP, VMREAD_BITMAP);
    guest.set(vmcs::VMWRITE_BITMAP, VMWRITE_BITMAP);
    guest.set(vmcs::VMCS_LINK_POINTER, SHADOW_VMCS);
    guest.ram().store(SHADOW_VMCS, REVISION | SHADOW);
    FIELD.set(&mut guest.ram(), SHADOW_VMCS, 0x1122_3344_5566);
    FIELD_64.set(&mut guest.ram(), SHADOW_VMCS, 0xaabb_ccdd_0000_1111);
    guest.cpu().registers[0] = 0x7777_8888_9999;
    guest.cpu().registers[1] = FIELD.0.into();
    guest.cpu().registers[7] = OPERAND;
    guest.ram().store(OPERAND, 0x7777_8888_9999_u64);
    guest
}

fn set_bit(guest: &Guest, bitmap: u64, encoding: u32) {
    let at = bitmap + u64::from(encoding / 8);
    let byte: u8 = guest.ram().load(at);
    guest.ram().store(at, byte | 1 << (encoding % 8));
}

#[test]
fn accesses_go_to_the_shadow_vmcs() {
    for (code, memory) in [(VMREAD, false), (VMREAD_MEMORY, true)] {
        for (encoding, expected) in [
            (FIELD.0, 0x1122_3344_5566),
            (FIELD_64.0, 0xaabb_ccdd_0000_1111),
            // The high half.
            (FIELD_64.0 + 1, 0xaabb_ccdd),
        ] {
            let mut guest = shadowed(code);
            guest.cpu().registers[1] = encoding.into();
            guest.launch(10);
            guest.expect_exit(R::Hlt);
            let value = if memory {
                guest.ram().load(OPERAND)
            } else {
                guest.cpu().registers[0]
            };
            assert_eq!(value, expected, "{encoding:#x}");
            assert_eq!(guest.get(vmcs::GUEST_RFLAGS) & 0x8d5, 0);
        }
    }
    for code in [VMWRITE, VMWRITE_MEMORY] {
        let mut guest = shadowed(code);
        let own = guest.get(FIELD);
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(FIELD.get(&guest.ram(), SHADOW_VMCS), 0x7777_8888_9999);
        assert_eq!(guest.get(FIELD), own, "the current VMCS is another");
        assert_eq!(guest.get(vmcs::GUEST_RFLAGS) & 0x8d5, 0);
    }
}

// VMREAD, operation: "VMX non-root operation and ("VMCS shadowing" is 0, or the source operand sets bits
// in range 63:15, or the VMREAD bit corresponding to bits 14:0 of the source operand is 1): VM exit".
#[test]
fn accesses_that_are_not_shadowed_exit() {
    type Case = (&'static str, u64, fn(&mut Guest), bool);
    let table: &[Case] = &[
        ("shadowed", FIELD.0 as u64, |_| {}, false),
        (
            "VMCS shadowing is 0",
            FIELD.0 as u64,
            |g| {
                g.remove_secondary(secondary::VMCS_SHADOWING);
                g.set(vmcs::VMCS_LINK_POINTER, u64::MAX);
            },
            true,
        ),
        (
            "bit 15 of the encoding",
            FIELD.0 as u64 | 1 << 15,
            |_| {},
            true,
        ),
        (
            "bit 63 of the encoding",
            FIELD.0 as u64 | 1 << 63,
            |_| {},
            true,
        ),
        (
            "the bits of the field",
            FIELD.0 as u64,
            |g| {
                set_bit(g, VMREAD_BITMAP, FIELD.0);
                set_bit(g, VMWRITE_BITMAP, FIELD.0);
            },
            true,
        ),
        (
            "the bits of another field",
            FIELD.0 as u64,
            |g| {
                for encoding in [FIELD.0 - 1, FIELD.0 + 1] {
                    set_bit(g, VMREAD_BITMAP, encoding);
                    set_bit(g, VMWRITE_BITMAP, encoding);
                }
            },
            false,
        ),
        (
            "a bitmap where there is no memory",
            FIELD.0 as u64,
            |g| {
                g.set(vmcs::VMREAD_BITMAP, 1 << 40);
                g.set(vmcs::VMWRITE_BITMAP, 1 << 40);
            },
            true,
        ),
    ];
    for (name, encoding, change, exits) in table {
        for (code, reason) in [(VMREAD, R::Vmread), (VMWRITE, R::Vmwrite)] {
            let mut guest = shadowed(code);
            guest.cpu().registers[1] = *encoding;
            change(&mut guest);
            guest.launch(10);
            let found = guest.get(vmcs::EXIT_REASON);
            let expected = if *exits { reason } else { R::Hlt };
            assert_eq!(found, expected as u32, "{name} {reason:?}");
        }
    }
    // Each instruction has a bitmap of its own.
    for (bitmap, read, write) in [
        (VMREAD_BITMAP, R::Vmread, R::Hlt),
        (VMWRITE_BITMAP, R::Hlt, R::Vmwrite),
    ] {
        for (code, expected) in [(VMREAD, read), (VMWRITE, write)] {
            let mut guest = shadowed(code);
            set_bit(&guest, bitmap, FIELD.0);
            guest.launch(10);
            guest.expect_exit(expected);
        }
    }
}

#[test]
fn shadowed_accesses_fail_and_fault() {
    // No VMCS is linked: VMfailInvalid.
    for code in [VMREAD, VMWRITE] {
        let mut guest = shadowed(code);
        guest.set(vmcs::VMCS_LINK_POINTER, u64::MAX);
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(guest.get(vmcs::GUEST_RFLAGS) & 0x8d5, 1);
        // A component that does not exist: VMfailValid.
        let mut guest = shadowed(code);
        guest.cpu().registers[1] = 0x202e;
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(guest.get(vmcs::GUEST_RFLAGS) & 0x8d5, 0x40);
        // The number is in the current VMCS, not in the shadow.
        let number = guest.get(vmcs::INSTRUCTION_ERROR);
        assert_eq!(number, error::UNSUPPORTED_COMPONENT);
        let shadow = vmcs::INSTRUCTION_ERROR.get(&guest.ram(), SHADOW_VMCS);
        assert_eq!(shadow, 0);
        // CPL 3: #GP(0), after the exit that the bitmap asks for.
        for (exits, expected) in [(false, R::ExceptionOrNmi), (true, R::Vmread)] {
            let mut guest = shadowed(VMREAD);
            for (field, selector, rights) in [(1, 0x1b, 0xa0fb), (2, 0x23, 0xc0f3)] {
                guest.write(0x0800 + field * 2, selector);
                guest.write(0x4814 + field * 2, rights);
            }
            if exits {
                set_bit(&guest, VMREAD_BITMAP, FIELD.0);
            }
            guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
            guest.launch(10);
            guest.expect_exit(expected);
        }
    }
}

// SDM 24.10, 26.1 Basic VM-entry checks: in VMX root operation a shadow VMCS can be read and written, and
// not entered.
#[test]
fn a_shadow_vmcs_can_be_current_and_not_entered() {
    let mut guest = shadowed(&[]);
    guest.ram().store(0x31_0010, SHADOW_VMCS);
    let load = [0x0f, 0xc7, 0x34, 0x25, 0x10, 0x00, 0x31, 0x00];
    guest.run_root(&load);
    assert_eq!(guest.cpu().rflags() & 0x8d5, 0, "vmptrld");
    guest.cpu().registers[1] = FIELD.0.into();
    guest.run_root(VMREAD);
    assert_eq!(guest.cpu().registers[0], 0x1122_3344_5566);
    guest.cpu().registers[0] = 5;
    guest.run_root(VMWRITE);
    assert_eq!(FIELD.get(&guest.ram(), SHADOW_VMCS), 5);
    for entry in [[0x0f, 0x01, 0xc2], [0x0f, 0x01, 0xc3]] {
        guest.run_root(&entry);
        assert!(!guest.cpu().vmx.non_root);
        assert_eq!(guest.cpu().rflags() & 0x8d5, 1, "VMfailInvalid");
    }
    // The revision still counts.
    guest.ram().store(SHADOW_VMCS, REVISION + 1 | SHADOW);
    guest.run_root(&load);
    assert_eq!(guest.cpu().rflags() & 0x8d5, 0x40);
    // It is no VMXON region.
    let mut guest = Guest::in_root(posthaste_machine::cpu::CpuModel::default());
    guest.ram().store(VMXON, REVISION | SHADOW);
    guest.run_root(&[0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x00, 0x31, 0x00]);
    assert!(!guest.cpu().vmx.on);
    assert_eq!(guest.cpu().rflags() & 0x8d5, 1);
}

// SDM 26.3.1.5: bit 31 of the VMCS that the link pointer references contains the setting of "VMCS
// shadowing".
#[test]
fn the_linked_vmcs_is_of_the_kind_that_shadowing_says() {
    for (shadowing, kind, enters) in [
        (true, SHADOW, true),
        (true, 0, false),
        (false, 0, true),
        (false, SHADOW, false),
    ] {
        let mut guest = shadowed(&[]);
        if !shadowing {
            guest.remove_secondary(secondary::VMCS_SHADOWING);
        }
        guest.ram().store(SHADOW_VMCS, REVISION | kind);
        guest.launch(10);
        if enters {
            guest.expect_exit(R::Hlt);
        } else {
            let reason = guest.get(vmcs::EXIT_REASON);
            assert_eq!(reason, R::EntryFailureGuestState as u32 | 1 << 31);
            assert_eq!(guest.get(vmcs::EXIT_QUALIFICATION), 4);
        }
    }
}
