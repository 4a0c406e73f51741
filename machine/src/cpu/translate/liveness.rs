//! Which status flags somebody may look at.

use super::assembler::Arithmetic;
use super::classify::{Native, is_by_cl};
use crate::cpu::op::{MEMORY, Op};

pub(super) const NONE: u8 = 0;
pub(super) const CARRY: u8 = 1;
const PARITY: u8 = 1 << 1;
const ZERO: u8 = 1 << 3;
const SIGN: u8 = 1 << 4;
const OVERFLOW: u8 = 1 << 5;
pub(super) const ALL: u8 = 0x3f;

/// What an instruction does with the flags.
struct Effect {
    reads: u8,
    /// Those that it always sets.
    writes: u8,
}

/// The flags that a condition reads.
fn of_condition(condition: u8) -> u8 {
    match condition >> 1 & 7 {
        0 => OVERFLOW,
        1 => CARRY,
        2 => ZERO,
        3 => CARRY | ZERO,
        4 => SIGN,
        5 => PARITY,
        6 => SIGN | OVERFLOW,
        _ => SIGN | OVERFLOW | ZERO,
    }
}

fn effect(op: &Op, native: Native) -> Effect {
    let (mut reads, writes) = match native {
        Native::Handler
        | Native::JumpIf(_)
        | Native::Jump
        | Native::Call
        | Native::Return
        | Native::JumpIndirect
        | Native::CallIndirect
        | Native::Push
        | Native::Pop
        | Native::Leave => (ALL, NONE),
        // The other flags are put together with the ones from before.
        Native::Bit(..) => (ALL, CARRY),
        Native::RotateLeft(_) | Native::RotateRight(_) => (ALL, CARRY | OVERFLOW),
        // It may fault or leave the guest.
        Native::Vector(_) | Native::Pause => (ALL, NONE),
        Native::ShiftLeft(_) | Native::ShiftRight(_) | Native::ShiftArithmetic(_)
            if is_by_cl(op) =>
        {
            (ALL, NONE)
        }
        Native::SetCondition(condition) | Native::MoveIf(condition, _) => {
            (of_condition(condition), NONE)
        }
        Native::Binary(Arithmetic::AddCarry | Arithmetic::SubtractBorrow, _) => (CARRY, ALL),
        Native::Binary(..)
        | Native::Test(_)
        | Native::Negate(_)
        | Native::ShiftLeft(_)
        | Native::ShiftRight(_)
        | Native::ShiftArithmetic(_)
        | Native::Multiply(_)
        | Native::ExchangeAdd(_)
        | Native::CompareExchange(_) => (NONE, ALL),
        Native::Increment(_) | Native::Decrement(_) => (NONE, ALL & !CARRY),
        Native::Nothing
        | Native::Move(_)
        | Native::ZeroExtend(..)
        | Native::SignExtend(..)
        | Native::SignExtendAccumulator(..)
        | Native::SignToData(_)
        | Native::LoadAddress(_)
        | Native::Not(_)
        | Native::SwapBytes(_)
        | Native::Exchange(_) => (NONE, NONE),
    };
    // An access may fault, and its handler, or the handler of the fault, see the flags.
    let accesses =
        op.attributes & MEMORY != 0 && !matches!(native, Native::LoadAddress(_) | Native::Nothing);
    if accesses {
        reads = ALL;
    }
    Effect { reads, writes }
}

/// For each instruction the flags that somebody may look at after it.
pub(super) fn live_after(ops: &[Op], natives: &[Native]) -> Vec<u8> {
    let mut live = ALL;
    let mut result: Vec<u8> = ops
        .iter()
        .zip(natives)
        .rev()
        .map(|(op, native)| {
            let after = live;
            let effect = effect(op, *native);
            live = live & !effect.writes | effect.reads;
            after
        })
        .collect();
    result.reverse();
    result
}
