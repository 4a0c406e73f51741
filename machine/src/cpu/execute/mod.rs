//! The instructions, a file per family. Each family says which function carries out an instruction.

mod arithmetic;
mod bit;
mod bit_manipulation;
mod branch;
mod condition;
mod data;
mod decimal;
mod exchange;
mod far;
mod far_system_call;
mod flag;
mod hint;
mod interrupt;
mod io;
mod multiply;
pub mod place;
mod segment;
mod shift;
pub mod sse;
mod stack;
mod string;
mod system;
mod vmx;
mod x87;

use iced_x86::{Code, FlowControl, Instruction};

use super::{
    Cpu,
    decode::{self, Form},
    op::{self, Execute, Op},
    raise::Raised,
};
use crate::trace::{Owner, Unimplemented};

/// A placeholder operation that raises #UD.
pub const INVALID: Op = Op {
    execute: invalid_opcode,
    immediate: 0,
    code: Code::INVALID,
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
    address_shift: 0,
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

/// Says which function carries out an instruction, if the family has it.
type Family = fn(&Instruction, Form, u32) -> Option<Execute>;

/// The families, asked in this order.
const FAMILIES: &[Family] = &[
    arithmetic::select,
    shift::select,
    multiply::select,
    bit::select,
    bit_manipulation::select,
    data::select,
    exchange::select,
    condition::select,
    branch::select,
    stack::select,
    // Before the string instructions, two of which share their mnemonic with SSE2.
    sse::select,
    x87::select,
    string::select,
    flag::select,
    decimal::select,
    hint::select,
    vmx::select,
    segment::select,
    system::select,
    interrupt::select,
    far::select,
    far_system_call::select,
    io::select,
];

/// The function that carries out `instruction` in `bits`-bit code.
pub fn select(instruction: &Instruction, bits: u32) -> Execute {
    let form = decode::form(instruction);
    FAMILIES
        .iter()
        .find_map(|family| family(instruction, form, bits))
        .unwrap_or(not_implemented)
}

/// Whether control may go elsewhere after `instruction`. Instructions that change the mode or may
/// unmask an event end their block themselves, by [`Cpu::look_at_events`].
pub fn ends_block(instruction: &Instruction) -> bool {
    instruction.flow_control() != FlowControl::Next
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
            owner: if self.vmx.non_root {
                Owner::Guest
            } else {
                Owner::Machine
            },
        };
        self.platform.report_unimplemented(report);
    }
}
