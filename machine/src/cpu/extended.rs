//! The double extended-precision format of the x87 FPU (SDM volume 1, 4.2.2 and 8.2).

use super::float::{Magnitude, Number};

/// A value as a register holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Sign in bit 15, biased exponent below.
    pub head: u16,
    /// Significand with its explicit integer bit.
    pub significand: u64,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A number, and whether it raises the denormal-operand exception.
    Number(Number, bool),
    /// A NaN as it is, and whether it is signaling.
    Nan(Extended, bool),
    /// An encoding that is no value: pseudo-NaN, pseudo-infinity, unnormal (SDM volume 1, 8.2.2).
    Unsupported,
}

const EXPONENT: u16 = 0x7fff;
const BIAS: i32 = 16383;
const QUIET: u64 = 1 << 62;

impl Extended {
    /// The real indefinite.
    pub const INDEFINITE: Self = Self {
        head: 0xffff,
        significand: 3 << 62,
    };
    /// 1.0.
    pub const ONE: Self = Self {
        head: 0x3fff,
        significand: 1 << 63,
    };

    /// From the ten bytes of a register.
    #[inline]
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            head: u16::from_le_bytes([i, j]),
            significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    /// To the ten bytes of a register.
    #[inline]
    pub fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.significand.to_le_bytes();
        let [i, j] = self.head.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// A rounded number.
    pub fn from_number(number: Number) -> Self {
        let sign = u16::from(number.negative) << 15;
        let (exponent, significand) = match number.magnitude {
            Magnitude::Zero => (0, 0),
            Magnitude::Infinity => (EXPONENT, 1 << 63),
            Magnitude::Finite { significand, .. } if significand >> 63 == 0 => (0, significand),
            Magnitude::Finite {
                exponent,
                significand,
            } => ((exponent + BIAS) as u16 & EXPONENT, significand),
        };
        Self {
            head: sign | exponent,
            significand,
        }
    }

    /// Whether the sign is set.
    pub fn negative(self) -> bool {
        self.head >> 15 != 0
    }

    /// The NaN made quiet.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self {
            significand: self.significand | QUIET,
            ..self
        }
    }

    /// What it is.
    #[inline]
    pub fn class(self) -> Class {
        let negative = self.negative();
        let integer = self.significand >> 63 != 0;
        let exponent = self.head & EXPONENT;
        match exponent {
            0 if self.significand == 0 => Class::Number(Number::zero(negative), false),
            0 => Class::Number(
                Number::scaled(negative, self.significand, 1 - BIAS - 63),
                true,
            ),
            _ if !integer => Class::Unsupported,
            EXPONENT if self.significand == 1 << 63 => {
                Class::Number(Number::infinity(negative), false)
            }
            EXPONENT => Class::Nan(self, self.significand & QUIET == 0),
            _ => Class::Number(
                Number {
                    negative,
                    magnitude: Magnitude::Finite {
                        exponent: i32::from(exponent) - BIAS,
                        significand: self.significand,
                    },
                },
                false,
            ),
        }
    }
}

/// What a single- or double-precision operand of `bits` bits with `fraction` bits of fraction is.
pub fn class_of_narrow(value: u64, bits: u32, fraction: u32) -> Class {
    let negative = value >> (bits - 1) & 1 != 0;
    let top = (1u64 << (bits - 1 - fraction)) - 1;
    let bias = (top >> 1) as i32;
    let field = value >> fraction & top;
    let low = value & ((1 << fraction) - 1);
    let aligned = low << (63 - fraction);
    if field == top && low != 0 {
        let nan = Extended {
            head: u16::from(negative) << 15 | EXPONENT,
            significand: 1 << 63 | aligned,
        };
        return Class::Nan(nan, aligned & QUIET == 0);
    }
    if field == top {
        return Class::Number(Number::infinity(negative), false);
    }
    if field == 0 {
        let scale = 1 - bias - fraction as i32;
        return Class::Number(Number::scaled(negative, low, scale), low != 0);
    }
    Class::Number(
        Number {
            negative,
            magnitude: Magnitude::Finite {
                exponent: field as i32 - bias,
                significand: 1 << 63 | aligned,
            },
        },
        false,
    )
}
