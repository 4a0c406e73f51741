//! Binary floating-point arithmetic in integers: what SSE and the x87 FPU compute, exact in every
//! rounding mode (SDM volume 1, 4.8 Real numbers and floating-point formats; 4.9 Overview of
//! floating-point exceptions). NaNs are the callers' business.

use std::cmp::Ordering;

/// Exception flags, in the places that MXCSR and the x87 status word have in common.
#[allow(missing_docs, reason = "the names are the manual's")]
pub mod flag {
    pub const INVALID: u32 = 1 << 0;
    pub const DENORMAL: u32 = 1 << 1;
    pub const DIVIDE_BY_ZERO: u32 = 1 << 2;
    pub const OVERFLOW: u32 = 1 << 3;
    pub const UNDERFLOW: u32 = 1 << 4;
    pub const PRECISION: u32 = 1 << 5;
    /// Found before the result is computed (SDM volume 1, 11.5.2).
    pub const PRE_COMPUTATION: u32 = INVALID | DENORMAL | DIVIDE_BY_ZERO;
    pub const ALL: u32 = 0x3f;
}

/// Rounding mode (SDM volume 1, 4.8.4 Rounding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// From the two bits of a rounding-control field.
    #[inline(always)]
    pub fn from_control(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// What a result must fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of significand with the integer bit.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub minimum: i32,
    /// Exponent of the largest number.
    pub maximum: i32,
}

/// Single precision.
pub const SINGLE: Format = Format {
    precision: 24,
    minimum: -126,
    maximum: 127,
};
/// Double precision.
pub const DOUBLE: Format = Format {
    precision: 53,
    minimum: -1022,
    maximum: 1023,
};
/// Double extended precision.
pub const EXTENDED: Format = Format {
    precision: 64,
    minimum: -16382,
    maximum: 16383,
};

/// How to round, and what the exception masks make of the result.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Rounding mode.
    pub rounding: Rounding,
    /// A result that is too small becomes zero.
    pub flush_to_zero: bool,
    /// The overflow exception is masked.
    pub overflow_masked: bool,
    /// The underflow exception is masked.
    pub underflow_masked: bool,
    /// What an unmasked overflow takes from the exponent and an unmasked underflow adds to it (SDM
    /// volume 1, 4.9.1.4 and 4.9.1.5).
    pub bias_adjustment: i32,
}

/// A number that is not a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Sign.
    pub negative: bool,
    /// Magnitude.
    pub magnitude: Magnitude,
}

/// Magnitude of a number; `S` is its significand, left-aligned: a magnitude is
/// `significand / 2^(bits of S - 1) * 2^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magnitude<S = u64> {
    /// Zero.
    Zero,
    /// Neither zero nor infinite. The top bit is set, but in a rounded result that is denormal.
    Finite {
        /// Exponent, without bias.
        exponent: i32,
        /// Significand.
        significand: S,
    },
    /// Infinity.
    Infinity,
}

/// A result before it is rounded; its lowest bit is also set if anything nonzero lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Sign.
    pub negative: bool,
    /// Magnitude.
    pub magnitude: Magnitude<u128>,
}

/// A rounded result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded {
    /// The number.
    pub number: Number,
    /// Overflow, underflow and precision flags.
    pub flags: u32,
    /// The magnitude was rounded up.
    pub up: bool,
}

impl Number {
    /// Zero.
    pub fn zero(negative: bool) -> Self {
        Self {
            negative,
            magnitude: Magnitude::Zero,
        }
    }

    /// Infinity.
    pub fn infinity(negative: bool) -> Self {
        Self {
            negative,
            magnitude: Magnitude::Infinity,
        }
    }

    /// `significand * 2^scale`, exactly.
    #[inline]
    pub fn scaled(negative: bool, significand: u64, scale: i32) -> Self {
        if significand == 0 {
            return Self::zero(negative);
        }
        let zeros = significand.leading_zeros();
        Self {
            negative,
            magnitude: Magnitude::Finite {
                exponent: scale + 63 - zeros as i32,
                significand: significand << zeros,
            },
        }
    }

    /// An integer, exactly.
    pub fn from_integer(value: i64) -> Self {
        Self::scaled(value < 0, value.unsigned_abs(), 0)
    }

