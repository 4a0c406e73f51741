//! The instructions, a file per family. Each family says which function carries out an instruction.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

use super::{
    Cpu,
    op::{self, Execute, Op},
    raise::Raised,
};
use crate::trace::Unimplemented;

/// A placeholder operation that raises #UD.
pub const INVALID: Op = Op {
    execute: invalid_opcode,
    immediate: 0,
    displacement: 0,
    base: op::NO_REGISTER,
    index: op::NO_REGISTER,
    scale: 0,
    segment: op::FLAT,
    reg: 0,
    rm: 0,
    length: 1,
    attributes: 0,
    extra: 0,
};

/// Bytes that are no instruction: #UD.
pub fn invalid_opcode(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    Err(cpu.invalid_opcode())
}

/// An instruction that exists and that this machine does not execute: #UD for the guest, and a
/// report for the host.
pub fn not_implemented(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.report_unimplemented(op);
    Err(cpu.invalid_opcode())
}

/// The function that carries out `instruction` in `bits`-bit code.
pub fn select(instruction: &Instruction, bits: u32) -> Execute {
    let _ = bits;
    if instruction.mnemonic() == Mnemonic::Ud2 {
        return invalid_opcode;
    }
    not_implemented
}

/// Whether control may go elsewhere after `instruction`. Instructions that change the mode or may
/// unmask an event end their block themselves, by [`Cpu::look_at_events`].
pub fn ends_block(instruction: &Instruction) -> bool {
    instruction.flow_control() != FlowControl::Next
}

/// Operand size in bits by prefixes and mode, for instructions whose operands do not show it
/// (near branches, PUSH, IRET, string moves).
pub fn operand_size(instruction: &Instruction, bits: u32) -> u32 {
    use OpCodeOperandKind as K;
    let _ = K::None;
    match instruction.code() {
        Code::INVALID => bits,
        code => match code.op_code().operand_size() {
            0 => bits.min(32),
            size => size,
        },
    }
}

/// Address size in bits of an instruction without an explicit memory operand (string operations
/// have one; LOOP and JCXZ show it in their opcode).
pub fn implicit_address_size(instruction: &Instruction, bits: u32) -> u32 {
    match instruction.code().op_code().address_size() {
        0 => bits,
        size => size,
    }
}

impl Cpu {
    #[cold]
    fn report_unimplemented(&mut self, op: &Op) {
        let mut bytes = [0; 15];
        let length = op.length.min(15);
        for (i, byte) in bytes.iter_mut().enumerate().take(length as usize) {
            let linear = self.segments[super::segment::register::CS as usize]
                .base
                .wrapping_add(self.instruction_start)
                .wrapping_add(i as u64);
            // The instruction was just fetched, so reading it again does not fail; if it does, the
            // report shows zeros.
            if let Ok(value) = self.read_system::<u8>(linear) {
                *byte = value;
            }
        }
        let report = Unimplemented {
            bytes,
            length,
            address: self.instruction_start,
            bits: self.code_bits(),
            processor: self.index,
        };
        self.platform.report_unimplemented(report);
    }
}

const _: fn(&Instruction) -> (OpKind, Register) = |i| (i.op_kind(0), i.op_register(0));
