//! Arithmetic and comparison of packed and scalar floating-point numbers.

use std::cmp::Ordering;

use iced_x86::{Code, Instruction, Mnemonic};

use super::{
    File, Mem, Rm, Source, Xmm,
    number::{Binary, Double, Operand, Operator, Single, Status, exponent_field, indefinite, pack},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    flags::Flags,
    float::{self, Control, Format, Number, Rounding, flag},
    op::{Execute, Op},
    raise::Raised,
};
use crate::memory::Word;
use arch::control_register::rflags;

/// An operation on one lane: the old lane of the target, and the source's. `code` is the
/// immediate.
trait Lane {
    /// Computes the new lane.
    fn apply<B: Binary>(status: &mut Status, a: u64, b: u64, code: u8) -> u64;
}

/// A lane of a register.
#[inline(always)]
pub(super) fn lane<B: Binary>(value: u128, index: u32) -> u64 {
    let shifted = (value >> (index * B::BITS)) as u64;
    shifted & u64::MAX >> (64 - B::BITS)
}

/// Replaces the lowest lane.
#[inline(always)]
pub(super) fn with_lowest<B: Binary>(value: u128, low: u64) -> u128 {
    value >> B::BITS << B::BITS | u128::from(low)
}

fn packed<B: Binary, S: Source, O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::get::<Xmm>(cpu, op)?;
    let a = Xmm::load(cpu, op.reg);
    let mut status = Status::new(cpu);
    let mut result = 0;
    for i in 0..128 / B::BITS {
        let value = O::apply::<B>(
            &mut status,
            lane::<B>(a, i),
            lane::<B>(b, i),
            op.immediate as u8,
        );
        result |= u128::from(value) << (i * B::BITS);
    }
    cpu.settle(&status)?;
    Xmm::store(cpu, op.reg, result);
    Ok(())
}

fn scalar<B: Binary, S: Source, O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::low::<B::Word>(cpu, op)?.to_u64();
    let a = Xmm::load(cpu, op.reg);
    let mut status = Status::new(cpu);
    let value = O::apply::<B>(&mut status, lane::<B>(a, 0), b, op.immediate as u8);
    cpu.settle(&status)?;
    Xmm::store(cpu, op.reg, with_lowest::<B>(a, value));
    Ok(())
}

macro_rules! operators {
    ($($name:ident: $operator:expr;)*) => {$(
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn apply<B: Binary>(status: &mut Status, a: u64, b: u64, _code: u8) -> u64 {
                status.arithmetic::<B>($operator, a, b)
            }
        }
    )*};
}

operators! {
    Add: Operator::Add;
    Subtract: Operator::Subtract;
    Multiply: Operator::Multiply;
    Divide: Operator::Divide;
}

/// SQRT.
struct SquareRoot;

impl Lane for SquareRoot {
    fn apply<B: Binary>(status: &mut Status, _a: u64, b: u64, _code: u8) -> u64 {
        match status.unpack::<B>(b) {
            Operand::Nan(nan, signaling) => {
                if signaling {
                    status.before |= flag::INVALID;
                }
                nan
            }
            Operand::Number(number, denormal) => {
                status.finish::<B>(float::square_root(number), denormal)
            }
        }
    }
}

/// MIN and MAX: the second operand if they are equal or one is a NaN (SDM volume 2, MINPS).
struct Extreme<const WANTED_LESS: bool>;

impl<const WANTED_LESS: bool> Lane for Extreme<WANTED_LESS> {
    #[inline]
    fn apply<B: Binary>(status: &mut Status, a: u64, b: u64, _code: u8) -> u64 {
        let (x, y, tiny_x, tiny_y) = match (status.unpack::<B>(a), status.unpack::<B>(b)) {
            (Operand::Number(x, tiny_x), Operand::Number(y, tiny_y)) => (x, y, tiny_x, tiny_y),
            (_, y) => {
                status.before |= flag::INVALID;
                return match y {
                    Operand::Number(y, _) if y.is_zero() => pack::<B>(y),
                    _ => b,
                };
            }
        };
        if tiny_x || tiny_y {
            status.before |= flag::DENORMAL;
        }
        let wanted = if WANTED_LESS {
            Ordering::Less
        } else {
            Ordering::Greater
        };
        let (number, bits) = if x.order(y) == wanted { (x, a) } else { (y, b) };
        // A denormal that is treated as zero is also a zero as a result.
        if number.is_zero() {
            pack::<B>(number)
        } else {
            bits
        }
    }
}

/// The order of two operands, `None` if one is a NaN.
fn compare<B: Binary>(status: &mut Status, a: u64, b: u64, nans: QuietNans) -> Option<Ordering> {
    match (status.unpack::<B>(a), status.unpack::<B>(b)) {
        (Operand::Number(x, tiny_x), Operand::Number(y, tiny_y)) => {
            if tiny_x || tiny_y {
                status.before |= flag::DENORMAL;
            }
            Some(x.order(y))
        }
        (x, y) => {
            let signaling = |operand| matches!(operand, Operand::Nan(_, true));
            if nans == QuietNans::Invalid || signaling(x) || signaling(y) {
                status.before |= flag::INVALID;
            }
            None
        }
    }
}

