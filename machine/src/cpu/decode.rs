//! Decoding: from bytes to an [`Op`].

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, MemorySize, OpKind, Register};

use super::{
    execute,
    op::{self, Op},
    segment::register,
};

/// The longest instruction in bytes.
pub const LONGEST: usize = 15;

/// The outcome of decoding at one place.
#[derive(Debug)]
pub enum Decoded {
    /// An instruction, and whether the block must end after it because control does not simply go on.
    Op {
        /// The instruction.
        op: Op,
        /// Whether control may go elsewhere than to the next instruction.
        ends_block: bool,
    },
    /// The bytes end before the instruction does.
    NeedsMoreBytes,
}

/// The kind and place of each operand, as the instruction families select on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No explicit operand.
    None,
    /// One register: `reg`.
    Reg,
    /// One memory operand.
    Mem,
    /// One immediate or branch offset.
    Imm,
    /// Register `reg`, register `rm`.
    RegReg,
    /// Register `reg`, memory.
    RegMem,
    /// Memory, register `reg`.
    MemReg,
    /// Register `reg`, immediate.
    RegImm,
    /// Memory, immediate.
    MemImm,
    /// Register `reg`, register `rm`, immediate.
    RegRegImm,
    /// Register `reg`, memory, immediate.
    RegMemImm,
    /// Memory, register `reg`, immediate.
    MemRegImm,
    /// Register `reg`, register `rm`, register `extra`.
    RegRegReg,
    /// Register `reg`, memory, register `extra`.
    RegMemReg,
    /// Memory, register `reg`, register `extra`.
    MemRegReg,
    /// Anything else.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reg,
    Mem,
    Imm,
}

fn kind(kind: OpKind) -> Kind {
    match kind {
        OpKind::Register => Kind::Reg,
        OpKind::Memory
        | OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => Kind::Mem,
        _ => Kind::Imm,
    }
}

/// The form of an instruction's operands.
pub fn form(instruction: &Instruction) -> Form {
    let at = |i| kind(instruction.op_kind(i));
    match instruction.op_count() {
        0 => Form::None,
        1 => match at(0) {
            Kind::Reg => Form::Reg,
            Kind::Mem => Form::Mem,
            Kind::Imm => Form::Imm,
        },
        2 => match (at(0), at(1)) {
            (Kind::Reg, Kind::Reg) => Form::RegReg,
            (Kind::Reg, Kind::Mem) => Form::RegMem,
            (Kind::Mem, Kind::Reg) => Form::MemReg,
            (Kind::Reg, Kind::Imm) => Form::RegImm,
            (Kind::Mem, Kind::Imm) => Form::MemImm,
            _ => Form::Other,
        },
        3 => match (at(0), at(1), at(2)) {
            (Kind::Reg, Kind::Reg, Kind::Imm) => Form::RegRegImm,
            (Kind::Reg, Kind::Mem, Kind::Imm) => Form::RegMemImm,
            (Kind::Mem, Kind::Reg, Kind::Imm) => Form::MemRegImm,
            (Kind::Reg, Kind::Reg, Kind::Reg) => Form::RegRegReg,
            (Kind::Reg, Kind::Mem, Kind::Reg) => Form::RegMemReg,
            (Kind::Mem, Kind::Reg, Kind::Reg) => Form::MemRegReg,
            _ => Form::Other,
        },
        _ => Form::Other,
    }
}

/// Width of operand `index` in bits; 0 if it has none (LEA's memory operand).
pub fn operand_bits(instruction: &Instruction, index: u32) -> u32 {
    match instruction.op_kind(index) {
        OpKind::Register => instruction.op_register(index).size() as u32 * 8,
        _ if kind(instruction.op_kind(index)) == Kind::Mem => {
            if instruction.memory_size() == MemorySize::Unknown {
                0
            } else {
                instruction.memory_size().size() as u32 * 8
            }
        }
        OpKind::Immediate8 => 8,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 16,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 64,
        _ => 32,
    }
}

/// Number by which [`Op`] names a register of any class.
fn register_number(register: Register) -> u8 {
    match register {
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        Register::None => op::NO_REGISTER,
        Register::RIP | Register::EIP => op::RIP,
        _ => register.number() as u8,
    }
}

/// Decodes one instruction of `bits`-bit code from `bytes`.
pub fn decode(bytes: &[u8], bits: u32) -> Decoded {
    // A base in the middle of the address space keeps relative operands from wrapping, whatever
    // their sign; they are turned back into distances below.
    let base = if bits == 16 { 0 } else { 0x4000_0000 };
    let options = DecoderOptions::NONE;
    let mut decoder = Decoder::with_ip(bits, bytes, base, options);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() < LONGEST {
        return Decoded::NeedsMoreBytes;
    }
    let length = instruction.len().clamp(1, LONGEST) as u8;
    let mut lowered = Op {
        execute: execute::invalid_opcode,
        immediate: 0,
        displacement: 0,
        base: op::NO_REGISTER,
        index: op::NO_REGISTER,
        scale: 0,
        segment: op::FLAT,
        reg: 0,
        rm: 0,
        length,
        attributes: 0,
        extra: 0,
    };
    if instruction.is_invalid() {
        return Decoded::Op {
            op: lowered,
            ends_block: true,
        };
    }
    lower_operands(&instruction, bits, base, &mut lowered);
    lowered.execute = execute::select(&instruction, bits);
    Decoded::Op {
        op: lowered,
        ends_block: execute::ends_block(&instruction),
    }
}

