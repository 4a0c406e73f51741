//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X and FYL2XP1 (SDM volume 1, 8.3.7 to 8.3.10).
//! Results are those of the exact function, rounded; processors are within one unit in the last
//! place of them.

use std::cmp::Ordering;

use iced_x86::{Instruction, Mnemonic};

use super::{
    arithmetic::unary,
    result::{Outcome, of_nan, of_nans},
    wide::{self, LN_2, LOG2_E, ONE, PI, Wide},
};
use crate::cpu::{
    Cpu,
    extended::{Class, Extended},
    float::{self, Magnitude, Number, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{
        StackFault, X87,
        condition::{C1, C2},
    },
};

/// Half of the pi of 68 bits to which arguments are reduced (SDM volume 1, 8.3.8), in units of
/// 2^-[`UNIT`].
const HALF_PI: u128 = 0xc_90fd_aa22_168c_234c;
const UNIT: i32 = 67;

fn inexact(x87: &X87, value: Wide, denormal: bool) -> Outcome {
    Outcome::rounded(x87, value.inexact(), float::EXTENDED, denormal)
}

fn exact(number: Number, denormal: bool) -> Outcome {
    Outcome {
        flags: if denormal { flag::DENORMAL } else { 0 },
        ..Outcome::plain(Extended::from_number(number))
    }
}

/// An argument of a trigonometric function, reduced.
struct Angle {
    sine: Wide,
    cosine: Wide,
}

/// Sine and cosine of a finite nonzero number; `None` if it is 2^63 or more.
fn angle(number: Number) -> Option<Angle> {
    let Magnitude::Finite {
        exponent,
        significand,
    } = number.magnitude
    else {
        return None;
    };
    if exponent >= 63 {
        return None;
    }
    let (quadrant, rest) = if exponent < -2 {
        (0, Wide::from_number(number).with_sign(false))
    } else {
        // The argument in units, from its top bit; below its last bit there are zeros.
        let mut rest = 0u128;
        let mut quotient = 0u64;
        for i in 0..=exponent + UNIT {
            let bit = if i < 64 {
                significand >> (63 - i) & 1
            } else {
                0
            };
            rest = rest << 1 | u128::from(bit);
            quotient <<= 1;
            if rest >= HALF_PI {
                rest -= HALF_PI;
                quotient |= 1;
            }
        }
        (quotient & 3, Wide::scaled_integer(rest, -UNIT))
    };
    let eighth = PI.scaled(-2);
    let (sine, cosine) = if rest.order_of_magnitudes(eighth) == Ordering::Greater {
        let half_pi = Wide::scaled_integer(HALF_PI, -UNIT);
        let (sine, cosine) = wide::sine_and_cosine(half_pi.minus(rest));
        (cosine, sine)
    } else {
        wide::sine_and_cosine(rest)
    };
    let (mut sine, mut cosine) = match quadrant & 1 {
        0 => (sine, cosine),
        _ => (cosine, sine.negated()),
    };
    if quadrant & 2 != 0 {
        (sine, cosine) = (sine.negated(), cosine.negated());
    }
    if number.negative {
        sine = sine.negated();
    }
    Some(Angle { sine, cosine })
}

fn sine(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    trigonometric(cpu, op, |angle| angle.sine, Number::zero)
}

fn cosine(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    trigonometric(cpu, op, |angle| angle.cosine, |_| Number::from_integer(1))
}

/// FSIN and FCOS. `at_zero` gives the exact value at a zero.
fn trigonometric(
    cpu: &mut Cpu,
    op: &Op,
    part: impl Fn(&Angle) -> Wide,
    at_zero: impl Fn(bool) -> Number,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    if out_of_range(&mut cpu.x87) {
        cpu.note_x87(op, false);
        return Ok(());
    }
    unary(cpu, op, |x87, value| match value.class() {
        Class::Number(number, denormal) if number.is_zero() => {
            exact(at_zero(number.negative), denormal)
        }
        Class::Number(number, denormal) => match angle(number) {
            Some(angle) => inexact(x87, part(&angle), denormal),
            None => Outcome::invalid(),
        },
        other => of_nan(other),
    })
}

/// Clears C1 and C2, or sets C2 for an operand that is out of range (SDM volume 2, FSIN).
fn out_of_range(x87: &mut X87) -> bool {
    x87.set_conditions(C1 | C2, 0);
    let far = x87.st(0).is_some_and(|value| match value.class() {
        Class::Number(number, _) => matches!(
            number.magnitude,
            Magnitude::Finite { exponent, .. } if exponent >= 63
        ),
        _ => false,
    });
    if far {
        x87.set_conditions(C2, C2);
    }
    far
}

/// FPTAN and FSINCOS: a result in ST(0), and another pushed.
fn two_results(
    cpu: &mut Cpu,
    op: &Op,
    function: impl Fn(&X87, Class) -> (Outcome, Outcome),
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1 | C2, 0);
    let room = x87.is_empty(7);
    let value = match x87.st(0) {
        Some(value) if room => value,
        found => {
            let fault = if found.is_none() {
                StackFault::Underflow
            } else {
                StackFault::Overflow
            };
            if x87.stack_fault(fault) {
                x87.set_st(0, Extended::INDEFINITE);
                x87.push(Extended::INDEFINITE);
            }
            return Ok(());
        }
    };
    if out_of_range(x87) {
        return Ok(());
    }
    let (first, second) = function(x87, value.class());
    let both = Outcome {
        flags: first.flags | second.flags,
        ..first
    };
    if x87.settle(both) {
        x87.set_st(0, first.value);
        x87.push(second.value);
    }
    Ok(())
}

