//! The one decoder of what is emulated: iced's (docs/decisions/instruction-decoder.md).

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// How the guest's code segment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit default sizes.
    Bits16,
    /// 32-bit default sizes.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// Why bytes are no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// They are the beginning of one.
    Incomplete,
    /// There is none that begins so.
    Invalid,
}

impl CodeSize {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// Builds the decoder's tables, which are on the heap: it does so at the first instruction that it
/// decodes, and a guest's exit is no time for that.
pub fn initialize() {
    let _ = decode(&[0x90], CodeSize::Bits64, 0);
}

/// Decodes the instruction at the start of `bytes`, which is at `rip`.
pub fn decode(bytes: &[u8], size: CodeSize, rip: u64) -> Result<Instruction, Undecoded> {
    let mut decoder = Decoder::with_ip(size.bits(), bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(instruction),
        DecoderError::NoMoreBytes => Err(Undecoded::Incomplete),
        _ => Err(Undecoded::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Mnemonic};

    #[test]
    fn an_instruction_is_decoded_by_the_size_of_its_code() {
        let bytes = [0x48, 0x89, 0x03];
        let wide = decode(&bytes, CodeSize::Bits64, 0).unwrap();
        assert_eq!(wide.code(), Code::Mov_rm64_r64);
        let narrow = decode(&bytes, CodeSize::Bits32, 0).unwrap();
        assert_eq!((narrow.mnemonic(), narrow.len()), (Mnemonic::Dec, 1));
    }

    #[test]
    fn what_is_no_instruction_is_incomplete_or_invalid() {
        use CodeSize::Bits64;
        assert_eq!(decode(&[], Bits64, 0), Err(Undecoded::Incomplete));
        assert_eq!(decode(&[0x48, 0x89], Bits64, 0), Err(Undecoded::Incomplete));
        // All ones, as where nothing answers; LOCK before what it does not go with.
        assert_eq!(decode(&[0xff; 15], Bits64, 0), Err(Undecoded::Invalid));
        assert_eq!(
            decode(&[0xf0, 0x89, 0x03], Bits64, 0),
            Err(Undecoded::Invalid)
        );
    }
}
