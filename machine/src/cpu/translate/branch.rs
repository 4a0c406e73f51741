//! Branches, and how code goes on from block to block.
//!
//! A block of the same page is jumped to directly: the page is where it was when this block was entered,
//! or else the other block's head leaves, because [`Context`](super::Context) then says so. Any other is
//! found by its linear address in the cache that the interpreter uses as well. A branch to an address
//! that is not found there is the interpreter's, since the address may be one that faults.

use super::assembler::{Arithmetic, Memory, Width, register::*};
use super::block::{Entries, Translation};
use super::memory::Use;
use super::{Link, host, state};
use crate::cpu::block::layout;
use crate::cpu::op::{MEMORY, Op};

const NOT_EQUAL: u8 = 5;
/// RCX points at the cache's element while one is looked at.
const FOUND: u8 = RCX;

impl Translation<'_> {
    /// Whether the block at that distance from this one's start is in the same page, all of it.
    fn is_near(&self, distance: i64) -> bool {
        let in_page = (self.offset & 0xfff) as i64;
        (0..4096).contains(&in_page.saturating_add(distance))
            && !(self.is_split)(self.offset.wrapping_add(distance as u64))
    }

    /// Counts the block's instructions.
    fn count(&mut self) {
        let count = self.count as i32;
        self.out
            .arithmetic_immediate(Arithmetic::Subtract, Width::Quad, state::REMAINING, count);
    }

    /// Ends the block: it goes on at that distance from its start, which is the next instruction's or in
    /// the same page.
    pub(super) fn go_on_at(&mut self, distance: i64, entries: Entries<'_>) {
        self.out
            .arithmetic_immediate(Arithmetic::Add, Width::Quad, state::RIP, distance as i32);
        self.count();
        if !self.is_near(distance) {
            // Mostly into the next page: if it is not known there, whoever comes back finds RIP as it must be.
            self.out.load(Width::Quad, RDX, state::RIP);
            let misses = self.find();
            self.out.jump_to(Memory::at(FOUND, layout::CODE));
            for miss in misses {
                self.out.bind(miss, self.stubs.leave);
            }
            return;
        }
        let target = self.offset.wrapping_add(distance as u64);
        let jump = self.out.jump();
        if target == self.offset {
            self.out.bind(jump, self.entry);
        } else if let Some(position) = entries(target) {
            self.out.bind(jump, position);
        } else {
            let link = self.links.len();
            self.links.push(Link {
                place: jump.place(),
                target,
            });
            self.unlinked.push((jump, link));
        }
    }

    /// Where jumps without a link lead: out, asking for it.
    pub(super) fn write_link_requests(&mut self) {
        for (jump, link) in std::mem::take(&mut self.unlinked) {
            self.out.bind_here(jump);
            let number = u32::try_from(link)
                .ok()
                .and_then(|link| link.checked_add(host::FIRST_LINK))
                .unwrap_or(host::LEAVE);
            self.out.constant(RAX, number.into());
            let leave = self.out.jump();
            self.out.bind(leave, self.stubs.leave_with);
        }
    }

    /// Looks for the block at the linear address in RDX, which is lost; RAX is not. Gives the jumps for
    /// when it is not known, and else leaves RCX pointing at what is.
    fn find(&mut self) -> [super::assembler::Fixup; 2] {
        let out = &mut *self.out;
        out.load(Width::Double, FOUND, RDX);
        out.shift(Width::Double, 5, FOUND, layout::HASH_SHIFT);
        out.arithmetic(Arithmetic::Xor, Width::Double, FOUND, RDX);
        out.arithmetic_immediate(
            Arithmetic::And,
            Width::Double,
            FOUND,
            layout::INDEX_MASK as i32,
        );
        out.shift(Width::Double, 4, FOUND, layout::SIZE_SHIFT);
        out.arithmetic(Arithmetic::Add, Width::Quad, FOUND, state::JUMPS);
        out.arithmetic(
            Arithmetic::Compare,
            Width::Quad,
            RDX,
            Memory::at(FOUND, layout::RIP),
        );
        let elsewhere = out.jump_if(NOT_EQUAL);
        out.load(Width::Quad, RDX, Memory::at(FOUND, layout::KEY));
        out.arithmetic(Arithmetic::Compare, Width::Quad, RDX, state::FETCH_KEY);
        [elsewhere, out.jump_if(NOT_EQUAL)]
    }

    /// As [`Self::find`]; if the block is not known, the instruction is the interpreter's.
    fn find_target(&mut self) {
        let misses = self.find();
        self.flags_lost();
        for miss in misses {
            self.slow_from(miss);
        }
    }

    /// Goes on at the block that was found.
    fn go_to_found(&mut self) {
        self.out
            .load(Width::Quad, RDX, Memory::at(FOUND, layout::RIP));
        self.out.store(Width::Quad, state::RIP, RDX);
        self.count();
        self.out.jump_to(Memory::at(FOUND, layout::CODE));
    }

    /// Distance of a relative branch's target from the block's start.
    fn branch_target(&self, op: &Op) -> i64 {
        (self.end as i64).wrapping_add(op.immediate as i64)
    }

    /// Puts the linear address at a distance from the block's start into RDX.
    fn linear_at(&mut self, distance: i64) {
        self.out.load(Width::Quad, RDX, state::RIP);
        let memory = Memory::at(RDX, distance as i32);
        self.out.address(Width::Quad, RDX, memory);
    }

    fn go_to(&mut self, distance: i64, entries: Entries<'_>) {
        if self.is_near(distance) {
            self.go_on_at(distance, entries);
        } else {
            self.linear_at(distance);
            self.find_target();
            self.go_to_found();
        }
    }

    pub(super) fn jump(&mut self, op: &Op, entries: Entries<'_>) {
        self.go_to(self.branch_target(op), entries);
    }

    pub(super) fn jump_if(&mut self, op: &Op, condition: u8, entries: Entries<'_>) {
        self.need_flags();
        let taken = self.out.jump_if(condition);
        self.go_on_at(self.end as i64, entries);
        self.out.bind_here(taken);
        self.go_to(self.branch_target(op), entries);
    }

    /// Pushes the address of the next instruction, given where it goes in RAX. RDX is lost.
    fn push_return_address(&mut self) {
        self.linear_at(self.end as i64);
        self.out.store(Width::Quad, Memory::at(RAX, 0), RDX);
        self.move_stack(-8);
    }

    pub(super) fn call_near(&mut self, op: &Op, entries: Entries<'_>) {
        let target = self.branch_target(op);
        self.stack_place();
        if self.is_near(target) {
            self.push_return_address();
            self.go_on_at(target, entries);
        } else {
            self.linear_at(target);
            self.find_target();
            self.push_return_address();
            self.go_to_found();
        }
    }

    /// Puts the target of an indirect branch into RDX.
    fn indirect_target(&mut self, op: &Op) {
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, Width::Quad, Use::Read);
            self.out.load(Width::Quad, RDX, place);
        } else {
            self.out.load(Width::Quad, RDX, state::place(op.reg));
        }
    }

    pub(super) fn jump_indirect(&mut self, op: &Op) {
        self.indirect_target(op);
        self.find_target();
        self.go_to_found();
    }

    pub(super) fn call_indirect(&mut self, op: &Op) {
        self.indirect_target(op);
        self.out.store(Width::Quad, state::SPARE, RDX);
        self.stack_place();
        self.out.load(Width::Quad, RDX, state::SPARE);
        self.find_target();
        self.push_return_address();
        self.go_to_found();
    }

    pub(super) fn return_near(&mut self, op: &Op) {
        self.out.load(Width::Quad, RAX, state::STACK_POINTER);
        let place = self.look_up(8, Use::Read);
        self.out.load(Width::Quad, RDX, place);
        self.find_target();
        self.move_stack(8 + (op.immediate & 0xffff) as i32);
        self.go_to_found();
    }
}
