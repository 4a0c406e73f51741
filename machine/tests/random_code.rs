//! A processor that executes anything in any mode, with any tables: whatever happens, the host's
//! process neither panics nor hangs, and the processor gives control back when its slice is over, not an
//! instruction later. With the translator everything comes out as with the interpreter, and nothing tells
//! whether the run was stopped inside slices.
#![allow(missing_docs, reason = "a test binary has no outside")]
#![allow(
    clippy::precedence,
    reason = "bits of descriptors beside the places where they lie"
)]

mod hostile;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apic::apic_base::ApicMode;
use apic::routing::Identity;
use arch::control_register::{cr0, cr4, efer, rflags};
use arch::interrupt_command::TriggerMode;
use devices::pc::Pc;
use hostile::for_seeds;
use hostile::instructions::Opcodes;
use hostile::random::Random;
use posthaste_machine::cpu::segment::{DescriptorTable, Segment, register, rights};
use posthaste_machine::cpu::{Activity, Cpu, CpuModel, EndOfSlice, Engine, Processor, Stop};
use posthaste_machine::memory::Ram;
use posthaste_machine::platform::{BusAgent, Platform};
use posthaste_machine::schedule::{Clock, Share};

const SEEDS: u64 = 500;
/// Slices of one case, and instructions of each at most.
const SLICES: u64 = 20;
const SLICE: u64 = 400;
/// Instructions between two stops at most, where the run is stopped inside slices.
const STOP: u64 = 40;

const RAM: u64 = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PAGE_TABLE: u64 = 0x4000;
const DIRECTORY_32: u64 = 0x5000;
const PAGE_TABLE_32: u64 = 0x6000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const LDT: u64 = 0xb000;
const CODE: u64 = 0xc000;
const STACK: u64 = 0xf000;
/// Selectors of good segments: code and data at CPL 0, then at CPL 3.
const CODE_0: u16 = 0x08;
const DATA_0: u16 = 0x10;
const CODE_3: u16 = 0x18;
const DATA_3: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Virtual8086,
    Protected16,
    Protected32,
    Compatibility,
    Long,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 => 16,
            Self::Protected32 | Self::Compatibility => 32,
            Self::Long => 64,
        }
    }

    fn is_long(self) -> bool {
        matches!(self, Self::Compatibility | Self::Long)
    }
}

fn platform() -> Arc<Platform> {
    let identity = |id: u32| Identity {
        x2apic_id: id,
        xapic_id: id as u8,
        mode: ApicMode::Xapic,
        logical_destination: 0,
        destination_format: u32::MAX,
        software_enabled: true,
        priority: 0,
    };
    Arc::new(Platform::new(
        Ram::new(RAM).expect("RAM"),
        (0..3).map(identity).collect(),
        Pc::new(),
        Box::new(std::io::sink()),
    ))
}

/// An address, mostly one where something is.
fn address(random: &mut Random) -> u64 {
    match random.below(8) {
        0..=3 => random.below(0x1_0000),
        4 => random.below(RAM),
        5 => 0xfee0_0000 + random.below(0x1000),
        6 => 0xfec0_0000 + random.below(0x40),
        _ => random.value(),
    }
}

/// A descriptor, mostly of a usable segment.
fn descriptor(random: &mut Random) -> u64 {
    if random.chance(15) {
        return random.next();
    }
    let rights = match random.below(4) {
        0 => 0x80 | random.below(16),
        _ => 0x90 | random.below(16),
    } | random.pick(&[0, 0, 0x60, 0x20]);
    let base = random.pick(&[0, 0, 0, TSS, LDT, 0x1_0000]);
    let limit = random.pick(&[0xf_ffff, 0xf_ffff, 0x67, 0xffff, 0]);
    let flags = random.pick(&[0x0, 0x4, 0x8, 0xa, 0xc, 0x2, 0xf]);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | rights << 40
        | (limit >> 16) << 48
        | flags << 52
        | (base >> 24) << 56
}

