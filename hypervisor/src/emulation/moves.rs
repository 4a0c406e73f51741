//! Moves between general registers and memory, and what depends on a condition (SDM volume 1, 7.3.1
//! Data transfer, 7.3.7 Bit and byte).

use super::Emulator;
use super::device::Devices;
use super::fault::Stop;
use super::instruction::Place;
use super::paging::Access;
use super::repetition::Progress;
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use arch::control_register::rflags::{CF, OF, PF, SF, ZF};
use iced_x86::{ConditionCode, Instruction, Mnemonic};

/// Whether RFLAGS meet a condition (SDM volume 1, appendix B).
fn is_met(condition: ConditionCode, flags: u64) -> bool {
    let set = |bit: u64| flags & bit != 0;
    let less = set(SF) != set(OF);
    match condition {
        ConditionCode::o => set(OF),
        ConditionCode::no => !set(OF),
        ConditionCode::b => set(CF),
        ConditionCode::ae => !set(CF),
        ConditionCode::e => set(ZF),
        ConditionCode::ne => !set(ZF),
        ConditionCode::be => set(CF) || set(ZF),
        ConditionCode::a => !set(CF) && !set(ZF),
        ConditionCode::s => set(SF),
        ConditionCode::ns => !set(SF),
        ConditionCode::p => set(PF),
        ConditionCode::np => !set(PF),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => less || set(ZF),
        ConditionCode::g => !less && !set(ZF),
        ConditionCode::None => true,
    }
}

/// A value of `size` bytes, sign-extended.
const fn sign_extended(value: u64, size: u8) -> u64 {
    let unused = 64 - 8 * size as u32;
    ((value << unused) as i64 >> unused) as u64
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    /// MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI.
    pub(super) fn mov(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let (target, size) = self.place(instruction, 0, Access::Write)?;
        let value = match instruction.mnemonic() {
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let (source, size) = self.place(instruction, 1, Access::Read)?;
                sign_extended(self.get(source), size)
            }
            Mnemonic::Movbe => {
                let value = self.source(instruction, 1)?;
                value.swap_bytes() >> (64 - 8 * u32::from(size))
            }
            _ => self.source(instruction, 1)?,
        };
        self.set(target, value)?;
        Ok(Progress::Complete)
    }

    /// SETcc and CMOVcc.
    pub(super) fn conditional(
        &mut self,
        instruction: &Instruction,
        condition: ConditionCode,
    ) -> Result<Progress, Stop> {
        let met = is_met(condition, self.space.flags);
        if instruction.op_count() == 1 {
            if instruction.is_jcc_short_or_near() {
                return Err(Stop::NotEmulated);
            }
            let (target, _) = self.place(instruction, 0, Access::Write)?;
            self.set(target, met.into())?;
            return Ok(Progress::Complete);
        }
        // The source is read whether the condition is met or not, and a target of 32 bits clears its
        // upper half.
        let (target, _) = self.place(instruction, 0, Access::Write)?;
        if !matches!(target, Place::General(_)) {
            return Err(Stop::NotEmulated);
        }
        let value = self.source(instruction, 1)?;
        let old = self.get(target);
        self.set(target, if met { value } else { old })?;
        Ok(Progress::Complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        for (condition, flags, met) in [
            (ConditionCode::a, 0, true),
            (ConditionCode::a, CF, false),
            (ConditionCode::be, ZF, true),
            (ConditionCode::l, SF, true),
            (ConditionCode::l, SF | OF, false),
            (ConditionCode::g, 0, true),
            (ConditionCode::g, ZF, false),
            (ConditionCode::le, OF, true),
            (ConditionCode::np, PF, false),
        ] {
            assert_eq!(is_met(condition, flags), met, "{condition:?} {flags:#x}");
        }
    }
}
