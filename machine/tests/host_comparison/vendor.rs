//! What processors of different vendors do differently in the compared forms. The machine is
//! Intel's, so a host of Intel's is compared in everything, and another host in everything but this.
//! [`crate::recorded`] has states with the results of both, which are compared on every host.

use std::arch::x86_64::__cpuid;

use iced_x86::{Code, Mnemonic};

use crate::forms::Form;

/// Who made the host's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    /// The host's, by CPUID leaf 0.
    pub fn of_host() -> Self {
        let leaf = __cpuid(0);
        let name: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        match &name[..] {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// What of a form is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: the form is not run.
    Form,
    /// TOP, the tags and the condition codes of the x87 FPU.
    X87,
    /// Which NaN a lane of this many bits of the target holds where both have one.
    Nan { bits: u32 },
    /// Single-precision results within twice the error that the manual allows.
    Approximation,
    /// A bit of the operand in memory: it is clear.
    OperandBit(u32),
}

/// One difference.
#[derive(Debug)]
pub struct Difference {
    pub mnemonic: Mnemonic,
    /// With the operand in memory, in a register, or (`None`) both.
    pub memory: Option<bool>,
    pub part: Part,
    /// Intel's own processors are compared.
    pub intel_compared: bool,
    /// Both behaviours and where they are described.
    pub source: &'static str,
}

const RECIPROCAL: &str = "SDM volume 2, RCPPS and RSQRTPS: a relative error up to 1.5 * 2^-12; each \
                          vendor has another approximation";

/// All that are known.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        mnemonic: Mnemonic::Dpps,
        memory: None,
        part: Part::Nan { bits: 32 },
        intel_compared: true,
        source: "SDM volume 2, DPPS shows one sum for all lanes, which AMD's processors have; \
                 Intel's begin lane i's with product i xor 1 and add lane i xor 2's to it, as Bochs \
                 (cpu/sse_pfp.cc) has it. Of two NaNs the first operand's stays (volume 1, table 4-7)",
    },
    Difference {
        mnemonic: Mnemonic::Dppd,
        memory: None,
        part: Part::Nan { bits: 64 },
        intel_compared: true,
        source: "as DPPS; lane i's sum begins with product i on Intel's processors",
    },
    Difference {
        mnemonic: Mnemonic::Cvtpi2ps,
        memory: Some(true),
        part: Part::X87,
        intel_compared: false,
        source: "SDM volume 2, CVTPI2PS enters MMX operation with either operand; AMD's processors \
                 with a register only (recorded), and Bochs (cpu/sse_pfp.cc) has that of Intel's too",
    },
    Difference {
        mnemonic: Mnemonic::Ldmxcsr,
        memory: None,
        part: Part::OperandBit(17),
        intel_compared: true,
        source: "SDM volume 1, 10.2.3: bits 31:16 are reserved, #GP; APM volume 1, 4.2.2: bit 17 is \
                 MM, misaligned exception mask, on AMD's processors",
    },
    Difference {
        mnemonic: Mnemonic::Reservednop,
        memory: Some(false),
        part: Part::Form,
        intel_compared: true,
        source: "SDM volume 2, table A-3: 0F 0D is a NOP but for PREFETCHW; AMD's processors raise \
                 #UD with a register (recorded)",
    },
    Difference {
        mnemonic: Mnemonic::Rcpps,
        memory: None,
        part: Part::Approximation,
        intel_compared: false,
        source: RECIPROCAL,
    },
    Difference {
        mnemonic: Mnemonic::Rcpss,
        memory: None,
        part: Part::Approximation,
        intel_compared: false,
        source: RECIPROCAL,
    },
    Difference {
        mnemonic: Mnemonic::Rsqrtps,
        memory: None,
        part: Part::Approximation,
        intel_compared: false,
        source: RECIPROCAL,
    },
    Difference {
        mnemonic: Mnemonic::Rsqrtss,
        memory: None,
        part: Part::Approximation,
        intel_compared: false,
        source: RECIPROCAL,
    },
];

impl Difference {
    fn applies(&self, form: Form) -> bool {
        form.code.mnemonic() == self.mnemonic
            && self.memory.is_none_or(|memory| memory == form.memory)
            && (self.mnemonic != Mnemonic::Reservednop || opcode_is_0f0d(form.code))
    }
}

/// What of `form` is not compared with a processor of `vendor`.
pub fn left_out(form: Form, vendor: Vendor) -> Option<Part> {
    DIFFERENCES
        .iter()
        .find(|difference| difference.applies(form))
        .filter(|difference| vendor != Vendor::Intel || !difference.intel_compared)
        .map(|difference| difference.part)
}

/// Whether `form` comes after all others, which have the same random states then whether it is
/// run or not.
pub fn comes_last(form: Form) -> bool {
    DIFFERENCES.iter().any(|difference| {
        difference.applies(form) && matches!(difference.part, Part::Form | Part::Approximation)
    })
}

fn opcode_is_0f0d(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

impl Part {
    /// The width of the lanes of the target that need not be the same, or 0.
    pub fn lane_bits(self) -> u32 {
        match self {
            Self::Nan { bits } => bits,
            Self::Approximation => 32,
            Self::Form | Self::X87 | Self::OperandBit(_) => 0,
        }
    }

    /// Whether a lane may be `theirs` where the engine has `ours`.
    pub fn accepts(self, theirs: u64, ours: u64) -> bool {
        match self {
            Self::Nan { bits } => both_nan(bits, theirs, ours),
            Self::Approximation => both_approximate(theirs as u32, ours as u32),
            Self::Form | Self::X87 | Self::OperandBit(_) => false,
        }
    }
}

/// Whether two results may approximate the same number.
fn both_approximate(theirs: u32, ours: u32) -> bool {
    let (theirs, ours) = (f32::from_bits(theirs), f32::from_bits(ours));
    if !theirs.is_finite() || !ours.is_finite() {
        return false;
    }
    // A result next to the smallest normal number may be flushed to zero.
    let tiny = 2.0 * f32::MIN_POSITIVE;
    let close = (theirs - ours).abs() <= ours.abs() * 3.0 / 4096.0;
    theirs.is_sign_negative() == ours.is_sign_negative()
        && (close || theirs.abs() < tiny && ours.abs() < tiny)
}

/// Whether two lanes hold NaNs, whichever.
fn both_nan(bits: u32, theirs: u64, ours: u64) -> bool {
    let fraction = if bits == 32 { 23 } else { 52 };
    let infinity = ((1u64 << (bits - 1 - fraction)) - 1) << fraction;
    let is_nan = |value: u64| value & (u64::MAX >> (65 - bits)) > infinity;
    is_nan(theirs) && is_nan(ours)
}