/// What a quiet NaN is to a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QuietNans {
    Valid,
    Invalid,
}

/// CMPccPS and its like: all ones where the predicate holds (SDM volume 2, CMPPS, table 3-1).
struct Compare;

impl Lane for Compare {
    fn apply<B: Binary>(status: &mut Status, a: u64, b: u64, code: u8) -> u64 {
        let nans = match code & 3 {
            1 | 2 => QuietNans::Invalid,
            _ => QuietNans::Valid,
        };
        let order = compare::<B>(status, a, b, nans);
        let positive = match code & 3 {
            0 => order == Some(Ordering::Equal),
            1 => order == Some(Ordering::Less),
            2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            _ => order.is_none(),
        };
        if positive == (code & 4 == 0) {
            u64::MAX >> (64 - B::BITS)
        } else {
            0
        }
    }
}

/// COMISS, COMISD, UCOMISS, UCOMISD.
fn compare_to_flags<B: Binary, S: Source, const UNORDERED: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::low::<B::Word>(cpu, op)?.to_u64();
    let a = lane::<B>(Xmm::load(cpu, op.reg), 0);
    let mut status = Status::new(cpu);
    let nans = if UNORDERED {
        QuietNans::Valid
    } else {
        QuietNans::Invalid
    };
    let order = compare::<B>(&mut status, a, b, nans);
    cpu.settle(&status)?;
    cpu.flags = Flags::from_rflags(match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => rflags::CF,
        Some(Ordering::Equal) => rflags::ZF,
        None => rflags::ZF | rflags::PF | rflags::CF,
    });
    Ok(())
}

/// ROUND (SDM volume 2, ROUNDPS, table 4-18).
struct Round;

impl Lane for Round {
    fn apply<B: Binary>(status: &mut Status, _a: u64, b: u64, code: u8) -> u64 {
        let rounding = if code & 4 != 0 {
            status.rounding()
        } else {
            Rounding::from_control(code.into())
        };
        let number = match status.unpack::<B>(b) {
            Operand::Nan(nan, signaling) => {
                if signaling {
                    status.before |= flag::INVALID;
                }
                return nan;
            }
            Operand::Number(number, _) => number,
        };
        let Some(integral) = float::to_integer(number, rounding) else {
            return b;
        };
        if integral.inexact && code & 8 == 0 {
            status.after |= flag::PRECISION;
        }
        if !integral.inexact && !number.is_zero() {
            return b;
        }
        pack::<B>(Number::scaled(number.negative, integral.magnitude, 0))
    }
}

/// How the approximations are rounded: 12 bits keep the relative error below 1.5 * 2^-12 (SDM
/// volume 2, RCPPS and RSQRTPS), and processors differ in the rest.
const APPROXIMATION: Format = Format {
    precision: 12,
    ..float::SINGLE
};
const APPROXIMATION_CONTROL: Control = Control {
    rounding: Rounding::Nearest,
    flush_to_zero: true,
    overflow_masked: true,
    underflow_masked: true,
    bias_adjustment: 0,
};

/// RCP and RSQRT; they raise nothing and take denormals for zeros.
struct Approximate<const OF_ROOT: bool>;

impl<const OF_ROOT: bool> Lane for Approximate<OF_ROOT> {
    fn apply<B: Binary>(status: &mut Status, _a: u64, b: u64, _code: u8) -> u64 {
        let number = match status.unpack::<B>(b) {
            Operand::Nan(nan, _) => return nan,
            Operand::Number(number, _) if exponent_field::<B>(b) == 0 => {
                return pack::<B>(Number::infinity(number.negative));
            }
            Operand::Number(number, _) => number,
        };
        let divisor = if OF_ROOT {
            let Some(root) = float::square_root(number) else {
                return indefinite::<B>();
            };
            float::round(root, float::EXTENDED, APPROXIMATION_CONTROL).number
        } else {
            number
        };
        match float::divide(Number::from_integer(1), divisor) {
            Some(exact) => {
                pack::<B>(float::round(exact, APPROXIMATION, APPROXIMATION_CONTROL).number)
            }
            None => indefinite::<B>(),
        }
    }
}

