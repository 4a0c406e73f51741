//! Fetches, decodes and carries out the instruction at CS:RIP.

use super::Emulator;
use super::address::segment_number;
use super::address_space::{Alignment, Mode};
use super::code::Code;
use super::decoder::{CodeSize, Undecoded, decode};
use super::device::Devices;
use super::fault::{Fault, Stop};
use super::native::{Binary, DoubleShift, Multiplication, Shift, Unary};
use super::operand::Operand;
use super::paging::Access;
use super::registers;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::guest_segment::SegmentFields;
use crate::vmx::vmcs::Vmcs;
use arch::segment::rights;
use arch::vmcs;
use iced_x86::{ConditionCode, Instruction, Mnemonic as M, OpKind, Register};

/// An operand that has been found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    General(Register),
    Memory(Operand),
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// Carries out the instruction at CS:RIP; gives its length too, which is 0 if it was not decoded.
    pub fn run(&mut self) -> (Result<Progress, Stop>, u32) {
        match self.fetch_and_decode() {
            Ok(instruction) => (self.execute(&instruction), instruction.len() as u32),
            Err(stop) => (Err(stop), 0),
        }
    }

    fn fetch_and_decode(&mut self) -> Result<Instruction, Stop> {
        let rip = self.vmcs.read(vmcs::GUEST_RIP)?;
        let size = match self.space.mode {
            Mode::Bits64 => CodeSize::Bits64,
            _ if self.vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)? & rights::BIG != 0 => {
                CodeSize::Bits32
            }
            _ => CodeSize::Bits16,
        };
        let mut code = Code::at(rip);
        loop {
            self.fetch(&mut code)?;
            match decode(code.bytes(), size, rip) {
                Ok(instruction) => return Ok(instruction),
                Err(Undecoded::Incomplete) => {}
                Err(Undecoded::Invalid) => return Err(Fault::INVALID_OPCODE.into()),
            }
        }
    }

    fn execute(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        if is_string(instruction) {
            return self.string(instruction);
        }
        match instruction.condition_code() {
            ConditionCode::None => {}
            condition => return self.conditional(instruction, condition),
        }
        match instruction.mnemonic() {
            M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Movbe | M::Movnti => {
                self.mov(instruction)
            }
            M::Add => self.binary(instruction, Binary::Add),
            M::Or => self.binary(instruction, Binary::Or),
            M::Adc => self.binary(instruction, Binary::Adc),
            M::Sbb => self.binary(instruction, Binary::Sbb),
            M::And => self.binary(instruction, Binary::And),
            M::Sub => self.binary(instruction, Binary::Sub),
            M::Xor => self.binary(instruction, Binary::Xor),
            M::Cmp => self.compare(instruction, Binary::Sub),
            M::Test => self.compare(instruction, Binary::And),
            M::Inc => self.unary(instruction, Unary::Inc),
            M::Dec => self.unary(instruction, Unary::Dec),
            M::Neg => self.unary(instruction, Unary::Neg),
            M::Not => self.unary(instruction, Unary::Not),
            M::Rol => self.shift(instruction, Shift::Rol),
            M::Ror => self.shift(instruction, Shift::Ror),
            M::Rcl => self.shift(instruction, Shift::Rcl),
            M::Rcr => self.shift(instruction, Shift::Rcr),
            M::Shl | M::Sal => self.shift(instruction, Shift::Shl),
            M::Shr => self.shift(instruction, Shift::Shr),
            M::Sar => self.shift(instruction, Shift::Sar),
            M::Shld => self.double_shift(instruction, DoubleShift::Left),
            M::Shrd => self.double_shift(instruction, DoubleShift::Right),
            M::Mul => self.multiply(instruction, Multiplication::Unsigned),
            M::Imul if instruction.op_count() == 1 => {
                self.multiply(instruction, Multiplication::Signed)
            }
            M::Imul => self.multiply_into_register(instruction),
            M::Div => self.divide(instruction),
            M::Idiv => self.divide_signed(instruction),
            M::Bsf => self.scan(instruction, Binary::Bsf),
            M::Bsr => self.scan(instruction, Binary::Bsr),
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit(instruction),
            M::Xchg => self.exchange(instruction),
            M::Xadd => self.exchange_and_add(instruction),
            M::Cmpxchg => self.compare_and_exchange(instruction),
            M::Cmpxchg8b => self.compare_and_exchange_8_bytes(instruction),
            M::Cmpxchg16b => self.compare_and_exchange_16_bytes(instruction),
            M::Push => self.push(instruction),
            M::Pop => self.pop(instruction),
            M::Call => self.call(instruction),
            M::Jmp => self.jump(instruction),
            M::Ret => self.ret(instruction),
            M::Clflush | M::Clflushopt | M::Clwb => {
                // Nothing is cached; the access is checked as a read of a byte.
                self.memory(instruction, 0, 1, Access::Read, Alignment::Any)?;
                Ok(Progress::Complete)
            }
            _ => self.vector(instruction),
        }
    }

    /// Finds a memory operand.
    pub(super) fn memory(
        &mut self,
        instruction: &Instruction,
        operand: u32,
        size: u8,
        access: Access,
        alignment: Alignment,
    ) -> Result<Operand, Stop> {
        let (segment, offset) = self.address(instruction, operand);
        self.aligned_operand(segment, offset, size, access, alignment)
    }

    /// Finds an operand that is a general register or memory.
    pub(super) fn place(
        &mut self,
        instruction: &Instruction,
        operand: u32,
        access: Access,
    ) -> Result<(Place, u8), Stop> {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                if register.is_gpr() {
                    Ok((Place::General(register), registers::size(register)))
                } else {
                    Err(Stop::NotEmulated)
                }
            }
            OpKind::Memory => {
                let size = memory_size(instruction)?;
                let natural = Alignment::Natural;
                let found = self.memory(instruction, operand, size, access, natural)?;
                Ok((Place::Memory(found), size))
            }
            _ => Err(Stop::NotEmulated),
        }
    }

    /// Reads an operand of 8 bytes at most.
    pub(super) fn get(&mut self, place: Place) -> u64 {
        match place {
            Place::General(register) => self.registers.get(register),
            Place::Memory(operand) => self.read(&operand) as u64,
        }
    }

    /// Writes an operand of 8 bytes at most.
    pub(super) fn set(&mut self, place: Place, value: u64) -> Result<(), Stop> {
        match place {
            Place::General(register) => self.registers.set(register, value),
            Place::Memory(operand) => self.write(&operand, value.into())?,
        }
        Ok(())
    }

    /// Replaces an operand by `change` of it and gives what it was.
    pub(super) fn update(
        &mut self,
        place: Place,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<u64, Stop> {
        match place {
            Place::General(register) => {
                let old = self.registers.get(register);
                self.registers.set(register, change(old));
                Ok(old)
            }
            Place::Memory(operand) => Ok(self.modify(&operand, change)?),
        }
    }

    /// The value of an operand that is read alone: a general or segment register, memory, or an immediate,
    /// which is sign-extended.
    pub(super) fn source(&mut self, instruction: &Instruction, operand: u32) -> Result<u64, Stop> {
        match instruction.op_kind(operand) {
            OpKind::Register if instruction.op_register(operand).is_segment_register() => {
                let number = segment_number(instruction.op_register(operand));
                Ok(SegmentFields::of(number).read(self.vmcs)?.selector.into())
            }
            OpKind::Register | OpKind::Memory => {
                let (place, _) = self.place(instruction, operand, Access::Read)?;
                Ok(self.get(place))
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Ok(instruction.immediate(operand)),
            _ => Err(Stop::NotEmulated),
        }
    }
}

/// Bytes of an instruction's memory operand, 16 at most.
pub(super) fn memory_size(instruction: &Instruction) -> Result<u8, Stop> {
    match instruction.memory_size().size() {
        size @ (1 | 2 | 4 | 8 | 16) => Ok(size as u8),
        _ => Err(Stop::NotEmulated),
    }
}

/// Whether an operand is one of a string.
fn is_string(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| {
        matches!(
            instruction.op_kind(i),
            OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    })
}