/// The low word of a gate, mostly of one that leads on.
fn gate(random: &mut Random, mode: Mode) -> u64 {
    let offset = CODE + random.below(0x2000);
    let privilege = random.pick(&[0, 0x60]);
    let mut kind = if mode == Mode::Protected16 { 0x6 } else { 0xe } | random.below(2);
    let mut selector = CODE_0.into();
    if random.chance(20) {
        kind = random.pick(&[0x5, 0x6, 0x7, 0xc, 0x4]);
    }
    if random.chance(20) {
        selector = random.below(32) * 8 | random.pick(&[0, 0, 3, 4]);
    }
    match random.below(20) {
        0 => random.next(),
        1 => 0,
        _ => {
            offset & 0xffff
                | selector << 16
                | (random.below(20) / 18) << 32
                | (0x80 | kind | privilege) << 40
                | (offset >> 16) << 48
        }
    }
}

/// A page-table entry for `frame`, mostly a good one.
fn entry(random: &mut Random, frame: u64, odd: u64) -> u64 {
    if random.chance(odd) {
        match random.below(4) {
            0 => random.next(),
            1 => random.below(16) << 12 | 7,
            2 => address(random) & !0xfff | 7,
            _ => frame | random.below(0x1000),
        }
    } else {
        frame | 7
    }
}

fn fill_tables(ram: BusAgent<'_>, random: &mut Random, mode: Mode) {
    let odd = random.pick(&[0, 0, 1, 10]);
    for (table, next) in [(PML4, PDPT), (PDPT, DIRECTORY), (DIRECTORY, PAGE_TABLE)] {
        ram.store(
            table,
            next | if table == PDPT && !mode.is_long() {
                1
            } else {
                7
            },
        );
        for i in 1..512 {
            let value = if random.chance(3) { random.next() } else { 0 };
            ram.store(table + i * 8, value);
        }
    }
    // The devices' pages, by 2-MByte pages of the last directory of 32-bit linear addresses.
    ram.store(PDPT + 24, DIRECTORY | if mode.is_long() { 7 } else { 1 });
    ram.store(
        DIRECTORY + (0xfee0_0000_u64 >> 21 & 511) * 8,
        0xfee0_0087_u64,
    );
    ram.store(
        DIRECTORY + (0xfec0_0000_u64 >> 21 & 511) * 8,
        0xfec0_0087_u64,
    );
    ram.store(DIRECTORY_32, PAGE_TABLE_32 as u32 | 7);
    for i in 1..1024 {
        let value = if random.chance(3) {
            random.next() as u32
        } else {
            0
        };
        ram.store(DIRECTORY_32 + i * 4, value);
    }
    ram.store(DIRECTORY_32 + (0xfee0_0000_u64 >> 22) * 4, 0xfec0_0087_u32);
    for i in 0..512 {
        let value = entry(random, i << 12, odd);
        ram.store(PAGE_TABLE + i * 8, value);
    }
    for i in 0..1024 {
        let value = entry(random, i << 12, odd) as u32;
        ram.store(PAGE_TABLE_32 + i * 4, value);
    }
    for i in 0..256 {
        let value = if random.chance(5) {
            gate(random, mode)
        } else {
            descriptor(random)
        };
        ram.store(GDT + i * 8, value);
        let value = if random.chance(50) {
            gate(random, mode)
        } else {
            descriptor(random)
        };
        ram.store(LDT + i * 8, value);
        ram.store(IDT + i * 16, gate(random, mode));
        let high = if random.chance(90) && mode.is_long() {
            0
        } else {
            gate(random, mode)
        };
        ram.store(IDT + i * 16 + 8, high);
    }
    let (code, data) = match mode {
        Mode::Long | Mode::Compatibility => (0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff),
        Mode::Protected16 => (0x008f_9b00_0000_ffff, 0x008f_9300_0000_ffff),
        _ => (0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64),
    };
    for (zero, three, value) in [(CODE_0, CODE_3, code), (DATA_0, DATA_3, data)] {
        ram.store(GDT + u64::from(zero), value);
        ram.store(GDT + u64::from(three), value | 0x60 << 40);
    }
    for i in 0..64 {
        ram.store(TSS + 4 + i * 8, address(random));
    }
    for i in 0..3 {
        match mode {
            Mode::Long | Mode::Compatibility => ram.store(TSS + 4 + i * 8, STACK),
            _ => ram.store(TSS + 4 + i * 8, u64::from(DATA_0) << 32 | STACK),
        }
    }
    for i in 0..7 {
        ram.store(TSS + 0x24 + i * 8, STACK);
    }
    // A real-mode vector table.
    if mode.bits() == 16 {
        for i in 0..256 {
            ram.store(i * 4, CODE as u32 + random.below(0x2000) as u32);
        }
    }
}

