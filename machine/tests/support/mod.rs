//! A processor in 64-bit mode with identity-mapped memory, for tests that run a few instructions.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use std::sync::Arc;

use apic::routing::Identity;
use arch::control_register::{cr0, cr4, efer};
use devices::pc::Pc;
use posthaste_machine::cpu::segment::{Segment, register, rights};
use posthaste_machine::cpu::{Activity, Cpu, CpuModel, Processor, Stop};
use posthaste_machine::memory::Ram;
use posthaste_machine::platform::Platform;
use posthaste_machine::schedule::{Clock, Share};

/// Where [`long_mode`] puts the code.
pub const CODE: u64 = 0x10_0000;
/// Top of the stack.
pub const STACK: u64 = 0x20_0000;
/// Where tests keep data.
pub const DATA: u64 = 0x30_0000;
/// The page tables: PML4, PDPT, then four page directories.
const TABLES: u64 = 0x1000;

/// A processor at CPL 0 in 64-bit mode, 8 MiB of RAM, the first 4 GiB identity-mapped by writable
/// user pages of 2 MiB, about to execute `code`.
pub fn long_mode(code: &[u8]) -> Processor {
    let [processor] = long_mode_processors([code]);
    processor
}

/// Such processors on one machine, with their code a page apart.
pub fn long_mode_processors<const COUNT: usize>(codes: [&[u8]; COUNT]) -> [Processor; COUNT] {
    let ram = Ram::new(8 << 20).expect("RAM");
    let identities = (0..COUNT as u32).map(Identity::at_reset);
    let platform = Arc::new(Platform::new(
        ram,
        identities.collect(),
        Pc::new(),
        Box::new(std::io::sink()),
    ));
    let ram = platform.bus_agent();
    ram.store(TABLES, (TABLES + 0x1000) | 7);
    for i in 0..4 {
        ram.store(TABLES + 0x1000 + i * 8, (TABLES + 0x2000 + i * 0x1000) | 7);
    }
    for i in 0..2048 {
        ram.store(TABLES + 0x2000 + i * 8, i << 21 | 0x87);
    }
    for (code, at) in codes.iter().zip((CODE..).step_by(4096)) {
        ram.write_bytes(at, code);
    }
    std::array::from_fn(|index| processor_of(&platform, index))
}

fn processor_of(platform: &Arc<Platform>, index: usize) -> Processor {
    let clock = Clock::Deterministic(Share::ALONE);
    let model = Arc::new(CpuModel::default());
    let mut cpu = Cpu::new(index, platform.clone(), model, clock);
    cpu.activity = Activity::Active;
    cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::MP | cr0::WP;
    cpu.cr3 = TABLES;
    cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    let data = Segment {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        rights: rights::PRESENT
            | rights::CODE_OR_DATA
            | rights::READ_WRITE
            | rights::ACCESSED
            | rights::BIG
            | rights::GRANULAR,
    };
    for number in [
        register::ES,
        register::SS,
        register::DS,
        register::FS,
        register::GS,
    ] {
        cpu.segments[number as usize] = data;
    }
    cpu.segments[register::CS as usize] = Segment {
        selector: 8,
        rights: data.rights & !rights::BIG | rights::CODE | rights::LONG,
        ..data
    };
    cpu.set_rip(CODE + 4096 * index as u64);
    cpu.registers[4] = STACK - 4096 * index as u64;
    cpu.refresh_mode();
    Processor::new(cpu)
}

/// Runs `count` instructions, or fewer if the processor stops before.
pub fn step(processor: &mut Processor, count: u64) -> Stop {
    processor.cpu.single_step = true;
    let end = processor.cpu.instructions + count;
    let stop = loop {
        processor.cpu.slice_end = end;
        let stop = processor.run();
        // An access to a device ends the slice.
        if stop != Stop::SliceEnd || processor.cpu.instructions >= end {
            break stop;
        }
    };
    processor.cpu.single_step = false;
    stop
}
