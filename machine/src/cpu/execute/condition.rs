//! SETcc and CMOVcc.

use iced_x86::{Instruction, Mnemonic};

use super::place::{Integer, Mem, Reg, Rm, Source, Target, condition};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    op::{Execute, Op},
    raise::Raised,
};

fn set<const CC: u8, D: Target>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let met = cpu.flags.condition(CC);
    D::set(cpu, op, u8::from(met))
}

/// The source is read, and a 32-bit target cleared above, whether or not the condition is met (SDM
/// volume 2, CMOVcc).
fn conditional_move<const CC: u8, T: Integer, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    let value: T = S::get(cpu, op)?;
    let kept = T::register(cpu, op.reg);
    let met = cpu.flags.condition(CC);
    T::set_register(cpu, op.reg, if met { value } else { kept });
    Ok(())
}

/// The condition in the low four bits of the opcode of `instruction`.
pub(super) fn code(instruction: &Instruction) -> Option<u8> {
    (instruction.condition_code() as u8).checked_sub(1)
}

pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Seto
        | Mnemonic::Setno
        | Mnemonic::Setb
        | Mnemonic::Setae
        | Mnemonic::Sete
        | Mnemonic::Setne
        | Mnemonic::Setbe
        | Mnemonic::Seta
        | Mnemonic::Sets
        | Mnemonic::Setns
        | Mnemonic::Setp
        | Mnemonic::Setnp
        | Mnemonic::Setl
        | Mnemonic::Setge
        | Mnemonic::Setle
        | Mnemonic::Setg => {
            let code = code(instruction)?;
            match form {
                Form::Reg => Some(condition!(code, set[Reg])),
                Form::Mem => Some(condition!(code, set[Mem])),
                _ => None,
            }
        }
        Mnemonic::Cmovo
        | Mnemonic::Cmovno
        | Mnemonic::Cmovb
        | Mnemonic::Cmovae
        | Mnemonic::Cmove
        | Mnemonic::Cmovne
        | Mnemonic::Cmovbe
        | Mnemonic::Cmova
        | Mnemonic::Cmovs
        | Mnemonic::Cmovns
        | Mnemonic::Cmovp
        | Mnemonic::Cmovnp
        | Mnemonic::Cmovl
        | Mnemonic::Cmovge
        | Mnemonic::Cmovle
        | Mnemonic::Cmovg => {
            let code = code(instruction)?;
            match (form, operand_bits(instruction, 0)) {
                (Form::RegReg, 16) => Some(condition!(code, conditional_move[u16, Rm])),
                (Form::RegReg, 32) => Some(condition!(code, conditional_move[u32, Rm])),
                (Form::RegReg, 64) => Some(condition!(code, conditional_move[u64, Rm])),
                (Form::RegMem, 16) => Some(condition!(code, conditional_move[u16, Mem])),
                (Form::RegMem, 32) => Some(condition!(code, conditional_move[u32, Mem])),
                (Form::RegMem, 64) => Some(condition!(code, conditional_move[u64, Mem])),
                _ => None,
            }
        }
        _ => None,
    }
}
