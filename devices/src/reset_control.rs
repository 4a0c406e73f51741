//! The reset control register, port CF9H (Intel ICH family data sheets, RST_CNT).

/// The port; also what the FADT's RESET_REG names.
pub const PORT: u16 = 0xcf9;
/// What the FADT's RESET_VALUE should be.
pub const RESET_VALUE: u8 = 0x06;

const SYSTEM_RESET: u8 = 1 << 1;
const RESET_CPU: u8 = 1 << 2;
const FULL_RESET: u8 = 1 << 3;

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the platform acts on a reset"]
pub enum ResetEffect {
    /// Nothing.
    None,
    /// INIT to the processors, memory and devices kept (SYS_RST clear).
    Soft,
    /// A reset of everything.
    Hard,
}

/// The reset control register.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetControl {
    value: u8,
}

impl ResetControl {
    /// The register after reset.
    pub const fn new() -> Self {
        Self { value: 0 }
    }

    /// Reads the register; RST_CPU reads as 0.
    pub const fn read(&self) -> u8 {
        self.value & !RESET_CPU
    }

    /// Writes the register. A change of RST_CPU from 0 to 1 resets; SYS_RST says whether hard or
    /// soft.
    pub fn write(&mut self, value: u8) -> ResetEffect {
        let rising = value & RESET_CPU != 0 && self.value & RESET_CPU == 0;
        self.value = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET);
        match (rising, value & SYSTEM_RESET != 0) {
            (false, _) => ResetEffect::None,
            (true, false) => ResetEffect::Soft,
            (true, true) => ResetEffect::Hard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rise_of_rst_cpu_resets() {
        let mut control = ResetControl::new();
        assert_eq!(control.write(SYSTEM_RESET), ResetEffect::None);
        assert_eq!(control.write(RESET_VALUE), ResetEffect::Hard);
        assert_eq!(control.write(RESET_VALUE), ResetEffect::None);
        assert_eq!(control.read(), SYSTEM_RESET);
        assert_eq!(control.write(0), ResetEffect::None);
        assert_eq!(control.write(RESET_CPU), ResetEffect::Soft);
    }
}
