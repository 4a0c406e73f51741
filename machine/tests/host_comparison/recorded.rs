//! States in which processors of Intel and AMD differ, with the results of both: the engine must
//! give Intel's on every host, and the host its own vendor's.
//!
//! AMD's were recorded on an EPYC (family 19H, model 11H). Intel's follow from the sources that
//! [`crate::vendor::DIFFERENCES`] names; a host of Intel's checks them.

use crate::case::{CODE, REGION, STACK, State, WINDOW, initial_fx};
use crate::compare::Engine;
use crate::host::Host;
use crate::vendor::Vendor;
use arch::control_register::rflags;
use posthaste_machine::cpu::Engine as Kind;

/// What an instruction left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    /// It raised an exception; the rest is as before then.
    faulted: bool,
    /// XMM1.
    xmm: u128,
    mxcsr: u32,
    /// The abridged tag word of the x87 FPU.
    tags: u8,
}

/// One state: XMM1, XMM2 and the memory that RAX points to; MXCSR as at reset, x87 registers empty.
struct Recorded {
    code: &'static [u8],
    xmm1: u128,
    xmm2: u128,
    memory: u128,
    intel: Outcome,
    amd: Outcome,
}

/// XMM1 became `xmm`, without an exception but an invalid operation if `invalid`.
const fn became(xmm: u128, invalid: bool) -> Outcome {
    Outcome {
        faulted: false,
        xmm,
        mxcsr: 0x1f80 | invalid as u32,
        tags: 0,
    }
}

/// Nothing changed.
const fn same(xmm: u128) -> Outcome {
    became(xmm, false)
}

/// An exception.
const FAULT: Outcome = Outcome {
    faulted: true,
    xmm: 0,
    mxcsr: 0x1f80,
    tags: 0,
};

/// Four quiet NaNs with different payloads, lane 0 in the lowest bits.
const NANS: u128 = 0x7fc0_0003_7fc0_0002_7fc0_0001_7fc0_0000;
/// Four ones.
const ONES: u128 = 0x3f80_0000_3f80_0000_3f80_0000_3f80_0000;
/// Infinity and three NaNs.
const INFINITY_AND_NANS: u128 = 0x7fc0_0003_7fc0_0002_7fc0_0001_7f80_0000;
/// A one, a zero and two NaNs.
const TWO_NANS: u128 = 0xffc0_0003_7fc0_0002_3f80_0000_0000_0000;
/// Two NaNs of double precision.
const DOUBLE_NANS: u128 = 0x7ff8_0000_0000_0001_fff8_0000_0000_0002;
/// Two ones of double precision.
const DOUBLE_ONES: u128 = 0x3ff0_0000_0000_0000_3ff0_0000_0000_0000;

