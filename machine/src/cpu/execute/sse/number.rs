//! Single- and double-precision operands, and the exceptions of one instruction (SDM volume 1,
//! 11.5 SSE, SSE2 and SSE3 exceptions).

use arch::control_register::cr4;
use arch::exception as vector;

use crate::cpu::{
    Cpu,
    float::{self, Control, Exact, Format, Magnitude, Number, Rounding, flag},
    raise::Raised,
};
use crate::memory::Word;

/// MXCSR: denormals are zeros.
const DAZ: u32 = 1 << 6;
/// MXCSR: flush to zero.
const FTZ: u32 = 1 << 15;
/// The bits of MXCSR that exist.
pub(super) const MXCSR_MASK: u32 = 0xffff;

/// A format of SSE, in the low bits of a `u64`.
pub(super) trait Binary {
    /// Its memory operand.
    type Word: Word;
    /// Width in bits.
    const BITS: u32;
    /// Bits of fraction.
    const FRACTION: u32;
    /// Precision and range.
    const FORMAT: Format;
    /// The processor's own sum, difference, product, quotient.
    fn native(operator: Operator, a: u64, b: u64) -> u64;
}

/// What [`Binary::native`] computes.
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// Single precision.
pub(super) struct Single;
/// Double precision.
pub(super) struct Double;

macro_rules! binary {
    ($name:ident, $word:ty, $float:ty, $fraction:literal, $format:expr) => {
        impl Binary for $name {
            type Word = $word;
            const BITS: u32 = <$word>::BITS;
            const FRACTION: u32 = $fraction;
            const FORMAT: Format = $format;

            #[inline(always)]
            fn native(operator: Operator, a: u64, b: u64) -> u64 {
                let (a, b) = (
                    <$float>::from_bits(a as $word),
                    <$float>::from_bits(b as $word),
                );
                let result = match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Divide => a / b,
                };
                result.to_bits().into()
            }
        }
    };
}

binary!(Single, u32, f32, 23, float::SINGLE);
binary!(Double, u64, f64, 52, float::DOUBLE);

/// An operand, taken apart.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// A number, and whether it is denormal.
    Number(Number, bool),
    /// A NaN, made quiet, and whether it was signaling.
    Nan(u64, bool),
}

const fn exponent_mask<B: Binary>() -> u64 {
    (1 << (B::BITS - 1 - B::FRACTION)) - 1
}

const fn quiet_bit<B: Binary>() -> u64 {
    1 << (B::FRACTION - 1)
}

/// The real indefinite: a negative quiet NaN (SDM volume 1, table 4-3).
pub(super) const fn indefinite<B: Binary>() -> u64 {
    (exponent_mask::<B>() << 1 | 1) << (B::FRACTION - 1) | 1 << (B::BITS - 1)
}

/// Biased exponent field.
#[inline(always)]
pub(super) fn exponent_field<B: Binary>(bits: u64) -> u64 {
    bits >> B::FRACTION & exponent_mask::<B>()
}

#[inline(always)]
fn is_denormal<B: Binary>(bits: u64) -> bool {
    exponent_field::<B>(bits) == 0 && bits & ((1 << B::FRACTION) - 1) != 0
}

/// Puts a rounded number into its format.
#[inline]
pub(super) fn pack<B: Binary>(number: Number) -> u64 {
    let sign = u64::from(number.negative) << (B::BITS - 1);
    sign | match number.magnitude {
        Magnitude::Zero => 0,
        Magnitude::Infinity => exponent_mask::<B>() << B::FRACTION,
        Magnitude::Finite {
            exponent,
            significand,
        } => {
            let fraction = significand >> (63 - B::FRACTION) & ((1 << B::FRACTION) - 1);
            if significand >> 63 == 0 {
                return sign | fraction;
            }
            // An exponent out of range is that of an unmasked exception; nobody sees the value.
            let biased = (exponent - B::FORMAT.minimum + 1) as u64 & exponent_mask::<B>();
            biased << B::FRACTION | fraction
        }
    }
}

/// The exceptions of one instruction, and what MXCSR said when it began.
pub(super) struct Status {
    mxcsr: u32,
    /// Found before any result was computed.
    pub(super) before: u32,
    /// Found with the results.
    pub(super) after: u32,
}

impl Status {
    pub(super) fn new(cpu: &Cpu) -> Self {
        Self {
            mxcsr: cpu.mxcsr,
            before: 0,
            after: 0,
        }
    }

    /// Whether an exception found so far is not masked.
    pub(super) fn raises(&self) -> bool {
        (self.before | self.after) & !(self.mxcsr >> 7) != 0
    }

    /// The host's arithmetic gives what is wanted: round to nearest, everything masked, no
    /// denormals treated as zero or flushed, and an inexact result adds no flag.
    #[inline(always)]
    fn plain(&self) -> bool {
        self.mxcsr & (MXCSR_MASK & !0x1f) == 0x1fa0
    }

    #[inline(always)]
    pub(super) fn rounding(&self) -> Rounding {
        Rounding::from_control(self.mxcsr >> 13)
    }

    fn control(&self) -> Control {
        Control {
            rounding: self.rounding(),
            flush_to_zero: self.mxcsr & FTZ != 0,
            overflow_masked: self.mxcsr & flag::OVERFLOW << 7 != 0,
            underflow_masked: self.mxcsr & flag::UNDERFLOW << 7 != 0,
            bias_adjustment: 0,
        }
    }

