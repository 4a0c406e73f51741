//! A case: the state from which a few instructions run, and what they leave behind.

/// Four pages in linear memory that a case may map.
pub(crate) const PAGES: u64 = 0x4000_0000;
/// The memory operands of random forms lie in the middle of this window of 1024 bytes: about the border of
/// the first two pages.
pub(crate) const WINDOW: u64 = PAGES + 0x1000 - 512;
/// The memory around it.
pub(crate) const REGION: u64 = PAGES;
pub(crate) const REGION_SIZE: u64 = 4 << 20;
/// Where a case's code is in linear memory, for the first case.
pub(crate) const CODE: u64 = 0x4020_0100;
/// A stack that every privilege level may use, and its end.
pub(crate) const STACK: u64 = 0x4040_8000;
/// Bytes from a case to the next, and to its code.
const CASE_SIZE: usize = 0x200;
const CODE_AT: usize = 0x100;
/// Bytes of a result.
pub(crate) const RESULT_SIZE: usize = 0x800;

/// A physical page of RAM for the window, in which a page-table entry's flags are clear.
pub(crate) const RAM: [u64; 2] = [0x70_0000, 0x70_1000];
/// Two physical pages that are a device's and keep what is written.
pub(crate) const DEVICE: [u64; 2] = [0xff00_0000, 0xff00_1000];
/// A physical page where there is neither RAM nor a device.
pub(crate) const NOTHING: u64 = 0xfd00_0000;

/// Flags of a page-table entry: present, writable, for every privilege level.
pub(crate) const OPEN: u64 = 7;

/// How a case's code runs, and at which privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// 64-bit mode.
    Bits64(u8),
    /// 32-bit compatibility mode.
    Bits32(u8),
    /// 16-bit compatibility mode; the segment begins with the case's code.
    Bits16(u8),
}

/// Selectors of the descriptors that every program has, for each privilege level; see `program.rs`.
pub(crate) mod selector {
    pub(crate) const CODE_64: u16 = 0x28;
    pub(crate) const CODE_32: u16 = 0x38;
    pub(crate) const CODE_16: u16 = 0x48;
    pub(crate) const DATA: u16 = 0x58;
    /// The first that a test may choose.
    pub(crate) const OWN: u16 = 0x68;
}

/// A selector as code of this privilege level uses it: descriptors come in pairs, for level 0 and for 3.
pub(crate) const fn at_level(selector: u16, level: u8) -> u16 {
    if level == 0 {
        selector
    } else {
        (selector + 8) | 3
    }
}

/// The state from which a case runs.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What a message calls it.
    pub(crate) name: String,
    /// General registers in encoding order.
    pub(crate) registers: [u64; 16],
    /// RFLAGS; bit 1 is added.
    pub(crate) flags: u64,
    pub(crate) run: Run,
    /// `None`: the flat one of its mode.
    pub(crate) cs: Option<u16>,
    pub(crate) ss: u16,
    pub(crate) ds: u16,
    pub(crate) es: u16,
    /// 0 leaves the base to `fs_base`.
    pub(crate) fs: u16,
    pub(crate) fs_base: u64,
    /// The page-table entries of the window.
    pub(crate) window: [u64; 4],
    /// Added to CR0 and CR4.
    pub(crate) cr0: u64,
    pub(crate) cr4: u64,
    pub(crate) dr0: u64,
    pub(crate) dr7: u64,
    /// Debug exceptions after which the case goes on.
    pub(crate) traps: u64,
    /// The code. Where it does not end by itself an INT ends it.
    pub(crate) code: Vec<u8>,
}

/// Ends a case.
const END: [u8; 2] = [0xcd, 0x40];

impl Case {
    /// A case in 64-bit mode whose window is two pages of RAM.
    pub(crate) fn new(name: impl Into<String>, run: Run, code: &[u8]) -> Self {
        let (Run::Bits64(level) | Run::Bits32(level) | Run::Bits16(level)) = run;
        let data = at_level(selector::DATA, level);
        let mut registers = [0; 16];
        for (number, register) in (1..).zip(&mut registers) {
            *register = 0x1111_1111_1111_1111_u64.wrapping_mul(number);
        }
        registers[4] = STACK;
        Self {
            name: name.into(),
            registers,
            flags: 0,
            run,
            cs: None,
            ss: data,
            ds: data,
            es: data,
            fs: 0,
            fs_base: 0,
            window: [RAM[0] | OPEN, RAM[1] | OPEN, 0, 0],
            cr0: 0,
            cr4: 0,
            dr0: 0,
            dr7: 0,
            traps: 0,
            code: code.to_vec(),
        }
    }

