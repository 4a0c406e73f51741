//! Runs each form on both sides and says where they differ.

use std::fmt::Write;

use arch::control_register::rflags;
use iced_x86::{FastFormatter, Instruction, Mnemonic, OpKind, Register};
use posthaste_machine::cpu::flags::Flags;
use posthaste_machine::cpu::{Activity, Engine as Kind, Processor};

use crate::case::{
    CODE, REGION, REGION_SIZE, STACK, STACK_WINDOW, STACK_WINDOW_SIZE, State, WINDOW, WINDOW_SIZE,
    initial_fx,
};
use crate::forms::{self, Encoded, Form, Prefix};
use crate::host::{Host, selectors};
use crate::random::Random;
use crate::vendor::{self, Part, Vendor};
use crate::{support, undefined};

/// Encodings of each form.
const ENCODINGS: u64 = 8;
/// States from which each encoding runs.
const STATES: u64 = 125;
/// Bit 7 of the x87 status word: an unmasked exception is pending.
const SUMMARY: u8 = 0x80;
/// Where the guest's RAM has the shared region.
const REGION_IN_RAM: u64 = 0x40_0000;

/// What was compared.
pub struct Comparison {
    pub forms: u64,
    pub cases: u64,
    /// A description for each form that differed.
    pub differences: Vec<String>,
}

/// The memory that is compared.
#[derive(Clone, PartialEq, Eq)]
pub struct Windows {
    pub data: [u8; WINDOW_SIZE],
    pub stack: [u8; STACK_WINDOW_SIZE],
}

/// One of the machine's processors.
pub struct Engine {
    pub processor: Processor,
}

impl Engine {
    /// A processor with that kind of engine.
    pub fn new(kind: Kind) -> Self {
        let mut processor = support::long_mode(&[]);
        processor = Processor::with_engine(processor.cpu, kind);
        let cpu = &mut processor.cpu;
        // The page directory of the first GiB maps the region to RAM.
        cpu.store(0x3000 + (REGION >> 21) * 8, REGION_IN_RAM | 0x87);
        for (segment, selector) in cpu.segments.iter_mut().zip(selectors()) {
            segment.selector = selector;
            // CPL 3, as a process has it.
            segment.rights |= 3 << 5;
        }
        cpu.refresh_mode();
        Self { processor }
    }

    /// Writes the region.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let offset = address - REGION + REGION_IN_RAM;
        self.processor
            .cpu
            .platform
            .bus_agent()
            .write_bytes(offset, bytes);
    }

    /// Reads the memory that is compared.
    pub fn windows(&self) -> Windows {
        let ram = &self.processor.cpu.ram;
        let mut windows = Windows {
            data: [0; WINDOW_SIZE],
            stack: [0; STACK_WINDOW_SIZE],
        };
        ram.read_bytes(WINDOW - REGION + REGION_IN_RAM, &mut windows.data);
        ram.read_bytes(STACK_WINDOW - REGION + REGION_IN_RAM, &mut windows.stack);
        windows
    }

    /// Executes the instruction at `address`; gives whether it faulted.
    pub fn execute(&mut self, address: u64, state: &mut State) -> bool {
        self.load(address, state);
        // A repeated string instruction is run again until it is through.
        for _ in 0..64 {
            support::step(&mut self.processor, 1);
            let cpu = &self.processor.cpu;
            if cpu.rip() != address || cpu.activity != Activity::Active {
                break;
            }
        }
        self.save(state)
    }

    /// Executes the block at `address`, `count` instructions if none faults; gives whether one did.
    pub fn run(&mut self, address: u64, count: u64, state: &mut State) -> bool {
        self.load(address, state);
        let cpu = &mut self.processor.cpu;
        cpu.slice_end = cpu.instructions + count;
        self.processor.run();
        self.save(state)
    }

    fn load(&mut self, address: u64, state: &State) {
        let cpu = &mut self.processor.cpu;
        cpu.registers[..16].copy_from_slice(&state.registers);
        cpu.flags = Flags::from_rflags(state.flags);
        cpu.system_flags = state.flags & rflags::DF | rflags::RESERVED_1 | rflags::IF;
        for number in 0..16 {
            cpu.xmm[number] = state.xmm(number);
        }
        cpu.x87.restore(&chunks(&state.fx), true);
        cpu.mxcsr = state.mxcsr();
        cpu.set_rip(address);
        cpu.activity = Activity::Active;
    }

    /// Takes the state over; gives whether the processor stopped.
    fn save(&self, state: &mut State) -> bool {
        let cpu = &self.processor.cpu;
        state.registers.copy_from_slice(&cpu.registers[..16]);
        state.flags = cpu.rflags();
        for number in 0..16 {
            state.set_xmm(number, cpu.xmm[number]);
        }
        let mut image = [0; 32];
        cpu.x87.save(&mut image, true);
        for (i, chunk) in image.iter().enumerate().take(10) {
            if i == 1 {
                continue;
            }
            state.fx[i * 16..][..16].copy_from_slice(&chunk.to_le_bytes());
        }
        state.fx[16..24].copy_from_slice(&(image[1] as u64).to_le_bytes());
        state.set_mxcsr(cpu.mxcsr);
        cpu.activity != Activity::Active
    }
}

