//! Arithmetic by the processor's own instructions, so that results and flags, the undefined ones too, are
//! those that the guest would have got.
#![allow(
    unsafe_code,
    reason = "each instruction works on registers that it is given"
)]

use arch::control_register::rflags::STATUS;
use core::arch::asm;

/// A result, and RFLAGS with its status flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// As wide as the operands.
    pub value: u64,
    /// RFLAGS.
    pub flags: u64,
}

/// Executes a line of assembly between loading and storing the status flags. The line changes `{a}`, and
/// may use the operands that follow. Gives `{a}` and RFLAGS.
macro_rules! with_flags {
    ($line:expr, $a:expr, $flags:expr $(, $($operand:tt)*)?) => {{
        let mut value: u64 = $a;
        let mut status: u64 = $flags & STATUS;
        // SAFETY: only the named registers and the status flags change; what is pushed is popped again,
        // and the other flags are loaded as they are.
        unsafe {
            asm!(
                "pushfq",
                "and qword ptr [rsp], {keep}",
                "or qword ptr [rsp], {status}",
                "popfq",
                $line,
                "pushfq",
                "pop {status}",
                keep = const !(STATUS as i32),
                status = inout(reg) status,
                a = inout(reg) value,
                $($($operand)*)?
            );
        }
        (value, $flags & !STATUS | status & STATUS)
    }};
}

/// A mnemonic with operands of 1, 2, 4 or 8 bytes, each written after it.
macro_rules! by_size {
    ($size:expr, $mnemonic:literal, [$byte:literal, $word:literal, $double:literal, $quad:literal],
        $a:expr, $flags:expr $(, $($operand:tt)*)?) => {
        match $size {
            1 => with_flags!(concat!($mnemonic, $byte), $a, $flags $(, $($operand)*)?),
            2 => with_flags!(concat!($mnemonic, $word), $a, $flags $(, $($operand)*)?),
            4 => with_flags!(concat!($mnemonic, $double), $a, $flags $(, $($operand)*)?),
            _ => with_flags!(concat!($mnemonic, $quad), $a, $flags $(, $($operand)*)?),
        }
    };
}

macro_rules! one_operand {
    ($mnemonic:literal, $size:expr, $a:expr, $flags:expr) => {
        by_size!(
            $size,
            $mnemonic,
            [" {a:l}", " {a:x}", " {a:e}", " {a}"],
            $a,
            $flags
        )
    };
}

macro_rules! two_operands {
    ($mnemonic:literal, $size:expr, $a:expr, $b:expr, $flags:expr) => {
        by_size!(
            $size,
            $mnemonic,
            [" {a:l}, {b:l}", " {a:x}, {b:x}", " {a:e}, {b:e}", " {a}, {b}"],
            $a,
            $flags,
            b = in(reg) $b,
        )
    };
}

/// For instructions that have no form with bytes.
macro_rules! wide_operands {
    ($mnemonic:literal, $size:expr, $a:expr, $b:expr, $flags:expr) => {
        by_size!(
            $size,
            $mnemonic,
            [" {a:x}, {b:x}", " {a:x}, {b:x}", " {a:e}, {b:e}", " {a}, {b}"],
            $a,
            $flags,
            b = in(reg) $b,
        )
    };
}

macro_rules! shift {
    ($mnemonic:literal, $size:expr, $a:expr, $count:expr, $flags:expr) => {
        by_size!(
            $size,
            $mnemonic,
            [" {a:l}, cl", " {a:x}, cl", " {a:e}, cl", " {a}, cl"],
            $a,
            $flags,
            in("rcx") u64::from($count),
        )
    };
}

macro_rules! double_shift {
    ($mnemonic:literal, $size:expr, $a:expr, $b:expr, $count:expr, $flags:expr) => {
        by_size!(
            $size,
            $mnemonic,
            [
                " {a:x}, {b:x}, cl",
                " {a:x}, {b:x}, cl",
                " {a:e}, {b:e}, cl",
                " {a}, {b}, cl"
            ],
            $a,
            $flags,
            b = in(reg) $b,
            in("rcx") u64::from($count),
        )
    };
}

