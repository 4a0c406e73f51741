//! Addition, subtraction, logic, comparison, multiplication, bit tests, and the atomic exchanges that
//! compare or add.

use super::assembler::{Arithmetic, Memory, Place, Width, register::*};
use super::block::Translation;
use super::data::{Form, form, immediate};
use super::liveness;
use super::memory::Use;
use super::state;
use crate::cpu::op::{LOCK, MEMORY, Op};

const CARRY_CONDITION: u8 = 2;
const OVERFLOW_CONDITION: u8 = 0;
const UNEQUAL_CONDITION: u8 = 5;

impl Translation<'_> {
    fn reads_carry(operation: Arithmetic) -> bool {
        matches!(operation, Arithmetic::AddCarry | Arithmetic::SubtractBorrow)
    }

    pub(super) fn binary(&mut self, op: &Op, operation: Arithmetic, width: Width) {
        let compares = operation == Arithmetic::Compare;
        let form = form(op);
        match form {
            Form::RegisterRegister | Form::RegisterImmediate | Form::RegisterMemory => {
                let from = match form {
                    Form::RegisterMemory => Some(Place::from(self.operand(op, width, Use::Read))),
                    Form::RegisterRegister => Some(self.source(op.rm, width)),
                    _ => None,
                };
                let target = self.target(op.reg, width, RDX);
                if Self::reads_carry(operation) {
                    self.need_carry();
                }
                match from {
                    Some(from) => self.out.arithmetic(operation, width, target, from),
                    None => self
                        .out
                        .arithmetic_immediate(operation, width, target, immediate(op)),
                }
                if !compares {
                    self.set(op.reg, width, target);
                }
            }
            Form::MemoryRegister | Form::MemoryImmediate => {
                let access = if compares { Use::Read } else { Use::Write };
                let place = self.operand(op, width, access);
                let from =
                    (form == Form::MemoryRegister).then(|| self.in_register(op.reg, width, RCX));
                self.begin_lock(op, width);
                if Self::reads_carry(operation) {
                    self.need_carry();
                }
                self.lock_prefix(op);
                match from {
                    Some(from) => self.out.arithmetic_to(operation, width, place, from),
                    None => self
                        .out
                        .arithmetic_immediate(operation, width, place, immediate(op)),
                }
            }
        }
        self.flags_set();
    }

    fn begin_lock(&mut self, op: &Op, width: Width) {
        if op.attributes & LOCK != 0 {
            self.need_alignment(width);
        }
    }

    fn lock_prefix(&mut self, op: &Op) {
        if op.attributes & LOCK != 0 {
            self.out.lock();
        }
    }

    pub(super) fn test(&mut self, op: &Op, width: Width) {
        let place = if op.attributes & MEMORY != 0 {
            self.operand(op, width, Use::Read).into()
        } else {
            self.source(op.reg, width)
        };
        match form(op) {
            Form::RegisterImmediate | Form::MemoryImmediate => {
                self.out.test_immediate(width, place, immediate(op));
            }
            Form::RegisterRegister => {
                let from = self.in_register(op.rm, width, RDX);
                self.out.test(width, place, from);
            }
            Form::MemoryRegister | Form::RegisterMemory => {
                let from = self.in_register(op.reg, width, RDX);
                self.out.test(width, place, from);
            }
        }
        self.flags_set();
    }

    /// INC (0) and DEC (1).
    pub(super) fn step(&mut self, op: &Op, extension: u8, width: Width) {
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, width, Use::Write);
            self.begin_lock(op, width);
            self.keep_carry();
            self.lock_prefix(op);
            self.out.group_4(width, extension, place);
        } else {
            let target = self.target(op.reg, width, RDX);
            self.keep_carry();
            self.out.group_4(width, extension, target);
            self.set(op.reg, width, target);
        }
        self.flags_set();
    }

    /// INC and DEC keep CF, which then is stored with the others.
    fn keep_carry(&mut self) {
        if self.live != liveness::NONE {
            self.need_carry();
        }
    }

    /// NOT (2) and NEG (3).
    pub(super) fn negate(&mut self, op: &Op, extension: u8, width: Width) {
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, width, Use::Write);
            self.out.group_3(width, extension, place);
        } else {
            let target = self.target(op.reg, width, RDX);
            self.out.group_3(width, extension, target);
            self.set(op.reg, width, target);
        }
        if extension == 3 {
            self.flags_set();
        }
    }

    pub(super) fn multiply(&mut self, op: &Op, width: Width) {
        let with_immediate = op.code.op_code().op_count() == 3;
        let from = if op.attributes & MEMORY != 0 {
            self.operand(op, width, Use::Read).into()
        } else {
            self.source(op.rm, width)
        };
        let target = if with_immediate {
            // The target is not read; a word's upper part is kept by the move.
            self.out.multiply_immediate(width, RDX, from, immediate(op));
            RDX
        } else {
            let target = self.target(op.reg, width, RDX);
            self.out.extended(width, 0xaf, target, from);
            target
        };
        if self.live != liveness::NONE {
            // CF and OF say whether the product is cut; the others follow the result.
            self.out.set_condition(OVERFLOW_CONDITION, RCX);
            self.out.test(width, target, target);
            self.out.byte(0x9f);
            self.out.load(Width::Byte, RAX, RCX);
            self.out.shift(Width::Double, 4, RCX, 8);
            self.out.zero_extend(Width::Word, RCX, RCX);
            self.out.arithmetic(Arithmetic::Or, Width::Double, RAX, RCX);
            self.out.store(Width::Word, state::FLAGS, RAX);
        }
        self.flags_lost();
        if with_immediate {
            self.assign(op.reg, width, RDX);
        } else {
            self.set(op.reg, width, target);
        }
    }

    /// BT (4), BTS (5), BTR (6) and BTC (7): of the flags CF alone changes.
    pub(super) fn bit(&mut self, op: &Op, extension: u8, width: Width) {
        let number = op.immediate as u8 & (width.bits() - 1) as u8;
        match form(op) {
            Form::MemoryImmediate | Form::MemoryRegister | Form::RegisterMemory => {
                let access = if extension == 4 {
                    Use::Read
                } else {
                    Use::Write
                };
                let place = self.operand(op, width, access);
                self.begin_lock(op, width);
                self.lock_prefix(op);
                self.out.change_bit(extension, width, place, number);
            }
            Form::RegisterRegister => {
                let value = self.target(op.reg, width, RDX);
                let number = self.in_register(op.rm, width, RCX);
                // 0F A3, AB, B3 and BB
                let opcode = 0x83 | extension << 3;
                self.out.extended(width, opcode, number, value.into());
                self.set_bit_result(op, extension, width, value);
            }
            Form::RegisterImmediate => {
                let value = self.target(op.reg, width, RDX);
                self.out.change_bit(extension, width, value, number);
                self.set_bit_result(op, extension, width, value);
            }
        }
        if self.live != liveness::NONE {
            let carry = Memory {
                displacement: state::FLAGS.displacement + 1,
                ..state::FLAGS
            };
            self.out.set_condition(CARRY_CONDITION, RAX);
            self.out.load(Width::Byte, RCX, carry);
            self.out
                .arithmetic_immediate(Arithmetic::And, Width::Byte, RCX, !1);
            self.out.arithmetic(Arithmetic::Or, Width::Byte, RCX, RAX);
            self.out.store(Width::Byte, carry, RCX);
        }
        self.flags_lost();
    }

    fn set_bit_result(&mut self, op: &Op, extension: u8, width: Width, value: u8) {
        if extension != 4 {
            self.set(op.reg, width, value);
        }
    }

    /// BSWAP.
    pub(super) fn swap_bytes(&mut self, op: &Op, width: Width) {
        let target = self.target(op.reg, width, RDX);
        self.out.swap_bytes(width, target);
        self.set(op.reg, width, target);
    }

    pub(super) fn exchange_add(&mut self, op: &Op, width: Width) {
        let place = self.operand(op, width, Use::Write);
        self.begin_lock(op, width);
        let from = self.in_register(op.reg, width, RCX);
        if from != RCX {
            self.out.load(Width::Quad, RCX, from);
        }
        self.lock_prefix(op);
        self.out.exchange_with(width, 0xc0, place, RCX);
        // RAX is free again, and moves leave the flags.
        self.assign_loaded(op.reg, width);
        self.flags_set();
    }

    pub(super) fn compare_exchange(&mut self, op: &Op, width: Width) {
        self.operand(op, width, Use::Write);
        self.begin_lock(op, width);
        self.out.load(Width::Quad, RCX, RAX);
        self.out.load(Width::Quad, RAX, state::ACCUMULATOR);
        let new = self.in_register(op.reg, width, RDX);
        self.lock_prefix(op);
        self.out.exchange_with(width, 0xb0, Memory::at(RCX, 0), new);
        // Where the comparison succeeds RAX stays, upper half included.
        self.out.move_if(
            UNEQUAL_CONDITION,
            Width::Quad,
            state::ACCUMULATOR,
            RAX.into(),
        );
        self.flags_set();
    }
}
