//! Writes of control registers: each rule satisfied and violated.

use super::*;
use crate::vm::memory::sparse::SparseFrames;
use crate::vm::memory::{GuestMemory, GuestPhysical, MemoryLayout};
use crate::vmx::vmcs::tests::MapVmcs;
use arch::control_register::{cr0, cr4};
use arch::vmx_control::entry::IA32E_MODE_GUEST;

const TABLE: u64 = 0x1000;
const LIMITS: ProcessorLimits = ProcessorLimits {
    // Neither VME nor PVI.
    cr4: 0x0037_67fc,
    physical_address_width: 46,
};
const BUSY_32: u64 = 0x8b;
const BUSY_16: u64 = 0x83;
const CODE_32: u64 = 0xc09b;
const CODE_64: u64 = 0xa09b;

/// Memory with a page-directory-pointer table of these entries.
fn memory(entries: [u64; 4]) -> GuestMemory<SparseFrames> {
    let memory = GuestMemory::new(MemoryLayout::new(1 << 16), SparseFrames::default());
    for (address, entry) in (TABLE..).step_by(8).zip(entries) {
        memory.write_u64(GuestPhysical(address), entry).unwrap();
    }
    memory
}

fn guest(cr0: u64, cr4: u64, efer: u64, code: u64) -> MapVmcs {
    let mut map = MapVmcs::default();
    let entry = if efer & arch::control_register::efer::LMA != 0 {
        u64::from(IA32E_MODE_GUEST)
    } else {
        0
    };
    map.fields.extend([
        (vmcs::GUEST_CR0.0, cr0 | cr0::NE),
        (vmcs::CR0_READ_SHADOW.0, cr0),
        (vmcs::GUEST_CR3.0, TABLE),
        (vmcs::GUEST_CR4.0, cr4 | cr4::VMXE),
        (vmcs::CR4_READ_SHADOW.0, cr4),
        (vmcs::GUEST_EFER.0, efer),
        (vmcs::ENTRY_CONTROLS.0, entry),
        (vmcs::GUEST_CS_ACCESS_RIGHTS.0, code),
        (vmcs::GUEST_TR_ACCESS_RIGHTS.0, BUSY_32),
    ]);
    map
}

const PROTECTED: u64 = cr0::PE | cr0::ET;
const PAGING: u64 = PROTECTED | cr0::PG;
const LME: u64 = 0x100;
const LONG: u64 = 0x500;

/// What a write of `value` to CR0 gives, and that a refused one changes nothing.
fn to_cr0(map: &mut MapVmcs, value: u64) -> Accepted {
    map.writes.clear();
    let accepted = write_cr0(value, map, &memory([0; 4]), LIMITS).unwrap();
    assert!(accepted == Accepted::Yes || map.writes.is_empty());
    accepted
}

#[test]
fn cr0_keeps_to_its_own_rules() {
    for (value, accepted) in [
        (PROTECTED, Accepted::Yes),
        (0, Accepted::Yes),
        (cr0::PG, Accepted::No),
        (PROTECTED | cr0::NW, Accepted::No),
        (PROTECTED | cr0::NW | cr0::CD, Accepted::Yes),
        // Bits that do not exist stay 0, and MOV takes 32 bits outside 64-bit mode.
        (PROTECTED | 0xffc0, Accepted::Yes),
        (1 << 32 | PROTECTED, Accepted::Yes),
    ] {
        let mut map = guest(PROTECTED, 0, 0, CODE_32);
        assert_eq!(to_cr0(&mut map, value), accepted, "{value:#x}");
        if accepted == Accepted::Yes {
            let seen = value & 0xe005_003f | cr0::ET;
            assert_eq!(seen_cr0(&map), Ok(seen), "{value:#x}");
            let real = map.fields[&vmcs::GUEST_CR0.0];
            assert_eq!(real, (seen | cr0::NE) & 0x8005_003f, "{value:#x}");
        }
    }
    let mut map = guest(PAGING, cr4::PAE, LONG, CODE_64);
    assert_eq!(to_cr0(&mut map, 1 << 32 | PAGING), Accepted::No);
    assert_eq!(to_cr0(&mut map, PAGING | cr0::TS), Accepted::Yes);
}

