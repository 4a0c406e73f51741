//! The ports by which software on the machine talks to whoever runs the machine: the power-on
//! self-test code, the exit port (QEMU's isa-debug-exit) and the phase marker.

/// POST code.
pub const POST_CODE: u16 = 0x80;
/// End of the run; the value is the status.
pub const EXIT: u16 = 0xf4;
/// Phase marker: a 32-bit write.
pub const PHASE_MARK: u16 = 0xf5;

/// A mark in the instruction stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseMark {
    /// The phase begins.
    Begin(u8),
    /// The phase ends.
    End(u8),
}

impl PhaseMark {
    /// Decodes a 32-bit write: `01_00_00_PP` begins, `02_00_00_PP` ends phase PP.
    pub const fn decode(value: u32) -> Option<Self> {
        match value >> 8 {
            0x01_0000 => Some(Self::Begin(value as u8)),
            0x02_0000 => Some(Self::End(value as u8)),
            _ => None,
        }
    }

    /// The value to write.
    pub const fn encode(self) -> u32 {
        match self {
            Self::Begin(phase) => 0x0100_0000 | phase as u32,
            Self::End(phase) => 0x0200_0000 | phase as u32,
        }
    }
}

/// What a write to one of these ports asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the platform acts on what a write asks for"]
pub enum DebugEffect {
    /// Nothing.
    None,
    /// The POST code changed.
    PostCode(u8),
    /// End the run with this status.
    Exit(u32),
    /// A phase begins or ends.
    Mark(PhaseMark),
}

/// The debug ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugPort {
    post_code: u8,
}

impl DebugPort {
    /// Debug ports after reset.
    pub const fn new() -> Self {
        Self { post_code: 0 }
    }

    /// Whether a port is one of these.
    pub const fn claims(port: u16) -> bool {
        matches!(port, POST_CODE | EXIT | PHASE_MARK)
    }

    /// Reads a byte: port 80H gives back what was written, the others all-ones.
    pub const fn read(&self, port: u16) -> u8 {
        match port {
            POST_CODE => self.post_code,
            _ => 0xff,
        }
    }

    /// A write of 1, 2 or 4 bytes, zero-extended.
    pub fn write(&mut self, port: u16, value: u32) -> DebugEffect {
        match port {
            POST_CODE => {
                self.post_code = value as u8;
                DebugEffect::PostCode(self.post_code)
            }
            EXIT => DebugEffect::Exit(value),
            PHASE_MARK => PhaseMark::decode(value).map_or(DebugEffect::None, DebugEffect::Mark),
            _ => DebugEffect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_round_trip_and_junk_is_ignored() {
        for mark in [PhaseMark::Begin(7), PhaseMark::End(255)] {
            assert_eq!(PhaseMark::decode(mark.encode()), Some(mark));
        }
        for junk in [0, 0x0100_0107, 0x0300_0001, 0x0101_0000] {
            assert_eq!(PhaseMark::decode(junk), None);
            assert_eq!(DebugPort::new().write(PHASE_MARK, junk), DebugEffect::None);
        }
    }

    #[test]
    fn ports() {
        let mut port = DebugPort::new();
        assert_eq!(port.write(EXIT, 0x10), DebugEffect::Exit(0x10));
        assert_eq!(port.write(POST_CODE, 0xa5), DebugEffect::PostCode(0xa5));
        assert_eq!(port.read(POST_CODE), 0xa5);
        assert_eq!(port.read(EXIT), 0xff);
        assert!(DebugPort::claims(EXIT) && !DebugPort::claims(0xf6));
    }
}