const RECORDED: &[Recorded] = &[
    // DPPS XMM1, XMM2, FFH: each lane has a NaN of its own.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x40, 0xca, 0xff],
        xmm1: NANS,
        xmm2: ONES,
        memory: 0,
        intel: became(0x7fc0_0002_7fc0_0003_7fc0_0000_7fc0_0001, false),
        amd: became(0x7fc0_0000_7fc0_0000_7fc0_0000_7fc0_0000, false),
    },
    // DPPS XMM1, XMM2, EAH: product 0 and lanes 0 and 2 are left out.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x40, 0xca, 0xea],
        xmm1: NANS,
        xmm2: ONES,
        memory: 0,
        intel: became(0x7fc0_0002_0000_0000_7fc0_0001_0000_0000, false),
        amd: became(0x7fc0_0001_0000_0000_7fc0_0001_0000_0000, false),
    },
    // DPPS XMM1, XMM2, FFH: infinity times zero is the indefinite, which is a NaN like others.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x40, 0xca, 0xff],
        xmm1: INFINITY_AND_NANS,
        xmm2: 0,
        memory: 0,
        intel: became(0x7fc0_0002_7fc0_0003_ffc0_0000_7fc0_0001, true),
        amd: became(0xffc0_0000_ffc0_0000_ffc0_0000_ffc0_0000, true),
    },
    // DPPS XMM1, [RAX], FFH: the NaNs are in the other half.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x40, 0x08, 0xff],
        xmm1: ONES,
        xmm2: 0,
        memory: TWO_NANS,
        intel: became(0x7fc0_0002_ffc0_0003_7fc0_0002_ffc0_0003, false),
        amd: became(0x7fc0_0002_7fc0_0002_7fc0_0002_7fc0_0002, false),
    },
    // DPPD XMM1, XMM2, 33H.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x41, 0xca, 0x33],
        xmm1: DOUBLE_ONES,
        xmm2: DOUBLE_NANS,
        memory: 0,
        intel: became(0x7ff8_0000_0000_0001_fff8_0000_0000_0002, false),
        amd: became(0xfff8_0000_0000_0002_fff8_0000_0000_0002, false),
    },
    // DPPD XMM1, [RAX], 32H: the lane that the immediate leaves out is zero.
    Recorded {
        code: &[0x66, 0x0f, 0x3a, 0x41, 0x08, 0x32],
        xmm1: DOUBLE_NANS,
        xmm2: 0,
        memory: DOUBLE_ONES,
        intel: became(0x7ff8_0000_0000_0001_0000_0000_0000_0000, false),
        amd: became(0xfff8_0000_0000_0002_0000_0000_0000_0000, false),
    },
    // CVTPI2PS XMM1, [RAX]: all registers become valid on Intel's processors.
    Recorded {
        code: &[0x0f, 0x2a, 0x08],
        xmm1: 0,
        xmm2: 0,
        memory: 0xffff_fffe_0000_0001,
        intel: Outcome {
            tags: 0xff,
            ..became(0xc000_0000_3f80_0000, false)
        },
        amd: became(0xc000_0000_3f80_0000, false),
    },
    // LDMXCSR [RAX] with bit 17.
    Recorded {
        code: &[0x0f, 0xae, 0x10],
        xmm1: 0,
        xmm2: 0,
        memory: 0x2_1f80,
        intel: FAULT,
        amd: Outcome {
            mxcsr: 0x2_1f80,
            ..same(0)
        },
    },
    // 0F 0D /1 with a register.
    Recorded {
        code: &[0x0f, 0x0d, 0xc8],
        xmm1: 0,
        xmm2: 0,
        memory: 0,
        intel: same(0),
        amd: FAULT,
    },
];

impl Recorded {
    fn before(&self) -> State {
        let mut state = State {
            registers: [0; 16],
            flags: rflags::RESERVED_1 | rflags::IF,
            fx: initial_fx(),
        };
        state.registers[0] = WINDOW;
        state.registers[4] = STACK;
        state.set_xmm(1, self.xmm1);
        state.set_xmm(2, self.xmm2);
        state
    }
}

fn outcome(faulted: bool, state: &State) -> Outcome {
    Outcome {
        faulted,
        xmm: state.xmm(1),
        mxcsr: state.mxcsr(),
        tags: state.fx[4],
    }
}

/// Gives how many states there were, and descriptions of those that differ.
pub fn run() -> (usize, Vec<String>) {
    let mut host = Host::new();
    let mut engine = Engine::new(Kind::Interpreter);
    let vendor = Vendor::of_host();
    let mut differences = Vec::new();
    for (number, recorded) in (0..).zip(RECORDED) {
        let rip = CODE + number * 64;
        assert!(rip > REGION);
        let bytes = host.write_code(rip, recorded.code);
        engine.write(rip, &bytes);
        host.write(WINDOW, &recorded.memory.to_le_bytes());
        engine.write(WINDOW, &recorded.memory.to_le_bytes());
        let mut theirs = recorded.before();
        let mut ours = recorded.before();
        let host_faulted = host.execute(rip, &mut theirs);
        let faulted = engine.execute(rip, &mut ours);
        let mut check = |who: &str, found: Outcome, expected: Outcome| {
            if found != expected {
                differences.push(format!(
                    "{:02x?}: {who} {found:x?}, recorded {expected:x?}",
                    recorded.code
                ));
            }
        };
        check("engine", outcome(faulted, &ours), recorded.intel);
        let found = outcome(host_faulted, &theirs);
        match vendor {
            Vendor::Intel => check("Intel's host", found, recorded.intel),
            Vendor::Amd => check("AMD's host", found, recorded.amd),
            Vendor::Other => {}
        }
    }
    (RECORDED.len(), differences)
}
