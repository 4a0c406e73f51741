//! A block on its way to the host's code.

use super::assembler::{Assembler, Fixup};
use super::classify::{Native, classify};
use super::memory::Slow;
use super::stubs::Stubs;
use super::{Link, host, liveness, state};
use crate::cpu::op::Op;

/// The state of a translation. Between instructions RAX, RCX and RDX hold nothing.
pub(super) struct Translation<'a> {
    pub(super) out: &'a mut Assembler,
    pub(super) stubs: &'a Stubs,
    pub(super) links: &'a mut Vec<Link>,
    /// Whether the instruction at a RAM offset spans two pages: which block that is depends on the second.
    pub(super) is_split: &'a dyn Fn(u64) -> bool,
    /// Where the instructions lie in the code buffer.
    pub(super) pool: usize,
    /// Where the block is entered.
    pub(super) entry: usize,
    /// RAM offset of the block.
    pub(super) offset: u64,
    /// Number of instructions.
    pub(super) count: usize,
    /// Distance of each instruction's start from the block's, and of the block's end.
    pub(super) ends: Vec<usize>,
    /// Number of the instruction being translated.
    pub(super) index: usize,
    /// Distance of its end.
    pub(super) end: usize,
    /// The flags that somebody may look at after it.
    pub(super) live: u8,
    /// Whether the host's flags are the guest's.
    pub(super) host_flags: bool,
    pub(super) slow: Vec<Slow>,
    /// Jumps that are to become direct ones, with the number of their link.
    pub(super) unlinked: Vec<(Fixup, usize)>,
}

/// Says at which position the block at a RAM offset is entered.
pub(super) type Entries<'a> = &'a dyn Fn(u64) -> Option<usize>;

impl<'a> Translation<'a> {
    pub(super) fn new(
        out: &'a mut Assembler,
        stubs: &'a Stubs,
        links: &'a mut Vec<Link>,
        is_split: &'a dyn Fn(u64) -> bool,
    ) -> Self {
        Self {
            out,
            stubs,
            links,
            is_split,
            pool: 0,
            entry: 0,
            offset: 0,
            count: 0,
            ends: Vec::new(),
            index: 0,
            end: 0,
            live: liveness::ALL,
            host_flags: false,
            slow: Vec::new(),
            unlinked: Vec::new(),
        }
    }

    /// Translates the instructions of the block at RAM offset `offset`; gives the position at which it is
    /// entered.
    pub(super) fn translate(mut self, ops: &[Op], offset: u64, entries: Entries<'_>) -> usize {
        self.offset = offset;
        self.count = ops.len();
        self.pool = self.out.position();
        for op in ops {
            self.out.raw(&host::bytes_of(op));
        }
        let mut end = 0;
        self.ends = vec![0];
        for op in ops {
            end += usize::from(op.length);
            self.ends.push(end);
        }
        let natives: Vec<Native> = ops.iter().map(classify).collect();
        let live = liveness::live_after(ops, &natives);
        self.entry = self.out.position();
        self.stubs.write_head(self.out, self.count);
        let mut ended = false;
        for (index, op) in ops.iter().enumerate() {
            self.index = index;
            self.end = self.ends[index + 1];
            self.live = live[index];
            ended = self.instruction(ops, op, natives[index], entries);
            if !ended {
                self.resume_slow();
            }
        }
        if !ended {
            self.go_on_at(self.end as i64, entries);
        }
        self.write_slow(ops);
        self.write_link_requests();
        self.entry
    }

    /// Translates one instruction. True if it ends the block, whose exits are then written.
    fn instruction(&mut self, ops: &[Op], op: &Op, native: Native, entries: Entries<'_>) -> bool {
        match native {
            Native::Handler => {
                self.flags_lost();
                self.call(ops, self.index);
                // After the last one the code has left.
                return self.index + 1 == ops.len();
            }
            Native::Nothing => {}
            Native::Pause => self.slow_if_set(state::PAUSE_WATCHED),
            Native::Move(width) => self.copy(op, width),
            Native::ZeroExtend(_, from) => self.zero_extend(op, from, native),
            Native::SignExtend(to, from) => self.sign_extend(op, to, from),
            Native::SignExtendAccumulator(to, from) => self.sign_extend_accumulator(to, from),
            Native::SignToData(width) => self.sign_to_data(width),
            Native::LoadAddress(width) => self.load_address(op, width),
            Native::Binary(operation, width) => self.binary(op, operation, width),
            Native::Test(width) => self.test(op, width),
            Native::Increment(width) => self.step(op, 0, width),
            Native::Decrement(width) => self.step(op, 1, width),
            Native::Negate(width) => self.negate(op, 3, width),
            Native::Not(width) => self.negate(op, 2, width),
            Native::ShiftLeft(width)
            | Native::ShiftRight(width)
            | Native::ShiftArithmetic(width) => {
                self.shift(op, native, width);
            }
            Native::Multiply(width) => self.multiply(op, width),
            Native::Bit(extension, width) => self.bit(op, extension, width),
            Native::SwapBytes(width) => self.swap_bytes(op, width),
            Native::RotateLeft(width) => self.rotate(op, 0, width),
            Native::RotateRight(width) => self.rotate(op, 1, width),
            Native::Vector(vector) => self.vector(op, vector),
            Native::SetCondition(condition) => self.set_condition(op, condition),
            Native::MoveIf(condition, width) => self.move_if(op, condition, width),
            Native::Exchange(width) => self.exchange(op, width),
            Native::ExchangeAdd(width) => self.exchange_add(op, width),
            Native::CompareExchange(width) => self.compare_exchange(op, width),
            Native::Push => self.push(op),
            Native::Pop => self.pop(op),
            Native::Leave => self.leave_frame(),
            Native::JumpIf(condition) => self.jump_if(op, condition, entries),
            Native::Jump => self.jump(op, entries),
            Native::Call => self.call_near(op, entries),
            Native::Return => self.return_near(op),
            Native::JumpIndirect => self.jump_indirect(op),
            Native::CallIndirect => self.call_indirect(op),
        }
        matches!(
            native,
            Native::JumpIf(_)
                | Native::Jump
                | Native::Call
                | Native::Return
                | Native::JumpIndirect
                | Native::CallIndirect
        )
    }
}