fn segment(random: &mut Random, mode: Mode, number: u8, privilege: u32) -> Segment {
    if matches!(mode, Mode::Real | Mode::Virtual8086) {
        let selector = random.pick(&[0, 0, 0x100, 0xc00, 0xffff]);
        let v86 = if mode == Mode::Virtual8086 { 0x60 } else { 0 };
        return Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            rights: 0x93 | v86,
        };
    }
    let code = number == register::CS;
    let mut bits = rights::PRESENT | rights::CODE_OR_DATA | rights::READ_WRITE | rights::ACCESSED;
    bits |= privilege << 5 | rights::GRANULAR;
    if code {
        bits |= rights::CODE;
    }
    match mode {
        Mode::Long if code => bits |= rights::LONG,
        Mode::Protected16 => {}
        _ => bits |= rights::BIG,
    }
    if !code && number != register::SS && random.chance(20) {
        return Segment::unusable(0);
    }
    if !code && random.chance(10) {
        bits |= rights::CONFORMING_DOWN;
    }
    let selector = match (code, privilege) {
        (true, 0) => CODE_0,
        (true, _) => CODE_3,
        (false, 0) => DATA_0,
        (false, _) => DATA_3,
    };
    Segment {
        selector: selector | privilege as u16,
        base: if random.chance(95) {
            0
        } else {
            random.below(0x1_0000)
        },
        limit: random.pick(&[u32::MAX, u32::MAX, u32::MAX, 0xf_ffff, 0xffff, 0xfff]),
        rights: bits,
    }
}

fn fill_processor(cpu: &mut Cpu, random: &mut Random, mode: Mode) {
    let privilege = match mode {
        Mode::Real => 0,
        Mode::Virtual8086 => 3,
        _ => random.pick(&[0, 0, 0, 3, 3, 1]),
    };
    for number in 0..6 {
        cpu.segments[number as usize] = segment(random, mode, number, privilege);
    }
    let mut control = cr0::ET | cr0::NE;
    let optional = [cr0::WP, cr0::AM, cr0::MP, cr0::TS, cr0::EM];
    control |= optional.iter().filter(|_| random.chance(30)).sum::<u64>();
    if mode != Mode::Real {
        control |= cr0::PE;
        if mode.is_long() || random.chance(70) {
            control |= cr0::PG;
        }
    }
    cpu.cr0 = control;
    cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    if mode.is_long() || control & cr0::PG != 0 && random.chance(50) {
        cpu.cr4 |= cr4::PAE;
    }
    for bit in [cr4::VME, cr4::PVI, cr4::TSD, cr4::DE, cr4::PSE, cr4::PGE] {
        if random.chance(30) {
            cpu.cr4 |= bit;
        }
    }
    cpu.efer = efer::SCE | if random.chance(70) { efer::NXE } else { 0 };
    cpu.cr3 = if cpu.cr4 & cr4::PAE == 0 {
        DIRECTORY_32
    } else {
        PDPT
    };
    if mode.is_long() {
        cpu.efer |= efer::LME | efer::LMA;
        cpu.cr3 = PML4;
    }
    if cpu.cr4 & cr4::PAE != 0 {
        for i in 0..4 {
            cpu.pdpte[i as usize] = cpu.ram.load(PDPT + i * 8);
        }
    }
    cpu.gdtr = DescriptorTable {
        base: GDT,
        limit: random.pick(&[0x7ff, 0x7ff, 0xffff, 0x2f]),
    };
    cpu.idtr = DescriptorTable {
        base: if mode == Mode::Real { 0 } else { IDT },
        limit: random.pick(&[0xfff, 0xfff, 0xfff, 0xffff, 0xfff, 0x7]),
    };
    cpu.ldtr = Segment {
        selector: 8,
        base: LDT,
        limit: 0x7ff,
        rights: 0x82,
    };
    cpu.tr = Segment {
        selector: 16,
        base: TSS,
        limit: random.pick(&[0x67, 0x20ff, 0x2b]),
        rights: random.pick(&[0x8b, 0x8b, 0x83]),
    };
    if mode.is_long() {
        cpu.tr.rights = 0x8b;
    }
    for number in 0..16 {
        cpu.registers[number] = if random.chance(70) {
            address(random)
        } else {
            random.value()
        };
    }
    cpu.registers[4] = if random.chance(80) {
        STACK
    } else {
        address(random)
    };
    if random.chance(40) {
        cpu.registers[1] = random.pick(&[
            0x10,
            0x1b,
            0x3a,
            0x174,
            0x1a0,
            0x277,
            0x480,
            0x48b,
            0x6e0,
            0x802,
            0x808,
            0x80b,
            0x830,
            0x832,
            0x838,
            0x83f,
            0xc000_0080,
            0xc000_0100,
            0xc000_0103,
            0x200,
            0x2ff,
            0x1d9,
            0x3b,
        ]);
    }
    for value in &mut cpu.xmm {
        *value = random.vector();
    }
    cpu.mxcsr = random.mxcsr();
    for number in [0, 1, 2, 3, 7] {
        if random.chance(10) {
            cpu.dr[number] = if number == 7 {
                random.next() & 0xffff_2bff | 0x400
            } else {
                CODE + random.below(64)
            };
        }
    }
    cpu.msrs.feature_control = random.pick(&[0, 5]);
    if random.chance(20) && mode.is_long() {
        cpu.cr4 |= cr4::VMXE;
    }
    cpu.single_step = false;
    cpu.set_rip(CODE);
    cpu.segments[register::CS as usize].base = 0;
    let mut flags = random.next() & (rflags::IF | rflags::DF | 0x8d5);
    for flag in [
        rflags::TF,
        rflags::AC,
        rflags::NT,
        rflags::RF,
        rflags::VIF,
        rflags::VIP,
    ] {
        if random.chance(10) {
            flags |= flag;
        }
    }
    flags |= random.below(4) << 12;
    if mode == Mode::Virtual8086 {
        flags |= rflags::VM;
    }
    if mode == Mode::Long {
        for number in [register::ES, register::SS, register::DS, register::CS] {
            cpu.segments[number as usize].base = 0;
        }
    }
    cpu.set_rflags(flags);
    cpu.refresh_mode();
}

