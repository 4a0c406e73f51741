//! The CRT controller's ports of a PC with a colour display (MC6845; IBM PS/2 and PC BIOS Interface Technical
//! Reference): an index and the registers behind it. Nothing is displayed. The registers keep what is written,
//! so that a console driver that asks where the cursor is gets what it has put there, and 0 at first.

/// Index port; the data port follows.
pub const INDEX: u16 = 0x3d4;
/// Data port.
pub const DATA: u16 = 0x3d5;

/// Registers 00H to 18H, as a VGA has them.
const REGISTERS: usize = 0x19;
/// Bits of the index that select.
const INDEX_BITS: u8 = 0x1f;

/// The index and the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrtController {
    index: u8,
    registers: [u8; REGISTERS],
}

impl CrtController {
    /// The registers after power-on.
    pub const fn new() -> Self {
        Self {
            index: 0,
            registers: [0; REGISTERS],
        }
    }

    /// Whether a port is one of these.
    pub const fn claims(port: u16) -> bool {
        matches!(port, INDEX | DATA)
    }

    /// Reads a byte; a register that does not exist reads as 0.
    pub fn read(&self, port: u16) -> u8 {
        if port == INDEX {
            return self.index;
        }
        let register = self.registers.get(usize::from(self.index));
        register.copied().unwrap_or(0)
    }

    /// Writes a byte.
    pub fn write(&mut self, port: u16, value: u8) {
        if port == INDEX {
            self.index = value & INDEX_BITS;
        } else if let Some(register) = self.registers.get_mut(usize::from(self.index)) {
            *register = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_where_software_put_it() {
        let mut controller = CrtController::new();
        let cursor = |controller: &mut CrtController| {
            [0x0e, 0x0f].map(|register| {
                controller.write(INDEX, register);
                controller.read(DATA)
            })
        };
        assert_eq!(cursor(&mut controller), [0, 0]);
        for (register, value) in [(0x0e, 0x07), (0x0f, 0x81)] {
            controller.write(INDEX, register);
            controller.write(DATA, value);
        }
        assert_eq!(cursor(&mut controller), [0x07, 0x81]);
        // Beyond the last register, and bits of the index that do not select.
        controller.write(INDEX, 0xff);
        controller.write(DATA, 0x55);
        assert_eq!((controller.read(INDEX), controller.read(DATA)), (0x1f, 0));
        assert!(CrtController::claims(0x3d4) && !CrtController::claims(0x3b4));
    }
}
