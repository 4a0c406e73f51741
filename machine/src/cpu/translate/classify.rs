//! Which instructions are translated to the host's own, and as what.

use iced_x86::{Code, Mnemonic, OpCodeOperandKind};

use super::assembler::{Arithmetic, Width};
use super::vector::{self, Vector};
use crate::cpu::decode::is_memory_offset;
use crate::cpu::op::{LOCK, MEMORY, Op, REP, REPNE};

/// What the translator makes of an instruction. Where the operands are, [`Op`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Native {
    /// A call of the interpreter's function.
    Handler,
    Nothing,
    Pause,
    Move(Width),
    /// MOVZX, from the second width to the first.
    ZeroExtend(Width, Width),
    /// MOVSX, MOVSXD, CBW, CWDE and CDQE alike.
    SignExtend(Width, Width),
    /// CBW, CWDE, CDQE.
    SignExtendAccumulator(Width, Width),
    /// CWD, CDQ, CQO.
    SignToData(Width),
    LoadAddress(Width),
    Binary(Arithmetic, Width),
    Test(Width),
    Increment(Width),
    Decrement(Width),
    Negate(Width),
    Not(Width),
    ShiftLeft(Width),
    ShiftRight(Width),
    ShiftArithmetic(Width),
    /// IMUL with two or three operands.
    Multiply(Width),
    /// BT (4), BTS (5), BTR (6) and BTC (7).
    Bit(u8, Width),
    SwapBytes(Width),
    RotateLeft(Width),
    RotateRight(Width),
    /// An instruction on XMM registers.
    Vector(Vector),
    SetCondition(u8),
    MoveIf(u8, Width),
    Exchange(Width),
    ExchangeAdd(Width),
    CompareExchange(Width),
    Push,
    Pop,
    Leave,
    JumpIf(u8),
    Jump,
    Call,
    Return,
    /// Branches to an address in a register or memory.
    JumpIndirect,
    CallIndirect,
}

fn width_of(kind: OpCodeOperandKind) -> Option<Width> {
    use OpCodeOperandKind as Kind;
    match kind {
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode | Kind::al => Some(Width::Byte),
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_opcode | Kind::r16_rm | Kind::ax => {
            Some(Width::Word)
        }
        Kind::r32_or_mem | Kind::r32_reg | Kind::r32_opcode | Kind::r32_rm | Kind::eax => {
            Some(Width::Double)
        }
        Kind::r64_or_mem | Kind::r64_reg | Kind::r64_opcode | Kind::r64_rm | Kind::rax => {
            Some(Width::Quad)
        }
        _ => None,
    }
}

/// Width of operand `number`.
fn operand(code: Code, number: u32) -> Option<Width> {
    let information = code.op_code();
    if number < information.op_count() {
        width_of(information.op_kind(number))
    } else {
        None
    }
}

/// Whether the condition is one, and which.
fn condition(code: Code) -> Option<u8> {
    (code.condition_code() as u8).checked_sub(1)
}

/// What to make of `op`.
pub(super) fn classify(op: &Op) -> Native {
    native(op).unwrap_or(Native::Handler)
}