    /// The number with the other sign.
    #[must_use]
    pub fn negated(self) -> Self {
        Self {
            negative: !self.negative,
            ..self
        }
    }

    /// Whether it is a zero.
    pub fn is_zero(self) -> bool {
        self.magnitude == Magnitude::Zero
    }

    /// Whether it is an infinity.
    pub fn is_infinite(self) -> bool {
        self.magnitude == Magnitude::Infinity
    }

    /// The same number, not yet rounded.
    #[inline]
    pub fn exact(self) -> Exact {
        Exact {
            negative: self.negative,
            magnitude: match self.magnitude {
                Magnitude::Zero => Magnitude::Zero,
                Magnitude::Infinity => Magnitude::Infinity,
                Magnitude::Finite {
                    exponent,
                    significand,
                } => Magnitude::Finite {
                    exponent,
                    significand: u128::from(significand) << 64,
                },
            },
        }
    }

    /// The order of two numbers; zeros are equal.
    pub fn order(self, other: Self) -> Ordering {
        let rank = |n: Self| match n.magnitude {
            Magnitude::Zero => (0, 0, 0),
            Magnitude::Finite {
                exponent,
                significand,
            } => (1, exponent, significand),
            Magnitude::Infinity => (2, 0, 0),
        };
        let sign = |n: Self| match (n.is_zero(), n.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        match sign(self).cmp(&sign(other)) {
            Ordering::Equal if sign(self) < 0 => rank(other).cmp(&rank(self)),
            Ordering::Equal => rank(self).cmp(&rank(other)),
            unequal => unequal,
        }
    }
}

/// `significand / 2^127 * 2^exponent` of any `significand`, with its top bit brought up.
#[inline]
pub fn normalized(negative: bool, exponent: i32, significand: u128) -> Exact {
    let zeros = significand.leading_zeros();
    let magnitude = if significand == 0 {
        Magnitude::Zero
    } else {
        Magnitude::Finite {
            exponent: exponent - zeros as i32,
            significand: significand << zeros,
        }
    };
    Exact {
        negative,
        magnitude,
    }
}

/// Shifts right; what falls off stays as the lowest bit.
#[inline]
fn shift_right(value: u128, count: u32) -> u128 {
    if count >= 128 {
        u128::from(value != 0)
    } else {
        let shifted = value >> count;
        shifted | u128::from(shifted << count != value)
    }
}

/// `a + b`; `None` is an invalid operation.
#[inline]
pub fn add(a: Number, b: Number, rounding: Rounding) -> Option<Exact> {
    use Magnitude::{Finite, Infinity, Zero};
    let exact = match (a.magnitude, b.magnitude) {
        (Infinity, Infinity) if a.negative != b.negative => return None,
        (Infinity, _) => a.exact(),
        (_, Infinity) => b.exact(),
        (Zero, Zero) => {
            let negative = if a.negative == b.negative {
                a.negative
            } else {
                rounding == Rounding::Down
            };
            Number::zero(negative).exact()
        }
        (_, Zero) => a.exact(),
        (Zero, _) => b.exact(),
        (
            Finite {
                exponent: mut high,
                significand: mut large,
            },
            Finite {
                exponent: mut low,
                significand: mut small,
            },
        ) => {
            let mut negative = a.negative;
            if (high, large) < (low, small) {
                (high, low) = (low, high);
                (large, small) = (small, large);
                negative = b.negative;
            }
            let large = u128::from(large) << 63;
            let small = shift_right(u128::from(small) << 63, high.wrapping_sub(low) as u32);
            if a.negative == b.negative {
                normalized(negative, high + 1, large + small)
            } else if large == small {
                Number::zero(rounding == Rounding::Down).exact()
            } else {
                normalized(negative, high + 1, large - small)
            }
        }
    };
    Some(exact)
}

/// `a * b`; `None` is an invalid operation.
#[inline]
pub fn multiply(a: Number, b: Number) -> Option<Exact> {
    use Magnitude::{Finite, Infinity, Zero};
    let negative = a.negative != b.negative;
    Some(match (a.magnitude, b.magnitude) {
        (Infinity, Zero) | (Zero, Infinity) => return None,
        (Infinity, _) | (_, Infinity) => Number::infinity(negative).exact(),
        (Zero, _) | (_, Zero) => Number::zero(negative).exact(),
        (
            Finite {
                exponent: first,
                significand: left,
            },
            Finite {
                exponent: second,
                significand: right,
            },
        ) => normalized(
            negative,
            first + second + 1,
            u128::from(left) * u128::from(right),
        ),
    })
}

/// `a / b`; `None` is an invalid operation. The caller has dealt with division of a finite number
/// by zero, of which this makes an infinity.
#[inline]
pub fn divide(a: Number, b: Number) -> Option<Exact> {
    use Magnitude::{Finite, Infinity, Zero};
    let negative = a.negative != b.negative;
    Some(match (a.magnitude, b.magnitude) {
        (Infinity, Infinity) | (Zero, Zero) => return None,
        (Infinity, _) | (_, Zero) => Number::infinity(negative).exact(),
        (Zero, _) | (_, Infinity) => Number::zero(negative).exact(),
        (
            Finite {
                exponent: first,
                significand: dividend,
            },
            Finite {
                exponent: second,
                significand: divisor,
            },
        ) => {
            let divisor = u128::from(divisor);
            let dividend = u128::from(dividend) << 63;
            let (high, rest) = (dividend / divisor, dividend % divisor);
            let rest = rest << 63;
            let (low, rest) = (rest / divisor, rest % divisor);
            // Below 2 at weight 2^-126, so that the shift loses nothing.
            let quotient = (high << 63 | low) << 1 | u128::from(rest != 0);
            normalized(negative, first - second, quotient)
        }
    })
}

/// The square root of `a`; `None` is an invalid operation.
#[inline]
pub fn square_root(a: Number) -> Option<Exact> {
    match a.magnitude {
        Magnitude::Zero => Some(a.exact()),
        _ if a.negative => None,
        Magnitude::Infinity => Some(a.exact()),
        Magnitude::Finite {
            exponent,
            significand,
        } => {
            let radicand = u128::from(significand) << (63 + exponent.rem_euclid(2));
            let root = radicand.isqrt();
            let rest = radicand - root * root;
            // The rest exceeds the root just if the true root lies above the middle.
            let significand = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
            Some(normalized(false, exponent.div_euclid(2), significand))
        }
    }
}

struct Step {
    kept: u128,
    inexact: bool,
    up: bool,
}

/// Drops the lowest `drop` bits by the rounding mode.
#[inline]
fn drop_bits(significand: u128, drop: u32, rounding: Rounding, negative: bool) -> Step {
    // Kept part; order of the rest and one half of the last kept bit.
    let (kept, inexact, half) = match drop {
        0 => (significand, false, Ordering::Less),
        1..=127 => {
            let rest = significand << (128 - drop);
            (significand >> drop, rest != 0, rest.cmp(&(1 << 127)))
        }
        128 => (0, significand != 0, significand.cmp(&(1 << 127))),
        _ => (0, significand != 0, Ordering::Less),
    };
    let up = inexact
        && match rounding {
            Rounding::Nearest => {
                half == Ordering::Greater || half == Ordering::Equal && kept & 1 != 0
            }
            Rounding::Down => negative,
            Rounding::Up => !negative,
            Rounding::Zero => false,
        };
    Step {
        kept: kept + u128::from(up),
        inexact,
        up,
    }
}

/// Rounds a result to a format, with the responses to overflow and underflow (SDM volume 1,
/// 4.9.1.4 and 4.9.1.5). Tininess is found after rounding.
#[inline]
pub fn round(exact: Exact, format: Format, control: Control) -> Rounded {
    let negative = exact.negative;
    let (mut exponent, significand) = match exact.magnitude {
        Magnitude::Zero => return plain(Number::zero(negative)),
        Magnitude::Infinity => return plain(Number::infinity(negative)),
        Magnitude::Finite {
            exponent,
            significand,
        } => (exponent, significand),
    };
    let precision = format.precision;
    let drop = 128 - precision;
    let step = drop_bits(significand, drop, control.rounding, negative);
    let mut kept = step.kept;
    let unrounded = exponent;
    if kept >> precision != 0 {
        kept >>= 1;
        exponent += 1;
    }
    let mut flags = if step.inexact { flag::PRECISION } else { 0 };
    let mut up = step.up;
    let left_aligned = |kept: u128| (kept << (64 - precision)) as u64;
    if exponent < format.minimum {
        if control.underflow_masked && control.flush_to_zero {
            return Rounded {
                number: Number::zero(negative),
                flags: flag::UNDERFLOW | flag::PRECISION,
                up: false,
            };
        }
        if !control.underflow_masked {
            flags |= flag::UNDERFLOW;
            exponent += control.bias_adjustment;
            if exponent < format.minimum && control.bias_adjustment != 0 {
                // So small that the adjustment does not help.
                return Rounded {
                    number: Number::zero(negative),
                    flags: flags | flag::PRECISION,
                    up: false,
                };
            }
        } else {
            let shift = drop + (format.minimum - unrounded) as u32;
            let step = drop_bits(significand, shift, control.rounding, negative);
            let flags = if step.inexact {
                flag::UNDERFLOW | flag::PRECISION
            } else {
                0
            };
            let magnitude = if step.kept == 0 {
                Magnitude::Zero
            } else {
                Magnitude::Finite {
                    exponent: format.minimum,
                    significand: left_aligned(step.kept),
                }
            };
            return Rounded {
                number: Number {
                    negative,
                    magnitude,
                },
                flags,
                up: step.up,
            };
        }
    } else if exponent > format.maximum {
        flags |= flag::OVERFLOW;
        if control.overflow_masked {
            flags |= flag::PRECISION;
            let infinite = match control.rounding {
                Rounding::Nearest => true,
                Rounding::Down => negative,
                Rounding::Up => !negative,
                Rounding::Zero => false,
            };
            up = infinite;
            if infinite {
                return Rounded {
                    number: Number::infinity(negative),
                    flags,
                    up,
                };
            }
            exponent = format.maximum;
            kept = (1 << precision) - 1;
        } else {
            exponent -= control.bias_adjustment;
            if exponent > format.maximum && control.bias_adjustment != 0 {
                // So large that the adjustment does not help.
                return Rounded {
                    number: Number::infinity(negative),
                    flags: flags | flag::PRECISION,
                    up: true,
                };
            }
        }
    }
    Rounded {
        number: Number {
            negative,
            magnitude: Magnitude::Finite {
                exponent,
                significand: left_aligned(kept),
            },
        },
        flags,
        up,
    }
}

fn plain(number: Number) -> Rounded {
    Rounded {
        number,
        flags: 0,
        up: false,
    }
}

/// A number rounded to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integral {
    /// Its magnitude.
    pub magnitude: u64,
    /// It differs from the number.
    pub inexact: bool,
    /// The magnitude was rounded up.
    pub up: bool,
}