/// The product of RAX and `{b}`: RDX is written too.
macro_rules! product {
    ($mnemonic:literal, $size:expr, $a:expr, $b:expr, $flags:expr) => {{
        let mut high = 0_u64;
        let (low, flags) = by_size!(
            $size,
            $mnemonic,
            [
                " {b:l}\nmov {a}, rax",
                " {b:x}\nmov {a}, rax",
                " {b:e}\nmov {a}, rax",
                " {b}\nmov {a}, rax"
            ],
            0,
            $flags,
            b = in(reg) $b,
            inout("rax") $a => _,
            inout("rdx") high,
        );
        (low, high, flags)
    }};
}

/// All ones in `size` (1, 2, 4 or 8) bytes.
pub const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn arithmetic(size: u8, (value, flags): (u64, u64)) -> Arithmetic {
    Arithmetic {
        value: value & mask(size),
        flags,
    }
}

/// An instruction with two operands, of which the first is the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC.
    Adc,
    /// SBB.
    Sbb,
    /// AND; TEST without the result.
    And,
    /// SUB; CMP without the result.
    Sub,
    /// XOR.
    Xor,
    /// IMUL of two operands.
    Imul,
    /// BSF: the target stays if the source is 0.
    Bsf,
    /// BSR.
    Bsr,
}

impl Binary {
    /// Carries it out on operands of `size` bytes.
    pub fn apply(self, size: u8, a: u64, b: u64, flags: u64) -> Arithmetic {
        let result = match self {
            Self::Add => two_operands!("add", size, a, b, flags),
            Self::Or => two_operands!("or", size, a, b, flags),
            Self::Adc => two_operands!("adc", size, a, b, flags),
            Self::Sbb => two_operands!("sbb", size, a, b, flags),
            Self::And => two_operands!("and", size, a, b, flags),
            Self::Sub => two_operands!("sub", size, a, b, flags),
            Self::Xor => two_operands!("xor", size, a, b, flags),
            Self::Imul => wide_operands!("imul", size, a, b, flags),
            Self::Bsf => wide_operands!("bsf", size, a, b, flags),
            Self::Bsr => wide_operands!("bsr", size, a, b, flags),
        };
        arithmetic(size, result)
    }
}

/// An instruction with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// INC.
    Inc,
    /// DEC.
    Dec,
    /// NEG.
    Neg,
    /// NOT.
    Not,
}

impl Unary {
    /// Carries it out on an operand of `size` bytes.
    pub fn apply(self, size: u8, a: u64, flags: u64) -> Arithmetic {
        let result = match self {
            Self::Inc => one_operand!("inc", size, a, flags),
            Self::Dec => one_operand!("dec", size, a, flags),
            Self::Neg => one_operand!("neg", size, a, flags),
            Self::Not => one_operand!("not", size, a, flags),
        };
        arithmetic(size, result)
    }
}

/// A shift or rotation by a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// ROL.
    Rol,
    /// ROR.
    Ror,
    /// RCL.
    Rcl,
    /// RCR.
    Rcr,
    /// SHL, also called SAL.
    Shl,
    /// SHR.
    Shr,
    /// SAR.
    Sar,
}

impl Shift {
    /// Carries it out on an operand of `size` bytes.
    pub fn apply(self, size: u8, a: u64, count: u8, flags: u64) -> Arithmetic {
        let result = match self {
            Self::Rol => shift!("rol", size, a, count, flags),
            Self::Ror => shift!("ror", size, a, count, flags),
            Self::Rcl => shift!("rcl", size, a, count, flags),
            Self::Rcr => shift!("rcr", size, a, count, flags),
            Self::Shl => shift!("shl", size, a, count, flags),
            Self::Shr => shift!("shr", size, a, count, flags),
            Self::Sar => shift!("sar", size, a, count, flags),
        };
        arithmetic(size, result)
    }
}

/// A shift of one operand with bits of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubleShift {
    /// SHLD.
    Left,
    /// SHRD.
    Right,
}

impl DoubleShift {
    /// Carries it out on operands of `size` bytes.
    pub fn apply(self, size: u8, a: u64, b: u64, count: u8, flags: u64) -> Arithmetic {
        let result = match self {
            Self::Left => double_shift!("shld", size, a, b, count, flags),
            Self::Right => double_shift!("shrd", size, a, b, count, flags),
        };
        arithmetic(size, result)
    }
}

