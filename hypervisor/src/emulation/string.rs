//! MOVS, STOS, LODS, CMPS and SCAS (SDM volume 1, 7.3.9 String operations).

use super::Emulator;
use super::address::address_mask;
use super::device::Devices;
use super::fault::Stop;
use super::instruction::memory_size;
use super::native::{Binary, mask};
use super::paging::Access;
use super::registers::Registers;
use super::repetition::{Progress, Repetition};
use super::vector_registers::VectorRegisters;
use crate::vm::memory::FrameAccess;
use crate::vmx::instructions::{RDI, RSI};
use crate::vmx::vmcs::Vmcs;
use arch::control_register::rflags::ZF;
use arch::segment::register;
use core::ops::ControlFlow;
use iced_x86::{Instruction, Mnemonic as M};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Move,
    Store,
    Load,
    Compare,
    Scan,
}

impl Kind {
    fn of(instruction: &Instruction) -> Option<Self> {
        Some(match instruction.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => Self::Move,
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => Self::Store,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Self::Load,
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => Self::Compare,
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => Self::Scan,
            _ => return None,
        })
    }

    const fn pointers(self) -> &'static [usize] {
        match self {
            Self::Move | Self::Compare => &[RSI, RDI],
            Self::Store | Self::Scan => &[RDI],
            Self::Load => &[RSI],
        }
    }

    const fn compares(self) -> bool {
        matches!(self, Self::Compare | Self::Scan)
    }
}

impl<V: Vmcs, F: FrameAccess, D: Devices<V> + VectorRegisters> Emulator<'_, V, F, D> {
    pub(super) fn string(&mut self, instruction: &Instruction) -> Result<Progress, Stop> {
        let kind = Kind::of(instruction).ok_or(Stop::NotEmulated)?;
        let size = memory_size(instruction)?;
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let source = self.segment(instruction);
        let mask_of_addresses = address_mask(instruction);
        let before = self.space.flags;
        let repetition = Repetition::new(repeats, mask_of_addresses, size, before);
        let mut flags = before;
        let mut registers = self.registers.0;
        let progress = repetition.run(&mut registers, kind.pointers(), |registers| {
            let (from, to) = (
                repetition.offset(registers[RSI]),
                repetition.offset(registers[RDI]),
            );
            let accumulator = registers[0] & mask(size);
            let mut compare = |a: u64, b: u64| {
                flags = Binary::Sub.apply(size, a, b, before).flags;
                // Without REP it does not matter; REPE goes on while they are equal, REPNE while not.
                let equal = flags & ZF != 0;
                if equal == instruction.has_repne_prefix() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            match kind {
                Kind::Move => {
                    let from = self.operand(source, from, size, Access::Read)?;
                    let to = self.operand(register::ES, to, size, Access::Write)?;
                    let value = self.read(&from);
                    self.write(&to, value)?;
                }
                Kind::Store => {
                    let to = self.operand(register::ES, to, size, Access::Write)?;
                    self.write(&to, accumulator.into())?;
                }
                Kind::Load => {
                    let from = self.operand(source, from, size, Access::Read)?;
                    let value = self.read(&from) as u64;
                    let mut all = Registers(*registers);
                    all.set(Registers::accumulator(size), value);
                    *registers = all.0;
                }
                Kind::Compare => {
                    // The second operand is the one that is read first.
                    let to = self.operand(register::ES, to, size, Access::Read)?;
                    let from = self.operand(source, from, size, Access::Read)?;
                    let b = self.read(&to) as u64;
                    let a = self.read(&from) as u64;
                    return Ok(compare(a, b));
                }
                Kind::Scan => {
                    let to = self.operand(register::ES, to, size, Access::Read)?;
                    let b = self.read(&to) as u64;
                    return Ok(compare(accumulator, b));
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        self.registers.0 = registers;
        // SDM volume 2, REP: a fault of a repeated comparison leaves the flags of before the instruction.
        // They are needed when it is complete, and when the guest looks at each iteration.
        let complete = matches!(progress, Ok(Progress::Complete));
        if kind.compares() && (complete || repetition.stepping && progress.is_ok()) {
            self.space.flags = flags;
        }
        progress
    }
}