fn native(op: &Op) -> Option<Native> {
    let code = op.code;
    let memory = op.attributes & MEMORY != 0;
    if op.address_shift > 32 || memory && op.displacement.checked_add(4096).is_none() {
        return None;
    }
    // The same for the distance of a branch.
    let near = i32::try_from((op.immediate as i64).saturating_add(4096)).is_ok();
    let target = || operand(code, 0);
    let source = || operand(code, 1);
    let locked = op.attributes & LOCK != 0;
    let binary = |operation| Some(Native::Binary(operation, target()?));
    let native = match code.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2 => Native::Nothing,
        Mnemonic::Pause => Native::Pause,
        Mnemonic::Add => binary(Arithmetic::Add)?,
        Mnemonic::Or => binary(Arithmetic::Or)?,
        Mnemonic::Adc => binary(Arithmetic::AddCarry)?,
        Mnemonic::Sbb => binary(Arithmetic::SubtractBorrow)?,
        Mnemonic::And => binary(Arithmetic::And)?,
        Mnemonic::Sub => binary(Arithmetic::Subtract)?,
        Mnemonic::Xor => binary(Arithmetic::Xor)?,
        Mnemonic::Cmp => binary(Arithmetic::Compare)?,
        Mnemonic::Test => Native::Test(target()?),
        Mnemonic::Inc => Native::Increment(target()?),
        Mnemonic::Dec => Native::Decrement(target()?),
        Mnemonic::Neg if !locked => Native::Negate(target()?),
        Mnemonic::Not if !locked => Native::Not(target()?),
        Mnemonic::Mov => {
            // A segment, control or debug register has no width here.
            let immediate = code.op_code().op_count() == 2 && source().is_none();
            if is_memory_offset(code) || immediate && !is_immediate(code) {
                return None;
            }
            Native::Move(target()?)
        }
        Mnemonic::Movzx => Native::ZeroExtend(target()?, source()?),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let (to, from) = (target()?, source()?);
            if from > to || from == Width::Double && to == Width::Word {
                return None;
            }
            Native::SignExtend(to, from)
        }
        Mnemonic::Cbw => Native::SignExtendAccumulator(Width::Word, Width::Byte),
        Mnemonic::Cwde => Native::SignExtendAccumulator(Width::Double, Width::Word),
        Mnemonic::Cdqe => Native::SignExtendAccumulator(Width::Quad, Width::Double),
        Mnemonic::Cwd => Native::SignToData(Width::Word),
        Mnemonic::Cdq => Native::SignToData(Width::Double),
        Mnemonic::Cqo => Native::SignToData(Width::Quad),
        Mnemonic::Lea => Native::LoadAddress(target()?),
        Mnemonic::Shl | Mnemonic::Sal => shift(op, Native::ShiftLeft(target()?), target()?)?,
        Mnemonic::Shr => shift(op, Native::ShiftRight(target()?), target()?)?,
        Mnemonic::Sar => shift(op, Native::ShiftArithmetic(target()?), target()?)?,
        Mnemonic::Imul if code.op_code().op_count() > 1 => Native::Multiply(target()?),
        Mnemonic::Bt if !(memory && source().is_some()) => Native::Bit(4, target()?),
        Mnemonic::Bts if !(memory && source().is_some()) => Native::Bit(5, target()?),
        Mnemonic::Btr if !(memory && source().is_some()) => Native::Bit(6, target()?),
        Mnemonic::Btc if !(memory && source().is_some()) => Native::Bit(7, target()?),
        Mnemonic::Bswap if target()? > Width::Word => Native::SwapBytes(target()?),
        Mnemonic::Rol => rotation(op, Native::RotateLeft(target()?), target()?)?,
        Mnemonic::Ror => rotation(op, Native::RotateRight(target()?), target()?)?,
        Mnemonic::Xchg => Native::Exchange(target()?),
        Mnemonic::Xadd if memory => Native::ExchangeAdd(target()?),
        Mnemonic::Cmpxchg if memory => Native::CompareExchange(target()?),
        Mnemonic::Push if pushes_quad(code) => Native::Push,
        Mnemonic::Pop if matches!(code, Code::Pop_r64) => Native::Pop,
        Mnemonic::Leave if matches!(code, Code::Leaveq) => Native::Leave,
        Mnemonic::Jmp => match code {
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 if near => Native::Jump,
            Code::Jmp_rm64 => Native::JumpIndirect,
            _ => return None,
        },
        Mnemonic::Call => match code {
            Code::Call_rel32_64 if near => Native::Call,
            Code::Call_rm64 => Native::CallIndirect,
            _ => return None,
        },
        Mnemonic::Ret => match code {
            Code::Retnq | Code::Retnq_imm16 => Native::Return,
            _ => return None,
        },
        _ if code.is_jcc_short_or_near() => match code.op_code().op_kind(0) {
            OpCodeOperandKind::br64_1 | OpCodeOperandKind::br64_4 if near => {
                Native::JumpIf(condition(code)?)
            }
            _ => return None,
        },
        _ if vector::classify(code).is_some() => Native::Vector(vector::classify(code)?),
        _ => match condition(code) {
            Some(condition) => match (target(), source()) {
                (Some(Width::Byte), None) => Native::SetCondition(condition),
                (Some(width), Some(_)) => Native::MoveIf(condition, width),
                _ => return None,
            },
            None => return None,
        },
    };
    // The prefixes mean nothing to these instructions; those to which they do are not here, but for
    // the byte forms of branches, whose prefixes mean nothing either.
    let _ = REP | REPNE;
    Some(native)
}

fn is_immediate(code: Code) -> bool {
    matches!(
        code.op_code().op_kind(1),
        OpCodeOperandKind::imm8
            | OpCodeOperandKind::imm16
            | OpCodeOperandKind::imm32
            | OpCodeOperandKind::imm32sex64
            | OpCodeOperandKind::imm64
    )
}

fn pushes_quad(code: Code) -> bool {
    matches!(
        code,
        Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Push_rm64
    )
}

/// Shifts whose count may reach the width leave CF undefined on the host.
fn shift(op: &Op, native: Native, width: Width) -> Option<Native> {
    let narrow = width < Width::Double;
    if is_by_cl(op) {
        // Bytes and words are rare.
        return (!narrow && op.attributes & MEMORY == 0).then_some(native);
    }
    let count = shift_count(op, width);
    (count != 0 && count < width.bits()).then_some(native)
}

/// Rotations of whole registers by an immediate.
fn rotation(op: &Op, native: Native, width: Width) -> Option<Native> {
    let fits = width >= Width::Double && op.attributes & MEMORY == 0 && !is_by_cl(op);
    (fits && shift_count(op, width) != 0).then_some(native)
}

/// Whether a shift is by CL.
pub(super) fn is_by_cl(op: &Op) -> bool {
    op.code.op_code().op_kind(1) == OpCodeOperandKind::cl
}

/// The count of a shift by an immediate.
pub(super) fn shift_count(op: &Op, width: Width) -> u32 {
    op.immediate as u32 & if width == Width::Quad { 63 } else { 31 }
}
