//! The ways into and out of translated code.

use super::assembler::{
    Arithmetic, Assembler, Memory,
    Width::{Double, Quad},
    register::*,
};
use super::host;
use super::state::{self, BIAS, HOST, PROCESSOR, REMAINING, home};
use crate::cpu::block::LONGEST_BLOCK;

/// The count in the head of a block is an immediate of one byte.
const _: () = assert!(LONGEST_BLOCK <= i8::MAX as usize);

/// Positions of the parts that translated blocks use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stubs {
    /// Leaves with nothing to say.
    pub(super) leave: usize,
    /// Leaves with what EAX says.
    pub(super) leave_with: usize,
    /// Calls the interpreter's function for an instruction: RCX points at the [`Op`](crate::cpu::op::Op),
    /// EDX holds a [`Call`](host::Call). Returns if the block goes on.
    pub(super) execute: usize,
    /// Length of the head of each block.
    pub(super) head: usize,
}

const LESS: u8 = 12;
const NOT_EQUAL: u8 = 5;

impl Stubs {
    /// Writes the head of a block of `count` instructions: what the interpreter's loop looks at between
    /// blocks. A block that does not fit into what remains of the slice is the interpreter's. Whoever has
    /// looked already enters behind the head.
    pub(super) fn write_head(&self, out: &mut Assembler, count: usize) {
        out.load(Quad, RAX, state::ATTENTION);
        out.arithmetic_immediate(Arithmetic::Compare, Quad, state::REMAINING, count as i32);
        let slice_ends = out.jump_if(LESS);
        out.bind(slice_ends, self.leave);
        out.arithmetic_immediate(Arithmetic::Compare, Double, Memory::at(RAX, 0), 0);
        let attention = out.jump_if(NOT_EQUAL);
        out.bind(attention, self.leave);
    }
}

/// Registers that the host's functions preserve for their callers.
const PRESERVED: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];

fn homes() -> impl Iterator<Item = (u8, Memory)> {
    (0..)
        .zip(HOST)
        .filter_map(|(number, register)| Some((register?, home(number))))
}

fn load_registers(assembler: &mut Assembler) {
    for (register, home) in homes() {
        assembler.load(Quad, register, home);
    }
}

fn store_registers(assembler: &mut Assembler) {
    for (register, home) in homes() {
        assembler.store(Quad, home, register);
    }
}

/// Writes them at the start of the buffer, where [`CodeBuffer::enter`](host::CodeBuffer::enter)
/// expects the way in: a function of the processor's address and that of the code.
pub(super) fn write(assembler: &mut Assembler) -> Stubs {
    let mut stubs = Stubs::default();
    for register in PRESERVED {
        assembler.push(register);
    }
    // With the return address seven words: one more keeps the stack aligned to 16 bytes.
    assembler.arithmetic_immediate(Arithmetic::Subtract, Quad, RSP, 8);
    assembler.address(Quad, PROCESSOR, Memory::at(RDI, BIAS));
    assembler.load(Quad, RAX, RSI);
    assembler.load(Quad, REMAINING, state::END);
    assembler.arithmetic(Arithmetic::Subtract, Quad, REMAINING, state::INSTRUCTIONS);
    load_registers(assembler);
    assembler.jump_to(RAX);

    stubs.leave = assembler.position();
    assembler.constant(RAX, host::LEAVE.into());
    stubs.leave_with = assembler.position();
    store_registers(assembler);
    assembler.load(Quad, RCX, state::END);
    assembler.arithmetic(Arithmetic::Subtract, Quad, RCX, REMAINING);
    assembler.store(Quad, state::INSTRUCTIONS, RCX);
    let leave_as_it_is = assembler.position();
    assembler.arithmetic_immediate(Arithmetic::Add, Quad, RSP, 8);
    for register in PRESERVED.into_iter().rev() {
        assembler.pop(register);
    }
    assembler.byte(0xc3);

    stubs.execute = assembler.position();
    store_registers(assembler);
    assembler.address(Quad, RDI, Memory::at(PROCESSOR, -BIAS));
    assembler.load(Quad, RSI, RCX);
    assembler.load(Quad, RCX, REMAINING);
    assembler.constant(RAX, host::execute_address());
    // The return address of this stub is on the stack.
    assembler.arithmetic_immediate(Arithmetic::Subtract, Quad, RSP, 8);
    assembler.call_register(RAX);
    assembler.arithmetic_immediate(Arithmetic::Add, Quad, RSP, 8);
    assembler.test(Double, RAX, RAX);
    let goes_on = assembler.jump_if(4);
    assembler.arithmetic_immediate(Arithmetic::Add, Quad, RSP, 8);
    let leaves = assembler.jump();
    assembler.bind(leaves, leave_as_it_is);
    assembler.bind_here(goes_on);
    assembler.load(Quad, REMAINING, state::CALL_REMAINING);
    load_registers(assembler);
    assembler.byte(0xc3);
    // Its length is the same wherever it lies and for each number of instructions.
    let start = assembler.position();
    stubs.write_head(assembler, LONGEST_BLOCK);
    stubs.head = assembler.position() - start;
    stubs
}
