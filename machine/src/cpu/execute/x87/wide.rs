//! Numbers of 128 bits of significand and the series that the transcendental instructions need. They
//! keep some 120 bits, so that a result of 64 bits is rounded right but in the rarest cases.

use std::cmp::Ordering;

use crate::cpu::float::{Exact, Magnitude, Number, normalized};

/// `significand / 2^127 * 2^exponent`; the top bit is set unless it is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

/// The natural logarithm of 2.
pub(super) const LN_2: Wide = constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// The binary logarithm of e.
pub(super) const LOG2_E: Wide = constant(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
/// Pi.
pub(super) const PI: Wide = constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// The arc tangent of 1/2.
const ATAN_HALF: Wide = constant(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03);
/// 1.
pub(super) const ONE: Wide = constant(0, 1 << 127);
const ZERO: Wide = constant(0, 0);

const fn constant(exponent: i32, significand: u128) -> Wide {
    Wide {
        negative: false,
        exponent,
        significand,
    }
}

/// The upper half of a product of 256 bits.
fn multiply_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, first, second) = (a0 * b0, a1 * b0, a0 * b1);
    let middle = (low >> 64) + (first & LOW) + (second & LOW);
    a1 * b1 + (first >> 64) + (second >> 64) + (middle >> 64)
}

impl Wide {
    /// A number that is not infinite.
    pub(super) fn from_number(number: Number) -> Self {
        match number.magnitude {
            Magnitude::Finite {
                exponent,
                significand,
            } => Self {
                negative: number.negative,
                exponent,
                significand: u128::from(significand) << 64,
            },
            _ => ZERO,
        }
    }

    /// `value * 2^scale`.
    pub(super) fn scaled_integer(value: u128, scale: i32) -> Self {
        Self::normal(false, scale + 127, value)
    }

    pub(super) fn from_integer(value: i64) -> Self {
        Self::from_number(Number::from_integer(value))
    }

    /// The result to round, which is never exact.
    pub(super) fn inexact(self) -> Exact {
        normalized(self.negative, self.exponent, self.significand | 1)
    }

    #[must_use]
    pub(super) fn negated(self) -> Self {
        Self {
            negative: !self.negative,
            ..self
        }
    }

    #[must_use]
    pub(super) fn with_sign(self, negative: bool) -> Self {
        Self { negative, ..self }
    }

    /// `self * 2^distance`.
    #[must_use]
    pub(super) fn scaled(self, distance: i32) -> Self {
        Self {
            exponent: self.exponent + distance,
            ..self
        }
    }

    fn normal(negative: bool, exponent: i32, significand: u128) -> Self {
        let zeros = significand.leading_zeros();
        if significand == 0 {
            return ZERO;
        }
        Self {
            negative,
            exponent: exponent - zeros as i32,
            significand: significand << zeros,
        }
    }

    #[must_use]
    pub(super) fn times(self, other: Self) -> Self {
        Self::normal(
            self.negative != other.negative,
            self.exponent + other.exponent + 1,
            multiply_high(self.significand, other.significand),
        )
    }

    /// The order of the magnitudes.
    pub(super) fn order_of_magnitudes(self, other: Self) -> Ordering {
        match (self.significand, other.significand) {
            (0, 0) => Ordering::Equal,
            (0, _) => Ordering::Less,
            (_, 0) => Ordering::Greater,
            _ => (self.exponent, self.significand).cmp(&(other.exponent, other.significand)),
        }
    }

    #[must_use]
    pub(super) fn plus(self, other: Self) -> Self {
        let (large, small) = if self.order_of_magnitudes(other) == Ordering::Less {
            (other, self)
        } else {
            (self, other)
        };
        if small.significand == 0 {
            return large;
        }
        let distance = (large.exponent - small.exponent) as u32 + 1;
        let high = large.significand >> 1;
        // What falls off stays as the lowest bit.
        let low = if distance >= 128 {
            1
        } else {
            let shifted = small.significand >> distance;
            shifted | u128::from(shifted << distance != small.significand)
        };
        let sum = if large.negative == small.negative {
            high + low
        } else {
            high - low
        };
        Self::normal(large.negative, large.exponent + 1, sum)
    }

