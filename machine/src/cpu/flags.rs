//! The status flags, kept as what they follow from (SDM 3.4.3.1 Status flags).
//!
//! An arithmetic instruction stores its sign-extended result and its vector of carries; a flag is
//! computed when somebody asks. `carries` holds bit 63: CF; bit 62: CF xor OF; bit 3: AF.
//!
//! Flags that somebody loaded, and those that translated code leaves behind, are *packed* as LAHF and
//! SETO give them on an x86 host: SF, ZF, AF, PF and CF in bits 15:8 where the low byte of RFLAGS has
//! them, OF in bit 0. Bit 9, which LAHF gives as 1, says that they are; then nothing else counts. They
//! are a word of their own because a load of more than was just stored makes the host wait.

use arch::control_register::rflags;

use crate::memory::Word;

const CF: u32 = 63;
const CF_XOR_OF: u32 = 62;
const AF: u32 = 3;
/// Position of the byte that LAHF gives.
const PACKED: u32 = 8;
/// RFLAGS bit 1, which LAHF gives as 1.
const IS_PACKED: u16 = 1 << (PACKED + 1);
/// The status flags in the low byte of RFLAGS.
const LOW_BYTE: u64 = rflags::SF | rflags::ZF | rflags::AF | rflags::PF | rflags::CF;

/// Lazily evaluated status flags.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Flags {
    result: u64,
    carries: u64,
    packed: u16,
}

impl Default for Flags {
    fn default() -> Self {
        Self::from_rflags(0)
    }
}

impl Flags {
    /// Flags of a result that carries nothing: CF = OF = AF = 0 (logic instructions).
    #[inline(always)]
    pub fn logic<T: Word>(result: T) -> Self {
        Self {
            result: result.to_i64() as u64,
            carries: 0,
            packed: 0,
        }
    }

    /// Flags of `result`, given the vector whose bit `i` is the carry (or borrow) out of bit `i`.
    #[inline(always)]
    pub fn carries<T: Word>(result: T, vector: T) -> Self {
        let vector = vector.to_u64();
        let top = vector << (64 - T::BITS);
        Self {
            result: result.to_i64() as u64,
            // Bit 62 of `top` is the carry into the sign bit: CF xor OF.
            carries: top & (3 << CF_XOR_OF) | vector & 1 << AF,
            packed: 0,
        }
    }

