//! The VM-exit instruction-information field (SDM 27.2.5 Information for VM exits due to
//! instruction execution, tables 27-9 to 27-14).

use crate::cpu::{Cpu, op, op::Op, segment::register};

/// A register operand: bit 10 is set and bits 6:3 name it.
pub fn register_operand(number: u8) -> u32 {
    1 << 10 | u32::from(number & 15) << 3
}

/// A memory operand: scale, address size, segment, index and base.
pub fn memory_operand(operand: &Op) -> u32 {
    let index = if operand.index == op::NO_REGISTER {
        1 << 22
    } else {
        u32::from(operand.index & 15) << 18
    };
    // RIP-relative operands have no base register; the displacement is an address.
    let base = if operand.base == op::NO_REGISTER || operand.base == op::RIP {
        1 << 27
    } else {
        u32::from(operand.base & 15) << 23
    };
    u32::from(operand.scale & 3)
        | address_size(operand) << 7
        | u32::from(segment(operand)) << 15
        | index
        | base
}

/// Bits 9:7 of most forms: 0 for 16 bits, 1 for 32, 2 for 64.
pub fn address_size(operand: &Op) -> u32 {
    match operand.address_bits() {
        16 => 0,
        32 => 1,
        _ => 2,
    }
}

/// Reg2, bits 31:28.
pub fn second_register(number: u8) -> u32 {
    u32::from(number & 15) << 28
}

/// The segment register of a memory operand.
pub fn segment(operand: &Op) -> u8 {
    match operand.segment {
        op::FLAT => register::DS,
        op::FLAT_STACK => register::SS,
        number => number & 7,
    }
}

/// Exit qualification of instructions with a memory operand: the displacement (SDM 27.2.1), for
/// RIP-relative operands the address.
pub fn displacement(cpu: &Cpu, operand: &Op) -> u64 {
    let displacement = operand.displacement as i64 as u64;
    if operand.base == op::RIP {
        cpu.rip().wrapping_add(displacement)
    } else {
        displacement
    }
}
