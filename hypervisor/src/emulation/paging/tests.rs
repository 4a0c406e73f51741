//! The rules of paging, one at a time.

use super::*;
use crate::vm::memory::sparse::SparseFrames;
use crate::vm::memory::{GuestPhysical, MemoryLayout};
use Access::{Fetch, Read, Write};
use Privilege::{Supervisor, SupervisorReachingUser, User};
use std::cell::Cell;

/// 1 MiB of memory with 8-byte entries at these addresses.
pub(crate) fn memory(entries: &[(u64, u64)]) -> GuestMemory<SparseFrames> {
    let memory = GuestMemory::new(MemoryLayout::new(1 << 20), SparseFrames::default());
    for (address, entry) in entries {
        memory.write_u64(GuestPhysical(*address), *entry).unwrap();
    }
    memory
}

const LIMITS: EntryLimits = EntryLimits {
    physical_address_width: 46,
    gigabyte_pages: true,
};

/// Protected mode without paging.
pub(crate) const FLAT: PagingRegisters = PagingRegisters {
    cr0: cr0::PE,
    cr3: 0,
    cr4: 0,
    efer: 0,
    directory_pointers: [0; 4],
    limits: LIMITS,
};

/// 4-level paging with its root at 1000H.
pub(crate) const LONG: PagingRegisters = PagingRegisters {
    cr0: cr0::PG | cr0::PE | cr0::WP,
    cr3: 0x1000,
    cr4: cr4::PAE,
    efer: efer::LMA | efer::NXE,
    ..FLAT
};

fn read(
    registers: PagingRegisters,
    memory: &GuestMemory<SparseFrames>,
    linear: u64,
) -> Option<u64> {
    registers.translate(memory, linear, Read, Supervisor).ok()
}

#[test]
fn four_levels_with_every_page_size() {
    let memory = memory(&[
        (0x1000, 0x2001),
        (0x2000, 0x3001),
        (0x2008, 0x4000_0083),
        (0x3000, 0x4001),
        (0x3008, 0x60_0083),
        (0x4010, 0x7001),
    ]);
    assert_eq!(read(LONG, &memory, 0x2345), Some(0x7345));
    assert_eq!(read(LONG, &memory, 0x20_1234), Some(0x60_1234));
    assert_eq!(read(LONG, &memory, 0x4000_5678), Some(0x4000_5678));
    assert_eq!(read(LONG, &memory, 0x3000), None);
    assert_eq!(read(LONG, &memory, 1 << 39), None);
}

#[test]
fn thirty_two_bit_paging() {
    let memory = memory(&[
        (0x1000, 0x2001),
        (0x1008, 0x83 | 0x8_2000),
        (0x2000, 0x5001),
    ]);
    let bits32 = PagingRegisters {
        cr4: cr4::PSE,
        efer: 0,
        ..LONG
    };
    assert_eq!(read(bits32, &memory, 0x123), Some(0x5123));
    // Bits 20:13 of a 4-MByte page are bits 39:32 of its address.
    assert_eq!(read(bits32, &memory, 0x80_0456), Some(0x41_0000_0456));
    let small = PagingRegisters { cr4: 0, ..bits32 };
    assert_eq!(read(small, &memory, 0x80_0456), None);
}

#[test]
fn pae_paging_starts_from_the_registers() {
    let memory = memory(&[(0x2000, 0x3001), (0x3008, 0x9001)]);
    let pae = PagingRegisters {
        efer: 0,
        directory_pointers: [0x2001, 0, 0x2000, 0],
        ..LONG
    };
    assert_eq!(read(pae, &memory, 0x1abc), Some(0x9abc));
    assert_eq!(read(pae, &memory, 0x4000_1abc), None);
    assert_eq!(read(pae, &memory, 0x8000_1abc), None);
    // Addresses have 32 bits.
    assert_eq!(read(pae, &memory, 0x1_0000_1abc), Some(0x9abc));
}

#[test]
fn without_paging_linear_is_physical() {
    assert_eq!(read(FLAT, &memory(&[]), 0x1_0000_0010), Some(0x10));
}

