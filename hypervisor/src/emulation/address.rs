//! The address that an instruction's memory operand names (SDM volume 1, 3.7.5 Specifying an offset).

use super::Emulator;
use super::address_space::Mode;
use super::device::Devices;
use super::native::mask;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use arch::segment::register;
use iced_x86::{CodeSize, Instruction, OpKind, Register};

/// The number of a segment register.
pub(super) const fn segment_number(segment: Register) -> u8 {
    match segment {
        Register::ES => register::ES,
        Register::CS => register::CS,
        Register::SS => register::SS,
        Register::FS => register::FS,
        Register::GS => register::GS,
        _ => register::DS,
    }
}

/// What the instruction's address size leaves of an offset.
pub(super) fn address_mask(instruction: &Instruction) -> u64 {
    let of_register = |register: Register| match register {
        Register::None => None,
        register => Some(register.size() as u8),
    };
    let of_strings = (0..instruction.op_count()).find_map(|i| match instruction.op_kind(i) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    });
    let by_default = match instruction.code_size() {
        CodeSize::Code16 => 2,
        CodeSize::Code32 => 4,
        _ => 8,
    };
    mask(
        of_strings
            .or_else(|| of_register(instruction.memory_base()))
            .or_else(|| of_register(instruction.memory_index()))
            .unwrap_or(match instruction.memory_displ_size() {
                size @ (2 | 4 | 8) => size as u8,
                _ => by_default,
            }),
    )
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V>> Emulator<'_, V, F, D> {
    /// The segment register, by number, and the offset in it of memory operand `operand`.
    pub(super) fn address(&self, instruction: &Instruction, operand: u32) -> (u8, u64) {
        let offset = instruction.virtual_address(operand, 0, |register, _, _| {
            Some(if register.is_segment_register() {
                0
            } else {
                self.registers.get(register)
            })
        });
        let segment = match instruction.op_kind(operand) {
            // No prefix overrides it.
            OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => register::ES,
            _ => self.segment(instruction),
        };
        (segment, offset.unwrap_or(0))
    }

    /// The segment register of a memory operand that a prefix may override.
    pub(super) fn segment(&self, instruction: &Instruction) -> u8 {
        match (self.space.mode, instruction.segment_prefix()) {
            (Mode::Bits64, Register::FS) => register::FS,
            (Mode::Bits64, Register::GS) => register::GS,
            // SDM volume 1, 3.3.7.1: the other prefixes are ignored, and an address that begins with RSP or
            // RBP is one of the stack.
            (Mode::Bits64, _) => match instruction.memory_base() {
                Register::RSP | Register::ESP | Register::RBP | Register::EBP => register::SS,
                _ => register::DS,
            },
            _ => segment_number(instruction.memory_segment()),
        }
    }
}
