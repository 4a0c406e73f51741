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
///
/// Each lane has a sum of its own, which begins with another product. Only which NaN comes out
/// tells: of two it is the first operand's (SDM volume 1, table 4-7). The manual's operation shows
/// one sum for all lanes, as AMD's processors have it; Intel's add each lane's neighbour to it, and
/// DPPS then the other pair's.
struct DotProduct;

impl Across for DotProduct {
    fn apply<B: Binary>(status: &mut Status, a: u128, b: u128, code: u8) -> u128 {
        let count = (128 / B::BITS) as usize;
        let mut products = [0; 4];
        for (i, product) in (0..).zip(&mut products).take(count) {
            if code >> (4 + i) & 1 != 0 {
                *product =
                    status.arithmetic::<B>(Operator::Multiply, lane::<B>(a, i), lane::<B>(b, i));
            }
        }
        // An unmasked exception of one step ends the instruction before the next.
        let mut step = |operands: [[u64; 2]; 4]| {
            if status.raises() {
                return [0; 4];
            }
            let mut sums = [0; 4];
            for (sum, [first, second]) in sums.iter_mut().zip(operands).take(count) {
                *sum = status.arithmetic::<B>(Operator::Add, first, second);
            }
            sums
        };
        let [p, q, r, s] = products;
        let total = if count == 2 {
            step([[p, q], [q, p], [0; 2], [0; 2]])
        } else {
            let [p, q, r, s] = step([[q, p], [p, q], [s, r], [r, s]]);
            step([[p, r], [q, s], [r, p], [s, q]])
        };
        lanes::<B>(|i| {
            if code >> i & 1 != 0 {
                total[(i & 3) as usize]
            } else {
                0
            }
        })
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