fn tangent(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    two_results(cpu, op, |x87, class| {
        let one = Outcome::plain(Extended::ONE);
        match class {
            Class::Number(number, denormal) if number.is_zero() => (exact(number, denormal), one),
            Class::Number(number, denormal) => match angle(number) {
                Some(angle) => (inexact(x87, angle.sine.over(angle.cosine), denormal), one),
                None => (Outcome::invalid(), Outcome::invalid()),
            },
            other => (of_nan(other), of_nan(other)),
        }
    })
}

fn sine_and_cosine(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    two_results(cpu, op, |x87, class| match class {
        Class::Number(number, denormal) if number.is_zero() => {
            (exact(number, denormal), Outcome::plain(Extended::ONE))
        }
        Class::Number(number, denormal) => match angle(number) {
            Some(angle) => (
                inexact(x87, angle.sine, denormal),
                inexact(x87, angle.cosine, denormal),
            ),
            None => (Outcome::invalid(), Outcome::invalid()),
        },
        other => (of_nan(other), of_nan(other)),
    })
}

/// F2XM1: 2^x - 1 of x from -1 to 1; beyond, where the manual leaves it undefined, x.
fn power(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    unary(cpu, op, |x87, value| match value.class() {
        Class::Number(number, denormal) => {
            let half = Number {
                negative: true,
                ..Number::scaled(true, 1, -1)
            };
            match number.magnitude {
                Magnitude::Zero => exact(number, denormal),
                Magnitude::Infinity if number.negative => exact(Number::from_integer(-1), denormal),
                Magnitude::Infinity => exact(number, denormal),
                Magnitude::Finite {
                    exponent: 0,
                    significand,
                } if significand == 1 << 63 => {
                    exact(if number.negative { half } else { number }, denormal)
                }
                Magnitude::Finite { exponent, .. } if exponent >= 0 => exact(number, denormal),
                Magnitude::Finite { .. } => {
                    let x = Wide::from_number(number).times(LN_2);
                    inexact(x87, wide::expm1(x), denormal)
                }
            }
        }
        other => of_nan(other),
    })
}

/// FPATAN, FYL2X and FYL2XP1: a function of ST(1) and ST(0) replaces ST(1), and ST(0) is popped.
fn of_two(
    cpu: &mut Cpu,
    op: &Op,
    function: impl Fn(&X87, Number, Number, bool) -> Outcome,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
    let (Some(x), Some(y)) = (x87.st(0), x87.st(1)) else {
        if x87.stack_fault(StackFault::Underflow) {
            x87.set_st(1, Extended::INDEFINITE);
            x87.pop();
        }
        return Ok(());
    };
    let (x, y) = (x.class(), y.class());
    let outcome = match (y, x) {
        (Class::Number(y, tiny_y), Class::Number(x, tiny_x)) => {
            function(x87, y, x, tiny_x || tiny_y)
        }
        _ => of_nans(x, y),
    };
    if x87.settle(outcome) {
        x87.set_st(1, outcome.value);
        x87.pop();
    }
    Ok(())
}

/// FPATAN (SDM volume 2, table 3-30).
fn arc_tangent(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    of_two(cpu, op, |x87, y, x, denormal| {
        let half_pi = PI.scaled(-1);
        let magnitude = match (y.magnitude, x.magnitude) {
            (Magnitude::Zero, _) | (Magnitude::Finite { .. }, Magnitude::Infinity)
                if !x.negative =>
            {
                return exact(Number::zero(y.negative), denormal);
            }
            (Magnitude::Zero, _) | (Magnitude::Finite { .. }, Magnitude::Infinity) => PI,
            (Magnitude::Infinity, Magnitude::Infinity) if x.negative => {
                half_pi.plus(half_pi.scaled(-1))
            }
            (Magnitude::Infinity, Magnitude::Infinity) => half_pi.scaled(-1),
            (Magnitude::Infinity, _) | (_, Magnitude::Zero) => half_pi,
            (Magnitude::Finite { .. }, Magnitude::Finite { .. }) => {
                let (a, b) = (
                    Wide::from_number(y).with_sign(false),
                    Wide::from_number(x).with_sign(false),
                );
                let first = if a.order_of_magnitudes(b) == Ordering::Greater {
                    half_pi.minus(wide::atan(b.over(a)))
                } else {
                    wide::atan(a.over(b))
                };
                if x.negative { PI.minus(first) } else { first }
            }
        };
        inexact(x87, magnitude.with_sign(y.negative), denormal)
    })
}