    /// Flags of `a + b (+ carry) = result`.
    #[inline(always)]
    pub fn add<T: Word>(a: T, b: T, result: T) -> Self {
        let (x, y, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        Self::carries(result, T::from_u64(x & y | (x | y) & !r))
    }

    /// Flags of `a - b (- borrow) = result`.
    #[inline(always)]
    pub fn sub<T: Word>(a: T, b: T, result: T) -> Self {
        let (x, y, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        Self::carries(result, T::from_u64(!x & y | (!x | y) & r))
    }

    /// The same flags with another CF; OF stays.
    #[inline(always)]
    pub fn with_cf(self, cf: bool) -> Self {
        let of = self.of();
        self.with_cf_of(cf, of)
    }

    /// The same flags with other CF and OF.
    #[inline(always)]
    pub fn with_cf_of(self, cf: bool, of: bool) -> Self {
        if self.is_packed() {
            let packed = self.packed & !(1 << PACKED | 1) | u16::from(cf) << PACKED | u16::from(of);
            return Self { packed, ..self };
        }
        Self {
            carries: self.carries & !(3 << CF_XOR_OF)
                | (cf as u64) << CF
                | ((cf ^ of) as u64) << CF_XOR_OF,
            ..self
        }
    }

    /// The same flags with another AF.
    #[inline(always)]
    pub fn with_af(self, af: bool) -> Self {
        if self.is_packed() {
            let place = PACKED + 4;
            let packed = self.packed & !(1 << place) | u16::from(af) << place;
            return Self { packed, ..self };
        }
        Self {
            carries: self.carries & !(1 << AF) | (af as u64) << AF,
            ..self
        }
    }

    /// The same flags with another ZF.
    pub fn with_zf(self, zf: bool) -> Self {
        Self::from_rflags(self.to_rflags() & !rflags::ZF | if zf { rflags::ZF } else { 0 })
    }

    #[inline(always)]
    fn is_packed(self) -> bool {
        self.packed & IS_PACKED != 0
    }

    /// A flag of the packed form, by its RFLAGS bit number.
    #[inline(always)]
    fn packed_bit(self, number: u32) -> bool {
        self.packed >> (PACKED + number) & 1 != 0
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(self) -> bool {
        if self.is_packed() {
            self.packed_bit(0)
        } else {
            self.carries >> CF != 0
        }
    }

    /// Overflow.
    #[inline(always)]
    pub fn of(self) -> bool {
        if self.is_packed() {
            self.packed & 1 != 0
        } else {
            (self.carries ^ self.carries << 1) >> CF != 0
        }
    }

    /// Auxiliary carry.
    #[inline(always)]
    pub fn af(self) -> bool {
        if self.is_packed() {
            self.packed_bit(4)
        } else {
            self.carries >> AF & 1 != 0
        }
    }

    /// Zero.
    #[inline(always)]
    pub fn zf(self) -> bool {
        if self.is_packed() {
            self.packed_bit(6)
        } else {
            self.result == 0
        }
    }

    /// Sign.
    #[inline(always)]
    pub fn sf(self) -> bool {
        if self.is_packed() {
            self.packed_bit(7)
        } else {
            self.result >> 63 != 0
        }
    }

    /// Parity of the low byte.
    #[inline(always)]
    pub fn pf(self) -> bool {
        if self.is_packed() {
            self.packed_bit(2)
        } else {
            (self.result as u8).count_ones() & 1 == 0
        }
    }

    /// The six status bits of RFLAGS in their places.
    pub fn to_rflags(self) -> u64 {
        if self.is_packed() {
            let packed = u64::from(self.packed);
            return packed >> PACKED & LOW_BYTE | (packed & 1) << rflags::OF.trailing_zeros();
        }
        self.cf() as u64
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Takes the six status bits from an RFLAGS value.
    #[inline]
    pub fn from_rflags(value: u64) -> Self {
        Self {
            result: 0,
            carries: 0,
            packed: ((value & LOW_BYTE) << PACKED) as u16
                | IS_PACKED
                | u16::from(value & rflags::OF != 0),
        }
    }

    /// Brings the flags into the packed form, the only one that translated code reads.
    #[inline]
    pub(super) fn pack(&mut self) {
        if !self.is_packed() {
            *self = Self::from_rflags(self.to_rflags());
        }
    }

    /// Where the packed form lies in this structure: 16 bits, OF in the low byte, LAHF's in the
    /// high one.
    pub(super) const PACKED_OFFSET: usize = std::mem::offset_of!(Self, packed);

    /// The condition `cc` of Jcc, SETcc and CMOVcc (the low four opcode bits; SDM volume 2,
    /// appendix B.1.4.7).
    #[inline(always)]
    pub fn condition(self, cc: u8) -> bool {
        let met = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        met != (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives_the_round_trip() {
        for bits in 0..64_u64 {
            let value = (0..6)
                .filter(|i| bits >> i & 1 != 0)
                .map(|i| {
                    [
                        rflags::CF,
                        rflags::PF,
                        rflags::AF,
                        rflags::ZF,
                        rflags::SF,
                        rflags::OF,
                    ][i]
                })
                .sum();
            assert_eq!(Flags::from_rflags(value).to_rflags(), value);
        }
    }

    #[test]
    fn addition_and_subtraction_of_all_bytes() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let sum = a.wrapping_add(b);
                let flags = Flags::add(a, b, sum);
                assert_eq!(flags.cf(), a.checked_add(b).is_none());
                assert_eq!(flags.of(), (a as i8).checked_add(b as i8).is_none());
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                assert_eq!((flags.zf(), flags.sf()), (sum == 0, sum >= 0x80));
                let difference = a.wrapping_sub(b);
                let flags = Flags::sub(a, b, difference);
                assert_eq!(flags.cf(), a < b);
                assert_eq!(flags.of(), (a as i8).checked_sub(b as i8).is_none());
                assert_eq!(flags.af(), (a & 15) < (b & 15));
                assert_eq!(flags.pf(), difference.count_ones() % 2 == 0);
            }
        }
    }
}
