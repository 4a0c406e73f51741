//! The checksum of a bzImage (Linux boot protocol, "The Image Checksum").

use super::super::image::word;
use alloc::vec::Vec;

/// Whether the image's checksum is right. Its last four bytes make the CRC-32 of the whole 0.
///
/// Signing a kernel for Secure Boot changes two fields of its PE header afterwards, so the image
/// is also taken as it was before.
pub(super) fn holds(image: &[u8]) -> bool {
    remainder(image) == 0 || unsigned(image).is_some_and(|image| remainder(&image) == 0)
}

/// The image with the PE header's checksum and its pointer to the certificates cleared
/// (Microsoft's PE format, "Optional Header").
fn unsigned(image: &[u8]) -> Option<Vec<u8>> {
    let header = word(image, 0x3c)? as usize;
    if image.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let optional = header.checked_add(24)?;
    let directories = match image.get(optional..)?.first_chunk::<2>()? {
        [0x0b, 0x01] => 96,
        [0x0b, 0x02] => 112,
        _ => return None,
    };
    let mut image = image.to_vec();
    let checksum = optional + 64;
    let certificates = optional + directories + 4 * 8;
    image.get_mut(checksum..checksum + 4)?.fill(0);
    image.get_mut(certificates..certificates + 8)?.fill(0);
    Some(image)
}

/// CRC-32 (polynomial 04C11DB7H, least significant bit first), started with all ones, not
/// inverted at the end.
pub(super) fn remainder(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        crc >> 8 ^ TABLE.get(index as usize).copied().unwrap_or(0)
    })
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = value >> 1 ^ if value & 1 != 0 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32() {
        // The catalogue's check value is of the inverted remainder.
        assert_eq!(!remainder(b"123456789"), 0xcbf4_3926);
        let mut image = b"123456789".to_vec();
        image.extend(remainder(b"123456789").to_le_bytes());
        assert!(holds(&image));
        image[3] ^= 1;
        assert!(!holds(&image));
    }
}