/// A multiplication whose product is twice as wide as its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiplication {
    /// MUL.
    Unsigned,
    /// IMUL of one operand.
    Signed,
}

impl Multiplication {
    /// Multiplies operands of `size` bytes: the low half, the high half, RFLAGS. The product of bytes is in
    /// the low half alone.
    pub fn apply(self, size: u8, a: u64, b: u64, flags: u64) -> (u64, u64, u64) {
        match self {
            Self::Unsigned => product!("mul", size, a, b, flags),
            Self::Signed => product!("imul", size, a, b, flags),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::control_register::rflags::{AF, CF, DF, IF, OF, PF, SF, ZF};

    #[test]
    fn results_and_flags_are_as_wide_as_the_operands() {
        for (operation, size, a, b, flags, value, status) in [
            (Binary::Add, 1, 0xff, 1, 0, 0, CF | PF | AF | ZF),
            (Binary::Add, 2, 0x7fff, 1, CF, 0x8000, PF | AF | SF | OF),
            (Binary::Adc, 4, 0xffff_ffff, 0, CF, 0, CF | PF | AF | ZF),
            (Binary::Sub, 8, 0, 1, 0, u64::MAX, CF | PF | AF | SF),
            (Binary::Sbb, 1, 5, 4, CF, 0, PF | ZF),
            (Binary::Xor, 4, 5, 5, CF | OF, 0, PF | ZF),
        ] {
            // Bits that are not status flags stay.
            let found = operation.apply(size, a, b, flags | IF | DF | 2);
            let wanted = Arithmetic {
                value,
                flags: status | IF | DF | 2,
            };
            // AF of XOR is undefined.
            let defined = if operation == Binary::Xor { !AF } else { !0 };
            assert_eq!(found.value, wanted.value, "{operation:?} {size}");
            assert_eq!(found.flags & defined, wanted.flags, "{operation:?} {size}");
        }
    }

    #[test]
    fn one_operand() {
        assert_eq!(Unary::Inc.apply(1, 0xff, CF).value, 0);
        // INC and DEC keep CF, NOT keeps all.
        assert_eq!(Unary::Dec.apply(2, 1, CF).flags, CF | PF | ZF);
        assert_eq!(Unary::Not.apply(4, 0, SF | CF).flags, SF | CF);
        assert_eq!(Unary::Not.apply(4, 0, 0).value, 0xffff_ffff);
        assert_eq!(Unary::Neg.apply(8, 1, 0).flags, CF | PF | AF | SF);
    }

    #[test]
    fn shifts() {
        assert_eq!(Shift::Shl.apply(1, 0x81, 1, 0).value, 2);
        assert_eq!(Shift::Shl.apply(1, 0x81, 1, 0).flags & CF, CF);
        assert_eq!(Shift::Sar.apply(2, 0x8000, 15, 0).value, 0xffff);
        assert_eq!(Shift::Rcr.apply(4, 0, 1, CF).value, 0x8000_0000);
        // A count of 0 changes no flag.
        assert_eq!(Shift::Shr.apply(8, 5, 64, OF | ZF).flags, OF | ZF);
        assert_eq!(DoubleShift::Left.apply(4, 1, 0x8000_0000, 4, 0).value, 0x18);
        assert_eq!(DoubleShift::Right.apply(2, 1, 3, 1, 0).value, 0x8000);
    }

    #[test]
    fn products() {
        let (low, _, flags) = Multiplication::Signed.apply(1, 0xff, 0xff, 0);
        assert_eq!((low, flags & (CF | OF)), (1, 0));
        let (low, high, flags) = Multiplication::Unsigned.apply(4, 0xffff_ffff, 2, 0);
        assert_eq!((low, high), (0xffff_fffe, 1));
        assert_eq!(flags & (CF | OF), CF | OF);
        assert_eq!(Binary::Imul.apply(4, 3, 0xffff_ffff, 0).value, 0xffff_fffd);
        assert_eq!(Binary::Bsf.apply(2, 7, 0x100, 0).value, 8);
    }
}
