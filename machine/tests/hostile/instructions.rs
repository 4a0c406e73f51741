//! Random instructions: any bytes, and encodings of every legacy opcode with random operands.

use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, MandatoryPrefix, OpCodeTableKind};

use super::random::Random;

/// The opcodes that exist in a mode.
pub struct Opcodes {
    codes: Vec<Code>,
    bits: u32,
}

impl Opcodes {
    /// Those of 16-, 32- or 64-bit code.
    pub fn of_mode(bits: u32) -> Self {
        let codes = Code::values().filter(|code| {
            let form = code.op_code();
            form.is_instruction()
                && form.encoding() == EncodingKind::Legacy
                && match bits {
                    64 => form.mode64(),
                    32 => form.mode32(),
                    _ => form.mode16(),
                }
        });
        Self {
            codes: codes.collect(),
            bits,
        }
    }

    /// A stream of instructions of about `length` bytes.
    pub fn stream(&self, random: &mut Random, length: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        while stream.len() < length {
            if random.chance(10) {
                stream.extend((0..1 + random.below(8)).map(|_| random.next() as u8));
            } else {
                stream.extend(self.instruction(random));
            }
        }
        stream
    }

    /// One instruction; one in a few is no valid encoding after all.
    pub fn instruction(&self, random: &mut Random) -> Vec<u8> {
        let bytes = self.encoding(random);
        let mut decoder = Decoder::new(self.bits, &bytes, DecoderOptions::NONE);
        let length = decoder.decode().len();
        bytes[..length.clamp(1, bytes.len())].to_vec()
    }

    fn encoding(&self, random: &mut Random) -> Vec<u8> {
        let form = random.pick(&self.codes).op_code();
        let mut bytes = Vec::new();
        if random.chance(20) {
            const PREFIXES: [u8; 11] = [
                0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
            ];
            bytes.extend((0..1 + random.below(3)).map(|_| random.pick(&PREFIXES)));
        }
        match form.mandatory_prefix() {
            MandatoryPrefix::P66 => bytes.push(0x66),
            MandatoryPrefix::PF3 => bytes.push(0xf3),
            MandatoryPrefix::PF2 => bytes.push(0xf2),
            MandatoryPrefix::None | MandatoryPrefix::PNP => {}
        }
        let other_size = form.operand_size() != 0 && form.operand_size() != self.bits.min(32);
        if other_size && form.operand_size() != 64 {
            bytes.push(0x66);
        }
        if self.bits == 64 && (form.operand_size() == 64 || random.chance(40)) {
            let wide = if form.operand_size() == 64 { 8 } else { 0 };
            bytes.push(0x40 | wide | random.next() as u8 & 15);
        }
        match form.table() {
            OpCodeTableKind::T0F => bytes.push(0x0f),
            OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
            OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
            _ => {}
        }
        let opcode = form.op_code();
        if form.op_code_len() == 2 {
            bytes.push((opcode >> 8) as u8);
        }
        bytes.push(opcode as u8);
        let mut operand = random.next() as u8;
        if form.is_group() {
            operand = operand & !0x38 | (form.group_index() as u8 & 7) << 3;
        }
        bytes.push(operand);
        // SIB, displacement and immediate: small numbers and any.
        let tail = if random.chance(50) {
            random.next()
        } else {
            random.value() & 0x00ff_7fff
        };
        bytes.extend(tail.to_le_bytes());
        bytes.extend(random.next().to_le_bytes());
        bytes
    }
}
