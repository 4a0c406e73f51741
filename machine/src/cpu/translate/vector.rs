//! Moves of XMM registers and their integer instructions that look at no control register but those that
//! say whether they may be used. The guest's XMM registers stay in the processor's state; the host's
//! instructions work on XMM0 and XMM1.

use iced_x86::Code;

use super::assembler::{Memory, Place, Width, register::*};
use super::block::Translation;
use super::memory::Use;
use super::state;
use crate::cpu::op::{MEMORY, Op};

const FIRST: u8 = 0;
const SECOND: u8 = 1;
/// Operand-size prefix, which selects the instructions on XMM registers.
const PACKED: Option<u8> = Some(0x66);
const LOAD: u8 = 0x10;
const STORE: u8 = 0x11;
const BYTES: u8 = 16;
const NOT_ZERO: u8 = 5;

/// What the translator makes of an instruction on XMM registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vector {
    /// A move of 16 bytes to a register, from memory that must be aligned or need not.
    Load { aligned: bool },
    /// A move of 16 bytes from a register.
    Store { aligned: bool },
    /// A move of the low bytes of a register or of memory, the rest cleared.
    LoadLow(Width),
    /// A move of the low bytes to a register, the rest of it cleared, or to memory.
    StoreLow(Width),
    /// MOVD and MOVQ from a general register or memory.
    FromGeneral(Width),
    /// MOVD and MOVQ to a general register or memory.
    ToGeneral(Width),
    /// An operation of a register and a register or aligned memory, by prefix and opcode.
    Packed(Option<u8>, u8),
    /// The same with an immediate byte.
    PackedImmediate(u8),
    /// A shift of a register by an immediate byte, by opcode and extension.
    Shift(u8, u8),
    /// PMOVMSKB.
    Mask,
}

/// What to make of an instruction, if it is one of them.
pub(super) fn classify(code: Code) -> Option<Vector> {
    let packed = |opcode| Vector::Packed(PACKED, opcode);
    Some(match code {
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            Vector::Load { aligned: false }
        }
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            Vector::Load { aligned: true }
        }
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            Vector::Store { aligned: false }
        }
        Code::Movaps_xmmm128_xmm | Code::Movapd_xmmm128_xmm | Code::Movdqa_xmmm128_xmm => {
            Vector::Store { aligned: true }
        }
        Code::Movq_xmm_xmmm64 => Vector::LoadLow(Width::Quad),
        Code::Movq_xmmm64_xmm => Vector::StoreLow(Width::Quad),
        Code::Movd_xmm_rm32 => Vector::FromGeneral(Width::Double),
        Code::Movq_xmm_rm64 => Vector::FromGeneral(Width::Quad),
        Code::Movd_rm32_xmm => Vector::ToGeneral(Width::Double),
        Code::Movq_rm64_xmm => Vector::ToGeneral(Width::Quad),
        Code::Xorps_xmm_xmmm128 => Vector::Packed(None, 0x57),
        Code::Andps_xmm_xmmm128 => Vector::Packed(None, 0x54),
        Code::Orps_xmm_xmmm128 => Vector::Packed(None, 0x56),
        Code::Xorpd_xmm_xmmm128 => packed(0x57),
        Code::Andpd_xmm_xmmm128 => packed(0x54),
        Code::Orpd_xmm_xmmm128 => packed(0x56),
        Code::Pxor_xmm_xmmm128 => packed(0xef),
        Code::Por_xmm_xmmm128 => packed(0xeb),
        Code::Pand_xmm_xmmm128 => packed(0xdb),
        Code::Pandn_xmm_xmmm128 => packed(0xdf),
        Code::Paddb_xmm_xmmm128 => packed(0xfc),
        Code::Paddw_xmm_xmmm128 => packed(0xfd),
        Code::Paddd_xmm_xmmm128 => packed(0xfe),
        Code::Paddq_xmm_xmmm128 => packed(0xd4),
        Code::Psubb_xmm_xmmm128 => packed(0xf8),
        Code::Psubw_xmm_xmmm128 => packed(0xf9),
        Code::Psubd_xmm_xmmm128 => packed(0xfa),
        Code::Psubq_xmm_xmmm128 => packed(0xfb),
        Code::Pcmpeqb_xmm_xmmm128 => packed(0x74),
        Code::Pcmpeqw_xmm_xmmm128 => packed(0x75),
        Code::Pcmpeqd_xmm_xmmm128 => packed(0x76),
        Code::Pcmpgtb_xmm_xmmm128 => packed(0x64),
        Code::Pminub_xmm_xmmm128 => packed(0xda),
        Code::Pmaxub_xmm_xmmm128 => packed(0xde),
        Code::Pmuludq_xmm_xmmm128 => packed(0xf4),
        Code::Punpcklbw_xmm_xmmm128 => packed(0x60),
        Code::Punpcklwd_xmm_xmmm128 => packed(0x61),
        Code::Punpckldq_xmm_xmmm128 => packed(0x62),
        Code::Punpcklqdq_xmm_xmmm128 => packed(0x6c),
        Code::Punpckhbw_xmm_xmmm128 => packed(0x68),
        Code::Punpckhwd_xmm_xmmm128 => packed(0x69),
        Code::Punpckhdq_xmm_xmmm128 => packed(0x6a),
        Code::Punpckhqdq_xmm_xmmm128 => packed(0x6d),
        Code::Pshufd_xmm_xmmm128_imm8 => Vector::PackedImmediate(0x70),
        Code::Psrlw_xmm_imm8 => Vector::Shift(0x71, 2),
        Code::Psllw_xmm_imm8 => Vector::Shift(0x71, 6),
        Code::Psrld_xmm_imm8 => Vector::Shift(0x72, 2),
        Code::Pslld_xmm_imm8 => Vector::Shift(0x72, 6),
        Code::Psrlq_xmm_imm8 => Vector::Shift(0x73, 2),
        Code::Psrldq_xmm_imm8 => Vector::Shift(0x73, 3),
        Code::Psllq_xmm_imm8 => Vector::Shift(0x73, 6),
        Code::Pslldq_xmm_imm8 => Vector::Shift(0x73, 7),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => Vector::Mask,
        _ => return None,
    })
}

