//! Process-context identifiers and INVPCID (SDM 4.10.1 Process-context identifiers (PCIDs), 4.10.4
//! Invalidation of TLBs and paging-structure caches; volume 2, INVPCID).

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4, efer};
use posthaste_machine::cpu::Cpu;
use posthaste_machine::cpu::op::FLAT;
use posthaste_machine::cpu::raise::Pending;
use posthaste_machine::cpu::segment::{register, rights};
use posthaste_machine::cpu::tlb::Privilege;
use support::{CODE, DATA};
use tables::*;

/// The paging structures of the support module.
const TABLES: u64 = 0x1000;
/// Linear address of the page that the tests remap.
const PAGE: u64 = 0x40_0000;
/// The page table that maps it.
const PAGE_TABLE: u64 = 0x50_0000;
/// Another PML4 with the same entries.
const OTHER: u64 = 0x51_0000;
const PRESERVE: u64 = 1 << 63;

/// A kernel with PCIDs, whose [`PAGE`] is a page of 4 KBytes.
fn with_pcids() -> Cpu {
    let mut cpu = kernel(&[]).cpu;
    let entry = PAGE_TABLE | 7;
    cpu.store(TABLES + 0x2000 + (PAGE >> 21) * 8, entry);
    let pml4: u64 = cpu.ram.load(TABLES);
    cpu.store(OTHER, pml4);
    map(&mut cpu, 0x11);
    cpu.write_cr4(cpu.cr4 | cr4::PCIDE | cr4::PGE).unwrap();
    cpu
}

/// Makes every page from [`PAGE`] on one that holds `value`, without telling the processor.
fn map(cpu: &mut Cpu, value: u8) {
    let frame = 0x60_0000 + u64::from(value) * 4096;
    cpu.store(frame, value);
    for number in 0..64 {
        cpu.store(PAGE_TABLE + number * 8, frame | 7);
    }
}

fn seen_at(cpu: &mut Cpu, linear: u64) -> u8 {
    cpu.read_on_behalf(linear, FLAT, Privilege::Supervisor)
        .unwrap()
}

fn seen(cpu: &mut Cpu) -> u8 {
    seen_at(cpu, PAGE)
}

/// The page that PCID `pcid` uses; pages apart, for the translation cache has one place for each.
fn own_page(pcid: u64) -> u64 {
    PAGE + pcid * 4096
}

#[track_caller]
fn refused<T, E>(cpu: &Cpu, result: Result<T, E>, name: &str) {
    assert!(result.is_err(), "{name}");
    match cpu.pending {
        Pending::Exception(one) => {
            assert_eq!((one.vector, one.error_code), (13, Some(0)), "{name}")
        }
        other => panic!("{name}: {other:?}"),
    }
}

// SDM 4.10.1; volume 2, MOV—Move to/from control registers: "#GP(0) if an attempt is made to change
// CR4.PCIDE from 0 to 1 while CR3[11:0] is not 000H", or outside IA-32e mode.
#[test]
fn pcids_are_enabled_in_ia32e_mode_with_pcid_0() {
    let mut cpu = kernel(&[]).cpu;
    cpu.cr3 |= 1 << 3;
    let value = cpu.cr4 | cr4::PCIDE;
    let result = cpu.write_cr4(value);
    refused(&cpu, result, "CR3[11:0] is not 0");

    let mut cpu = kernel(&[]).cpu;
    cpu.cr0 &= !cr0::PG;
    cpu.efer &= !efer::LMA;
    let result = cpu.write_cr4(value);
    refused(&cpu, result, "outside IA-32e mode");

    let mut cpu = kernel(&[]).cpu;
    cpu.write_cr4(value).unwrap();
    assert_ne!(cpu.cr4 & cr4::PCIDE, 0);
    // It may be written again with any PCID current, and cleared.
    cpu.write_cr3(TABLES | 5).unwrap();
    cpu.write_cr4(value | cr4::PGE).unwrap();
    cpu.write_cr4(value & !cr4::PCIDE).unwrap();
    assert_eq!(cpu.cr4 & cr4::PCIDE, 0);
}

// "#GP(0) if an attempt is made to clear CR0.PG while CR4.PCIDE is 1": in compatibility mode, where
// nothing else forbids it.
#[test]
fn paging_stays_on_while_pcids_are_enabled() {
    for (enabled, cleared) in [(true, false), (false, true)] {
        let mut cpu = kernel(&[]).cpu;
        if enabled {
            cpu.write_cr4(cpu.cr4 | cr4::PCIDE).unwrap();
        }
        cpu.segments[register::CS as usize].rights &= !rights::LONG;
        cpu.refresh_mode();
        let value = cpu.cr0 & !cr0::PG;
        let result = cpu.write_cr0(value);
        assert_eq!(result.is_ok(), cleared);
        if enabled {
            refused(&cpu, result, "PG with PCIDE");
        }
    }
}

