//! FPREM, FPREM1, FSCALE and FXTRACT.

use iced_x86::{Instruction, Mnemonic};

use super::result::{Outcome, of_nan, of_nans};
use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, Extended},
    float::{self, Magnitude, Number, Rounding, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{
        StackFault, X87,
        condition::{C0, C1, C2, C3},
    },
};

/// A remainder with the low bits of its quotient.
struct Remainder {
    number: Number,
    quotient: u64,
    /// The exponents lie too far apart; it is only a step.
    partial: bool,
}

/// The remainder of finite nonzero operands. `NEAREST`: the quotient is rounded to the nearest
/// (FPREM1), not truncated (FPREM).
fn remainder<const NEAREST: bool>(a: Number, b: Number) -> Option<Remainder> {
    let (
        Magnitude::Finite {
            exponent: first,
            significand: dividend,
        },
        Magnitude::Finite {
            exponent: second,
            significand: divisor,
        },
    ) = (a.magnitude, b.magnitude)
    else {
        return None;
    };
    let distance = first - second;
    if distance < -1 || distance < 0 && !NEAREST {
        return Some(Remainder {
            number: a,
            quotient: 0,
            partial: false,
        });
    }
    if distance >= 64 {
        // SDM volume 2, FPREM: a step reduces the distance by 32 to 63.
        let step = distance & 31 | 32;
        let rest = (u128::from(dividend) << step) % u128::from(divisor);
        let scale = second - 63 + distance - step;
        return Some(Remainder {
            number: Number::scaled(a.negative, rest as u64, scale),
            quotient: 0,
            partial: true,
        });
    }
    // In units of the last place of the operand with the lower exponent.
    let low = first.min(second);
    let dividend = u128::from(dividend) << (first - low);
    let divisor = u128::from(divisor) << (second - low);
    let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
    let mut negative = a.negative;
    if NEAREST {
        let above = rest > divisor - rest || rest == divisor - rest && quotient & 1 != 0;
        if above {
            quotient += 1;
            rest = divisor - rest;
            negative = !negative;
        }
    }
    let number = if rest == 0 {
        Number::zero(a.negative)
    } else {
        Number::scaled(negative, rest as u64, low - 63)
    };
    Some(Remainder {
        number,
        quotient: quotient as u64,
        partial: false,
    })
}

fn partial_remainder<const NEAREST: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C2 | C1, 0);
    let (Some(a), Some(b)) = (x87.st(0), x87.st(1)) else {
        if x87.stack_fault(StackFault::Underflow) {
            x87.set_st(0, Extended::INDEFINITE);
        }
        return Ok(());
    };
    let (a, b) = (a.class(), b.class());
    let mut codes = None;
    let outcome = match (a, b) {
        (Class::Number(x, tiny_x), Class::Number(y, tiny_y)) => {
            if x.is_infinite() || y.is_zero() {
                Outcome::invalid()
            } else {
                let denormal = tiny_x || tiny_y;
                let found = remainder::<NEAREST>(x, y).unwrap_or(Remainder {
                    number: x,
                    quotient: 0,
                    partial: false,
                });
                codes = Some(conditions(&found));
                Outcome::rounded(x87, found.number.exact(), float::EXTENDED, denormal)
            }
        }
        _ => of_nans(a, b),
    };
    if x87.settle(outcome) {
        x87.set_st(0, outcome.value);
        if let Some(codes) = codes {
            x87.set_conditions(C3 | C2 | C1 | C0, codes);
        }
    }
    Ok(())
}

/// The quotient's low bits: C0 is bit 2, C3 bit 1, C1 bit 0; C2 says that it is only a step.
fn conditions(found: &Remainder) -> u16 {
    if found.partial {
        return C2;
    }
    [(2, C0), (1, C3), (0, C1)]
        .into_iter()
        .filter(|(bit, _)| found.quotient >> bit & 1 != 0)
        .fold(0, |codes, (_, code)| codes | code)
}

/// FSCALE.
fn scale(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
    let (Some(a), Some(b)) = (x87.st(0), x87.st(1)) else {
        if x87.stack_fault(StackFault::Underflow) {
            x87.set_st(0, Extended::INDEFINITE);
        }
        return Ok(());
    };
    let outcome = scaled(x87, a.class(), b.class());
    if x87.settle(outcome) {
        x87.set_st(0, outcome.value);
    }
    Ok(())
}

fn scaled(x87: &X87, a: Class, b: Class) -> Outcome {
    let (Class::Number(x, tiny_x), Class::Number(y, tiny_y)) = (a, b) else {
        return of_nans(a, b);
    };
    let denormal = tiny_x || tiny_y;
    let fixed = |number| Outcome {
        flags: if denormal { flag::DENORMAL } else { 0 },
        ..Outcome::plain(Extended::from_number(number))
    };
    if y.is_infinite() {
        return match (x.magnitude, y.negative) {
            (Magnitude::Zero, false) | (Magnitude::Infinity, true) => Outcome::invalid(),
            (_, false) => fixed(Number::infinity(x.negative)),
            (_, true) => fixed(Number::zero(x.negative)),
        };
    }
    let mut exact = x.exact();
    if let Magnitude::Finite { exponent, .. } = &mut exact.magnitude {
        // Beyond this everything overflows or underflows alike.
        const FAR: i64 = 0x1_0000;
        let distance = match float::to_signed(y, Rounding::Zero, 64) {
            Some((distance, _)) => distance.clamp(-FAR, FAR),
            None if y.negative => -FAR,
            None => FAR,
        };
        *exponent += distance as i32;
    }
    Outcome::rounded(x87, exact, float::EXTENDED, denormal)
}

/// FXTRACT: the exponent replaces ST(0), the significand is pushed.
fn extract(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
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
    let (exponent, significand, flags) = match value.class() {
        Class::Number(number, denormal) => {
            let flags = if denormal { flag::DENORMAL } else { 0 };
            match number.magnitude {
                Magnitude::Zero => (
                    Extended::from_number(Number::infinity(true)),
                    value,
                    flag::DIVIDE_BY_ZERO,
                ),
                Magnitude::Infinity => {
                    (Extended::from_number(Number::infinity(false)), value, flags)
                }
                Magnitude::Finite {
                    exponent,
                    significand,
                } => {
                    let significand = Number {
                        negative: number.negative,
                        magnitude: Magnitude::Finite {
                            exponent: 0,
                            significand,
                        },
                    };
                    (
                        Extended::from_number(Number::from_integer(exponent.into())),
                        Extended::from_number(significand),
                        flags,
                    )
                }
            }
        }
        other => {
            let outcome = of_nan(other);
            (outcome.value, outcome.value, outcome.flags)
        }
    };
    if x87.signal(flags) {
        x87.set_st(0, exponent);
        x87.push(significand);
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, _form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Fprem => Some(partial_remainder::<false>),
        Mnemonic::Fprem1 => Some(partial_remainder::<true>),
        Mnemonic::Fscale => Some(scale),
        Mnemonic::Fxtract => Some(extract),
        _ => None,
    }
}
