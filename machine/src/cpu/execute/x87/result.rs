//! What an x87 operation gives: a value and its exceptions.

use crate::cpu::{
    extended::{Class, Extended},
    float::{self, Exact, Format, flag},
    x87::{X87, condition},
};

/// A value on its way into a register.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) value: Extended,
    /// Exceptions.
    pub(super) flags: u32,
    /// It was rounded up.
    pub(super) up: bool,
}

impl Outcome {
    /// A value without exceptions.
    pub(super) fn plain(value: Extended) -> Self {
        Self {
            value,
            flags: 0,
            up: false,
        }
    }

    /// An invalid operation.
    pub(super) fn invalid() -> Self {
        Self {
            value: Extended::INDEFINITE,
            flags: flag::INVALID,
            up: false,
        }
    }

    /// A number, rounded; `denormal` if an operand was.
    pub(super) fn rounded(x87: &X87, exact: Exact, format: Format, denormal: bool) -> Self {
        let rounded = float::round(exact, format, x87.rounding_control());
        let denormal = if denormal { flag::DENORMAL } else { 0 };
        Self {
            value: Extended::from_number(rounded.number),
            flags: rounded.flags | denormal,
            up: rounded.up,
        }
    }
}

/// The result of one operand that is not a number.
pub(super) fn of_nan(class: Class) -> Outcome {
    match class {
        Class::Nan(nan, signaling) => Outcome {
            value: nan.quiet(),
            flags: if signaling { flag::INVALID } else { 0 },
            up: false,
        },
        _ => Outcome::invalid(),
    }
}

/// The result of two operands of which one is not a number (SDM volume 1, table 4-7).
pub(super) fn of_nans(a: Class, b: Class) -> Outcome {
    match (a, b) {
        (Class::Unsupported, _) | (_, Class::Unsupported) => Outcome::invalid(),
        (Class::Nan(x, signaling_x), Class::Nan(y, signaling_y)) => {
            let first = match (signaling_x, signaling_y) {
                (true, false) => false,
                (false, true) => true,
                _ if x.significand != y.significand => x.significand > y.significand,
                _ => !x.negative(),
            };
            Outcome {
                value: if first { x } else { y }.quiet(),
                flags: if signaling_x || signaling_y {
                    flag::INVALID
                } else {
                    0
                },
                up: false,
            }
        }
        (nan @ Class::Nan(..), _) | (_, nan) => of_nan(nan),
    }
}

impl X87 {
    /// Records the exceptions of an outcome and whether it was rounded up. Says whether it is to be
    /// written.
    pub(super) fn settle(&mut self, outcome: Outcome) -> bool {
        let c1 = if outcome.up { condition::C1 } else { 0 };
        if self.signal(outcome.flags) {
            self.set_conditions(condition::C1, c1);
            true
        } else {
            self.set_conditions(condition::C1, 0);
            false
        }
    }
}