#[test]
fn where_there_is_no_memory_entries_are_ones() {
    let wild = PagingRegisters {
        cr3: 0xf_ffff_ffff_f000,
        ..LONG
    };
    let fault = wild.translate(&memory(&[]), 0x7000, Read, Supervisor);
    assert_eq!(
        fault.unwrap_err().error_code,
        error::PRESENT | error::RESERVED
    );
    let bits32 = PagingRegisters {
        cr3: 0xff00_0000,
        cr4: 0,
        efer: 0,
        ..LONG
    };
    assert_eq!(read(bits32, &memory(&[]), 0x7123), Some(0xffff_f123));
}

// SDM 4.6.1 Determination of access rights: an entry, how it is accessed, and the error code.
#[test]
fn accesses_need_their_rights() {
    const NX: u64 = 1 << 63;
    let (smap, smep) = (cr4::SMAP, cr4::SMEP);
    for (entry, access, privilege, cr4, wp, code) in [
        (0x5007, Write, User, 0, true, None),
        (0x5005, Read, User, 0, true, None),
        (0x5005, Write, User, 0, true, Some(7)),
        (0x5005, Write, User, 0, false, Some(7)),
        (0x5005, Write, Supervisor, 0, true, Some(3)),
        (0x5005, Write, Supervisor, 0, false, None),
        (0x5003, Read, User, 0, true, Some(5)),
        (0x5003, Write, Supervisor, 0, true, None),
        (0x5003, Fetch, User, 0, true, Some(0x15)),
        (0x5003 | NX, Fetch, Supervisor, 0, true, Some(0x11)),
        (0x5007 | NX, Fetch, User, 0, true, Some(0x15)),
        (0x5007 | NX, Read, User, 0, true, None),
        (0x5007, Fetch, Supervisor, 0, true, None),
        (0x5007, Fetch, Supervisor, smep, true, Some(0x11)),
        (0x5007, Read, Supervisor, smap, true, Some(1)),
        (0x5007, Write, Supervisor, smap, true, Some(3)),
        (0x5007, Write, Supervisor, smap, false, Some(3)),
        (0x5007, Write, SupervisorReachingUser, smap, true, None),
        (0x5005, Write, SupervisorReachingUser, smap, true, Some(3)),
        (0x5007, Fetch, Supervisor, smap, true, None),
        (0x5007, Write, User, smap | smep, true, None),
        (0x5006, Read, Supervisor, 0, true, Some(0)),
        (0x5006, Write, User, 0, true, Some(6)),
    ] {
        let memory = memory(&[
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x4008, entry),
        ]);
        let registers = PagingRegisters {
            cr0: if wp { LONG.cr0 } else { LONG.cr0 & !cr0::WP },
            cr4: LONG.cr4 | cr4,
            ..LONG
        };
        let linear = 0x1123;
        let result = registers.translate(&memory, linear, access, privilege);
        let wanted = match code {
            Some(error_code) => Err(PageFault { linear, error_code }),
            None => Ok(0x5123),
        };
        assert_eq!(
            result, wanted,
            "{entry:#x} {access:?} {privilege:?} {cr4:#x} {wp}"
        );
    }
}

#[test]
fn rights_are_those_that_every_level_gives() {
    for (level, flags) in [(0x1000, 0x2003), (0x2000, 0x3005), (0x3000, 0x4006)] {
        let memory = memory(&[
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x4008, 0x5007),
        ]);
        memory.write_u64(GuestPhysical(level), flags).unwrap();
        let result = LONG.translate(&memory, 0x1000, Write, User);
        assert!(result.is_err(), "{level:#x}");
    }
}

#[test]
fn a_fetch_is_told_only_where_it_matters() {
    let memory = memory(&[]);
    let without = PagingRegisters {
        efer: efer::LMA,
        ..LONG
    };
    for (registers, code) in [
        (LONG, 0x10),
        (without, 0),
        (
            PagingRegisters {
                cr4: cr4::PAE | cr4::SMEP,
                ..without
            },
            0x10,
        ),
    ] {
        let fault = registers.translate(&memory, 0, Fetch, Supervisor);
        assert_eq!(fault.unwrap_err().error_code, code);
    }
}

