//! Moves between memory and XMM or MMX registers (SDM volume 1, 9.4.1, 10.4.1, 11.4.1, 12.5).

use super::Emulator;
use super::address_space::Alignment;
use super::device::Devices;
use super::fault::{Fault, Stop};
use super::instruction::memory_size;
use super::paging::Access;
use super::repetition::Progress;
use super::vector_registers::{VectorRegisters, enter_mmx, mmx, set_mmx, set_xmm, xmm};
use crate::vm::memory::FrameAccess;
use crate::vmx::vmcs::Vmcs;
use arch::control_register::{cr0, cr4};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// What a load makes of a register, or a store of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// Its low bits; a load clears the others.
    Low,
    /// Its low 64 bits; a load keeps the others.
    LowHalf,
    /// Its high 64 bits; a load keeps the others.
    HighHalf,
    /// The low 64 bits twice.
    Twice,
    /// Each even doubleword twice.
    EvenTwice,
    /// Each odd doubleword twice.
    OddTwice,
}

/// Which move an instruction is, and what it asks of alignment.
fn kind(instruction: &Instruction) -> Option<(Part, Alignment)> {
    use Alignment::{Any, Natural, Required};
    Some(match instruction.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            (Part::Whole, Required)
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => (Part::Whole, Any),
        M::Movss | M::Movsd | M::Movd | M::Movq | M::Movntq => (Part::Low, Natural),
        M::Movlps | M::Movlpd => (Part::LowHalf, Natural),
        M::Movhps | M::Movhpd => (Part::HighHalf, Natural),
        M::Movddup => (Part::Twice, Natural),
        M::Movsldup => (Part::EvenTwice, Required),
        M::Movshdup => (Part::OddTwice, Required),
        _ => return None,
    })
}

/// A vector register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vector {
    Xmm(usize),
    Mmx(usize),
}

impl Vector {
    fn of(register: Register) -> Option<Self> {
        if register.is_xmm() {
            Some(Self::Xmm(register.number()))
        } else if register.is_mm() {
            Some(Self::Mmx(register.number()))
        } else {
            None
        }
    }
}

impl Part {
    fn load(self, old: u128, value: u128) -> u128 {
        const LOW: u128 = u64::MAX as u128;
        const EVEN: u128 = 0xffff_ffff_0000_0000_ffff_ffff;
        match self {
            Self::Whole | Self::Low => value,
            Self::LowHalf => old & !LOW | value & LOW,
            Self::HighHalf => old & LOW | value << 64,
            Self::Twice => value << 64 | value & LOW,
            Self::EvenTwice => value & EVEN | (value & EVEN) << 32,
            Self::OddTwice => value >> 32 & EVEN | (value >> 32 & EVEN) << 32,
        }
    }
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    pub(super) fn vector(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let (part, alignment) = kind(instruction).ok_or(Stop::NotEmulated)?;
        // Forms with VEX or EVEX have names of their own.
        let (memory, register, access) = match (instruction.op_kind(0), instruction.op_kind(1)) {
            (OpKind::Register, OpKind::Memory) => (1, 0, Access::Read),
            (OpKind::Memory, OpKind::Register) => (0, 1, Access::Write),
            _ => return Err(Stop::NotEmulated),
        };
        let register = Vector::of(instruction.op_register(register)).ok_or(Stop::NotEmulated)?;
        self.check_availability(register)?;
        let size = memory_size(instruction)?;
        let place = self.memory(instruction, memory, size, access, alignment)?;
        if access == Access::Read {
            let value = self.read(&place);
            let image = self.devices.image();
            match register {
                Vector::Xmm(number) => set_xmm(image, number, part.load(xmm(image, number), value)),
                Vector::Mmx(number) => {
                    enter_mmx(image);
                    set_mmx(image, number, value as u64);
                }
            }
            return Ok(Progress::Complete);
        }
        let image = self.devices.image();
        let value = match register {
            Vector::Xmm(number) if part == Part::HighHalf => xmm(image, number) >> 64,
            Vector::Xmm(number) => xmm(image, number),
            Vector::Mmx(number) => {
                enter_mmx(image);
                mmx(image, number).into()
            }
        };
        self.write(&place, value)?;
        Ok(Progress::Complete)
    }

    /// #UD and #NM (SDM volume 2, 2.4 Intel AVX/SSE instruction exception classification; volume 3, 2.5):
    /// they come before the access, but the instruction may have been overwritten since.
    fn check_availability(&self, register: Vector) -> Result<(), Stop> {
        let paging = &self.space.paging;
        let without_sse = matches!(register, Vector::Xmm(_)) && paging.cr4 & cr4::OSFXSR == 0;
        if paging.cr0 & cr0::EM != 0 || without_sse {
            return Err(Fault::INVALID_OPCODE.into());
        }
        if paging.cr0 & cr0::TS != 0 {
            return Err(Fault::DEVICE_NOT_AVAILABLE.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_fills_its_part() {
        let old = 0x1111_1111_2222_2222_3333_3333_4444_4444;
        let value = 0xaaaa_aaaa_bbbb_bbbb_cccc_cccc_dddd_dddd;
        let low = value & u128::from(u64::MAX);
        for (part, from, result) in [
            (Part::Whole, value, value),
            (Part::Low, low, low),
            (
                Part::LowHalf,
                low,
                0x1111_1111_2222_2222_cccc_cccc_dddd_dddd,
            ),
            (
                Part::HighHalf,
                low,
                0xcccc_cccc_dddd_dddd_3333_3333_4444_4444,
            ),
            (Part::Twice, low, 0xcccc_cccc_dddd_dddd_cccc_cccc_dddd_dddd),
            (
                Part::EvenTwice,
                value,
                0xbbbb_bbbb_bbbb_bbbb_dddd_dddd_dddd_dddd,
            ),
            (
                Part::OddTwice,
                value,
                0xaaaa_aaaa_aaaa_aaaa_cccc_cccc_cccc_cccc,
            ),
        ] {
            assert_eq!(part.load(old, from), result, "{part:?}");
        }
    }
}
