//! Where translated code has the processor's state.
//!
//! RBP points at the middle of [`Cpu::registers`], so that all of them are within reach of a short
//! displacement. RAX, RCX and RDX are free for use inside an instruction. R15 holds the number of
//! instructions from the start of the block to where the code must leave.

use std::mem::{offset_of, size_of};

use super::assembler::{Memory, Place, Width, register::*};
use super::context::Context;
use crate::cpu::{Cpu, flags::Flags, op, segment::Segment};

/// The register that points at the processor.
pub(super) const PROCESSOR: u8 = RBP;
/// The register that counts.
pub(super) const REMAINING: u8 = R15;
/// The register that RBP points at.
const MIDDLE: usize = 16;
/// What RBP is above the address of the processor.
pub(super) const BIAS: i32 = (offset_of!(Cpu, registers) + MIDDLE * 8) as i32;

/// The host register of each guest register that has one.
pub(super) const HOST: [Option<u8>; 16] = [
    Some(RBX),
    Some(RSI),
    Some(RDI),
    Some(R8),
    Some(R9),
    Some(R10),
    Some(R11),
    Some(R12),
    None,
    None,
    None,
    None,
    Some(R13),
    Some(R14),
    None,
    None,
];
/// The host registers of RSP and RBP.
pub(super) const STACK_POINTER: u8 = R9;
pub(super) const FRAME_POINTER: u8 = R10;
/// The host register of RAX.
pub(super) const ACCUMULATOR: u8 = RBX;

/// A field of the processor by its offset.
const fn field(offset: usize) -> Memory {
    Memory {
        base: Some(PROCESSOR),
        index: None,
        displacement: offset as i32 - BIAS,
    }
}

/// The element of [`Cpu::registers`] of that number.
pub(super) const fn home(number: u8) -> Memory {
    field(offset_of!(Cpu, registers) + (number & 31) as usize * 8)
}

/// While a block runs, RIP at its start.
pub(super) const RIP: Memory = home(op::RIP);
pub(super) const FLAGS: Memory = field(offset_of!(Cpu, flags) + Flags::PACKED_OFFSET);
pub(super) const INSTRUCTIONS: Memory = field(offset_of!(Cpu, instructions));

/// A field of the context.
macro_rules! context {
    ($($name:ident: $field:ident;)*) => {
        $(pub(super) const $name: Memory =
            field(offset_of!(Cpu, translated) + offset_of!(Context, $field));)*
    };
}

context! {
    ATTENTION: attention;
    END: end;
    CALL_REMAINING: remaining;
    FETCH_KEY: fetch_key;
    ENTRIES: entries;
    TAG: tag;
    RAM: ram;
    JUMPS: jumps;
    SPARE: spare;
    VECTORS_UNUSABLE: vectors_unusable;
    PAUSE_WATCHED: pause_watched;
}

/// The base of segment `number`.
pub(super) const fn segment_base(number: u8) -> Memory {
    field(
        offset_of!(Cpu, segments)
            + (number & 7) as usize * size_of::<Segment>()
            + offset_of!(Segment, base),
    )
}

/// The XMM register of that number.
pub(super) const fn vector(number: u8) -> Memory {
    field(offset_of!(Cpu, xmm) + (number & 15) as usize * 16)
}

/// The host register of a guest register, if it has one.
pub(super) fn host(number: u8) -> Option<u8> {
    HOST.get(number as usize).copied().flatten()
}

/// Where a guest register of 16 bits or more is.
pub(super) fn place(number: u8) -> Place {
    match host(number) {
        Some(register) => register.into(),
        None => home(number).into(),
    }
}

/// Whether an operand of that width and number is AH, CH, DH or BH.
pub(super) fn is_high_byte(number: u8, width: Width) -> bool {
    width == Width::Byte && number >= 16
}
