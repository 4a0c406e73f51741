//! EPT and VPID (SDM chapter 28), and the instructions that invalidate.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

/// Guest-physical page of the tests, and the EPT entry that maps it.
const PAGE: u64 = PAGES + 0xc000;
const ENTRY: u64 = EPT + 0x3000 + 0xc * 8;

fn ept(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_ept();
    guest.add_primary(primary::HLT_EXITING);
    guest
}

// SDM 28.3.3.2; 27.2.1, table 27-7: access in bits 2:0, permissions in bits 5:3, linear address
// valid, and final translation.
#[test]
fn violations_say_what_was_tried_and_what_was_allowed() {
    let read = load_u32(PAGE + 4);
    let write = store_u32(PAGE + 4, 1);
    // inc dword [PAGE + 4], and with LOCK: both.
    let mut modify = vec![0xff, 0x04, 0x25];
    modify.extend((PAGE as u32 + 4).to_le_bytes());
    let locked = [&[0xf0], modify.as_slice()].concat();
    for (code, rights, qualification) in [
        (&read, 0_u64, 0x181_u64),
        (&read, 4, 0x181 | 4 << 3),
        (&write, 0, 0x182),
        (&write, 1, 0x182 | 1 << 3),
        (&write, 5, 0x182 | 5 << 3),
        (&modify, 0, 0x183),
        (&modify, 5, 0x183 | 5 << 3),
        (&locked, 1, 0x183 | 1 << 3),
    ] {
        let mut guest = ept(&program(std::slice::from_ref(code)));
        guest.ram().store(ENTRY, PAGE | 0x30 | rights);
        guest.launch(10);
        assert_eq!(
            guest.expect_exit(R::EptViolation),
            qualification,
            "{rights}"
        );
        assert_eq!(guest.get(vmcs::GUEST_PHYSICAL_ADDRESS), PAGE + 4);
        assert_eq!(guest.get(vmcs::GUEST_LINEAR_ADDRESS), PAGE + 4);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
        assert_ne!(guest.get(vmcs::GUEST_RFLAGS) & 1 << 16, 0, "RF");
        // Repaired, the instruction runs.
        guest.ram().store(ENTRY, PAGE | 0x37);
        guest.resume(10);
        guest.expect_exit(R::Hlt);
    }
}

#[test]
fn a_fetch_needs_execute_and_a_read_may_lack_it() {
    for rights in [1_u64, 3] {
        let mut guest = ept(&[0x90]);
        guest.set(vmcs::GUEST_RIP, PAGE);
        guest.ram().store(ENTRY, PAGE | 0x30 | rights);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::EptViolation), 0x184 | rights << 3);
        assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 0);
    }
    // Execute-only translations are offered.
    let mut guest = ept(&[]);
    guest.store(PAGE, &[0xf4]);
    guest.set(vmcs::GUEST_RIP, PAGE);
    guest.ram().store(ENTRY, PAGE | 0x34);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
}

// SDM 28.3.3.1
#[test]
fn misconfigurations() {
    for (name, place, entry) in [
        ("write only", ENTRY, PAGE | 0x32),
        ("write and execute", ENTRY, PAGE | 0x36),
        ("memory type 2", ENTRY, PAGE | 0x17),
        ("memory type 3", ENTRY, PAGE | 0x1f),
        ("memory type 7", ENTRY, PAGE | 0x3f),
        (
            "beyond the physical-address width",
            ENTRY,
            PAGE | 0x37 | 1 << 46,
        ),
        ("reserved bit of a PDE", EPT + 0x2008, EPT + 0x3000 | 0xf),
        ("2-MByte page, bit 12", EPT + 0x2008, PAGES | 0xb7 | 1 << 12),
        ("reserved bit of a PDPTE", EPT + 0x1000, EPT + 0x2000 | 0x17),
        ("PML4E bit 7", EPT, EPT + 0x1000 | 0x87),
    ] {
        let mut guest = ept(&program(&[load_u32(PAGE)]));
        if place == EPT || place == EPT + 0x1000 {
            // Only this one entry is bad, so the first fetch meets it.
            guest.ram().store(place, entry);
            guest.launch(10);
            guest.expect_exit(R::EptMisconfiguration);
            continue;
        }
        guest.ram().store(place, entry);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::EptMisconfiguration), 0, "{name}");
        assert_eq!(
            guest.get(vmcs::GUEST_PHYSICAL_ADDRESS) & !0xfff_ffff,
            0,
            "{name}"
        );
    }
}

