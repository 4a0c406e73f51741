//! The guest's general registers while an instruction is carried out.

use super::native::mask;
use iced_x86::Register;

/// The sixteen registers in encoding order, RSP's value in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers(pub [u64; 16]);

/// Whether a register is AH, CH, DH or BH.
fn is_high(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

fn number(register: Register) -> usize {
    register.full_register().number() & 15
}

/// Bytes of a general register.
pub fn size(register: Register) -> u8 {
    register.size() as u8
}

impl Registers {
    /// A general register's value.
    pub fn get(&self, register: Register) -> u64 {
        let whole = self.0[number(register)];
        if is_high(register) {
            whole >> 8 & 0xff
        } else {
            whole & mask(size(register))
        }
    }

    /// Sets a general register: 32 bits zero the upper half, 8 and 16 bits leave the rest alone (SDM
    /// volume 1, 3.4.1.1).
    pub fn set(&mut self, register: Register, value: u64) {
        let whole = &mut self.0[number(register)];
        *whole = match size(register) {
            _ if is_high(register) => *whole & !0xff00 | (value & 0xff) << 8,
            size @ (4 | 8) => value & mask(size),
            size => *whole & !mask(size) | value & mask(size),
        };
    }

    /// The accumulator as wide as an operand.
    pub fn accumulator(size: u8) -> Register {
        match size {
            1 => Register::AL,
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_a_part_of_a_whole_one() {
        let mut registers = Registers([0x1122_3344_5566_7788; 16]);
        assert_eq!(registers.get(Register::AH), 0x77);
        assert_eq!(registers.get(Register::SPL), 0x88);
        assert_eq!(registers.get(Register::R9W), 0x7788);
        assert_eq!(registers.get(Register::EDI), 0x5566_7788);
        registers.set(Register::BH, 0xee);
        assert_eq!(registers.0[3], 0x1122_3344_5566_ee88);
        registers.set(Register::BPL, 0xdd);
        assert_eq!(registers.0[5], 0x1122_3344_5566_77dd);
        registers.set(Register::R10W, 0xabcd);
        assert_eq!(registers.0[10], 0x1122_3344_5566_abcd);
        registers.set(Register::ESI, 0x8000_0000);
        assert_eq!(registers.0[6], 0x8000_0000);
        registers.set(Register::R15, u64::MAX);
        assert_eq!(registers.0[15], u64::MAX);
    }
}
