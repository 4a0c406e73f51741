//! Reading and writing general registers by width.

use super::{Cpu, op::NO_REGISTER};
use crate::memory::Word;

/// Numbers of general registers in encoding order.
#[allow(missing_docs, reason = "the names say all")]
pub mod number {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// A width of general-register operand, with its rules for writes (SDM 3.4.1.1: 32-bit writes clear
/// bits 63:32, narrower ones leave the rest).
pub trait Operand: Word {
    /// Reads register `number` as [`Op::reg`](super::op::Op::reg) encodes it.
    fn register(cpu: &Cpu, number: u8) -> Self;
    /// Writes it.
    fn set_register(cpu: &mut Cpu, number: u8, value: Self);
}

impl Operand for u8 {
    // 16..=19 are AH, CH, DH, BH: bits 15:8 of registers 0..=3.
    #[inline(always)]
    fn register(cpu: &Cpu, number: u8) -> Self {
        (cpu.registers[(number & 15) as usize] >> ((number & 16) >> 1)) as u8
    }

    #[inline(always)]
    fn set_register(cpu: &mut Cpu, number: u8, value: Self) {
        let shift = (number & 16) >> 1;
        let slot = &mut cpu.registers[(number & 15) as usize];
        *slot = *slot & !(0xff << shift) | u64::from(value) << shift;
    }
}

impl Operand for u16 {
    #[inline(always)]
    fn register(cpu: &Cpu, number: u8) -> Self {
        cpu.registers[(number & 31) as usize] as u16
    }

    #[inline(always)]
    fn set_register(cpu: &mut Cpu, number: u8, value: Self) {
        let slot = &mut cpu.registers[(number & 15) as usize];
        *slot = *slot & !0xffff | u64::from(value);
    }
}

impl Operand for u32 {
    #[inline(always)]
    fn register(cpu: &Cpu, number: u8) -> Self {
        cpu.registers[(number & 31) as usize] as u32
    }

    #[inline(always)]
    fn set_register(cpu: &mut Cpu, number: u8, value: Self) {
        cpu.registers[(number & 15) as usize] = u64::from(value);
    }
}

impl Operand for u64 {
    #[inline(always)]
    fn register(cpu: &Cpu, number: u8) -> Self {
        cpu.registers[(number & 31) as usize]
    }

    #[inline(always)]
    fn set_register(cpu: &mut Cpu, number: u8, value: Self) {
        cpu.registers[(number & 15) as usize] = value;
    }
}

const _: () = assert!(NO_REGISTER >= 16);