    #[must_use]
    pub(super) fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }

    /// The quotient; `other` is not zero.
    #[must_use]
    pub(super) fn over(self, other: Self) -> Self {
        let divisor = other.significand;
        let mut rest = self.significand;
        // The first bit has the weight 1: the quotient lies between 1/2 and 2.
        let mut quotient = u128::from(rest >= divisor);
        if rest >= divisor {
            rest -= divisor;
        }
        for _ in 0..127 {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            let fits = carry || rest >= divisor;
            quotient = quotient << 1 | u128::from(fits);
            if fits {
                rest = rest.wrapping_sub(divisor);
            }
        }
        Self::normal(
            self.negative != other.negative,
            self.exponent - other.exponent,
            quotient,
        )
    }
}

/// Terms beyond this many bits below a sum do not matter.
const ENOUGH: i32 = 130;

fn negligible(term: Wide, sum: Wide) -> bool {
    term.significand == 0 || term.exponent < sum.exponent - ENOUGH
}

/// `x` and the odd powers of `x` after it, up to sign, each with its coefficient.
fn odd_series(x: Wide, square: Wide, coefficient: impl Fn(Wide, i64) -> Wide) -> Wide {
    let mut sum = x;
    let mut power = x;
    let mut k = 3;
    loop {
        power = power.times(square);
        let term = coefficient(power, k);
        sum = sum.plus(term);
        if negligible(term, sum) {
            return sum;
        }
        k += 2;
    }
}

/// The inverse hyperbolic tangent of |`x`| < 1/4.
fn atanh(x: Wide) -> Wide {
    odd_series(x, x.times(x), |power, k| power.over(Wide::from_integer(k)))
}

/// The arc tangent of `x` from 0 to 1.
pub(super) fn atan(x: Wide) -> Wide {
    let series = |x: Wide| {
        odd_series(x, x.times(x).negated(), |power, k| {
            power.over(Wide::from_integer(k))
        })
    };
    if x.significand == 0 {
        return x;
    }
    // Above 1/4: atan(x) = atan(1/2) + atan((x - 1/2) / (1 + x/2)).
    if x.exponent < -2 {
        return series(x);
    }
    let reduced = x.minus(ONE.scaled(-1)).over(ONE.plus(x.scaled(-1)));
    if reduced.significand == 0 {
        return ATAN_HALF;
    }
    ATAN_HALF.plus(series(reduced))
}

/// `e^x - 1` of |`x`| < 1.
pub(super) fn expm1(x: Wide) -> Wide {
    let mut sum = x;
    let mut term = x;
    let mut k = 2;
    loop {
        term = term.times(x).over(Wide::from_integer(k));
        sum = sum.plus(term);
        if negligible(term, sum) {
            return sum;
        }
        k += 1;
    }
}

/// The natural logarithm of `numerator / denominator`, which lies between 1/2 and 2, from their
/// difference, so that nothing cancels.
pub(super) fn logarithm(difference: Wide, sum: Wide) -> Wide {
    if difference.significand == 0 {
        return difference;
    }
    atanh(difference.over(sum)).scaled(1)
}

/// Sine and cosine of `x` from 0 to pi/4.
pub(super) fn sine_and_cosine(x: Wide) -> (Wide, Wide) {
    if x.significand == 0 {
        return (x, ONE);
    }
    let square = x.times(x).negated();
    let sine = factorial_series(x, square, 2);
    let cosine = factorial_series(ONE, square, 1);
    (sine, cosine)
}

/// `first`, and each further term the last times `square / (k (k + 1))`, with `k` by twos from
/// `start`.
fn factorial_series(first: Wide, square: Wide, start: i64) -> Wide {
    let mut sum = first;
    let mut term = first;
    let mut k = start;
    loop {
        term = term.times(square).over(Wide::from_integer(k * (k + 1)));
        sum = sum.plus(term);
        if negligible(term, sum) {
            return sum;
        }
        k += 2;
    }
}
