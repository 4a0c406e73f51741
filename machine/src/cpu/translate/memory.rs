//! Memory operands: the address, the look-up in the translation cache, and what happens on a miss.

use super::assembler::{Arithmetic, Fixup, Memory, Width, register::*};
use super::block::Translation;
use super::{host::Call, state};
use crate::cpu::op::{FLAT, NO_REGISTER, Op, RIP};
use crate::cpu::tlb::layout;

const NOT_EQUAL: u8 = 5;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// Also one that reads first.
    Write,
}

/// An instruction that could not be done here, and is done by the interpreter's function.
#[derive(Debug)]
pub(super) struct Slow {
    /// The jumps there.
    pub(super) from: Vec<Fixup>,
    /// Number of the instruction in the block.
    index: usize,
    /// Where the block goes on, and whether the host's flags must be the guest's there.
    resume: Option<(usize, bool)>,
}

impl Translation<'_> {
    /// Puts the offset that the operand of `op` names into `register`. RCX is lost if that is another.
    pub(super) fn offset(&mut self, register: u8, op: &Op) {
        let mut displacement = op.displacement;
        let base = match op.base {
            NO_REGISTER => None,
            RIP => {
                self.out.load(Width::Quad, register, state::RIP);
                // In reach: `classify` left room, and a block is shorter than that.
                displacement = displacement.wrapping_add(self.end as i32);
                Some(register)
            }
            number => Some(state::host(number).unwrap_or_else(|| {
                self.out.load(Width::Quad, register, state::home(number));
                register
            })),
        };
        let index = match op.index {
            NO_REGISTER => None,
            number => Some(state::host(number).unwrap_or_else(|| {
                let other = if register == RCX { RDX } else { RCX };
                self.out.load(Width::Quad, other, state::home(number));
                other
            })),
        };
        let memory = Memory {
            base,
            index: index.map(|index| (index, op.scale & 3)),
            displacement,
        };
        match memory {
            Memory {
                base: Some(base),
                index: None,
                displacement: 0,
            } => {
                if base != register {
                    self.out.load(Width::Quad, register, base);
                }
            }
            _ => self.out.address(Width::Quad, register, memory),
        }
        if op.address_shift != 0 {
            self.out.load(Width::Double, register, register);
        }
    }

    /// Puts the linear address of the operand of `op` into RAX. RCX is lost.
    fn linear(&mut self, op: &Op) {
        self.offset(RAX, op);
        if op.segment < FLAT {
            let base = state::segment_base(op.segment);
            self.out.arithmetic(Arithmetic::Add, Width::Quad, RAX, base);
        }
    }

    /// Puts the host's address of the operand of `op` into RAX. RCX, RDX and the host's flags are lost.
    pub(super) fn operand(&mut self, op: &Op, width: Width, access: Use) -> Memory {
        self.operand_of(op, width.bytes(), access)
    }

    /// The same for an operand of that many bytes.
    pub(super) fn operand_of(&mut self, op: &Op, bytes: u8, access: Use) -> Memory {
        self.linear(op);
        self.look_up(bytes, access)
    }

    /// Turns the linear address in RAX into the host's. RCX, RDX and the host's flags are lost. If the
    /// translation is not cached for that access, or the operand spans two pages, or the access must be
    /// looked at, the instruction is the interpreter's.
    pub(super) fn look_up(&mut self, bytes: u8, access: Use) -> Memory {
        self.flags_lost();
        let out = &mut *self.out;
        // The tag of the last byte's page: another than that of the entry if the operand spans pages.
        match bytes {
            1 => out.load(Width::Quad, RCX, RAX),
            bytes => out.address(Width::Quad, RCX, Memory::at(RAX, i32::from(bytes) - 1)),
        }
        out.load(Width::Double, RDX, RAX);
        out.shift(Width::Double, 5, RDX, layout::INDEX_SHIFT);
        out.arithmetic_immediate(Arithmetic::And, Width::Quad, RCX, !0xfff);
        out.arithmetic_immediate(
            Arithmetic::And,
            Width::Double,
            RDX,
            layout::INDEX_MASK as i32,
        );
        out.arithmetic(Arithmetic::Or, Width::Quad, RCX, state::TAG);
        out.arithmetic(Arithmetic::Add, Width::Quad, RDX, state::ENTRIES);
        let tag = match access {
            Use::Read => layout::READ,
            Use::Write => layout::WRITE,
        };
        out.arithmetic(Arithmetic::Compare, Width::Quad, RCX, Memory::at(RDX, tag));
        self.slow_if(NOT_EQUAL);
        let distance = Memory::at(RDX, layout::DISTANCE);
        self.out
            .arithmetic(Arithmetic::Add, Width::Quad, RAX, distance);
        self.out
            .arithmetic(Arithmetic::Add, Width::Quad, RAX, state::RAM);
        Memory::at(RAX, 0)
    }

    /// Leaves an atomic access to the operand in RAX to the interpreter if it is not aligned: it would
    /// be slow here, or forbidden.
    pub(super) fn need_alignment(&mut self, width: Width) {
        if width != Width::Byte {
            self.out
                .test_immediate(Width::Byte, RAX, i32::from(width.bytes()) - 1);
            self.slow_if(NOT_EQUAL);
        }
    }

    /// Leaves the instruction to the interpreter if the host's flags meet a condition. Nothing of the
    /// guest's state may have changed.
    pub(super) fn slow_if(&mut self, condition: u8) {
        let from = self.out.jump_if(condition);
        self.slow_from(from);
    }

    /// Leaves the instruction to the interpreter if a byte of the state is not 0.
    pub(super) fn slow_if_set(&mut self, byte: Memory) {
        self.flags_lost();
        self.out
            .arithmetic_immediate(Arithmetic::Compare, Width::Byte, byte, 0);
        self.slow_if(NOT_EQUAL);
    }

    /// As [`Self::slow_if`], for a jump that is there.
    pub(super) fn slow_from(&mut self, from: Fixup) {
        let index = self.index;
        match self.slow.last_mut() {
            Some(slow) if slow.index == index => slow.from.push(from),
            _ => self.slow.push(Slow {
                from: vec![from],
                index,
                resume: None,
            }),
        }
    }

    /// The code of an instruction is complete: this is where the block goes on.
    pub(super) fn resume_slow(&mut self) {
        let resume = (self.out.position(), self.host_flags);
        if let Some(slow) = self.slow.last_mut()
            && slow.index == self.index
        {
            slow.resume = Some(resume);
        }
    }

    /// Writes the calls of the interpreter's functions.
    pub(super) fn write_slow(&mut self, ops: &[Op]) {
        for slow in std::mem::take(&mut self.slow) {
            for from in slow.from {
                self.out.bind_here(from);
            }
            self.call(ops, slow.index);
            if let Some((position, flags)) = slow.resume {
                if flags {
                    self.load_flags();
                }
                let back = self.out.jump();
                self.out.bind(back, position);
            }
        }
    }

    /// Calls the interpreter's function for an instruction.
    pub(super) fn call(&mut self, ops: &[Op], index: usize) {
        let begin = self.ends[index];
        let call = Call::new(index + 1, begin, index + 1 == ops.len());
        self.out
            .address_of(RCX, self.pool + index * size_of::<Op>());
        self.out.constant(RDX, call.0.into());
        self.out.call(self.stubs.execute);
    }
}
