//! Near branches (SDM volume 1, 7.3.8.1 Unconditional and 7.3.8.2 Conditional transfer).

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{
    condition,
    place::{Imm, Integer, Mem, Reg, Source, condition},
};
use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    register::{Operand, number::RCX},
    segment::register,
};
use crate::memory::Word;

/// Checks a branch target: canonical in 64-bit mode, the only one in which branches are 64 bits
/// wide, else inside CS. Gives RIP.
#[inline(always)]
fn target<T: Word>(cpu: &mut Cpu, rip: u64) -> Result<u64, Raised> {
    let rip = T::from_u64(rip).to_u64();
    let fine = if T::SIZE == 8 {
        Cpu::is_canonical(rip)
    } else {
        rip <= u64::from(cpu.segments[register::CS as usize].limit)
    };
    if fine {
        Ok(rip)
    } else {
        Err(cpu.general_protection(0))
    }
}

#[inline(always)]
fn relative(cpu: &Cpu, op: &Op) -> u64 {
    cpu.rip().wrapping_add(op.immediate)
}

#[inline(always)]
fn branch<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let rip = target::<T>(cpu, relative(cpu, op))?;
    cpu.set_rip(rip);
    Ok(())
}

fn jump_if<const CC: u8, T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if cpu.flags.condition(CC) {
        branch::<T>(cpu, op)?;
    }
    Ok(())
}

fn jump<T: Integer, S: Destination>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let to = S::rip::<T>(cpu, op)?;
    let rip = target::<T>(cpu, to)?;
    cpu.set_rip(rip);
    Ok(())
}

fn call<T: Integer, S: Destination>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let to = S::rip::<T>(cpu, op)?;
    let rip = target::<T>(cpu, to)?;
    cpu.push(T::from_u64(cpu.rip()))?;
    cpu.set_rip(rip);
    Ok(())
}

fn ret<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let to: T = cpu.peek(0)?;
    let rip = target::<T>(cpu, to.to_u64())?;
    // Without an immediate it is 0.
    let released = (T::SIZE as u64).wrapping_add(op.immediate);
    cpu.set_stack_top(cpu.stack_top().wrapping_add(released));
    cpu.set_rip(rip);
    Ok(())
}

/// Where a branch goes.
trait Destination {
    fn rip<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<u64, Raised>;
}

impl Destination for Imm {
    #[inline(always)]
    fn rip<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<u64, Raised> {
        Ok(relative(cpu, op))
    }
}

impl Destination for Reg {
    #[inline(always)]
    fn rip<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<u64, Raised> {
        Ok(T::register(cpu, op.reg).to_u64())
    }
}

impl Destination for Mem {
    #[inline(always)]
    fn rip<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<u64, Raised> {
        Ok(<Mem as Source>::get::<T>(cpu, op)?.to_u64())
    }
}

/// What LOOP asks besides the count.
trait LoopWhile {
    fn met(cpu: &Cpu) -> bool;
}

struct Always;
struct Equal;
struct NotEqual;

impl LoopWhile for Always {
    #[inline(always)]
    fn met(_cpu: &Cpu) -> bool {
        true
    }
}

impl LoopWhile for Equal {
    #[inline(always)]
    fn met(cpu: &Cpu) -> bool {
        cpu.flags.zf()
    }
}

impl LoopWhile for NotEqual {
    #[inline(always)]
    fn met(cpu: &Cpu) -> bool {
        !cpu.flags.zf()
    }
}

/// LOOPcc: `T` is the width of the branch; the count is as wide as addresses.
fn count_down<T: Integer, K: LoopWhile>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let count = op.truncate(cpu.registers[RCX].wrapping_sub(1));
    let rip = if count != 0 && K::met(cpu) {
        target::<T>(cpu, relative(cpu, op))?
    } else {
        cpu.rip()
    };
    match op.address_shift {
        0 => cpu.registers[RCX] = count,
        32 => u32::set_register(cpu, RCX as u8, count as u32),
        _ => u16::set_register(cpu, RCX as u8, count as u16),
    }
    cpu.set_rip(rip);
    Ok(())
}

fn jump_if_count_is_zero<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if op.truncate(cpu.registers[RCX]) == 0 {
        branch::<T>(cpu, op)?;
    }
    Ok(())
}

/// The width of a near branch: 64 bits in 64-bit mode, else by the operand size.
fn width_of(instruction: &Instruction, bits: u32) -> u32 {
    if bits == 64 {
        return 64;
    }
    match instruction.op_code().operand_size() {
        0 => bits,
        size => size,
    }
}

macro_rules! branch_width {
    ($bits:expr, $name:ident [$($generic:ty),*]) => {
        match $bits {
            16 => Some($name::<u16 $(, $generic)*> as Execute),
            32 => Some($name::<u32 $(, $generic)*> as Execute),
            _ => Some($name::<u64 $(, $generic)*> as Execute),
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, bits: u32) -> Option<Execute> {
    let width = width_of(instruction, bits);
    if instruction.is_jcc_short_or_near() {
        let code = condition::code(instruction)?;
        return Some(match width {
            16 => condition!(code, jump_if[u16]),
            32 => condition!(code, jump_if[u32]),
            _ => condition!(code, jump_if[u64]),
        });
    }
    let far = instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || (instruction.op_count() != 0
            && matches!(
                instruction.op_kind(0),
                OpKind::FarBranch16 | OpKind::FarBranch32
            ));
    match (instruction.mnemonic(), form) {
        (Mnemonic::Jmp | Mnemonic::Call, _) if far => None,
        (Mnemonic::Jmp, Form::Imm) => branch_width!(width, jump[Imm]),
        (Mnemonic::Jmp, Form::Reg) => branch_width!(width, jump[Reg]),
        (Mnemonic::Jmp, Form::Mem) => branch_width!(width, jump[Mem]),
        (Mnemonic::Call, Form::Imm) => branch_width!(width, call[Imm]),
        (Mnemonic::Call, Form::Reg) => branch_width!(width, call[Reg]),
        (Mnemonic::Call, Form::Mem) => branch_width!(width, call[Mem]),
        (Mnemonic::Ret, _) => branch_width!(width, ret[]),
        (Mnemonic::Loop, _) => branch_width!(width, count_down[Always]),
        (Mnemonic::Loope, _) => branch_width!(width, count_down[Equal]),
        (Mnemonic::Loopne, _) => branch_width!(width, count_down[NotEqual]),
        (Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz, _) => {
            branch_width!(width, jump_if_count_is_zero[])
        }
        _ => None,
    }
}