fn size_code(bits: u32) -> u8 {
    match bits {
        16 => 0,
        32 => 1,
        _ => 2,
    }
}

fn lower_operands(instruction: &Instruction, bits: u32, base: u64, lowered: &mut Op) {
    let mut registers = 0;
    let mut immediates = 0;
    let next = base.wrapping_add(u64::from(lowered.length));
    for i in 0..instruction.op_count() {
        match instruction.op_kind(i) {
            OpKind::Register => {
                let number = register_number(instruction.op_register(i));
                match registers {
                    0 => lowered.reg = number,
                    1 => lowered.rm = number,
                    _ => lowered.extra = number,
                }
                registers += 1;
            }
            OpKind::NearBranch16 => {
                lowered.immediate =
                    instruction.near_branch16().wrapping_sub(next as u16) as i16 as i64 as u64;
            }
            OpKind::NearBranch32 => {
                lowered.immediate =
                    instruction.near_branch32().wrapping_sub(next as u32) as i32 as i64 as u64;
            }
            OpKind::NearBranch64 => {
                lowered.immediate = instruction.near_branch64().wrapping_sub(next);
            }
            OpKind::FarBranch16 => {
                lowered.immediate = u64::from(instruction.far_branch16())
                    | u64::from(instruction.far_branch_selector()) << 32;
            }
            OpKind::FarBranch32 => {
                lowered.immediate = u64::from(instruction.far_branch32())
                    | u64::from(instruction.far_branch_selector()) << 32;
            }
            _ if kind(instruction.op_kind(i)) == Kind::Mem => {
                lower_memory(instruction, bits, next, i, lowered);
            }
            _ => {
                if immediates == 0 {
                    lowered.immediate = instruction.immediate(i);
                } else {
                    lowered.extra = instruction.immediate(i) as u8;
                }
                immediates += 1;
            }
        }
    }
    let address_bits = address_bits(instruction, bits);
    lowered.attributes |= size_code(address_bits) << op::ADDRESS_SIZE_SHIFT;
    lowered.attributes |=
        size_code(execute::operand_size(instruction, bits)) << op::OPERAND_SIZE_SHIFT;
    if instruction.has_rep_prefix() {
        lowered.attributes |= op::REP;
    }
    if instruction.has_repne_prefix() {
        lowered.attributes |= op::REPNE;
    }
    let exchange_with_memory = instruction.mnemonic() == iced_x86::Mnemonic::Xchg
        && (0..instruction.op_count()).any(|i| kind(instruction.op_kind(i)) == Kind::Mem);
    if instruction.has_lock_prefix() || exchange_with_memory {
        lowered.attributes |= op::LOCK;
    }
}

fn lower_memory(instruction: &Instruction, bits: u32, next: u64, operand: u32, lowered: &mut Op) {
    // String operations: base is the index register; the handlers know the rest.
    match instruction.op_kind(operand) {
        OpKind::Memory => {}
        OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
            lowered.segment = segment_number(instruction.memory_segment(), bits);
            return;
        }
        OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
            lowered.base = 7;
            lowered.segment = segment_number(instruction.memory_segment(), bits);
            return;
        }
        _ => return,
    }
    lowered.segment = segment_number(instruction.memory_segment(), bits);
    lowered.base = register_number(instruction.memory_base());
    lowered.index = register_number(instruction.memory_index());
    lowered.scale = match instruction.memory_index_scale() {
        2 => 1,
        4 => 2,
        8 => 3,
        _ => 0,
    };
    let displacement = instruction.memory_displacement64();
    if instruction.is_ip_rel_memory_operand() {
        lowered.base = op::RIP;
        lowered.displacement = displacement.wrapping_sub(next) as i32;
    } else {
        lowered.displacement = displacement as i32;
        if instruction.memory_displ_size() == 8 {
            // MOV moffs with a 64-bit address.
            lowered.immediate = displacement;
        }
    }
}

/// Address size in bits: that of a memory operand's registers, or by prefix and mode.
fn address_bits(instruction: &Instruction, bits: u32) -> u32 {
    for i in 0..instruction.op_count() {
        match instruction.op_kind(i) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 32,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => return 64,
            OpKind::Memory => {
                let register = match instruction.memory_base() {
                    Register::None => instruction.memory_index(),
                    base => base,
                };
                if register != Register::None {
                    return register.size() as u32 * 8;
                }
                return match instruction.memory_displ_size() {
                    2 => 16,
                    8 => 64,
                    _ if bits == 64 && !has_address_prefix(instruction) => 64,
                    _ => 32,
                };
            }
            _ => {}
        }
    }
    execute::implicit_address_size(instruction, bits)
}

fn has_address_prefix(instruction: &Instruction) -> bool {
    // Without registers iced gives a 4-byte displacement for both sizes; it sign-extends only for
    // 64-bit addressing.
    instruction.memory_displ_size() == 4
        && instruction.memory_displacement64() >> 32 == 0
        && instruction.memory_displacement64() >> 31 != 0
}

fn segment_number(segment: Register, bits: u32) -> u8 {
    match segment {
        Register::FS => register::FS,
        Register::GS => register::GS,
        Register::SS if bits == 64 => op::FLAT_STACK,
        _ if bits == 64 => op::FLAT,
        Register::ES => register::ES,
        Register::CS => register::CS,
        Register::SS => register::SS,
        _ => register::DS,
    }
}