#[test]
fn ia32e_mode_begins_and_ends_with_paging() {
    let begin = |cr4, code, task| {
        let mut map = guest(PROTECTED, cr4, LME, code);
        map.fields.insert(vmcs::GUEST_TR_ACCESS_RIGHTS.0, task);
        let accepted = to_cr0(&mut map, PAGING);
        let modes = (
            map.fields[&vmcs::GUEST_EFER.0],
            map.fields[&vmcs::ENTRY_CONTROLS.0] as u32 & IA32E_MODE_GUEST != 0,
        );
        assert_eq!(modes == (LONG, true), accepted == Accepted::Yes);
        accepted
    };
    assert_eq!(begin(cr4::PAE, CODE_32, BUSY_32), Accepted::Yes);
    assert_eq!(begin(0, CODE_32, BUSY_32), Accepted::No);
    assert_eq!(begin(cr4::PAE, CODE_64, BUSY_32), Accepted::No);
    assert_eq!(begin(cr4::PAE, CODE_32, BUSY_16), Accepted::No);

    let mut map = guest(PAGING, cr4::PAE, LONG, CODE_64);
    assert_eq!(to_cr0(&mut map, PROTECTED), Accepted::No);
    // Compatibility mode.
    let mut map = guest(PAGING, cr4::PAE | cr4::PCIDE, LONG, CODE_32);
    assert_eq!(to_cr0(&mut map, PROTECTED), Accepted::No);
    let mut map = guest(PAGING, cr4::PAE, LONG, CODE_32);
    assert_eq!(to_cr0(&mut map, PROTECTED), Accepted::Yes);
    assert_eq!(map.fields[&vmcs::GUEST_EFER.0], LME);
    assert_eq!(map.fields[&vmcs::ENTRY_CONTROLS.0], 0);
}

/// CR0 and CR4 before, CR0 and CR4 to write.
fn pointers_after(before: (u64, u64), cr0: Option<u64>, cr4: Option<u64>) -> Option<u64> {
    let mut map = guest(before.0, before.1, 0, CODE_32);
    let memory = memory([0x2001, 0x3001, 0, 0x4001]);
    let accepted = match (cr0, cr4) {
        (Some(value), _) => write_cr0(value, &mut map, &memory, LIMITS),
        (_, Some(value)) => write_cr4(value, &mut map, &memory, LIMITS),
        _ => write_cr3(TABLE, &mut map, &memory, LIMITS),
    };
    assert_eq!(accepted, Ok(Accepted::Yes));
    map.fields.get(&vmcs::GUEST_PDPTE_3.0).copied()
}

#[test]
fn page_directory_pointers_are_loaded_by_the_writes_that_the_manual_names() {
    let on = (PAGING, cr4::PAE);
    let loaded = Some(0x4001);
    for (before, cr0, expected) in [
        ((PROTECTED, cr4::PAE), PAGING, loaded),
        (on, PAGING | cr0::CD, loaded),
        (on, PAGING | cr0::CD | cr0::NW, loaded),
        ((PAGING | cr0::CD, cr4::PAE), PAGING, loaded),
        (on, PAGING | cr0::NE, None),
        (on, PAGING | cr0::WP | cr0::TS, None),
        (on, PROTECTED | cr0::CD, None),
        ((PROTECTED, 0), PAGING, None),
    ] {
        assert_eq!(
            pointers_after(before, Some(cr0), None),
            expected,
            "{cr0:#x}"
        );
    }
    for (before, cr4, expected) in [
        ((PAGING, 0), cr4::PAE, loaded),
        (on, cr4::PAE | cr4::PGE, loaded),
        (on, cr4::PAE | cr4::PSE, loaded),
        (on, cr4::PAE | cr4::SMEP, loaded),
        ((PAGING, cr4::PAE | cr4::PGE), cr4::PAE, loaded),
        (on, cr4::PAE | cr4::SMAP | cr4::DE, None),
        (on, 0, None),
        ((PROTECTED, 0), cr4::PAE, None),
    ] {
        assert_eq!(
            pointers_after(before, None, Some(cr4)),
            expected,
            "{cr4:#x}"
        );
    }
    assert_eq!(pointers_after(on, None, None), loaded);
    assert_eq!(pointers_after((PAGING, 0), None, None), None);
}

