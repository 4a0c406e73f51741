//! The stack.

use iced_x86::Code;

use super::assembler::{Memory, Width, register::*};
use super::block::Translation;
use super::data::immediate;
use super::memory::Use;
use super::state::{self, FRAME_POINTER, STACK_POINTER};
use crate::cpu::op::{MEMORY, Op};

impl Translation<'_> {
    /// Adds to RSP, flags untouched.
    pub(super) fn move_stack(&mut self, distance: i32) {
        let memory = Memory::at(STACK_POINTER, distance);
        self.out.address(Width::Quad, STACK_POINTER, memory);
    }

    /// Puts the host's address of the word that a push writes into RAX. RCX, RDX and flags are lost.
    pub(super) fn stack_place(&mut self) -> Memory {
        self.out
            .address(Width::Quad, RAX, Memory::at(STACK_POINTER, -8));
        self.look_up(8, Use::Write)
    }

    pub(super) fn push(&mut self, op: &Op) {
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, Width::Quad, Use::Read);
            self.out.load(Width::Quad, RCX, place);
            self.out.store(Width::Quad, state::SPARE, RCX);
            let top = self.stack_place();
            self.out.load(Width::Quad, RCX, state::SPARE);
            self.out.store(Width::Quad, top, RCX);
        } else {
            let top = self.stack_place();
            if matches!(op.code, Code::Pushq_imm8 | Code::Pushq_imm32) {
                self.out.store_immediate(Width::Quad, top, immediate(op));
            } else {
                let from = self.in_register(op.reg, Width::Quad, RCX);
                self.out.store(Width::Quad, top, from);
            }
        }
        self.move_stack(-8);
    }

    pub(super) fn pop(&mut self, op: &Op) {
        self.out.load(Width::Quad, RAX, STACK_POINTER);
        let top = self.look_up(8, Use::Read);
        self.out.load(Width::Quad, RCX, top);
        // RSP as the target keeps what was popped.
        self.move_stack(8);
        self.assign(op.reg, Width::Quad, RCX);
    }

    pub(super) fn leave_frame(&mut self) {
        self.out.load(Width::Quad, RAX, FRAME_POINTER);
        let top = self.look_up(8, Use::Read);
        self.out.load(Width::Quad, RCX, top);
        let above = Memory::at(FRAME_POINTER, 8);
        self.out.address(Width::Quad, STACK_POINTER, above);
        self.out.load(Width::Quad, FRAME_POINTER, RCX);
    }
}
