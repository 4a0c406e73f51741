//! SSE, SSE2 and the instructions on MMX registers (SDM volume 1, chapters 9 to 11).

mod arithmetic;
mod convert;
pub mod extended_states;
mod horizontal;
mod lane;
mod moves;
mod number;
mod packed;
mod shift;
mod shuffle;
mod state;
mod text;

use arch::control_register::{cr0, cr4};
use arch::exception as vector;
use iced_x86::{Instruction, Register};

use crate::cpu::{
    Cpu,
    decode::Form,
    op::{Execute, Op},
    raise::Raised,
    tlb::Access,
};
use crate::memory::Word;

/// The register file an instruction works on.
trait File {
    /// Bytes in a register.
    const BYTES: usize;
    /// Checks that come before anything else.
    fn enter(cpu: &mut Cpu) -> Result<(), Raised>;
    /// What follows when nothing can fault any more.
    fn commit(cpu: &mut Cpu);
    /// Reads a register, zero-extended.
    fn load(cpu: &Cpu, number: u8) -> u128;
    /// Writes a register from the low bytes.
    fn store(cpu: &mut Cpu, number: u8, value: u128);
    /// Reads the memory operand at full width.
    fn memory(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised>;
}

/// The XMM registers.
struct Xmm;
/// The MMX registers, which alias R0 to R7 of the x87 FPU.
struct Mmx;

impl File for Xmm {
    const BYTES: usize = 16;

    #[inline(always)]
    fn enter(cpu: &mut Cpu) -> Result<(), Raised> {
        if cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.cr4 & cr4::OSFXSR != 0 {
            Ok(())
        } else {
            Err(cpu.sse_unavailable())
        }
    }

    #[inline(always)]
    fn commit(_cpu: &mut Cpu) {}

    #[inline(always)]
    fn load(cpu: &Cpu, number: u8) -> u128 {
        cpu.xmm[(number & 15) as usize]
    }

    #[inline(always)]
    fn store(cpu: &mut Cpu, number: u8, value: u128) {
        cpu.xmm[(number & 15) as usize] = value;
    }

    #[inline(always)]
    fn memory(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised> {
        cpu.require_alignment(op, Access::Read)?;
        cpu.read(op)
    }
}

impl File for Mmx {
    const BYTES: usize = 8;

    #[inline(always)]
    fn enter(cpu: &mut Cpu) -> Result<(), Raised> {
        cpu.enter_mmx()
    }

    #[inline(always)]
    fn commit(cpu: &mut Cpu) {
        cpu.x87.begin_mmx();
    }

    #[inline(always)]
    fn load(cpu: &Cpu, number: u8) -> u128 {
        cpu.x87.mmx(number).into()
    }

    #[inline(always)]
    fn store(cpu: &mut Cpu, number: u8, value: u128) {
        cpu.x87.set_mmx(number, value as u64);
    }

    #[inline(always)]
    fn memory(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised> {
        cpu.read::<u64>(op).map(u128::from)
    }
}

/// Where the source operand is.
trait Source {
    /// Reads it at the full width of a register file.
    fn get<F: File>(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised>;
    /// Reads the low part of an XMM register, or memory of that width, which may be misaligned.
    fn low<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised>;
}

/// The second register operand.
struct Rm;
/// The memory operand.
struct Mem;

impl Source for Rm {
    #[inline(always)]
    fn get<F: File>(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised> {
        Ok(F::load(cpu, op.rm))
    }

    #[inline(always)]
    fn low<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        Ok(T::from_bytes(Xmm::load(cpu, op.rm).to_le_bytes()))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn get<F: File>(cpu: &mut Cpu, op: &Op) -> Result<u128, Raised> {
        F::memory(cpu, op)
    }

    #[inline(always)]
    fn low<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Raised> {
        cpu.read(op)
    }
}

impl Cpu {
    /// Why SSE instructions do not execute (SDM 2.5 Control registers, table 13-1).
    #[cold]
    fn sse_unavailable(&mut self) -> Raised {
        if self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0 {
            self.invalid_opcode()
        } else {
            self.fault(vector::DEVICE_NOT_AVAILABLE, None)
        }
    }

    /// #GP(0) for a 16-byte memory operand that is not aligned (SDM volume 1, 10.4.1.1; volume 2,
    /// exception type 4).
    #[inline(always)]
    fn require_alignment(&mut self, op: &Op, access: Access) -> Result<(), Raised> {
        let offset = self.effective_offset(op);
        let base = self.segments[(op.segment & 7) as usize].base;
        if base.wrapping_add(offset) & 15 == 0 {
            Ok(())
        } else {
            self.misaligned(op, offset, access)
        }
    }

    #[cold]
    fn misaligned(&mut self, op: &Op, offset: u64, access: Access) -> Result<(), Raised> {
        self.linear(op.segment, offset, 16, access)?;
        Err(self.general_protection(0))
    }

    /// Checks before an instruction on MMX registers (SDM 12.1 Emulation of the MMX instruction
    /// set).
    #[inline(always)]
    fn enter_mmx(&mut self) -> Result<(), Raised> {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 && self.x87.status & 0x80 == 0 {
            Ok(())
        } else {
            self.enter_mmx_slow()
        }
    }

    #[cold]
    fn enter_mmx_slow(&mut self) -> Result<(), Raised> {
        if self.cr0 & cr0::EM != 0 {
            return Err(self.invalid_opcode());
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.fault(vector::DEVICE_NOT_AVAILABLE, None));
        }
        self.raise_pending_x87()
    }

    /// #MF if an unmasked x87 exception is pending (SDM volume 1, 8.7 Handling x87 FPU exceptions
    /// in software). Without CR0.NE the machine behaves as if IGNNE# were asserted.
    pub(in crate::cpu::execute) fn raise_pending_x87(&mut self) -> Result<(), Raised> {
        if self.x87.status & 0x80 != 0 && self.cr0 & cr0::NE != 0 {
            Err(self.fault(vector::X87_FLOATING_POINT, None))
        } else {
            Ok(())
        }
    }
}

/// Which register file an instruction's operands are of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Xmm,
    Mmx,
    Neither,
}

/// The kind of an operand.
fn operand(instruction: &Instruction, index: u32) -> Kind {
    let register = instruction.op_register(index);
    if register == Register::None {
        Kind::Neither
    } else if register.is_xmm() {
        Kind::Xmm
    } else if register.is_mm() {
        Kind::Mmx
    } else {
        Kind::Neither
    }
}

/// The function that carries out an instruction of this family.
pub(super) fn select(instruction: &Instruction, form: Form, _bits: u32) -> Option<Execute> {
    moves::select(instruction, form)
        .or_else(|| packed::select(instruction, form))
        .or_else(|| shift::select(instruction, form))
        .or_else(|| shuffle::select(instruction, form))
        .or_else(|| arithmetic::select(instruction, form))
        .or_else(|| convert::select(instruction, form))
        .or_else(|| state::select(instruction, form))
        .or_else(|| extended_states::select(instruction, form))
        .or_else(|| horizontal::select(instruction, form))
        .or_else(|| lane::select(instruction, form))
        .or_else(|| text::select(instruction, form))
}