// SDM 4.5, table 4-12, with CR4.PCIDE: bits 62:MAXPHYADDR are reserved, bit 63 is not and is not kept.
#[test]
fn bits_of_cr3() {
    let mut cpu = kernel(&[]).cpu;
    let result = cpu.write_cr3(TABLES | PRESERVE);
    refused(&cpu, result, "bit 63 without PCIDs");
    let mut cpu = with_pcids();
    for bit in [46, 51, 62] {
        let result = cpu.write_cr3(TABLES | 1 << bit);
        refused(&cpu, result, "reserved");
    }
    cpu.write_cr3(TABLES | PRESERVE | 0xfff).unwrap();
    assert_eq!(cpu.cr3, TABLES | 0xfff);
}

// SDM 4.10.4.1: MOV to CR3 invalidates what is associated with the new PCID, unless bit 63 is 1; never
// what is associated with another.
#[test]
fn translations_survive_what_does_not_concern_their_pcid() {
    let table: &[(&str, &[u64], u8)] = &[
        ("another PCID and back, preserved", &[2, 1 | PRESERVE], 0x11),
        ("another PCID and back", &[2, 1], 0x22),
        ("the same PCID, preserved", &[1 | PRESERVE], 0x11),
        ("the same PCID", &[1], 0x22),
        (
            "others, both preserved",
            &[2 | PRESERVE, 3 | PRESERVE, 1 | PRESERVE],
            0x11,
        ),
        ("another that is preserved but new", &[2 | PRESERVE], 0x22),
        (
            "dropped before it is preserved",
            &[2, 1, 2, 1 | PRESERVE],
            0x22,
        ),
    ];
    for (name, writes, expected) in table {
        let mut cpu = with_pcids();
        cpu.write_cr3(TABLES | 1).unwrap();
        assert_eq!(seen(&mut cpu), 0x11);
        map(&mut cpu, 0x22);
        for value in *writes {
            cpu.write_cr3(TABLES | value).unwrap();
        }
        assert_eq!(seen(&mut cpu), *expected, "{name}");
    }
    // The oldest of many goes, and no harm is done.
    let mut cpu = with_pcids();
    for pcid in 1..40_u64 {
        cpu.write_cr3(TABLES | pcid | PRESERVE).unwrap();
        map(&mut cpu, pcid as u8);
        assert_eq!(seen_at(&mut cpu, own_page(pcid)), pcid as u8);
    }
    cpu.write_cr3(TABLES | 38 | PRESERVE).unwrap();
    assert_eq!(seen_at(&mut cpu, own_page(38)), 38);
    cpu.write_cr3(TABLES | 1 | PRESERVE).unwrap();
    assert_eq!(seen_at(&mut cpu, own_page(1)), 39);
    // Another paging structure under the same PCID: what is cached of the old one is not used.
    let mut cpu = with_pcids();
    assert_eq!(seen(&mut cpu), 0x11);
    map(&mut cpu, 0x22);
    cpu.write_cr3(OTHER | PRESERVE).unwrap();
    assert_eq!(seen(&mut cpu), 0x22);
}

// SDM 4.10.4.1: changes of CR4.PGE and the clearing of CR4.PCIDE invalidate everything of every PCID.
#[test]
fn changes_of_cr4_invalidate_every_pcid() {
    for toggled in [cr4::PGE, cr4::SMEP] {
        let mut cpu = with_pcids();
        assert_eq!(seen(&mut cpu), 0x11);
        map(&mut cpu, 0x22);
        cpu.write_cr3(TABLES | 1).unwrap();
        cpu.write_cr4(cpu.cr4 ^ toggled).unwrap();
        cpu.write_cr4(cpu.cr4 ^ toggled).unwrap();
        cpu.write_cr3(TABLES | PRESERVE).unwrap();
        assert_eq!(seen(&mut cpu), 0x22);
    }
    let mut cpu = with_pcids();
    assert_eq!(seen(&mut cpu), 0x11);
    map(&mut cpu, 0x22);
    cpu.write_cr4(cpu.cr4 & !cr4::PCIDE).unwrap();
    assert_eq!(seen(&mut cpu), 0x22);
}