/// An FXSAVE image in units of 16 bytes.
fn chunks(fx: &[u8; 512]) -> [u128; 32] {
    let mut bytes = [0; 16];
    std::array::from_fn(|i| {
        bytes.copy_from_slice(&fx[i * 16..][..16]);
        u128::from_le_bytes(bytes)
    })
}

/// Whether two x87 registers differ by one unit in the last place at most.
fn close(theirs: &[u8], ours: &[u8]) -> bool {
    let word = |bytes: &[u8]| {
        let mut wide = [0; 16];
        wide[..10].copy_from_slice(bytes);
        // The integer bit says nothing that the exponent does not.
        let value = u128::from_le_bytes(wide);
        value >> 64 << 63 | value & (u128::from(u64::MAX) >> 1)
    };
    word(theirs).abs_diff(word(ours)) <= 1
}

/// Brings the operand of a transcendental instruction into the range for which the manual defines
/// the result.
fn limit_x87(mnemonic: Mnemonic, fx: &mut [u8; 512]) {
    let limit = match mnemonic {
        Mnemonic::F2xm1 => 16383,
        Mnemonic::Fyl2xp1 => 16383 - 2,
        _ => return,
    };
    let head = u16::from_le_bytes([fx[40], fx[41]]);
    let exponent = head & 0x7fff;
    if (limit..0x7fff).contains(&exponent) {
        let head = head & 0x8000 | (limit - 1 - exponent % 40);
        fx[40..42].copy_from_slice(&head.to_le_bytes());
    }
}

/// A register of the x87 FPU.
fn random_x87_register(random: &mut Random) -> [u8; 10] {
    let mut bytes = [0; 10];
    let significand = match random.below(8) {
        0 => 1 << 63,
        1 => u64::MAX,
        2 => 1 << 63 | 1 << random.below(64),
        3 => random.value(),
        4 => 3 << 62 | random.next() >> random.below(64),
        5 => 1 << 63 | random.next() << 40,
        6 => 1 << 63 | random.next() << 11,
        _ => 1 << 63 | random.next(),
    };
    let exponent = match random.below(16) {
        0 => 0,
        1 => 0x7fff,
        2 => 1,
        3 => 0x7ffe,
        4 => random.next() & 0x7fff,
        5 | 6 => 16383 - 80 + random.below(160),
        7 => 16383 - 1030 + random.below(2060),
        8 => 16383 + 50 + random.below(20),
        _ => 16383 - 2 + random.below(5),
    };
    let significand = if exponent == 0 && random.chance(60) {
        significand >> random.below(64) >> 1
    } else {
        significand
    };
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    let sign = random.below(2) << 15;
    bytes[8..].copy_from_slice(&((exponent | sign) as u16).to_le_bytes());
    bytes
}