#[test]
fn a_reserved_bit_of_a_page_directory_pointer_is_a_fault_if_it_is_present() {
    for (entry, accepted) in [
        (0x2001, Accepted::Yes),
        (0x2e19, Accepted::Yes),
        (1 << 45 | 1, Accepted::Yes),
        (0x2003, Accepted::No),
        (0x2005, Accepted::No),
        (0x2021, Accepted::No),
        (0x2101, Accepted::No),
        (1 << 46 | 1, Accepted::No),
        (1 << 63 | 0x2001, Accepted::No),
        (u64::MAX - 1, Accepted::Yes),
    ] {
        for number in 0..4 {
            let mut entries = [0x5001; 4];
            entries[number] = entry;
            let memory = memory(entries);
            let mut map = guest(PROTECTED, cr4::PAE, 0, CODE_32);
            let written = write_cr0(PAGING, &mut map, &memory, LIMITS);
            assert_eq!(written, Ok(accepted), "{entry:#x} {number}");
            let mut map = guest(PAGING, cr4::PAE, 0, CODE_32);
            let written = write_cr3(TABLE, &mut map, &memory, LIMITS);
            assert_eq!(written, Ok(accepted), "{entry:#x} {number}");
            assert_eq!(map.writes.is_empty(), accepted == Accepted::No);
        }
    }
    // Not memory: all its bits read as 1.
    let mut map = guest(PAGING, cr4::PAE, 0, CODE_32);
    let written = write_cr3(0x8000_0000, &mut map, &memory([0; 4]), LIMITS);
    assert_eq!(written, Ok(Accepted::No));
}

#[test]
fn cr4_takes_what_the_processor_and_the_mode_have() {
    let memory = memory([0; 4]);
    for (efer, code, value, accepted) in [
        (0, CODE_32, cr4::PAE | cr4::SMAP, Accepted::Yes),
        (0, CODE_32, cr4::VME, Accepted::No),
        (0, CODE_32, cr4::VMXE, Accepted::No),
        (0, CODE_32, cr4::LA57, Accepted::No),
        (0, CODE_32, cr4::PCIDE, Accepted::No),
        (0, CODE_32, 1 << 40, Accepted::Yes),
        (LONG, CODE_64, 1 << 40 | cr4::PAE, Accepted::No),
        (LONG, CODE_64, cr4::PAE | cr4::PGE, Accepted::Yes),
        (LONG, CODE_64, cr4::PGE, Accepted::No),
        (LONG, CODE_32, 0, Accepted::No),
    ] {
        let before = if efer == 0 { 0 } else { cr4::PAE };
        let mut map = guest(PAGING, before, efer, code);
        let written = write_cr4(value, &mut map, &memory, LIMITS);
        assert_eq!(written, Ok(accepted), "{efer:#x} {value:#x}");
        if accepted == Accepted::Yes {
            assert_eq!(seen_cr4(&map), Ok(value & 0xffff_ffff));
        }
    }
}

#[test]
fn cr3_is_a_physical_address_in_ia32e_mode() {
    let memory = memory([0; 4]);
    for (cr4, value, accepted) in [
        (cr4::PAE, 1 << 45 | 0x18, Accepted::Yes),
        (cr4::PAE, 1 << 46, Accepted::No),
        (cr4::PAE, 1 << 63, Accepted::No),
        (cr4::PAE | cr4::PCIDE, 1 << 63 | 0x1fff, Accepted::Yes),
    ] {
        let mut map = guest(PAGING, cr4, LONG, CODE_64);
        let written = write_cr3(value, &mut map, &memory, LIMITS);
        assert_eq!(written, Ok(accepted), "{value:#x}");
        if accepted == Accepted::Yes {
            assert_eq!(map.fields[&vmcs::GUEST_CR3.0], value & !(1 << 63));
        }
    }
}

#[test]
fn efer_keeps_its_mode() {
    for (cr0, current, value, accepted, after) in [
        (PROTECTED, 0, LME, Accepted::Yes, LME),
        (PROTECTED, LME, 0, Accepted::Yes, 0),
        (PAGING, LONG, LME, Accepted::Yes, LONG),
        (PAGING, LONG, 0x400, Accepted::No, LONG),
        (PAGING, 0, LME, Accepted::No, 0),
        (PROTECTED, 0, 0x400, Accepted::Yes, 0),
        (PROTECTED, 0, 2, Accepted::No, 0),
    ] {
        let mut map = guest(cr0, 0, current, CODE_32);
        assert_eq!(write_efer(value, &mut map), Ok(accepted), "{value:#x}");
        assert_eq!(map.fields[&vmcs::GUEST_EFER.0], after, "{value:#x}");
    }
}
