//! Decoding: from bytes to an [`Op`].

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, MemorySize, OpKind, Register,
};

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
    /// Register `reg`, memory, register `rm`.
    RegMemReg,
    /// Register `reg`, register `rm`, memory.
    RegRegMem,
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
            (Kind::Reg, Kind::Reg, Kind::Mem) => Form::RegRegMem,
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
        // iced numbers the byte registers one by one, AH to BH and SPL to DIL included.
        _ if register.is_gpr() => register.full_register().number() as u8,
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
        code: instruction.code(),
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
        address_shift: 0,
    };
    if instruction.is_invalid() {
        return Decoded::Op {
            op: lowered,
            ends_block: true,
        };
    }
    lower_operands(&instruction, bits, base, &mut lowered);
    let (prefixes, opcode) = Prefixes::scan(bytes, bits);
    if let [escape @ 0xd8..=0xdf, second, ..] = opcode {
        // SDM volume 1, 8.1.9 Last instruction opcode
        lowered.immediate = u64::from(escape & 7) << 8 | u64::from(*second);
    }
    lowered.address_shift = 64 - prefixes.address_bits(bits) as u8;
    lowered.attributes |=
        size_code(prefixes.operand_bits(&instruction, bits)) << op::OPERAND_SIZE_SHIFT;
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
    if instruction.has_rep_prefix() {
        lowered.attributes |= op::REP;
    }
    if instruction.has_repne_prefix() {
        lowered.attributes |= op::REPNE;
    }
    if matches!(
        instruction.code(),
        Code::Monitorw | Code::Monitord | Code::Monitorq
    ) {
        // Its operand at RAX is none of those that iced counts.
        lowered.base = 0;
        lowered.segment = segment_number(instruction, instruction.segment_prefix(), bits);
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
            lowered.segment = segment_number(instruction, instruction.memory_segment(), bits);
            return;
        }
        OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
            lowered.base = 7;
            lowered.segment = segment_number(instruction, instruction.memory_segment(), bits);
            return;
        }
        _ => return,
    }
    lowered.attributes |= op::MEMORY;
    lowered.segment = segment_number(instruction, instruction.memory_segment(), bits);
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
        if is_memory_offset(instruction.code()) {
            // Up to 64 bits, too many for `displacement`.
            lowered.immediate = displacement;
        }
    }
}

/// MOV with an absolute offset as its operand, opcodes A0 to A3.
pub fn is_memory_offset(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

/// The prefixes that change sizes (SDM volume 2, 2.1.1 Instruction prefixes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    rex_w: bool,
}

impl Prefixes {
    /// The prefixes, and the bytes behind them.
    fn scan(bytes: &[u8], bits: u32) -> (Self, &[u8]) {
        let mut found = Self::default();
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            match byte {
                0x66 => found.operand_size = true,
                0x67 => found.address_size = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
                // REX counts only right before the opcode (SDM volume 2, 2.2.1).
                0x40..=0x4f if bits == 64 => {
                    found.rex_w = byte & 8 != 0;
                    rest = behind;
                    continue;
                }
                _ => break,
            }
            found.rex_w = false;
            rest = behind;
        }
        (found, rest)
    }

    fn address_bits(self, bits: u32) -> u32 {
        match (bits, self.address_size) {
            (64, false) => 64,
            (64, true) | (32, false) | (16, true) => 32,
            _ => 16,
        }
    }

    /// SDM volume 1, 3.6.1 Operand size and address size in 64-bit mode.
    fn operand_bits(self, instruction: &Instruction, bits: u32) -> u32 {
        if bits == 64 {
            let information = instruction.op_code();
            let forced = information.force_op_size64() || information.intel_force_op_size64();
            return if self.rex_w || forced {
                64
            } else if self.operand_size {
                16
            } else if information.default_op_size64() {
                64
            } else {
                32
            };
        }
        if (bits == 32) != self.operand_size {
            32
        } else {
            16
        }
    }
}

/// The segment of a memory operand that iced says is in `segment`.
fn segment_number(instruction: &Instruction, segment: Register, bits: u32) -> u8 {
    match segment {
        Register::FS => register::FS,
        Register::GS => register::GS,
        // SDM volume 1, 3.3.7.1 and volume 2, 2.1.1: in 64-bit mode the other prefixes are ignored, and
        // an address that begins with RSP or RBP is one of the stack.
        _ if bits == 64 => {
            if matches!(
                instruction.memory_base(),
                Register::RSP | Register::ESP | Register::RBP | Register::EBP
            ) {
                op::FLAT_STACK
            } else {
                op::FLAT
            }
        }
        Register::ES => register::ES,
        Register::CS => register::CS,
        Register::SS => register::SS,
        _ => register::DS,
    }
}
