//! PUSH and POP (SDM volume 1, 6.2 Stacks).

use super::Emulator;
use super::address_space::Mode;
use super::device::Devices;
use super::fault::Stop;
use super::native::mask;
use super::operand::Operand;
use super::paging::Access;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::segment::{register, rights};
use arch::vmcs;
use iced_x86::{Instruction, OpKind};

/// Bytes that an instruction pushes or pops.
pub(super) fn stack_size(instruction: &Instruction) -> Result<u8, Stop> {
    match instruction.stack_pointer_increment().unsigned_abs() {
        size @ (2 | 4 | 8) => Ok(size as u8),
        _ => Err(Stop::NotEmulated),
    }
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// What the size of the stack leaves of RSP.
    fn stack_mask(&self) -> Result<u64, VmxError> {
        if self.space.mode == Mode::Bits64 {
            return Ok(u64::MAX);
        }
        let big = self.vmcs.read(vmcs::GUEST_SS_ACCESS_RIGHTS)? & rights::BIG != 0;
        Ok(mask(if big { 4 } else { 2 }))
    }

    /// RSP with `distance` added to as much of it as the stack has.
    pub(super) fn moved_stack_pointer(&self, distance: u64) -> Result<u64, VmxError> {
        let mask = self.stack_mask()?;
        let rsp = self.registers.0[RSP];
        let moved = rsp.wrapping_add(distance) & mask;
        Ok(match mask {
            0xffff => rsp & !mask | moved,
            _ => moved,
        })
    }

    /// The place below the top of the stack, and what RSP is when something has been pushed there.
    pub(super) fn below_top(&mut self, size: u8) -> Result<(Operand, u64), Stop> {
        let rsp = self.moved_stack_pointer(u64::from(size).wrapping_neg())?;
        let offset = rsp & self.stack_mask()?;
        let place = self.operand(register::SS, offset, size, Access::Write)?;
        Ok((place, rsp))
    }

    /// The place at the top of the stack.
    pub(super) fn top(&mut self, size: u8) -> Result<Operand, Stop> {
        let offset = self.registers.0[RSP] & self.stack_mask()?;
        self.operand(register::SS, offset, size, Access::Read)
    }

    pub(super) fn push(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let size = stack_size(instruction)?;
        // A device is read once its value can go where it is to go.
        let source = match instruction.op_kind(0) {
            OpKind::Memory => Some(self.place(instruction, 0, Access::Read)?.0),
            _ => None,
        };
        let (place, rsp) = self.below_top(size)?;
        let value = match source {
            Some(source) => self.get(source),
            None => self.source(instruction, 0)?,
        };
        self.write(&place, value.into())?;
        self.registers.0[RSP] = rsp;
        Ok(Progress::Complete)
    }

    pub(super) fn pop(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let size = stack_size(instruction)?;
        let source = self.top(size)?;
        let before = self.registers.0[RSP];
        // An address that begins with RSP begins with what it has become.
        self.registers.0[RSP] = self.moved_stack_pointer(size.into())?;
        match self.place(instruction, 0, Access::Write) {
            Ok((target, _)) => {
                let value = self.read(&source) as u64;
                self.set(target, value)?;
                Ok(Progress::Complete)
            }
            Err(stop) => {
                self.registers.0[RSP] = before;
                Err(stop)
            }
        }
    }
}