/// The magnitude of the integer that `number` rounds to; `None` if it does not fit into 64 bits.
#[inline]
pub fn to_integer(number: Number, rounding: Rounding) -> Option<Integral> {
    match number.magnitude {
        Magnitude::Zero => Some(Integral {
            magnitude: 0,
            inexact: false,
            up: false,
        }),
        Magnitude::Infinity => None,
        Magnitude::Finite { exponent, .. } if exponent > 63 => None,
        Magnitude::Finite {
            exponent,
            significand,
        } => {
            let drop = 127i32.wrapping_sub(exponent) as u32;
            let wide = u128::from(significand) << 64;
            let step = drop_bits(wide, drop, rounding, number.negative);
            Some(Integral {
                magnitude: u64::try_from(step.kept).ok()?,
                inexact: step.inexact,
                up: step.up,
            })
        }
    }
}

/// The signed integer of `bits` (16, 32 or 64) bits that `number` rounds to, and how; `None` if it
/// does not fit.
#[inline]
pub fn to_signed(number: Number, rounding: Rounding, bits: u32) -> Option<(i64, Integral)> {
    let integral = to_integer(number, rounding)?;
    let limit = 1u64 << (bits - 1);
    let fits = integral.magnitude < limit || number.negative && integral.magnitude == limit;
    fits.then(|| {
        let value = integral.magnitude as i64;
        let value = if number.negative {
            value.wrapping_neg()
        } else {
            value
        };
        (value, integral)
    })
}