/// `y` times a logarithm that is zero or infinite or a whole number.
fn times_whole(x87: &X87, y: Number, logarithm: Number, denormal: bool) -> Outcome {
    match float::multiply(y, logarithm) {
        Some(product) => Outcome::rounded(x87, product, float::EXTENDED, denormal),
        None => Outcome::invalid(),
    }
}

/// FYL2X (SDM volume 2, table 3-58).
fn times_logarithm(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    of_two(cpu, op, |x87, y, x, denormal| match x.magnitude {
        Magnitude::Zero if y.is_zero() => Outcome::invalid(),
        Magnitude::Zero => Outcome {
            value: Extended::from_number(Number::infinity(!y.negative)),
            flags: if y.is_infinite() {
                0
            } else {
                flag::DIVIDE_BY_ZERO
            },
            up: false,
        },
        _ if x.negative => Outcome::invalid(),
        Magnitude::Infinity => times_whole(x87, y, x, denormal),
        Magnitude::Finite {
            exponent,
            significand,
        } => {
            if significand == 1 << 63 {
                let outcome = times_whole(x87, y, Number::from_integer(exponent.into()), denormal);
                // Processors call the product inexact unless it is zero.
                let plain = exponent == 0 || y.is_zero() || y.is_infinite();
                let inexact = if plain { 0 } else { flag::PRECISION };
                return Outcome {
                    flags: outcome.flags | inexact,
                    ..outcome
                };
            }
            if y.is_zero() || y.is_infinite() {
                let sign = Number::from_integer(if exponent < 0 { -1 } else { 1 });
                return times_whole(x87, y, sign, denormal);
            }
            // x = m 2^e with m from about 0.7 to 1.4.
            let above = significand >= 0xb504_f333_f9de_6484;
            let whole = if above { exponent + 1 } else { exponent };
            let mantissa = Wide {
                negative: false,
                exponent: if above { -1 } else { 0 },
                significand: u128::from(significand) << 64,
            };
            let fraction = wide::logarithm(mantissa.minus(ONE), mantissa.plus(ONE)).times(LOG2_E);
            let logarithm = Wide::from_integer(whole.into()).plus(fraction);
            inexact(x87, Wide::from_number(y).times(logarithm), denormal)
        }
    })
}

/// FYL2XP1 (SDM volume 2, table 3-59). Below -(1 - sqrt(1/2)), where the manual leaves it
/// undefined, it is computed too, down to -1.
fn times_logarithm_plus_one(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    of_two(cpu, op, |x87, y, x, denormal| match x.magnitude {
        Magnitude::Zero => times_whole(x87, y, x, denormal),
        Magnitude::Infinity if x.negative => Outcome::invalid(),
        Magnitude::Infinity => times_whole(x87, y, x, denormal),
        Magnitude::Finite { exponent, .. } if exponent >= 0 && x.negative => Outcome::invalid(),
        Magnitude::Finite { .. } if y.is_zero() || y.is_infinite() => {
            let sign = Number::from_integer(if x.negative { -1 } else { 1 });
            times_whole(x87, y, sign, denormal)
        }
        Magnitude::Finite { .. } => {
            let x = Wide::from_number(x);
            // log2(1 + x) = log2(m) + e as in FYL2X, and m - 1 = x where e is 0.
            let sum = ONE.plus(x);
            let mut whole = sum.exponent;
            let mut mantissa = sum.scaled(-whole);
            if mantissa.significand >> 64 >= 0xb504_f333_f9de_6484 {
                mantissa = mantissa.scaled(-1);
                whole += 1;
            }
            let difference = if whole == 0 { x } else { mantissa.minus(ONE) };
            let fraction = wide::logarithm(difference, mantissa.plus(ONE)).times(LOG2_E);
            let logarithm = Wide::from_integer(whole.into()).plus(fraction);
            inexact(x87, Wide::from_number(y).times(logarithm), denormal)
        }
    })
}

pub(super) fn select(instruction: &Instruction) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Fsin => Some(sine),
        Mnemonic::Fcos => Some(cosine),
        Mnemonic::Fsincos => Some(sine_and_cosine),
        Mnemonic::Fptan => Some(tangent),
        Mnemonic::F2xm1 => Some(power),
        Mnemonic::Fpatan => Some(arc_tangent),
        Mnemonic::Fyl2x => Some(times_logarithm),
        Mnemonic::Fyl2xp1 => Some(times_logarithm_plus_one),
        _ => None,
    }
}
