//! The checksum of a bzImage (Linux boot protocol, "The Image Checksum").

use crc::{CRC_32_ISO_HDLC, Crc, Table};

use super::super::image::word;

/// 16 bytes a step: the hypervisor has kernels of many megabytes to check.
static CRC_32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// Whether the image's checksum is right. Its last four bytes make the CRC-32 of the whole 0.
///
/// Signing a kernel for Secure Boot changes two fields of its PE header afterwards, so the image
/// is also taken as it was before.
pub(super) fn holds(image: &[u8]) -> bool {
    remainder(image) == 0 || unsigned_remainder(image) == Some(0)
}

/// The remainder with the PE header's checksum and its pointer to the certificates taken as 0
/// (Microsoft's PE format, "Optional Header").
fn unsigned_remainder(image: &[u8]) -> Option<u32> {
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
    let checksum = optional + 64;
    let certificates = optional + directories + 4 * 8;
    let mut digest = CRC_32.digest();
    for part in [
        image.get(..checksum)?,
        &[0; 4],
        image.get(checksum + 4..certificates)?,
        &[0; 8],
        image.get(certificates + 8..)?,
    ] {
        digest.update(part);
    }
    Some(!digest.finalize())
}

/// CRC-32 (polynomial 04C11DB7H, least significant bit first), started with all ones, not
/// inverted at the end.
pub(super) fn remainder(bytes: &[u8]) -> u32 {
    !CRC_32.checksum(bytes)
}

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