impl Translation<'_> {
    pub(super) fn vector(&mut self, op: &Op, vector: Vector) {
        self.slow_if_set(state::VECTORS_UNUSABLE);
        match vector {
            Vector::Load { aligned } => {
                let from = self.vector_source(op, aligned);
                self.out.vector(None, LOAD, FIRST, from);
                self.keep(op.reg);
            }
            Vector::Store { aligned } if op.attributes & MEMORY != 0 => {
                let to = self.vector_memory(op, aligned, Use::Write);
                self.out
                    .vector(None, LOAD, FIRST, state::vector(op.reg).into());
                self.out.vector(None, STORE, FIRST, to.into());
            }
            Vector::Store { .. } => {
                self.out
                    .vector(None, LOAD, FIRST, state::vector(op.rm).into());
                self.keep(op.reg);
            }
            Vector::LoadLow(width) => {
                let from = if op.attributes & MEMORY != 0 {
                    self.operand(op, width, Use::Read)
                } else {
                    state::vector(op.rm)
                };
                self.out.load(width, RCX, from);
                self.keep_low(op.reg);
            }
            Vector::StoreLow(width) => {
                if op.attributes & MEMORY != 0 {
                    self.store_low(op, width);
                } else {
                    self.out.load(width, RCX, state::vector(op.rm));
                    self.keep_low(op.reg);
                }
            }
            Vector::FromGeneral(width) => {
                if op.attributes & MEMORY != 0 {
                    let from = self.operand(op, width, Use::Read);
                    self.out.load(width, RCX, from);
                } else {
                    let from = self.source(op.rm, width);
                    self.out.load(width, RCX, from);
                }
                self.keep_low(op.reg);
            }
            Vector::ToGeneral(width) => {
                if op.attributes & MEMORY != 0 {
                    self.store_low(op, width);
                } else {
                    self.out.load(width, RCX, state::vector(op.rm));
                    self.assign(op.reg, width, RCX);
                }
            }
            Vector::Packed(prefix, opcode) => {
                self.both(op);
                self.out.vector(prefix, opcode, FIRST, SECOND.into());
                self.keep(op.reg);
            }
            Vector::PackedImmediate(opcode) => {
                self.both(op);
                self.out.vector(PACKED, opcode, FIRST, SECOND.into());
                self.out.byte(op.immediate as u8);
                self.keep(op.reg);
            }
            Vector::Shift(opcode, extension) => {
                self.out
                    .vector(None, LOAD, FIRST, state::vector(op.reg).into());
                self.out.vector(PACKED, opcode, extension, FIRST.into());
                self.out.byte(op.immediate as u8);
                self.keep(op.reg);
            }
            Vector::Mask => {
                self.out
                    .vector(None, LOAD, FIRST, state::vector(op.rm).into());
                self.out.vector(PACKED, 0xd7, RCX, FIRST.into());
                self.assign(op.reg, Width::Double, RCX);
            }
        }
    }

    /// The target in XMM0, the source in XMM1.
    fn both(&mut self, op: &Op) {
        let from = self.vector_source(op, true);
        self.out.vector(None, LOAD, SECOND, from);
        self.out
            .vector(None, LOAD, FIRST, state::vector(op.reg).into());
    }

    fn vector_source(&mut self, op: &Op, aligned: bool) -> Place {
        if op.attributes & MEMORY != 0 {
            self.vector_memory(op, aligned, Use::Read).into()
        } else {
            state::vector(op.rm).into()
        }
    }

    /// The host's address of 16 bytes in RAX. Where they are not aligned and must be, the interpreter
    /// says what follows.
    fn vector_memory(&mut self, op: &Op, aligned: bool, access: Use) -> Memory {
        let place = self.operand_of(op, BYTES, access);
        if aligned {
            self.out
                .test_immediate(Width::Byte, RAX, i32::from(BYTES) - 1);
            self.slow_if(NOT_ZERO);
        }
        place
    }

    fn store_low(&mut self, op: &Op, width: Width) {
        let to = self.operand(op, width, Use::Write);
        self.out.load(width, RCX, state::vector(op.reg));
        self.out.store(width, to, RCX);
    }

    /// XMM0 becomes the register's value.
    fn keep(&mut self, number: u8) {
        self.out
            .vector(None, STORE, FIRST, state::vector(number).into());
    }

    /// RCX becomes the register's value, zero-extended.
    fn keep_low(&mut self, number: u8) {
        let low = state::vector(number);
        let high = Memory {
            displacement: low.displacement + 8,
            ..low
        };
        self.out.store(Width::Quad, low, RCX);
        self.out.store_immediate(Width::Quad, high, 0);
    }
}
