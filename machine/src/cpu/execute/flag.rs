//! Instructions on flags alone (SDM volume 1, 7.3.14 Flag control), and BOUND.

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::place::Integer;
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
    register::Operand,
};

/// What becomes of a flag.
trait Change {
    fn of(flag: bool) -> bool;
}

struct Clear;
struct Set;
struct Complement;

impl Change for Clear {
    fn of(_flag: bool) -> bool {
        false
    }
}

impl Change for Set {
    fn of(_flag: bool) -> bool {
        true
    }
}

impl Change for Complement {
    fn of(flag: bool) -> bool {
        !flag
    }
}

fn carry<K: Change>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.flags = cpu.flags.with_cf(K::of(cpu.flags.cf()));
    Ok(())
}

fn direction<K: Change>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    cpu.system_flags &= !rflags::DF;
    if K::of(false) {
        cpu.system_flags |= rflags::DF;
    }
    Ok(())
}

fn load_ah(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let flags = cpu.flags.to_rflags() | rflags::RESERVED_1;
    u8::set_register(cpu, 16, flags as u8);
    Ok(())
}

fn store_ah(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    let value = u64::from(u8::register(cpu, 16));
    let overflow = cpu.flags.to_rflags() & rflags::OF;
    cpu.flags = Flags::from_rflags(value | overflow);
    Ok(())
}

/// CLAC and STAC (SDM volume 2): #UD above CPL 0.
fn access_control<K: Change>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.cpl != 0 {
        return Err(cpu.invalid_opcode());
    }
    cpu.system_flags &= !rflags::AC;
    if K::of(false) {
        cpu.system_flags |= rflags::AC;
    }
    cpu.refresh_privilege();
    Ok(())
}

/// BOUND: #BR unless the register is between the two words in memory.
fn bound<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let offset = cpu.effective_offset(op);
    let lower: T = cpu.read_at(op.segment, offset)?;
    let above = op.truncate(offset.wrapping_add(T::SIZE as u64));
    let upper: T = cpu.read_at(op.segment, above)?;
    let index = T::register(cpu, op.reg).to_i64();
    if index < lower.to_i64() || index > upper.to_i64() {
        return Err(cpu.fault(arch::exception::BOUND_RANGE, None));
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    match instruction.mnemonic() {
        Mnemonic::Clc => Some(carry::<Clear>),
        Mnemonic::Stc => Some(carry::<Set>),
        Mnemonic::Cmc => Some(carry::<Complement>),
        Mnemonic::Cld => Some(direction::<Clear>),
        Mnemonic::Std => Some(direction::<Set>),
        Mnemonic::Clac => Some(access_control::<Clear>),
        Mnemonic::Stac => Some(access_control::<Set>),
        Mnemonic::Lahf => Some(load_ah),
        Mnemonic::Sahf => Some(store_ah),
        Mnemonic::Bound => match operand_bits(instruction, 0) {
            16 => Some(bound::<u16>),
            _ => Some(bound::<u32>),
        },
        _ => None,
    }
}
