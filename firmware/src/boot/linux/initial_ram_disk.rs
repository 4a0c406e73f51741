//! What an initial RAM disk may be (Linux, "initramfs buffer format").

use super::super::BootError;

/// Length of a cpio header in the "new" format: a magic number and 13 fields of eight hexadecimal
/// digits.
const HEADER: usize = 6 + 13 * 8;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;

/// Formats that a kernel unpacks, by their first bytes: gzip, bzip2, LZMA, XZ, LZO, LZ4 and
/// Zstandard.
const COMPRESSED: [&[u8]; 8] = [
    &[0x1f, 0x8b],
    &[0x1f, 0x9e],
    b"BZ",
    &[0x5d, 0],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    &[0x89, b'L', b'Z', b'O'],
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x28, 0xb5, 0x2f, 0xfd],
];

/// Checks an image as far as it can be without unpacking it: an archive up to its end, or the
/// first bytes of a compressed one.
pub(super) fn check(image: &[u8], index: usize) -> Result<(), BootError> {
    let wrong = |what, offset: usize| BootError::InitialRamDisk {
        index,
        what,
        offset: offset as u64,
    };
    let mut offset = 0;
    loop {
        let Some(rest) = image.get(offset..).filter(|rest| !rest.is_empty()) else {
            return Err(wrong("the archive has no end", image.len()));
        };
        // Archives may follow each other, with zeroes between.
        if COMPRESSED.iter().any(|magic| rest.starts_with(magic)) {
            return Ok(());
        }
        if !rest.starts_with(b"070701") && !rest.starts_with(b"070702") {
            return Err(wrong(
                if offset == 0 {
                    "neither a cpio archive nor compressed"
                } else {
                    "no file header in the archive"
                },
                offset,
            ));
        }
        let header = rest
            .get(..HEADER)
            .ok_or(wrong("the archive ends in a file header", image.len()))?;
        let field = |number| field(header, number).ok_or(wrong("a malformed file header", offset));
        let (name_size, file_size) = (field(NAME_SIZE)?, field(FILE_SIZE)?);
        let name_end = HEADER.saturating_add(name_size);
        let name = rest
            .get(HEADER..name_end)
            .ok_or(wrong("the archive ends in a file name", image.len()))?;
        let padded = |length: usize| length.saturating_add(3) & !3;
        let end = padded(padded(name_end).saturating_add(file_size));
        let last = name.starts_with(b"TRAILER!!!\0");
        // The trailer has no content, and what would align it may be missing.
        if end > rest.len() && !last {
            return Err(wrong("the archive ends in a file", image.len()));
        }
        offset = offset.saturating_add(end);
        if last {
            let rest = image.get(offset..).unwrap_or(&[]);
            match rest.iter().position(|byte| *byte != 0) {
                None => return Ok(()),
                Some(zeroes) => offset += zeroes,
            }
        }
    }
}

fn field(header: &[u8], number: usize) -> Option<usize> {
    let start = 6 + number * 8;
    let digits = core::str::from_utf8(header.get(start..start + 8)?).ok()?;
    if digits.starts_with('+') {
        return None;
    }
    usize::from_str_radix(digits, 16).ok()
}
