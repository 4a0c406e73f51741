//! Near branches whose target, or whose stack, is a device's (SDM volume 2, CALL, JMP, RET).

use super::Emulator;
use super::address_space::Mode;
use super::device::Devices;
use super::fault::{Fault, Stop};
use super::native::mask;
use super::repetition::Progress;
use super::stack::stack_size;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::Vmcs;
use arch::vmcs;
use iced_x86::{Code, Instruction, OpKind};

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// Where a near branch goes, inside the code segment or else #GP(0).
    fn target(&mut self, value: u64, size: u8) -> Result<u64, Stop> {
        let target = value & mask(size);
        let inside = if self.space.mode == Mode::Bits64 {
            ((target << 16) as i64 >> 16) as u64 == target
        } else {
            target <= self.vmcs.read(vmcs::GUEST_CS_LIMIT)?.into()
        };
        if inside {
            Ok(target)
        } else {
            Err(Fault::GENERAL_PROTECTION.into())
        }
    }

    /// The target that an operand gives, and its size in bytes.
    fn operand_target(&mut self, instruction: &Instruction, size: u8) -> Result<u64, Stop> {
        let value = match instruction.op_kind(0) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                instruction.near_branch_target()
            }
            OpKind::Register | OpKind::Memory => self.source(instruction, 0)?,
            _ => return Err(Stop::NotEmulated),
        };
        self.target(value, size)
    }

    pub(super) fn call(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        if instruction.is_call_far_indirect() {
            return Err(Stop::NotEmulated);
        }
        let size = stack_size(instruction)?;
        let (place, rsp) = self.below_top(size)?;
        let target = self.operand_target(instruction, size)?;
        self.write(&place, (instruction.next_ip() & mask(size)).into())?;
        self.registers.0[RSP] = rsp;
        Ok(Progress::Branched(target))
    }

    pub(super) fn jump(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let size = match instruction.code() {
            Code::Jmp_rm16 => 2,
            Code::Jmp_rm32 => 4,
            Code::Jmp_rm64 => 8,
            _ => return Err(Stop::NotEmulated),
        };
        Ok(Progress::Branched(self.operand_target(instruction, size)?))
    }

    pub(super) fn ret(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let size = match instruction.code() {
            Code::Retnw | Code::Retnw_imm16 => 2,
            Code::Retnd | Code::Retnd_imm16 => 4,
            Code::Retnq | Code::Retnq_imm16 => 8,
            _ => return Err(Stop::NotEmulated),
        };
        let place = self.top(size)?;
        let value = self.read(&place) as u64;
        let target = self.target(value, size)?;
        let parameters = match instruction.op_count() {
            0 => 0,
            _ => u64::from(instruction.immediate16()),
        };
        self.registers.0[RSP] = self.moved_stack_pointer(parameters + u64::from(size))?;
        Ok(Progress::Branched(target))
    }
}