/// The handlers of the four shapes of an operation.
fn shapes<O: Lane>(shape: Shape, form: Form) -> Option<Execute> {
    use Form::{RegMem, RegMemImm, RegReg, RegRegImm};
    Some(match (shape, form) {
        (Shape::PackedSingle, RegReg | RegRegImm) => packed::<Single, Rm, O>,
        (Shape::PackedSingle, RegMem | RegMemImm) => packed::<Single, Mem, O>,
        (Shape::PackedDouble, RegReg | RegRegImm) => packed::<Double, Rm, O>,
        (Shape::PackedDouble, RegMem | RegMemImm) => packed::<Double, Mem, O>,
        (Shape::ScalarSingle, RegReg | RegRegImm) => scalar::<Single, Rm, O>,
        (Shape::ScalarSingle, RegMem | RegMemImm) => scalar::<Single, Mem, O>,
        (Shape::ScalarDouble, RegReg | RegRegImm) => scalar::<Double, Rm, O>,
        (Shape::ScalarDouble, RegMem | RegMemImm) => scalar::<Double, Mem, O>,
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Shape {
    PackedSingle,
    PackedDouble,
    ScalarSingle,
    ScalarDouble,
}

fn to_flags<B: Binary, const UNORDERED: bool>(form: Form) -> Option<Execute> {
    match form {
        Form::RegReg => Some(compare_to_flags::<B, Rm, UNORDERED>),
        Form::RegMem => Some(compare_to_flags::<B, Mem, UNORDERED>),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    use Shape::{PackedDouble as Pd, PackedSingle as Ps, ScalarDouble as Sd, ScalarSingle as Ss};
    match instruction.mnemonic() {
        Mnemonic::Addps => shapes::<Add>(Ps, form),
        Mnemonic::Addpd => shapes::<Add>(Pd, form),
        Mnemonic::Addss => shapes::<Add>(Ss, form),
        Mnemonic::Addsd => shapes::<Add>(Sd, form),
        Mnemonic::Subps => shapes::<Subtract>(Ps, form),
        Mnemonic::Subpd => shapes::<Subtract>(Pd, form),
        Mnemonic::Subss => shapes::<Subtract>(Ss, form),
        Mnemonic::Subsd => shapes::<Subtract>(Sd, form),
        Mnemonic::Mulps => shapes::<Multiply>(Ps, form),
        Mnemonic::Mulpd => shapes::<Multiply>(Pd, form),
        Mnemonic::Mulss => shapes::<Multiply>(Ss, form),
        Mnemonic::Mulsd => shapes::<Multiply>(Sd, form),
        Mnemonic::Divps => shapes::<Divide>(Ps, form),
        Mnemonic::Divpd => shapes::<Divide>(Pd, form),
        Mnemonic::Divss => shapes::<Divide>(Ss, form),
        Mnemonic::Divsd => shapes::<Divide>(Sd, form),
        Mnemonic::Sqrtps => shapes::<SquareRoot>(Ps, form),
        Mnemonic::Sqrtpd => shapes::<SquareRoot>(Pd, form),
        Mnemonic::Sqrtss => shapes::<SquareRoot>(Ss, form),
        Mnemonic::Sqrtsd => shapes::<SquareRoot>(Sd, form),
        Mnemonic::Minps => shapes::<Extreme<true>>(Ps, form),
        Mnemonic::Minpd => shapes::<Extreme<true>>(Pd, form),
        Mnemonic::Minss => shapes::<Extreme<true>>(Ss, form),
        Mnemonic::Minsd => shapes::<Extreme<true>>(Sd, form),
        Mnemonic::Maxps => shapes::<Extreme<false>>(Ps, form),
        Mnemonic::Maxpd => shapes::<Extreme<false>>(Pd, form),
        Mnemonic::Maxss => shapes::<Extreme<false>>(Ss, form),
        Mnemonic::Maxsd => shapes::<Extreme<false>>(Sd, form),
        Mnemonic::Cmpps => shapes::<Compare>(Ps, form),
        Mnemonic::Cmppd => shapes::<Compare>(Pd, form),
        Mnemonic::Cmpss => shapes::<Compare>(Ss, form),
        Mnemonic::Cmpsd if instruction.code() == Code::Cmpsd_xmm_xmmm64_imm8 => {
            shapes::<Compare>(Sd, form)
        }
        Mnemonic::Roundps => shapes::<Round>(Ps, form),
        Mnemonic::Roundpd => shapes::<Round>(Pd, form),
        Mnemonic::Roundss => shapes::<Round>(Ss, form),
        Mnemonic::Roundsd => shapes::<Round>(Sd, form),
        Mnemonic::Rcpps => shapes::<Approximate<false>>(Ps, form),
        Mnemonic::Rcpss => shapes::<Approximate<false>>(Ss, form),
        Mnemonic::Rsqrtps => shapes::<Approximate<true>>(Ps, form),
        Mnemonic::Rsqrtss => shapes::<Approximate<true>>(Ss, form),
        Mnemonic::Comiss => to_flags::<Single, false>(form),
        Mnemonic::Comisd => to_flags::<Double, false>(form),
        Mnemonic::Ucomiss => to_flags::<Single, true>(form),
        Mnemonic::Ucomisd => to_flags::<Double, true>(form),
        _ => None,
    }
}
