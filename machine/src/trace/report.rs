//! Reports of what the machine cannot do.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The kernel's or the hypervisor's: outside VMX non-root operation.
    Machine,
    /// A guest's of the hypervisor that runs on the machine.
    Guest,
}

/// An instruction that the machine does not execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unimplemented {
    /// Its bytes.
    pub bytes: [u8; 15],
    /// How many.
    pub length: u8,
    /// Its RIP.
    pub address: u64,
    /// Code size: 16, 32 or 64.
    pub bits: u32,
    /// The processor that met it.
    pub processor: usize,
    /// Whose code it is.
    pub owner: Owner,
}

impl fmt::Display for Unimplemented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.get(..self.length as usize).unwrap_or(&[]);
        let mut text = String::new();
        let instruction =
            Decoder::with_ip(self.bits, bytes, self.address, DecoderOptions::NONE).decode();
        FastFormatter::new().format(&instruction, &mut text);
        let whose = match self.owner {
            Owner::Machine => "",
            Owner::Guest => "guest on ",
        };
        write!(
            f,
            "{whose}processor {}: instruction not implemented, #UD raised: {text} (",
            self.processor
        )?;
        for (i, byte) in bytes.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{byte:02x}")?;
        }
        write!(f, ") at {:#x} in {}-bit code", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_bytes_address_and_mode() {
        let mut bytes = [0; 15];
        bytes[..3].copy_from_slice(&[0x0f, 0xc7, 0xf0]);
        let report = Unimplemented {
            bytes,
            length: 3,
            address: 0x1000,
            bits: 64,
            processor: 2,
            owner: Owner::Machine,
        };
        let text = "processor 2: instruction not implemented, #UD raised: rdrand eax (0f c7 f0) at 0x1000 in 64-bit code";
        assert_eq!(report.to_string(), text);
        let of_guest = Unimplemented {
            owner: Owner::Guest,
            ..report
        };
        assert_eq!(of_guest.to_string(), format!("guest on {text}"));
    }
}
