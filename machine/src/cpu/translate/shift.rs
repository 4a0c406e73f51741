//! Shifts. Which flags they set depends on the count on the host; the guest's are as the interpreter
//! says: AF is 0, OF is as for a count of 1.

use super::assembler::{Arithmetic, Width, register::*};
use super::block::Translation;
use super::classify::{Native, is_by_cl, shift_count};
use super::memory::Use;
use super::{liveness, state};
use crate::cpu::op::{MEMORY, Op};

const ZERO_CONDITION: u8 = 4;
const CARRY_CONDITION: u8 = 2;
const NEGATIVE_CONDITION: u8 = 8;
const GUEST_RCX: u8 = 1;

impl Translation<'_> {
    pub(super) fn shift(&mut self, op: &Op, native: Native, width: Width) {
        let extension = match native {
            Native::ShiftLeft(_) => 4,
            Native::ShiftRight(_) => 5,
            _ => 7,
        };
        let live = self.live != liveness::NONE;
        if is_by_cl(op) {
            return self.shift_by_cl(op, native, extension, width);
        }
        let count = shift_count(op, width) as u8;
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, width, Use::Write);
            if live && extension == 5 {
                // The sign before; the flags of the shift itself do not tell.
                self.out.zero_extend(width, RDX, place);
            }
            self.out.shift(width, extension, place, count);
        } else {
            let target = self.target(op.reg, width, RCX);
            if live && extension == 5 {
                self.out.load(Width::Quad, RDX, target);
            }
            self.out.shift(width, extension, target, count);
            self.set(op.reg, width, target);
        }
        self.shifted(native, width);
    }

    /// Stores the flags of a shift. RDX holds what was shifted to the right.
    fn shifted(&mut self, native: Native, width: Width) {
        self.flags_set_by_shift(|this| match native {
            Native::ShiftLeft(_) => {
                // CF xor SF
                this.out.load(Width::Double, RCX, RAX);
                this.out.shift(Width::Double, 5, RCX, 15);
                this.out.load(Width::Double, RDX, RAX);
                this.out.shift(Width::Double, 5, RDX, 8);
                this.out
                    .arithmetic(Arithmetic::Xor, Width::Double, RCX, RDX);
                this.out
                    .arithmetic_immediate(Arithmetic::And, Width::Double, RCX, 1);
                this.out.load(Width::Byte, RAX, RCX);
            }
            Native::ShiftRight(_) => {
                this.out.test(width, RDX, RDX);
                this.out.set_condition(NEGATIVE_CONDITION, RAX);
            }
            _ => this.out.store_immediate(Width::Byte, RAX, 0),
        });
    }

    /// ROL (0) and ROR (1) of a register by an immediate: CF and OF change, and for any count as the manual
    /// says for 1.
    pub(super) fn rotate(&mut self, op: &Op, extension: u8, width: Width) {
        let target = self.target(op.reg, width, RDX);
        self.out
            .shift(width, extension, target, shift_count(op, width) as u8);
        self.set(op.reg, width, target);
        self.flags_lost();
        if self.live == liveness::NONE {
            return;
        }
        // CF is the bit that went around; OF is whether it differs from the top bit after ROL, from the one
        // below after ROR.
        let other = width.bits() as u8 - 1 - extension;
        self.out.set_condition(CARRY_CONDITION, RCX);
        self.out.zero_extend(Width::Byte, RCX, RCX);
        self.out.load(width, RAX, target);
        self.out.shift(width, 5, RAX, other);
        self.out
            .arithmetic_immediate(Arithmetic::And, Width::Double, RAX, 1);
        self.out
            .arithmetic(Arithmetic::Xor, Width::Double, RAX, RCX);
        self.out.shift(Width::Double, 4, RCX, 8);
        self.out.arithmetic(Arithmetic::Or, Width::Double, RAX, RCX);
        self.out.zero_extend(Width::Word, RDX, state::FLAGS);
        self.out
            .arithmetic_immediate(Arithmetic::And, Width::Double, RDX, 0xfe00);
        self.out.arithmetic(Arithmetic::Or, Width::Double, RAX, RDX);
        self.out.store(Width::Word, state::FLAGS, RAX);
    }

    /// By CL, of a register: a count of 0 changes no flag.
    fn shift_by_cl(&mut self, op: &Op, native: Native, extension: u8, width: Width) {
        let mask = if width == Width::Quad { 63 } else { 31 };
        self.out.load(Width::Double, RCX, state::place(GUEST_RCX));
        let target = self.target(op.reg, width, RDX);
        if self.live == liveness::NONE {
            self.out.shift_by_cl(width, extension, target);
            self.set(op.reg, width, target);
            return self.flags_lost();
        }
        self.out.test_immediate(Width::Byte, RCX, mask);
        let nothing = self.out.jump_if(ZERO_CONDITION);
        if extension == 5 {
            self.out.load(Width::Quad, RAX, target);
            self.out.store(Width::Quad, state::SPARE, RAX);
        }
        self.out.shift_by_cl(width, extension, target);
        self.set(op.reg, width, target);
        if extension == 5 {
            self.out.load(Width::Quad, RDX, state::SPARE);
        }
        self.shifted(native, width);
        if width == Width::Double {
            // The upper half is cleared in any case.
            let done = self.out.jump();
            self.out.bind_here(nothing);
            self.out.load(Width::Double, target, target);
            self.set(op.reg, width, target);
            self.out.bind_here(done);
        } else {
            self.out.bind_here(nothing);
        }
    }
}