// SDM 4.10.4.1, INVLPG: "it also invalidates any global TLB entries with that page number, regardless
// of PCID"; also where the page is a piece of a large one.
#[test]
fn invlpg_reaches_global_pages_of_other_pcids() {
    for address in [PAGE, 0x20_0000] {
        let mut cpu = with_pcids();
        let place = TABLES + 0x2000 + (address >> 21) * 8;
        let read = |cpu: &mut Cpu| -> u8 {
            cpu.read_on_behalf(address, FLAT, Privilege::Supervisor)
                .unwrap()
        };
        let other = if address == PAGE {
            cpu.store(PAGE_TABLE, 0x61_1000_u64 | 0x107);
            0x40_0187
        } else {
            cpu.store(place, 0x20_0187_u64);
            0x40_0187_u64
        };
        cpu.store(0x61_1000, 0x11_u8);
        cpu.store(0x20_0000, 0x11_u8);
        cpu.store(0x40_0000, 0x33_u8);
        assert_eq!(read(&mut cpu), 0x11);
        cpu.write_cr3(TABLES | 1).unwrap();
        cpu.store(place, other);
        cpu.invalidate_page(address + 0x123);
        cpu.write_cr3(TABLES | PRESERVE).unwrap();
        assert_eq!(read(&mut cpu), 0x33, "{address:x}");
    }
}

/// Executes `invpcid rax, [rdi]`.
fn invpcid(cpu: Cpu, kind: u64, descriptor: [u64; 2]) -> (Cpu, Option<(u8, u64)>) {
    let mut processor = posthaste_machine::cpu::Processor::new(cpu);
    let cpu = &mut processor.cpu;
    cpu.platform
        .bus_agent()
        .write_bytes(CODE, &[0x66, 0x0f, 0x38, 0x82, 0x07, 0x90, 0x90]);
    cpu.registers[0] = kind;
    cpu.registers[7] = DATA;
    cpu.store(DATA, descriptor[0]);
    cpu.store(DATA + 8, descriptor[1]);
    cpu.set_rip(CODE);
    let fault = fault_of(&mut processor);
    (processor.cpu, fault)
}

// SDM volume 2, INVPCID: what each type reaches, of two PCIDs that have the page cached.
#[test]
fn invpcid_drops_what_its_type_says() {
    // Type, PCID, whether the current PCID 1 and the other, 2, keep their translations.
    let table = [
        (0_u64, 1_u64, false, true),
        (0, 2, true, false),
        (0, 3, true, true),
        (1, 1, false, true),
        (1, 2, true, false),
        (2, 0, false, false),
        (3, 0, false, false),
        (2, 0xfff, false, false),
    ];
    for (kind, pcid, current, other) in table {
        let mut cpu = with_pcids();
        for pcid in [2, 1] {
            cpu.write_cr3(TABLES | pcid).unwrap();
            assert_eq!(seen_at(&mut cpu, own_page(pcid)), 0x11);
        }
        map(&mut cpu, 0x22);
        let (mut cpu, fault) = invpcid(cpu, kind, [pcid, own_page(pcid & 3)]);
        assert_eq!(fault, None);
        let value = |kept| if kept { 0x11 } else { 0x22 };
        assert_eq!(
            seen_at(&mut cpu, own_page(1)),
            value(current),
            "{kind} {pcid}"
        );
        cpu.write_cr3(TABLES | 2 | PRESERVE).unwrap();
        assert_eq!(
            seen_at(&mut cpu, own_page(2)),
            value(other),
            "{kind} {pcid}"
        );
    }
    // Another address than that of the page.
    let mut cpu = with_pcids();
    assert_eq!(seen(&mut cpu), 0x11);
    map(&mut cpu, 0x22);
    let (mut cpu, fault) = invpcid(cpu, 0, [0, PAGE + 0x1000]);
    assert_eq!((fault, seen(&mut cpu)), (None, 0x11));
}

// SDM volume 2, INVPCID, protected-mode and 64-bit mode exceptions.
#[test]
fn invpcid_refuses_bad_operands() {
    let table = [
        ("type 4", true, 4, [0, 0], false),
        ("a type beyond 32 bits", true, 1 << 32, [0, 0], false),
        (
            "reserved bits of the descriptor",
            true,
            2,
            [0x1000, 0],
            false,
        ),
        (
            "reserved bits of the descriptor",
            true,
            3,
            [1 << 63, 0],
            false,
        ),
        (
            "an address that is not canonical",
            true,
            0,
            [0, 1 << 47],
            false,
        ),
        (
            "the same where it does not matter",
            true,
            1,
            [0, 1 << 47],
            true,
        ),
        ("PCID 1 without PCIDs", false, 0, [1, 0], false),
        ("PCID 1 without PCIDs", false, 1, [1, 0], false),
        ("PCID 1 where it does not matter", false, 2, [1, 0], true),
        ("PCID 0 without PCIDs", false, 0, [0, 0], true),
    ];
    for (name, enabled, kind, descriptor, accepted) in table {
        let cpu = if enabled {
            with_pcids()
        } else {
            kernel(&[]).cpu
        };
        let (_, fault) = invpcid(cpu, kind, descriptor);
        let expected = (!accepted).then_some((13, 0));
        assert_eq!(fault, expected, "{name}");
    }
    let (_, fault) = invpcid(user(&[]).cpu, 0, [0, 0]);
    assert_eq!(fault, Some((13, 0)), "CPL 3");
}
