//! Which flags an instruction leaves undefined, beyond what iced's table says of its code.

use arch::control_register::rflags;
use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

/// The status flags not to be compared after `instruction`, which began with `cl` in CL.
pub fn flags(instruction: &Instruction, bits: u32, cl: u8) -> u64 {
    let table = instruction.rflags_undefined();
    let mut mask = 0;
    for (bit, flag) in [
        (RflagsBits::OF, rflags::OF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
    ] {
        if table & bit != 0 {
            mask |= flag;
        }
    }
    let last = instruction.op_count().saturating_sub(1);
    let count = if matches!(
        instruction.op_kind(last),
        OpKind::Immediate8 | OpKind::Immediate8_2nd
    ) {
        instruction.immediate(last) as u8
    } else {
        cl
    };
    let count = u32::from(count) & if bits == 64 { 63 } else { 31 };
    // SDM volume 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD and SHRD: "Flags affected".
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr => match count {
            0 => 0,
            1 => rflags::AF,
            _ if count >= bits => rflags::AF | rflags::OF | rflags::CF,
            _ => rflags::AF | rflags::OF,
        },
        Mnemonic::Sar => match count {
            0 => 0,
            1 => rflags::AF,
            _ => rflags::AF | rflags::OF,
        },
        Mnemonic::Shld | Mnemonic::Shrd => match count {
            0 => 0,
            1 => rflags::AF,
            // The result is undefined too; the generator keeps away from such counts.
            _ if count > bits => rflags::STATUS,
            _ => rflags::AF | rflags::OF,
        },
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match count {
            0 | 1 => 0,
            _ => rflags::OF,
        },
        _ => mask,
    }
}
