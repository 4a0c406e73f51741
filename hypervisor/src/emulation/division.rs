//! DIV and IDIV (SDM volume 2). The flags, which they leave undefined, stay.

use super::Emulator;
use super::device::Devices;
use super::fault::{Fault, Stop};
use super::native::mask;
use super::paging::Access;
use super::registers::Registers;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use iced_x86::{Instruction, Register};

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// The dividend, twice as wide as `size` bytes.
    fn dividend(&self, size: u8) -> u128 {
        if size == 1 {
            return self.registers.get(Register::AX).into();
        }
        let low = self.registers.get(Registers::accumulator(size));
        let high = self.registers.0[2] & mask(size);
        u128::from(high) << (8 * u32::from(size)) | u128::from(low)
    }

    fn set_quotient(&mut self, size: u8, quotient: u64, remainder: u64) {
        if size == 1 {
            let both = quotient & 0xff | (remainder & 0xff) << 8;
            self.registers.set(Register::AX, both);
        } else {
            self.set_pair(size, quotient, remainder);
        }
    }

    pub(super) fn divide(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let (source, size) = self.place(instruction, 0, Access::Read)?;
        let divisor = u128::from(self.get(source));
        let dividend = self.dividend(size);
        let quotient = dividend.checked_div(divisor).ok_or(Fault::DIVIDE_ERROR)?;
        if quotient > mask(size).into() {
            return Err(Fault::DIVIDE_ERROR.into());
        }
        self.set_quotient(size, quotient as u64, (dividend % divisor) as u64);
        Ok(Progress::Complete)
    }

    pub(super) fn divide_signed(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let (source, size) = self.place(instruction, 0, Access::Read)?;
        let unused = 64 - 8 * u32::from(size);
        let divisor = i128::from((self.get(source) << unused) as i64 >> unused);
        let dividend = (self.dividend(size) << (2 * unused)) as i128 >> (2 * unused);
        let quotient = dividend.checked_div(divisor).ok_or(Fault::DIVIDE_ERROR)?;
        let most = i128::from(mask(size) >> 1);
        if quotient > most || quotient < -most - 1 {
            return Err(Fault::DIVIDE_ERROR.into());
        }
        self.set_quotient(size, quotient as u64, (dividend % divisor) as u64);
        Ok(Progress::Complete)
    }
}