#[test]
fn pages_of_2_mbytes_and_1_gbyte() {
    for (place, entry) in [(EPT + 0x2008, PAGES | 0xb7), (EPT + 0x1000, 0xb7)] {
        let mut guest = ept(&program(&[load_u32(PAGE + 8)]));
        guest.ram().store(place, entry);
        guest.ram().store(PAGE + 8, 0x1234_u32);
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        assert_eq!(guest.cpu().registers[0], 0x1234);
    }
}

// SDM 28.3.5: accessed at every level, dirty at the leaf by writes; accesses to the guest's paging
// structures count as writes.
#[test]
fn accessed_and_dirty_flags() {
    const A: u64 = 1 << 8;
    const D: u64 = 1 << 9;
    for (code, dirty) in [(load_u32(PAGE), false), (store_u32(PAGE, 1), true)] {
        let mut guest = ept(&program(&[code]));
        guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
        guest.launch(10);
        guest.expect_exit(R::Hlt);
        let flags = |at| guest.ram().load::<u64>(at) & (A | D);
        assert_eq!(flags(EPT), A);
        assert_eq!(flags(EPT + 0x1000), A);
        assert_eq!(flags(EPT + 0x2008), A);
        assert_eq!(flags(ENTRY), if dirty { A | D } else { A });
        // The guest's page tables are in the first 2 MBytes.
        assert_eq!(flags(EPT + 0x2000), A | D);
    }
    // A read and then a write: the write sets D though the translation was cached.
    let mut guest = ept(&program(&[load_u32(PAGE), store_u32(PAGE, 1)]));
    guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
    guest.launch(10);
    assert_ne!(guest.ram().load::<u64>(ENTRY) & D, 0);
    // Without the flags nothing is written.
    let mut guest = ept(&program(&[store_u32(PAGE, 1)]));
    guest.launch(10);
    assert_eq!(guest.ram().load::<u64>(ENTRY) & (A | D), 0);
}

// Table 27-7, bit 8: clear when a paging structure was accessed.
#[test]
fn violations_by_paging_structures() {
    for (flags, access) in [(0x1e, 1), (0x5e, 3)] {
        let mut guest = ept(&program(&[load_u32(PAGE)]));
        guest.set(vmcs::EPT_POINTER, EPT | flags);
        // The guest's page table for the 2 MBytes at PAGES moves to a page that EPT does not map.
        guest.ram().store(TABLES + 0x2000 + 8, PAGES + 0xd000 | 7);
        guest.ram().store(EPT + 0x3000 + 0xd * 8, 0_u64);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::EptViolation), 0x80 | access);
        assert_eq!(
            guest.get(vmcs::GUEST_PHYSICAL_ADDRESS),
            PAGES + 0xd000 + 0xc * 8
        );
        assert_eq!(guest.get(vmcs::GUEST_LINEAR_ADDRESS), PAGE);
    }
}

// Table 27-7, bits 1:0: to set an accessed flag in an entry of the guest's page table reads and writes it.
#[test]
fn violations_by_flags_in_paging_structures() {
    let mut guest = ept(&program(&[load_u32(PAGE)]));
    guest.ram().store(TABLES + 0x2000 + 8, PAGES + 0xd000 | 7);
    guest.ram().store(PAGES + 0xd000 + 0xc * 8, PAGE | 7);
    let table = EPT + 0x3000 + 0xd * 8;
    let entry: u64 = guest.ram().load(table);
    // Readable only.
    guest.ram().store(table, entry & !7 | 1);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::EptViolation), 0x80 | 1 << 3 | 3);
    assert_eq!(
        guest.get(vmcs::GUEST_PHYSICAL_ADDRESS),
        PAGES + 0xd000 + 0xc * 8
    );
}