// SDM 4.5.4, tables "Format of a ...": an entry's address, the entry, and whether it has a reserved bit.
#[test]
fn reserved_bits_fault() {
    let no_execute = 1 << 63;
    let no_gigabytes = EntryLimits {
        gigabyte_pages: false,
        ..LIMITS
    };
    let without_nx = PagingRegisters {
        efer: efer::LMA,
        ..LONG
    };
    for (registers, address, entry, faults) in [
        (LONG, 0x4000, 0x5007_u64, false),
        (LONG, 0x4000, 0x5007 | 1 << 46, true),
        (LONG, 0x4000, 0x5007 | 1 << 51, true),
        (LONG, 0x4000, 0x5007 | 1 << 52, false),
        (LONG, 0x4000, 0x5007 | no_execute, false),
        (without_nx, 0x4000, 0x5007 | no_execute, true),
        (LONG, 0x1000, 0x2087, true),
        (LONG, 0x2000, 0x87, false),
        (LONG, 0x2000, 0x2087, true),
        (LONG, 0x3000, 0x1087, false),
        (LONG, 0x3000, 0x2087, true),
        (
            PagingRegisters {
                limits: no_gigabytes,
                ..LONG
            },
            0x2000,
            0x87,
            true,
        ),
    ] {
        let memory = memory(&[
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x4000, 0x5007),
        ]);
        memory.write_u64(GuestPhysical(address), entry).unwrap();
        let code = registers
            .translate(&memory, 0, Read, Supervisor)
            .err()
            .map(|fault| fault.error_code);
        assert_eq!(code, faults.then_some(9), "{address:#x} {entry:#x}");
    }
}

// SDM 4.8 Accessed and dirty flags.
#[test]
fn an_access_leaves_its_flags() {
    let memory = memory(&[
        (0x1000, 0x2007),
        (0x2000, 0x3007),
        (0x3000, 0x4007),
        (0x4000, 0x5007),
        (0x4008, 0x6005),
    ]);
    let entry = |address| memory.read_u64(GuestPhysical(address)).unwrap();
    LONG.translate(&memory, 0, Read, User).unwrap();
    assert_eq!([entry(0x1000), entry(0x3000)], [0x2027, 0x4027]);
    assert_eq!(entry(0x4000), 0x5027);
    LONG.translate(&memory, 0, Write, User).unwrap();
    assert_eq!(entry(0x4000), 0x5067);
    assert_eq!(entry(0x3000), 0x4027);
    // A page that refuses the access has none.
    LONG.translate(&memory, 0x1000, Write, User).unwrap_err();
    assert_eq!(entry(0x4008), 0x6005);
}

/// Frames in which somebody else changes an entry before each of the first steps to set its flags.
struct Contested {
    frames: SparseFrames,
    changes: Cell<u32>,
}

impl FrameAccess for Contested {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.frames.read(offset, bytes);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.frames.write(offset, bytes);
    }

    fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> bool {
        if self.changes.get() > 0 {
            self.changes.set(self.changes.get() - 1);
            // An available bit.
            self.frames.write(offset + 1, &[old.to_le_bytes()[1] ^ 2]);
        }
        self.frames.compare_exchange(offset, size, old, new)
    }
}

#[test]
fn flags_are_set_in_the_entry_that_was_read_or_the_walk_begins_again() {
    let bits32 = PagingRegisters {
        cr4: cr4::PSE,
        efer: 0,
        ..LONG
    };
    for (changes, result) in [(0, Ok(0x123)), (3, Ok(0x123)), (u32::MAX, Err(3))] {
        let frames = Contested {
            frames: SparseFrames::default(),
            changes: Cell::new(changes),
        };
        let memory = GuestMemory::new(MemoryLayout::new(1 << 20), frames);
        memory.write_u32(GuestPhysical(0x1000), 0x83).unwrap();
        let translated = bits32.translate(&memory, 0x123, Write, Supervisor);
        assert_eq!(translated.map_err(|fault| fault.error_code), result);
        if result.is_ok() {
            let entry = memory.read_u32(GuestPhysical(0x1000)).unwrap();
            assert_eq!(entry, 0xe3 | (changes & 1) << 9);
        }
    }
}