    /// Takes an operand apart.
    #[inline]
    pub(super) fn unpack<B: Binary>(&self, bits: u64) -> Operand {
        let negative = bits >> (B::BITS - 1) & 1 != 0;
        let fraction = bits & ((1 << B::FRACTION) - 1);
        let field = exponent_field::<B>(bits);
        if field == exponent_mask::<B>() {
            if fraction == 0 {
                return Operand::Number(Number::infinity(negative), false);
            }
            let quiet = bits | quiet_bit::<B>();
            return Operand::Nan(quiet, quiet != bits);
        }
        if field == 0 {
            if fraction == 0 || self.mxcsr & DAZ != 0 {
                return Operand::Number(Number::zero(negative), false);
            }
            let scale = B::FORMAT.minimum - B::FRACTION as i32;
            return Operand::Number(Number::scaled(negative, fraction, scale), true);
        }
        let significand = (fraction | 1 << B::FRACTION) << (63 - B::FRACTION);
        let exponent = field as i32 - 1 + B::FORMAT.minimum;
        let magnitude = Magnitude::Finite {
            exponent,
            significand,
        };
        Operand::Number(
            Number {
                negative,
                magnitude,
            },
            false,
        )
    }

    /// Rounds a result; `None` is an invalid operation, which gives the indefinite.
    #[inline]
    pub(super) fn finish<B: Binary>(&mut self, exact: Option<Exact>, denormal: bool) -> u64 {
        let Some(exact) = exact else {
            self.before |= flag::INVALID;
            return indefinite::<B>();
        };
        if denormal {
            self.before |= flag::DENORMAL;
        }
        let rounded = float::round(exact, B::FORMAT, self.control());
        self.after |= rounded.flags;
        pack::<B>(rounded.number)
    }

    /// The result when an operand is a NaN: the first operand that is one (SDM volume 1, table 4-7).
    #[inline]
    pub(super) fn propagate(&mut self, a: Operand, b: Operand) -> Option<u64> {
        let (result, signaling) = match (a, b) {
            (Operand::Number(..), Operand::Number(..)) => return None,
            (Operand::Nan(first, one), Operand::Nan(_, other)) => (first, one || other),
            (Operand::Nan(nan, signaling), _) | (_, Operand::Nan(nan, signaling)) => {
                (nan, signaling)
            }
        };
        if signaling {
            self.before |= flag::INVALID;
        }
        Some(result)
    }

    /// Sum, difference, product or quotient of two operands.
    #[inline(always)]
    pub(super) fn arithmetic<B: Binary>(&mut self, operator: Operator, a: u64, b: u64) -> u64 {
        if self.plain() && !is_denormal::<B>(a) && !is_denormal::<B>(b) {
            let result = B::native(operator, a, b);
            let field = exponent_field::<B>(result);
            // A result next to the limits may overflow or underflow; anything else has no
            // exception but precision.
            if field > 1 && field < exponent_mask::<B>() {
                return result;
            }
        }
        self.arithmetic_exact::<B>(operator, a, b)
    }

    #[inline(never)]
    fn arithmetic_exact<B: Binary>(&mut self, operator: Operator, a: u64, b: u64) -> u64 {
        let (first, second) = (self.unpack::<B>(a), self.unpack::<B>(b));
        if let Some(nan) = self.propagate(first, second) {
            return nan;
        }
        let (Operand::Number(x, tiny_x), Operand::Number(y, tiny_y)) = (first, second) else {
            return indefinite::<B>();
        };
        let rounding = self.rounding();
        let exact = match operator {
            Operator::Add => float::add(x, y, rounding),
            Operator::Subtract => float::add(x, y.negated(), rounding),
            Operator::Multiply => float::multiply(x, y),
            Operator::Divide => {
                if y.is_zero() && !x.is_zero() && !x.is_infinite() {
                    self.before |= flag::DIVIDE_BY_ZERO;
                    return pack::<B>(Number::infinity(x.negative != y.negative));
                }
                float::divide(x, y)
            }
        };
        self.finish::<B>(exact, tiny_x || tiny_y)
    }
}

impl Cpu {
    /// Records the exceptions of an instruction in MXCSR, and raises #XM for those that are not
    /// masked (SDM volume 1, 11.5.3). Nothing was written yet.
    #[inline(always)]
    pub(super) fn settle(&mut self, status: &Status) -> Result<(), Raised> {
        let flags = status.before | status.after;
        if flags & !self.mxcsr == 0 && flags & !(self.mxcsr >> 7) == 0 {
            return Ok(());
        }
        self.settle_flags(status)
    }

    #[inline(never)]
    fn settle_flags(&mut self, status: &Status) -> Result<(), Raised> {
        let unmasked = !(self.mxcsr >> 7) & flag::ALL;
        // An unmasked exception of any operand keeps results from being computed.
        let flags = if status.before & unmasked != 0 {
            status.before
        } else {
            status.before | status.after
        };
        self.mxcsr |= flags;
        if flags & unmasked == 0 {
            return Ok(());
        }
        Err(if self.cr4 & cr4::OSXMMEXCPT != 0 {
            self.fault(vector::SIMD_FLOATING_POINT, None)
        } else {
            self.invalid_opcode()
        })
    }
}
