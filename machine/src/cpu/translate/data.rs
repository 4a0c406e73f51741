//! Moves and conversions.

use super::assembler::{Place, Width, register::*};
use super::block::Translation;
use super::classify::Native;
use super::memory::Use;
use super::state;
use crate::cpu::op::{LOCK, MEMORY, NO_REGISTER, Op};

/// Where an instruction's operands are, as [`Op`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Registers `reg` and `rm`.
    RegisterRegister,
    /// Register `reg`, then memory.
    RegisterMemory,
    /// Memory, then register `reg`.
    MemoryRegister,
    /// Register `reg` and an immediate, or no more.
    RegisterImmediate,
    /// Memory and an immediate, or no more.
    MemoryImmediate,
}

/// The form of an instruction with a target, and a source if it has one.
pub(super) fn form(op: &Op) -> Form {
    use iced_x86::OpCodeOperandKind as Kind;
    let information = op.code.op_code();
    let is_general = |number| {
        number < information.op_count()
            && matches!(
                information.op_kind(number),
                Kind::r8_reg
                    | Kind::r16_reg
                    | Kind::r32_reg
                    | Kind::r64_reg
                    | Kind::r8_opcode
                    | Kind::r16_opcode
                    | Kind::r32_opcode
                    | Kind::r64_opcode
                    | Kind::al
                    | Kind::ax
                    | Kind::eax
                    | Kind::rax
                    | Kind::cl
                    | Kind::r8_or_mem
                    | Kind::r16_or_mem
                    | Kind::r32_or_mem
                    | Kind::r64_or_mem
            )
    };
    let may_be_memory = |number| {
        matches!(
            information.op_kind(number),
            Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem | Kind::mem
        )
    };
    let source = is_general(1) || information.op_count() > 1 && may_be_memory(1);
    match (op.attributes & MEMORY != 0, source) {
        (false, true) => Form::RegisterRegister,
        (false, false) => Form::RegisterImmediate,
        (true, true) if may_be_memory(0) => Form::MemoryRegister,
        (true, true) => Form::RegisterMemory,
        (true, false) => Form::MemoryImmediate,
    }
}

/// An immediate as the host's instructions have it: sign-extended from 32 bits.
pub(super) fn immediate(op: &Op) -> i32 {
    op.immediate as i32
}

