//! Instructions that change nothing here: NOP, hints, fences and cache control; and random numbers.

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic};

use super::place::{Integer, width};
use crate::cpu::{
    Cpu,
    decode::{Form, operand_bits},
    flags::Flags,
    op::{Execute, Op},
    raise::Raised,
};
use crate::vtx::{intercept, pause_loop};

fn nothing(_cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    Ok(())
}

/// The handlers access RAM in program order with the host's own ordering; a fence must be one on
/// the host too, where processors run on different threads.
fn fence(_cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

fn rdrand<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    intercept::random(cpu, intercept::Random::Rdrand, op)?;
    random::<T>(cpu, op)
}

fn rdseed<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    intercept::random(cpu, intercept::Random::Rdseed, op)?;
    random::<T>(cpu, op)
}

fn pause(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    pause_loop::pause(cpu)
}

/// CLFLUSH translates its operand like a read of one byte (SDM volume 2, CLFLUSH).
fn flush_line(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    let _byte: u8 = cpu.read(op)?;
    Ok(())
}

/// RDRAND and RDSEED: the next number of the processor's generator (splitmix64), the same in every
/// run of the machine. CF says that there was one; the other flags are clear.
fn random<T: Integer>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.random = cpu.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = cpu.random;
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    T::set_register(cpu, op.reg, T::from_u64(value ^ value >> 31));
    cpu.flags = Flags::from_rflags(rflags::CF);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, _form: Form, _bits: u32) -> Option<Execute> {
    match instruction.mnemonic() {
        // ENDBR and RDSSP are hints where there is no control-flow enforcement.
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1 => Some(nothing),
        Mnemonic::Pause => Some(pause),
        // SERIALIZE: instructions execute one after the other.
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Serialize => Some(fence),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Some(flush_line),
        Mnemonic::Rdrand => width!(operand_bits(instruction, 0), rdrand[]),
        Mnemonic::Rdseed => width!(operand_bits(instruction, 0), rdseed[]),
        _ => None,
    }
}