/// Registers, control, status and tags of the x87 FPU; no unmasked exception is pending, mostly.
fn random_x87(fx: &mut [u8; 512], random: &mut Random) {
    for i in 0..8 {
        fx[32 + i * 16..][..10].copy_from_slice(&random_x87_register(random));
    }
    let control = match random.below(4) {
        0 | 1 => 0x37f,
        2 => random.next() as u16 & 0xf00 | 0x7f,
        _ => random.next() as u16 & 0xf3f | 0x40,
    };
    let mut status = random.next() as u16 & 0x7f7f;
    if random.chance(90) {
        status &= !(0x3f & !control);
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    let tag = match random.below(3) {
        0 => 0xff,
        1 => random.next() as u8,
        _ => random.next() as u8 | random.next() as u8,
    };
    fx[..2].copy_from_slice(&control.to_le_bytes());
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = tag;
}

/// A state in which the form does something.
pub fn random_state(form: Form, encoded: &Encoded, random: &mut Random) -> State {
    let mut state = State {
        registers: [0; 16],
        flags: random.next() & (rflags::STATUS | rflags::DF) | rflags::RESERVED_1 | rflags::IF,
        fx: initial_fx(),
    };
    for register in &mut state.registers {
        *register = random.value();
    }
    for number in 0..16 {
        state.set_xmm(number, random.vector());
    }
    let mut mxcsr = random.mxcsr();
    if matches!(
        encoded.instruction.mnemonic(),
        Mnemonic::Dpps | Mnemonic::Dppd
    ) {
        // The manual leaves open which steps an unmasked exception cuts off.
        mxcsr |= 0x1f80;
    }
    state.set_mxcsr(mxcsr);
    random_x87(&mut state.fx, random);
    limit_x87(encoded.instruction.mnemonic(), &mut state.fx);
    let registers = &mut state.registers;
    let instruction = &encoded.instruction;
    match instruction.mnemonic() {
        // Most random dividends do not divide.
        Mnemonic::Div if random.chance(80) => {
            registers[2] = random.below(8);
            registers[0] &= !(0xff << 8) | random.below(4) << 8;
        }
        Mnemonic::Idiv if random.chance(80) => {
            registers[2] = (registers[0] as i64 >> 63) as u64;
            if random.chance(50) {
                registers[0] = registers[0] as i32 as i64 as u64;
                registers[2] = (registers[0] as i64 >> 63) as u64;
            }
        }
        Mnemonic::Shld | Mnemonic::Shrd => {
            registers[1] &= !0xff | forms::double_shift_limit(form.code);
        }
        Mnemonic::Enter | Mnemonic::Leave => registers[5] = STACK + 32 + random.below(8) * 8,
        _ if forms::is_bit_test(instruction) && instruction.op_kind(1) == OpKind::Register => {
            let counter = instruction.op_register(1).full_register().number();
            registers[counter] = random.below(2048).wrapping_sub(1024);
        }
        _ => {}
    }
    let strings = (0..instruction.op_count()).any(|i| {
        matches!(
            instruction.op_kind(i),
            OpKind::MemorySegRSI
                | OpKind::MemorySegESI
                | OpKind::MemoryESRDI
                | OpKind::MemoryESEDI
                | OpKind::MemorySegRDI
                | OpKind::MemorySegEDI
        )
    });
    if strings {
        let narrow = (0..instruction.op_count()).any(|i| {
            matches!(
                instruction.op_kind(i),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
            )
        });
        let junk = if narrow { random.next() << 32 } else { 0 };
        registers[6] = junk | (WINDOW + 448 + random.below(128));
        registers[7] = junk | (WINDOW + 448 + random.below(128));
        if form.prefix != Prefix::None {
            registers[1] = junk | (random.below(20) + u64::from(narrow));
        }
    }
    if let Some(address) = &encoded.address {
        address.set(registers, random);
    }
    registers[4] = STACK;
    state
}

/// Memory in which it does.
///
/// `left_out` is what is not compared.
pub fn random_windows(
    encoded: &Encoded,
    state: &mut State,
    left_out: Option<Part>,
    random: &mut Random,
) -> Windows {
    let mut windows = Windows {
        data: [0; WINDOW_SIZE],
        stack: [0; STACK_WINDOW_SIZE],
    };
    for chunk in windows
        .data
        .chunks_exact_mut(8)
        .chain(windows.stack.chunks_exact_mut(8))
    {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    if random.chance(25) {
        // Strings that are equal for a while.
        windows.data[400..800].fill(random.next() as u8);
    }
    let mnemonic = encoded.instruction.mnemonic();
    if let Some(address) = encoded.address {
        let place = (address.target - WINDOW) as usize;
        let mut operand = random.vector();
        if let Some(Part::OperandBit(bit)) = left_out {
            operand &= !(1 << bit);
        }
        windows.data[place..place + 16].copy_from_slice(&operand.to_le_bytes());
        let free = |number| ![address.base, address.index].contains(&Some(number));
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&windows.data[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        // Let half of the comparisons succeed.
        if random.chance(50) && free(0) && free(2) {
            match mnemonic {
                Mnemonic::Cmpxchg => state.registers[0] = word(place),
                Mnemonic::Cmpxchg8b => {
                    state.registers[0] = word(place) & 0xffff_ffff;
                    state.registers[2] = word(place) >> 32;
                }
                Mnemonic::Cmpxchg16b => {
                    state.registers[0] = word(place);
                    state.registers[2] = word(place + 8);
                }
                _ => {}
            }
        }
    } else if mnemonic == Mnemonic::Cmpxchg && random.chance(50) {
        let number = encoded.instruction.op_register(0).full_register().number();
        state.registers[0] = state.registers[number];
    }
    if matches!(mnemonic, Mnemonic::Popf | Mnemonic::Popfq) {
        // Neither trap nor alignment check nor nested task: the trampoline runs under them.
        const HARMLESS: u64 = rflags::STATUS | rflags::DF | rflags::IF | rflags::IOPL;
        let image = random.next() & HARMLESS;
        windows.stack[128..136].copy_from_slice(&image.to_le_bytes());
    }
    windows
}

fn width(instruction: &Instruction) -> u32 {
    match instruction.op_kind(0) {
        _ if instruction.op_count() == 0 => 64,
        OpKind::Register => instruction.op_register(0).size() as u32 * 8,
        _ => instruction.memory_size().size() as u32 * 8,
    }
}

/// The instruction in Intel's notation.
pub fn text(instruction: &Instruction) -> String {
    let mut output = String::new();
    FastFormatter::new().format(instruction, &mut output);
    output
}

/// Compares every form.
pub fn run() -> Comparison {
    let mut host = Host::new();
    let mut engine = Engine::new(Kind::Interpreter);
    let vendor = Vendor::of_host();
    let mut random = Random::new(0x5eed_0001);
    let mut result = Comparison {
        forms: 0,
        cases: 0,
        differences: Vec::new(),
    };
    let mut rip = CODE;
    // For development: only codes or features whose name contains the variable's value.
    let only = std::env::var("COMPARE_ONLY").unwrap_or_default();
    for form in forms::all() {
        let name = format!("{:?} {:?}", form.code, form.code.cpuid_features());
        if !name.contains(&only) || vendor::left_out(form, vendor) == Some(Part::Form) {
            continue;
        }
        result.forms += 1;
        let mut difference = None;
        for _ in 0..ENCODINGS {
            let encoded = (0..1000)
                .find_map(|_| forms::encode(form, rip, &mut random))
                .unwrap_or_else(|| panic!("{form:?} cannot be encoded"));
            let bytes = host.write_code(rip, &encoded.bytes);
            engine.write(rip, &bytes);
            for _ in 0..STATES {
                result.cases += 1;
                let found = case(
                    form,
                    &encoded,
                    rip,
                    vendor,
                    &mut host,
                    &mut engine,
                    &mut random,
                );
                if difference.is_none() {
                    difference = found;
                }
            }
            rip += 48;
            assert!(rip + 64 < REGION + REGION_SIZE, "the code region is full");
        }
        result.differences.extend(difference);
    }
    result
}

/// `ours` with those lanes of `theirs` that may be another.
fn accepted(part: Part, theirs: u128, ours: u128) -> u128 {
    let bits = part.lane_bits();
    if bits == 0 {
        return ours;
    }
    let mask = u128::MAX >> (128 - bits);
    (0..128 / bits).fold(ours, |value, i| {
        let lane = |of: u128| (of >> (i * bits) & mask) as u64;
        if part.accepts(lane(theirs), lane(ours)) {
            value & !(mask << (i * bits)) | theirs & mask << (i * bits)
        } else {
            value
        }
    })
}

fn case(
    form: Form,
    encoded: &Encoded,
    rip: u64,
    vendor: Vendor,
    host: &mut Host,
    engine: &mut Engine,
    random: &mut Random,
) -> Option<String> {
    let mut before = random_state(form, encoded, random);
    let left_out = vendor::left_out(form, vendor);
    let windows = random_windows(encoded, &mut before, left_out, random);
    let no_x87 = left_out == Some(Part::X87);
    if no_x87 {
        let x87 = &mut before.fx[..5];
        x87.copy_from_slice(&initial_fx()[..5]);
    }
    host.write(WINDOW, &windows.data);
    host.write(STACK_WINDOW, &windows.stack);
    engine.write(WINDOW, &windows.data);
    engine.write(STACK_WINDOW, &windows.stack);

    let mut theirs = before.clone();
    let host_faulted = host.execute(rip, &mut theirs);
    let mut their_windows = windows.clone();
    host.read(WINDOW, &mut their_windows.data);
    host.read(STACK_WINDOW, &mut their_windows.stack);

    let mut ours = before.clone();
    let faulted = engine.execute(rip, &mut ours);
    let target = encoded.instruction.op_register(0);
    if let Some(part) = left_out
        && target.is_xmm()
    {
        let number = target.number();
        let value = accepted(part, theirs.xmm(number), ours.xmm(number));
        ours.set_xmm(number, value);
    }
    let our_windows = engine.windows();
    let our_rip = engine.processor.cpu.rip();

    let mut text_of = String::new();
    let mut differ = |what: &str, host: u64, engine: u64| {
        let _ = write!(text_of, " {what}: host {host:#x}, engine {engine:#x};");
    };
    if faulted != host_faulted {
        differ("fault", u64::from(host_faulted), u64::from(faulted));
    }
    if !faulted && our_rip != rip + encoded.bytes.len() as u64 {
        differ("rip", rip + encoded.bytes.len() as u64, our_rip);
    }
    for number in 0..16 {
        if theirs.registers[number] != ours.registers[number] {
            let name = format!("{:?}", Register::RAX + number as u32);
            differ(&name, theirs.registers[number], ours.registers[number]);
        }
        if theirs.xmm(number) != ours.xmm(number) {
            differ(
                &format!("XMM{number}"),
                theirs.xmm(number) as u64,
                ours.xmm(number) as u64,
            );
        }
    }
    if theirs.mxcsr() != ours.mxcsr() {
        differ("MXCSR", theirs.mxcsr().into(), ours.mxcsr().into());
    }
    let approximate = forms::is_transcendental(encoded.instruction.mnemonic());
    if approximate {
        // Whether a result was rounded up follows from bits that processors compute differently.
        ours.fx[3] = ours.fx[3] & !2 | theirs.fx[3] & 2;
    }
    if no_x87 {
        ours.fx[..5].copy_from_slice(&theirs.fx[..5]);
    }
    if theirs.fx[..5] != ours.fx[..5] {
        let word =
            |fx: &[u8; 512]| u64::from_le_bytes([fx[0], fx[1], fx[2], fx[3], fx[4], 0, 0, 0]);
        differ("x87 tag:status:control", word(&theirs.fx), word(&ours.fx));
    }
    if theirs.fx[2] & !before.fx[2] & SUMMARY != 0 {
        // AMD's processors save the pointers while an unmasked exception is pending only.
        let mut pointers = vec![("FOP", 6..8), ("FIP", 8..16)];
        if form.memory {
            pointers.push(("FDP", 16..24));
        }
        for (name, at) in pointers {
            if theirs.fx[at.clone()] != ours.fx[at.clone()] {
                let word = |fx: &[u8; 512]| {
                    let bytes = fx[at.clone()].iter().rev();
                    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
                };
                differ(name, word(&theirs.fx), word(&ours.fx));
            }
        }
    }
    for i in 0..8 {
        let at = 32 + i * 16..42 + i * 16;
        if approximate && close(&theirs.fx[at.clone()], &ours.fx[at.clone()]) {
            continue;
        }
        if theirs.fx[at.clone()] != ours.fx[at.clone()] {
            let word = |fx: &[u8; 512]| chunks(fx)[2 + i];
            let (theirs, ours) = (word(&theirs.fx), word(&ours.fx));
            differ(
                &format!("ST{i} high"),
                (theirs >> 64) as u64,
                (ours >> 64) as u64,
            );
            differ(&format!("ST{i} low"), theirs as u64, ours as u64);
        }
    }
    let mut compared = rflags::STATUS | rflags::DF;
    compared &= !undefined::flags(
        &encoded.instruction,
        width(&encoded.instruction),
        before.registers[1] as u8,
    );
    if host_faulted {
        compared = 0;
    }
    if (theirs.flags ^ ours.flags) & compared != 0 {
        differ("flags", theirs.flags & compared, ours.flags & compared);
    }
    let pairs = [
        (&their_windows.data[..], &our_windows.data[..], "memory"),
        (&their_windows.stack[..], &our_windows.stack[..], "stack"),
    ];
    for (theirs, ours, what) in pairs {
        if let Some(at) = (0..theirs.len()).find(|&i| theirs[i] != ours[i]) {
            let name = format!("{what}+{at:#x}");
            differ(&name, u64::from(theirs[at]), u64::from(ours[at]));
        }
    }
    if text_of.is_empty() {
        return None;
    }
    Some(format!(
        "{:?} {:?} `{}` {:02x?}:{text_of} before: {:x?} flags {:#x}, MXCSR {:#x}, XMM {:x?}, memory {:x?}, FX {:x?}",
        form.code,
        form.prefix,
        text(&encoded.instruction),
        encoded.bytes,
        before.registers,
        before.flags,
        before.mxcsr(),
        [0, 1].map(|i| {
            let register = encoded.instruction.op_register(i);
            if register.is_xmm() {
                before.xmm(register.number())
            } else {
                0
            }
        }),
        encoded.address.map(|address| {
            let place = (address.target - WINDOW) as usize;
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&windows.data[place..place + 16]);
            u128::from_le_bytes(bytes)
        }),
        &chunks(&before.fx)[..10],
    ))
}
