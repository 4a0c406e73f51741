//! Arithmetic across the lanes of a register: ADDSUB, HADD, HSUB, DPPS, DPPD.

use iced_x86::{Instruction, Mnemonic};

use super::{
    File, Mem, Rm, Source, Xmm,
    arithmetic::lane,
    number::{Binary, Double, Operator, Single, Status},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
};

/// Something done to two registers, with an immediate.
trait Across {
    fn apply<B: Binary>(status: &mut Status, a: u128, b: u128, code: u8) -> u128;
}

fn execute<B: Binary, S: Source, O: Across>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    Xmm::enter(cpu)?;
    let b = S::get::<Xmm>(cpu, op)?;
    let a = Xmm::load(cpu, op.reg);
    let mut status = Status::new(cpu);
    let result = O::apply::<B>(&mut status, a, b, op.immediate as u8);
    cpu.settle(&status)?;
    Xmm::store(cpu, op.reg, result);
    Ok(())
}

/// A register of the lanes that `f` gives.
fn lanes<B: Binary>(mut f: impl FnMut(u32) -> u64) -> u128 {
    (0..128 / B::BITS).fold(0, |value, i| value | u128::from(f(i)) << (i * B::BITS))
}

/// ADDSUB: odd lanes are added, even ones subtracted.
struct Alternate;

impl Across for Alternate {
    fn apply<B: Binary>(status: &mut Status, a: u128, b: u128, _code: u8) -> u128 {
        lanes::<B>(|i| {
            let operator = if i & 1 == 0 {
                Operator::Subtract
            } else {
                Operator::Add
            };
            status.arithmetic::<B>(operator, lane::<B>(a, i), lane::<B>(b, i))
        })
    }
}

/// HADD and HSUB: pairs of lanes of the first operand, then of the second.
struct Pairs<const SUBTRACT: bool>;

impl<const SUBTRACT: bool> Across for Pairs<SUBTRACT> {
    fn apply<B: Binary>(status: &mut Status, a: u128, b: u128, _code: u8) -> u128 {
        let half = 64 / B::BITS;
        let operator = if SUBTRACT {
            Operator::Subtract
        } else {
            Operator::Add
        };
        lanes::<B>(|i| {
            let from = if i < half { a } else { b };
            let pair = 2 * (i % half);
            status.arithmetic::<B>(operator, lane::<B>(from, pair), lane::<B>(from, pair + 1))
        })
    }
}

/// DPPS and DPPD: the sum of the products that the immediate's upper half selects, in the lanes
/// that its lower half selects (SDM volume 2, DPPS).
struct DotProduct;

impl Across for DotProduct {
    fn apply<B: Binary>(status: &mut Status, a: u128, b: u128, code: u8) -> u128 {
        let mut product = |i: u32| {
            if code >> (4 + i) & 1 != 0 {
                status.arithmetic::<B>(Operator::Multiply, lane::<B>(a, i), lane::<B>(b, i))
            } else {
                0
            }
        };
        let mut terms = [product(0), product(1), 0, 0];
        if B::BITS == 32 {
            terms[2] = product(2);
            terms[3] = product(3);
        }
        let mut sum = |a, b| {
            // An unmasked exception of one step ends the instruction before the next.
            if status.raises() {
                0
            } else {
                status.arithmetic::<B>(Operator::Add, a, b)
            }
        };
        let mut total = sum(terms[0], terms[1]);
        if B::BITS == 32 {
            let high = sum(terms[2], terms[3]);
            total = sum(total, high);
        }
        lanes::<B>(|i| if code >> i & 1 != 0 { total } else { 0 })
    }
}

fn shapes<B: Binary, O: Across>(form: Form) -> Option<Execute> {
    match form {
        Form::RegReg | Form::RegRegImm => Some(execute::<B, Rm, O>),
        Form::RegMem | Form::RegMemImm => Some(execute::<B, Mem, O>),
        _ => None,
    }
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Addsubps => shapes::<Single, Alternate>(form),
        Mnemonic::Addsubpd => shapes::<Double, Alternate>(form),
        Mnemonic::Haddps => shapes::<Single, Pairs<false>>(form),
        Mnemonic::Haddpd => shapes::<Double, Pairs<false>>(form),
        Mnemonic::Hsubps => shapes::<Single, Pairs<true>>(form),
        Mnemonic::Hsubpd => shapes::<Double, Pairs<true>>(form),
        Mnemonic::Dpps => shapes::<Single, DotProduct>(form),
        Mnemonic::Dppd => shapes::<Double, DotProduct>(form),
        _ => None,
    }
}