    /// With a register's value.
    pub(crate) fn register(mut self, number: usize, value: u64) -> Self {
        self.registers[number] = value;
        self
    }

    /// Its bytes in the program, as case `number`.
    pub(super) fn bytes(&self, number: usize) -> Vec<u8> {
        let (run, level) = match self.run {
            Run::Bits64(level) => (selector::CODE_64, level),
            Run::Bits32(level) => (selector::CODE_32, level),
            Run::Bits16(level) => (selector::CODE_16, level),
        };
        let linear = Self::code_address(number);
        let rip = match self.run {
            Run::Bits16(_) => linear - 0x4020_0000,
            _ => linear,
        };
        let mut bytes = vec![0; CASE_SIZE];
        let mut put =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        for (at, register) in (0..).step_by(8).zip(self.registers) {
            put(at, register);
        }
        put(0x80, rip);
        let code = self.cs.unwrap_or(at_level(run, level));
        put(0x88, code.into());
        put(0x90, self.flags | 2);
        put(0x98, self.ss.into());
        put(
            0xa0,
            u64::from(self.ds) | u64::from(self.es) << 16 | u64::from(self.fs) << 32,
        );
        for (at, entry) in (0xa8..).step_by(8).zip(self.window) {
            put(at, entry);
        }
        put(0xc8, 0x8001_0033 | self.cr0);
        put(0xd0, 0x620 | self.cr4);
        put(0xd8, self.fs_base);
        put(0xe0, self.dr7);
        put(0xe8, self.dr0);
        put(0xf0, self.traps);
        let code = [&self.code[..], &END].concat();
        assert!(code.len() <= CASE_SIZE - CODE_AT, "{}: too long", self.name);
        bytes[CODE_AT..CODE_AT + code.len()].copy_from_slice(&code);
        bytes
    }

    /// Where the code of case `number` is in linear memory.
    pub(crate) const fn code_address(number: usize) -> u64 {
        CODE + (number * CASE_SIZE) as u64
    }
}

/// What a case left behind.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outcome(pub(super) [u8; RESULT_SIZE]);

impl Outcome {
    fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// The vector that ended it.
    pub(crate) fn vector(&self) -> u64 {
        self.word(0x80)
    }

    /// The error code, or 0.
    pub(crate) fn error_code(&self) -> u64 {
        self.word(0x88)
    }

    /// Debug exceptions after which it went on.
    pub(crate) fn traps(&self) -> u64 {
        self.word(0xe0)
    }

    /// What differs from another, a line each.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        const NAMES: [&str; 31] = [
            "RAX",
            "RCX",
            "RDX",
            "RBX",
            "RSP",
            "RBP",
            "RSI",
            "RDI",
            "R8",
            "R9",
            "R10",
            "R11",
            "R12",
            "R13",
            "R14",
            "R15",
            "vector",
            "error code",
            "RIP",
            "CS",
            "RFLAGS",
            "SS",
            "CR2",
            "DR6",
            "entry 0",
            "entry 1",
            "entry 2",
            "entry 3",
            "traps",
            "sum of page 0",
            "sum of page 1",
        ];
        (0..RESULT_SIZE)
            .step_by(8)
            .filter(|at| self.word(*at) != other.word(*at))
            .map(|at| {
                let name = match at {
                    0x100..0x300 => format!("FXSAVE + {:#x}", at - 0x100),
                    0x300..0x500 => {
                        let (page, byte) = ((at - 0x300) / 128, (at - 0x300) % 128);
                        let byte = if byte < 64 { byte } else { 0xf80 + byte };
                        format!("page {page} + {byte:#x}")
                    }
                    0x500.. => format!(
                        "trap {}, {}",
                        (at - 0x500) / 32,
                        ["RIP", "RFLAGS", "RCX", "DR6"][at / 8 % 4]
                    ),
                    _ => NAMES.get(at / 8).unwrap_or(&"?").to_string(),
                };
                let (one, two) = (self.word(at), other.word(at));
                format!("{name}: {one:#x}, {two:#x}")
            })
            .collect()
    }
}