// SDM 28.4.3: with a VPID nothing is invalidated by entries and exits; INVEPT and INVVPID do it.
#[test]
fn translations_outlive_exits_with_a_vpid() {
    // cpuid between two loads of the same page.
    let code = program(&[load_u32(PAGE), vec![0x0f, 0xa2], load_u32(PAGE)]);
    let invalidate: &[(&str, &[u8], u64, bool)] = &[
        ("nothing", &[], 0, true),
        (
            "INVEPT of this EPT",
            &[0x66, 0x0f, 0x38, 0x80, 0x07],
            1,
            false,
        ),
        ("INVEPT of all", &[0x66, 0x0f, 0x38, 0x80, 0x07], 2, false),
        (
            "INVVPID, single-context",
            &[0x66, 0x0f, 0x38, 0x81, 0x07],
            1,
            false,
        ),
        (
            "INVVPID, all-context",
            &[0x66, 0x0f, 0x38, 0x81, 0x07],
            2,
            false,
        ),
        (
            "INVVPID, address",
            &[0x66, 0x0f, 0x38, 0x81, 0x07],
            0,
            false,
        ),
    ];
    for vpid in [0_u16, 5] {
        for (name, instruction, kind, survives) in invalidate {
            let mut guest = ept(&code);
            if vpid != 0 {
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, vpid);
            }
            guest.ram().store(PAGE, 0x11_u32);
            guest.ram().store(PAGE + 0x1000, 0x22_u32);
            guest.launch(10);
            guest.expect_exit(R::Cpuid);
            // The page is remapped without telling the processor.
            guest.ram().store(ENTRY, PAGE + 0x1000 | 0x37);
            if !instruction.is_empty() {
                let is_invept = instruction[3] == 0x80;
                let first = if is_invept { EPT | 0x1e } else { 5 };
                guest.ram().store(DATA, first);
                guest
                    .ram()
                    .store(DATA + 8, if is_invept { 0_u64 } else { PAGE });
                guest.cpu().registers[0] = *kind;
                guest.cpu().registers[7] = DATA;
                guest.run_root(instruction);
                assert_eq!(guest.cpu().rflags() & 0x8d5, 0, "{name}");
            }
            let next = guest.get(vmcs::GUEST_RIP) + 2;
            guest.set(vmcs::GUEST_RIP, next);
            guest.resume(10);
            guest.expect_exit(R::Hlt);
            let stale = vpid != 0 && *survives;
            // The guest-physical translation may be cached with or without a VPID.
            if vpid != 0 && !name.starts_with("INVVPID") {
                let expected = if stale { 0x11 } else { 0x22 };
                assert_eq!(guest.cpu().registers[0], expected, "{name}");
            }
        }
    }
}

#[test]
fn two_guests_with_vpids_do_not_see_each_others_translations() {
    let mut guest = ept(&program(&[load_u32(PAGE)]));
    guest.add_secondary(secondary::ENABLE_VPID);
    guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 1);
    guest.ram().store(PAGE, 0x11_u32);
    guest.ram().store(PAGE + 0x1000, 0x22_u32);
    guest.launch(10);
    assert_eq!(guest.cpu().registers[0], 0x11);
    // The same guest code with another page table and another VPID.
    guest.ram().store(PAGE_TABLE + 0xc * 8, PAGE + 0x1000 | 7);
    guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 2);
    guest.set(vmcs::GUEST_RIP, GUEST_CODE);
    guest.resume(10);
    assert_eq!(guest.cpu().registers[0], 0x22);
}

// Operands of INVEPT and INVVPID: error 28.
#[test]
fn invalid_invalidations_fail() {
    const INVEPT: &[u8] = &[0x66, 0x0f, 0x38, 0x80, 0x07];
    const INVVPID: &[u8] = &[0x66, 0x0f, 0x38, 0x81, 0x07];
    for (instruction, kind, low, high) in [
        (INVEPT, 0_u64, 0_u64, 0_u64),
        (INVEPT, 3, 0, 0),
        (INVEPT, 1, EPT | 0x1c, 0),
        (INVEPT, 1, EPT | 0x9e, 0),
        (INVVPID, 4, 0, 0),
        (INVVPID, 1, 0, 0),
        (INVVPID, 3, 0, 0),
        (INVVPID, 0, 0, 0),
        (INVVPID, 0, 5, 1 << 47),
        (INVVPID, 1, 0x1_0005, 0),
        (INVVPID, 2, 0x1_0000, 0),
    ] {
        let mut guest = Guest::new(&[]);
        guest.ram().store(DATA, low);
        guest.ram().store(DATA + 8, high);
        guest.cpu().registers[0] = kind;
        guest.cpu().registers[7] = DATA;
        guest.run_root(instruction);
        guest.expect_fail(28);
    }
}
