//! The guest's MMX and XMM registers in the image that FXSAVE stores (SDM volume 1, 10.5.1 FXSAVE area).

/// Bytes of the image.
pub const SIZE: usize = 512;

/// Access to the image of the guest's registers.
pub trait VectorRegisters {
    /// The image, which becomes the guest's registers again.
    fn image(&mut self) -> &mut [u8; SIZE];
}

const STATUS_WORD: usize = 2;
const TAGS: usize = 4;
const STACK: usize = 32;
const XMM: usize = 160;
/// Bytes from one register to the next.
const STEP: usize = 16;

fn sixteen(image: &[u8; SIZE], at: usize) -> u128 {
    let mut bytes = [0; STEP];
    for (byte, from) in bytes.iter_mut().zip(image.iter().skip(at)) {
        *byte = *from;
    }
    u128::from_le_bytes(bytes)
}

fn put(image: &mut [u8; SIZE], at: usize, bytes: &[u8]) {
    for (byte, from) in image.iter_mut().skip(at).zip(bytes) {
        *byte = *from;
    }
}

/// XMM register `number`.
pub fn xmm(image: &[u8; SIZE], number: usize) -> u128 {
    sixteen(image, XMM + STEP * (number & 15))
}

/// Sets XMM register `number`.
pub fn set_xmm(image: &mut [u8; SIZE], number: usize, value: u128) {
    put(image, XMM + STEP * (number & 15), &value.to_le_bytes());
}

/// Before an MMX instruction: the top of the x87 stack is 0 and all registers are in use (SDM 12.2). The
/// image has the registers from the top on.
pub fn enter_mmx(image: &mut [u8; SIZE]) {
    let status = u16::from_le_bytes([image[STATUS_WORD], image[STATUS_WORD + 1]]);
    let top = usize::from(status >> 11 & 7);
    let before: [u128; 8] = core::array::from_fn(|slot| sixteen(image, STACK + STEP * slot));
    for (slot, value) in before.into_iter().enumerate() {
        let number = (slot + top) & 7;
        // Bytes 10 to 15 of a slot are reserved.
        put(image, STACK + STEP * number, &value.to_le_bytes()[..10]);
    }
    put(image, STATUS_WORD, &(status & !(7 << 11)).to_le_bytes());
    image[TAGS] = 0xff;
}

/// MMX register `number`, after [`enter_mmx`].
pub fn mmx(image: &[u8; SIZE], number: usize) -> u64 {
    sixteen(image, STACK + STEP * (number & 7)) as u64
}

/// Sets MMX register `number`, after [`enter_mmx`]: the exponent and sign of the x87 register become ones.
pub fn set_mmx(image: &mut [u8; SIZE], number: usize, value: u64) {
    let at = STACK + STEP * (number & 7);
    put(image, at, &value.to_le_bytes());
    put(image, at + 8, &[0xff, 0xff]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xmm_registers_are_where_they_are_saved() {
        let mut image = [0; SIZE];
        set_xmm(&mut image, 15, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);
        assert_eq!((image[400], image[415]), (0, 0x11));
        assert_eq!(xmm(&image, 15), 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);
    }

    #[test]
    fn mmx_registers_are_those_of_the_stack_by_number() {
        let mut image = [0; SIZE];
        // The top is register 6: the first slot is register 6, the third register 0.
        image[STATUS_WORD + 1] = 6 << 3 | 0x40;
        for slot in 0..8 {
            image[STACK + STEP * slot] = slot as u8;
        }
        enter_mmx(&mut image);
        assert_eq!((mmx(&image, 6), mmx(&image, 0), mmx(&image, 5)), (0, 2, 7));
        assert_eq!((image[STATUS_WORD + 1], image[TAGS]), (0x40, 0xff));
        set_mmx(&mut image, 3, u64::MAX - 1);
        assert_eq!(mmx(&image, 3), u64::MAX - 1);
        assert_eq!(image[STACK + STEP * 3 + 9], 0xff);
    }
}
