//! A decoded instruction as the engine executes it.

use iced_x86::Code;

use super::{Cpu, raise::Raised};

/// What carries out one instruction. RIP is already that of the next instruction; after `Err` it is
/// set back to the start of this one.
pub type Execute = fn(&mut Cpu, &Op) -> Result<(), Raised>;

/// Index into [`Cpu::registers`] of a register that is always 0: "no base", "no index".
pub const NO_REGISTER: u8 = 16;
/// Index into [`Cpu::registers`] of RIP.
pub const RIP: u8 = 17;
/// A segment number for operands whose segment base is 0 and has no limit: CS, DS and ES in
/// 64-bit mode.
pub const FLAT: u8 = 6;
/// The same for SS in 64-bit mode, whose faults are #SS.
pub const FLAT_STACK: u8 = 7;

/// Attribute bit: a REP (or REPE) prefix.
pub const REP: u8 = 1 << 0;
/// Attribute bit: a REPNE prefix.
pub const REPNE: u8 = 1 << 1;
/// Attribute bit: a LOCK prefix, or XCHG with memory.
pub const LOCK: u8 = 1 << 2;
/// Attribute bit: one of the operands is in memory.
pub const MEMORY: u8 = 1 << 3;
/// Attribute bits 6:5: operand size by prefixes and mode, 0 for 16 bits, 1 for 32, 2 for 64.
pub const OPERAND_SIZE_SHIFT: u8 = 5;

/// One instruction, decoded. 32 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What carries it out.
    pub execute: Execute,
    /// The immediate, sign-extended; the offset of a near branch; the address of MOV moffs; the opcode
    /// that an x87 instruction leaves as the last one.
    pub immediate: u64,
    /// Which instruction it is, for the translator.
    pub code: Code,
    /// Displacement of the memory operand, sign-extended; RIP-relative ones use base [`RIP`].
    pub displacement: i32,
    /// Base register or [`NO_REGISTER`] or [`RIP`].
    pub base: u8,
    /// Index register or [`NO_REGISTER`].
    pub index: u8,
    /// Scale as a shift count, 0 to 3.
    pub scale: u8,
    /// Segment of the memory operand, 0 to 5 or [`FLAT`].
    pub segment: u8,
    /// First register operand in Intel's order. 8-bit: 0..=15 low bytes, 16..=19 AH, CH, DH, BH.
    pub reg: u8,
    /// Second register operand.
    pub rm: u8,
    /// Length in bytes, 1 to 15.
    pub length: u8,
    /// [`REP`], [`REPNE`], [`LOCK`], [`MEMORY`] and the operand size.
    pub attributes: u8,
    /// Third register operand, second immediate, or condition code.
    pub extra: u8,
    /// 64 minus the address size in bits: 0, 32 or 48.
    pub address_shift: u8,
}

impl Op {
    /// Address size in bits: 16, 32 or 64.
    #[inline(always)]
    pub fn address_bits(&self) -> u32 {
        64 - u32::from(self.address_shift & 63)
    }

    /// Truncates an offset to the address size.
    #[inline(always)]
    pub fn truncate(&self, offset: u64) -> u64 {
        let shift = self.address_shift & 63;
        offset << shift >> shift
    }

    /// Operand size in bits: 16, 32 or 64.
    #[inline(always)]
    pub fn operand_bits(&self) -> u32 {
        16 << ((self.attributes >> OPERAND_SIZE_SHIFT) & 3)
    }

    /// Whether `attribute` is set.
    #[inline(always)]
    pub fn has(&self, attribute: u8) -> bool {
        self.attributes & attribute != 0
    }
}

const _: () = assert!(size_of::<Op>() == 32);