impl Translation<'_> {
    /// Where a register operand can be read: a host register, or its home in memory. AH, CH, DH and BH
    /// are at home after this.
    pub(super) fn source(&mut self, number: u8, width: Width) -> Place {
        if !state::is_high_byte(number, width) {
            return state::place(number);
        }
        let mut home = state::home(number & 15);
        if let Some(register) = state::host(number & 15) {
            self.out.store(Width::Quad, home, register);
        }
        home.displacement += 1;
        home.into()
    }

    /// A register that holds a register operand: its own, or `spare`.
    pub(super) fn in_register(&mut self, number: u8, width: Width, spare: u8) -> u8 {
        match self.source(number, width) {
            Place::Register(register) => register,
            Place::Memory(memory) => {
                if width == Width::Byte {
                    self.out.zero_extend(width, spare, memory);
                } else {
                    self.out.load(Width::Quad, spare, memory);
                }
                spare
            }
        }
    }

    /// A register to put a register operand's new value into, which keeps what a narrow write must keep;
    /// [`Self::set`] follows. Its old value is there.
    pub(super) fn target(&mut self, number: u8, width: Width, spare: u8) -> u8 {
        self.in_register(number, width, spare)
    }

    /// A register operand's new value is in `register`, zero-extended if it is of 32 bits.
    pub(super) fn set(&mut self, number: u8, width: Width, register: u8) {
        if state::is_high_byte(number, width) {
            let mut high = state::home(number & 15);
            let low = high;
            high.displacement += 1;
            self.out.store(Width::Byte, high, register);
            if let Some(register) = state::host(number & 15) {
                self.out.load(Width::Quad, register, low);
            }
            return;
        }
        match state::host(number) {
            Some(own) if own == register => {}
            Some(own) => self.out.load(widened(width), own, register),
            None => {
                let width = if width == Width::Double {
                    Width::Quad
                } else {
                    width
                };
                self.out.store(width, state::home(number), register);
            }
        }
    }

    pub(super) fn copy(&mut self, op: &Op, width: Width) {
        match form(op) {
            Form::RegisterRegister => {
                let from = self.in_register(op.rm, width, RAX);
                self.assign(op.reg, width, from);
            }
            Form::RegisterMemory => {
                let place = self.operand(op, width, Use::Read);
                self.load_to(op.reg, width, place.into());
            }
            Form::MemoryRegister => {
                let place = self.operand(op, width, Use::Write);
                let from = self.in_register(op.reg, width, RCX);
                self.out.store(width, place, from);
            }
            Form::RegisterImmediate => {
                if let (Width::Double | Width::Quad, Some(own)) = (width, state::host(op.reg)) {
                    let value = match width {
                        Width::Double => u64::from(op.immediate as u32),
                        _ => op.immediate,
                    };
                    self.out.constant(own, value);
                } else {
                    self.out.constant(RAX, op.immediate);
                    if width == Width::Double {
                        self.out.load(Width::Double, RAX, RAX);
                    }
                    self.assign(op.reg, width, RAX);
                }
            }
            Form::MemoryImmediate => {
                let place = self.operand(op, width, Use::Write);
                self.out.store_immediate(width, place, immediate(op));
            }
        }
    }

    /// Puts a value from a register into a register operand.
    pub(super) fn assign(&mut self, number: u8, width: Width, from: u8) {
        if state::is_high_byte(number, width) {
            // The rest of the register must be at home first.
            self.source(number, width);
            return self.set(number, width, from);
        }
        match state::host(number) {
            // A move of 32 bits clears the upper half, even to itself.
            Some(own) => self.out.load(width, own, from),
            None => {
                if width == Width::Double {
                    self.out.load(Width::Double, RAX, from);
                    self.set(number, width, RAX);
                } else {
                    self.set(number, width, from);
                }
            }
        }
    }

    /// Loads a register operand from memory.
    fn load_to(&mut self, number: u8, width: Width, place: Place) {
        match state::host(number) {
            Some(own) if !state::is_high_byte(number, width) => self.out.load(width, own, place),
            _ => {
                self.out.load(width, RCX, place);
                if state::is_high_byte(number, width) {
                    self.source(number, width);
                }
                self.set(number, width, RCX);
            }
        }
    }

    /// The register to which an instruction that writes at least 32 bits puts its result.
    pub(super) fn whole(&mut self, number: u8, spare: u8) -> u8 {
        state::host(number).unwrap_or(spare)
    }

    pub(super) fn zero_extend(&mut self, op: &Op, from: Width, native: Native) {
        let Native::ZeroExtend(to, _) = native else {
            return;
        };
        let place = self.extended_source(op, from);
        if to == Width::Word {
            self.out.zero_extend(from, RCX, place);
            return self.assign(op.reg, to, RCX);
        }
        let target = self.whole(op.reg, RCX);
        self.out.zero_extend(from, target, place);
        self.set(op.reg, Width::Quad, target);
    }

    pub(super) fn sign_extend(&mut self, op: &Op, to: Width, from: Width) {
        let place = self.extended_source(op, from);
        if to == Width::Word {
            self.out.sign_extend(Width::Double, from, RCX, place);
            return self.assign(op.reg, to, RCX);
        }
        let target = self.whole(op.reg, RCX);
        self.out.sign_extend(to, from, target, place);
        self.set(op.reg, Width::Quad, target);
    }

    fn extended_source(&mut self, op: &Op, from: Width) -> Place {
        if op.attributes & MEMORY != 0 {
            self.operand(op, from, Use::Read).into()
        } else {
            self.source(op.rm, from)
        }
    }

    pub(super) fn sign_extend_accumulator(&mut self, to: Width, from: Width) {
        let own = state::ACCUMULATOR;
        if to == Width::Word {
            self.out.sign_extend(Width::Double, from, RAX, own);
            self.out.load(Width::Word, own, RAX);
        } else {
            self.out.sign_extend(to, from, own, own);
        }
    }

    pub(super) fn sign_to_data(&mut self, width: Width) {
        // CWD, CDQ and CQO themselves, on the host's registers of those names.
        self.out.load(Width::Quad, RAX, state::ACCUMULATOR);
        match width {
            Width::Word => self.out.raw(&[0x66, 0x99]),
            Width::Quad => self.out.raw(&[0x48, 0x99]),
            _ => self.out.byte(0x99),
        }
        const DATA: u8 = 2;
        self.assign(DATA, width, RDX);
    }

    pub(super) fn load_address(&mut self, op: &Op, width: Width) {
        match (width, state::host(op.reg)) {
            (Width::Quad, Some(own))
                if op.base != crate::cpu::op::RIP && op.index != NO_REGISTER =>
            {
                // The target may be one of the operands: the host's LEA reads before it writes.
                self.offset_into(own, op);
            }
            _ => {
                self.offset(RAX, op);
                if width == Width::Double {
                    self.out.load(Width::Double, RAX, RAX);
                }
                match width {
                    Width::Double => self.set_from(op.reg, RAX),
                    _ => self.assign(op.reg, width, RAX),
                }
            }
        }
    }

    /// LEA straight into a host register, where all operands are in registers.
    fn offset_into(&mut self, register: u8, op: &Op) {
        let in_host = |number| number == NO_REGISTER || state::host(number).is_some();
        if in_host(op.base) && in_host(op.index) {
            self.offset(register, op);
        } else {
            self.offset(RAX, op);
            self.out.load(Width::Quad, register, RAX);
        }
    }

    /// Sets all 64 bits of a register operand.
    fn set_from(&mut self, number: u8, from: u8) {
        match state::host(number) {
            Some(own) => self.out.load(Width::Quad, own, from),
            None => self.out.store(Width::Quad, state::home(number), from),
        }
    }

    pub(super) fn set_condition(&mut self, op: &Op, condition: u8) {
        if op.attributes & MEMORY != 0 {
            let place = self.operand(op, Width::Byte, Use::Write);
            self.out.load(Width::Quad, RCX, RAX);
            self.need_flags();
            self.out.set_condition(
                condition,
                super::assembler::Memory {
                    base: Some(RCX),
                    ..place
                },
            );
            return;
        }
        self.need_flags();
        if state::host(op.reg).is_some() && !state::is_high_byte(op.reg, Width::Byte) {
            self.out.set_condition(condition, state::place(op.reg));
        } else {
            self.out.set_condition(condition, RCX);
            self.assign(op.reg, Width::Byte, RCX);
        }
    }

    pub(super) fn move_if(&mut self, op: &Op, condition: u8, width: Width) {
        let from = if op.attributes & MEMORY != 0 {
            let place = self.operand(op, width, Use::Read);
            self.out.load(width, RCX, place);
            RCX
        } else {
            self.in_register(op.rm, width, RCX)
        };
        self.need_flags();
        let target = self.target(op.reg, width, RDX);
        self.out.move_if(condition, width, target, from.into());
        self.set(op.reg, width, target);
    }

    pub(super) fn exchange(&mut self, op: &Op, width: Width) {
        if op.attributes & LOCK != 0 && op.attributes & MEMORY != 0 {
            let place = self.operand(op, width, Use::Write);
            self.need_alignment(width);
            let from = self.in_register(op.reg, width, RCX);
            if from != RCX {
                self.out.load(Width::Quad, RCX, from);
            }
            self.out.exchange(width, place, RCX);
            return self.assign_loaded(op.reg, width);
        }
        let first = self.in_register(op.reg, width, RAX);
        if first != RAX {
            self.out.load(Width::Quad, RAX, first);
        }
        let second = self.in_register(op.rm, width, RCX);
        if second != RCX {
            self.out.load(Width::Quad, RCX, second);
        }
        self.out.load(Width::Quad, RDX, RAX);
        self.assign(op.reg, width, RCX);
        self.assign(op.rm, width, RDX);
    }

    /// Assigns the value in RCX, of which only `width` counts.
    pub(super) fn assign_loaded(&mut self, number: u8, width: Width) {
        self.assign(number, width, RCX);
    }
}

/// Narrow results are moved whole where their register held the rest.
fn widened(width: Width) -> Width {
    match width {
        Width::Double => Width::Quad,
        other => other,
    }
}