/// Puts something before the processor from outside.
fn interrupt(platform: &Platform, index: usize, random: &mut Random) {
    let mailbox = &platform.inboxes[index].mailbox;
    match random.below(6) {
        0 => mailbox.post_non_maskable(),
        1 if random.chance(20) => mailbox.post_init(),
        2 => mailbox.post_start_up(0xc),
        3 => mailbox.set_external_line(random.chance(50)),
        _ => {
            let mode = random.pick(&[TriggerMode::Edge, TriggerMode::Level]);
            mailbox.post_vector(random.next() as u8, mode)
        }
    };
    platform.wake(index);
}

/// A processor after a slice.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    /// General registers, the zero register and RIP.
    registers: [u64; 18],
    flags: u64,
    instructions: u64,
    trace_hash: u64,
    activity: Activity,
    xmm: [u128; 16],
}

/// What a case came to.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    /// Instructions that were executed.
    executed: u64,
    /// The processor after each slice.
    slices: Vec<Slice>,
    /// A hash of RAM.
    ram: u64,
}

fn hash_of(ram: &Ram) -> u64 {
    (0..RAM / 8).fold(0, |hash: u64, i| {
        (hash ^ ram.load::<u64>(i * 8))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// Runs a case with an engine; `stops` says where inside slices it is stopped.
fn run_case(
    random: &mut Random,
    mode: Mode,
    opcodes: &Opcodes,
    engine: Engine,
    mut stops: Option<Random>,
) -> Ending {
    let platform = platform();
    let clock = Clock::Deterministic(Share::ALONE);
    let index = usize::from(random.chance(20));
    let mut cpu = Cpu::new(
        index,
        platform.clone(),
        Arc::new(CpuModel::default()),
        clock,
    );
    fill_tables(platform.bus_agent(), random, mode);
    let code = if random.chance(20) {
        (0..0x800).map(|_| random.next() as u8).collect()
    } else {
        opcodes.stream(random, 0x800)
    };
    for start in [CODE, CODE + 0x1000 - code.len() as u64 / 2] {
        platform.bus_agent().write_bytes(start, &code);
    }
    fill_processor(&mut cpu, random, mode);
    let mut processor = Processor::with_engine(cpu, engine);
    let mut executed = 0;
    let mut slices = Vec::new();
    for _ in 0..SLICES {
        let cpu = &mut processor.cpu;
        let begin = cpu.instructions;
        cpu.single_step = random.chance(20);
        cpu.slice_end = cpu.instructions + 1 + random.below(SLICE);
        cpu.end_of_slice = if cpu.slice_end - cpu.instructions > SLICE / 2 {
            EndOfSlice::BetweenBlocks
        } else {
            EndOfSlice::Exact
        };
        cpu.check_events = true;
        let end = cpu.slice_end;
        let stop = loop {
            let cpu = &mut processor.cpu;
            let most = stops.as_mut().map(|random| 1 + random.below(STOP));
            cpu.run_end = most.map_or(u64::MAX, |most| cpu.instructions + most);
            let stop = processor.run();
            if stop != Stop::RunEnd {
                break stop;
            }
            assert_eq!(processor.cpu.instructions, processor.cpu.run_end);
        };
        assert!(processor.cpu.instructions <= end, "the slice ended late");
        let cpu = &processor.cpu;
        let mut registers = [0; 18];
        registers.copy_from_slice(&cpu.registers[..18]);
        slices.push(Slice {
            registers,
            flags: cpu.rflags(),
            instructions: cpu.instructions,
            trace_hash: cpu.trace.hash(),
            activity: cpu.activity,
            xmm: cpu.xmm,
        });
        match stop {
            Stop::MachineStopped => break,
            _ if random.chance(50) => interrupt(&platform, index, random),
            _ => {}
        }
        // Goes on in the mode that was asked for, so that one triple fault does not end the case.
        let cpu = &mut processor.cpu;
        if cpu.activity != Activity::Active && !cpu.vmx.on {
            cpu.activity = Activity::Active;
            fill_processor(cpu, random, mode);
            fill_tables(platform.bus_agent(), random, mode);
            cpu.tlb.flush_all();
            cpu.set_rip(CODE + random.below(0x800));
        }
        executed += processor.cpu.instructions - begin;
    }
    Ending {
        executed,
        slices,
        ram: hash_of(&platform.ram),
    }
}

/// Where the engines part.
fn difference(one: &Ending, other: &Ending) -> String {
    for (number, (a, b)) in one.slices.iter().zip(&other.slices).enumerate() {
        if a != b {
            return format!("slice {number}:\n{a:x?}\n{b:x?}");
        }
    }
    "RAM".into()
}

fn run_mode(name: &str, mode: Mode) {
    let opcodes = Opcodes::of_mode(mode.bits());
    let executed = AtomicU64::new(0);
    for_seeds(name, SEEDS, |random| {
        let mut again = random.clone();
        let stops = random.clone();
        let ending = run_case(random, mode, &opcodes, Engine::Interpreter, None);
        // There is no other code that the translator takes.
        let engine = if mode.is_long() {
            Engine::Translator { after: 1 }
        } else {
            Engine::Interpreter
        };
        let other = run_case(&mut again, mode, &opcodes, engine, Some(stops));
        assert!(ending == other, "{}", difference(&ending, &other));
        executed.fetch_add(ending.executed, Ordering::Relaxed);
    });
    // Else the cases end in their first instructions and test nothing.
    let executed = executed.into_inner();
    println!("{name}: {executed} instructions");
    assert!(
        executed > SEEDS * SLICES * 10,
        "only {executed} instructions"
    );
}

#[test]
fn real_mode() {
    run_mode("real_mode", Mode::Real);
}

#[test]
fn virtual_8086_mode() {
    run_mode("virtual_8086_mode", Mode::Virtual8086);
}

#[test]
fn protected_mode_16() {
    run_mode("protected_mode_16", Mode::Protected16);
}

#[test]
fn protected_mode_32() {
    run_mode("protected_mode_32", Mode::Protected32);
}

#[test]
fn compatibility_mode() {
    run_mode("compatibility_mode", Mode::Compatibility);
}

#[test]
fn long_mode() {
    run_mode("long_mode", Mode::Long);
}
