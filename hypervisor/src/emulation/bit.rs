//! BT, BTS, BTR and BTC (SDM volume 1, 3.1.1.9 Bit(BitBase, BitOffset)).

use super::Emulator;
use super::address::address_mask;
use super::device::Devices;
use super::fault::Stop;
use super::instruction::{Place, memory_size};
use super::paging::Access;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use arch::control_register::rflags::CF;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// CF becomes the bit; the other flags, which are undefined but for ZF, stay.
    pub(super) fn bit(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let mnemonic = instruction.mnemonic();
        let access = match mnemonic {
            Mnemonic::Bt => Access::Read,
            _ => Access::Write,
        };
        let by_register = instruction.op_kind(1) == OpKind::Register;
        let number = self.source(instruction, 1)?;
        let (target, size) = match instruction.op_kind(0) {
            OpKind::Memory if by_register => {
                // The register counts bits from the operand, to either side.
                let size = memory_size(instruction)?;
                let bits = 8 * u32::from(size);
                let unused = 64 - bits;
                let distance = (number << unused) as i64 >> unused >> bits.trailing_zeros();
                let bytes = (distance as u64).wrapping_mul(size.into());
                let (segment, offset) = self.address(instruction, 0);
                let offset = offset.wrapping_add(bytes) & address_mask(instruction);
                let operand = self.operand(segment, offset, size, access)?;
                (Place::Memory(operand), size)
            }
            _ => self.place(instruction, 0, access)?,
        };
        let bit = 1_u64 << (number & (8 * u64::from(size) - 1));
        let old = match mnemonic {
            Mnemonic::Bts => self.update(target, |value| value | bit)?,
            Mnemonic::Btr => self.update(target, |value| value & !bit)?,
            Mnemonic::Btc => self.update(target, |value| value ^ bit)?,
            _ => self.get(target),
        };
        let carry = if old & bit != 0 { CF } else { 0 };
        self.space.flags = self.space.flags & !CF | carry;
        Ok(Progress::Complete)
    }
}
