//! XCHG, XADD, CMPXCHG and its relatives (SDM volume 2).

use super::Emulator;
use super::address_space::Alignment;
use super::device::Devices;
use super::fault::Stop;
use super::instruction::Place;
use super::native::{Binary, mask};
use super::paging::Access;
use super::registers::Registers;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use arch::control_register::rflags::ZF;
use iced_x86::{Instruction, OpKind, Register};

const EAX: u64 = 0xffff_ffff;

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    pub(super) fn exchange(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        // Memory may be either operand.
        let (memory, register) = match instruction.op_kind(0) {
            OpKind::Memory => (0, 1),
            _ => (1, 0),
        };
        let (memory, _) = self.place(instruction, memory, Access::Write)?;
        let (register, _) = self.place(instruction, register, Access::Write)?;
        let value = self.get(register);
        let old = self.update(memory, |_| value)?;
        self.set(register, old)?;
        Ok(Progress::Complete)
    }

    pub(super) fn exchange_and_add(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let (register, _) = self.place(instruction, 1, Access::Write)?;
        let b = self.get(register);
        if let Place::General(target) = target {
            // The sum stays where both are one register.
            let a = self.registers.get(target);
            let sum = Binary::Add.apply(size, a, b, self.space.flags);
            self.set(register, a)?;
            self.registers.set(target, sum.value);
            self.space.flags = sum.flags;
            return Ok(Progress::Complete);
        }
        let a = self.update(target, |a| a.wrapping_add(b) & mask(size))?;
        self.set(register, a)?;
        self.space.flags = Binary::Add.apply(size, a, b, self.space.flags).flags;
        Ok(Progress::Complete)
    }

    /// Memory is written whether the comparison succeeds or not.
    pub(super) fn compare_and_exchange(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        if !matches!(target, Place::Memory(_)) {
            return Err(Stop::NotEmulated);
        }
        let new = self.source(instruction, 1)?;
        let accumulator = Registers::accumulator(size);
        let expected = self.registers.get(accumulator);
        let found = self.update(target, |found| if found == expected { new } else { found })?;
        if found != expected {
            self.registers.set(accumulator, found);
        }
        let compared = Binary::Sub.apply(size, expected, found, self.space.flags);
        self.space.flags = compared.flags;
        Ok(Progress::Complete)
    }

    pub(super) fn compare_and_exchange_8_bytes(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Progress, Stop> {
        let (target, _) = self.place(instruction, 0, Access::Write)?;
        let [rax, rcx, rdx, rbx, ..] = self.registers.0;
        let expected = rdx << 32 | rax & EAX;
        let new = rcx << 32 | rbx & EAX;
        let found = self.update(target, |found| if found == expected { new } else { found })?;
        if found != expected {
            self.registers.set(Register::EAX, found);
            self.registers.set(Register::EDX, found >> 32);
        }
        self.set_zero_flag(found == expected);
        Ok(Progress::Complete)
    }

    pub(super) fn compare_and_exchange_16_bytes(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Progress, Stop> {
        let required = Alignment::Required;
        let target = self.memory(instruction, 0, 16, Access::Write, required)?;
        let [rax, rcx, rdx, rbx, ..] = self.registers.0;
        let expected = u128::from(rdx) << 64 | u128::from(rax);
        let new = u128::from(rcx) << 64 | u128::from(rbx);
        let found = self.read(&target);
        self.write(&target, if found == expected { new } else { found })?;
        if found != expected {
            self.registers.set(Register::RAX, found as u64);
            self.registers.set(Register::RDX, (found >> 64) as u64);
        }
        self.set_zero_flag(found == expected);
        Ok(Progress::Complete)
    }

    fn set_zero_flag(&mut self, set: bool) {
        self.space.flags = self.space.flags & !ZF | if set { ZF } else { 0 };
    }
}
