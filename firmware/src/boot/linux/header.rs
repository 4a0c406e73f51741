//! The setup header of a bzImage (Linux boot protocol, "The Real-Mode Kernel Header").

use super::super::BootError;
use super::super::image::word;
use super::checksum;
use core::ops::Range;

/// What the header is called in errors.
const WHAT: &str = "Linux setup header";
const SECTOR: usize = 512;
/// Unit of the code's size.
const PARAGRAPH: usize = 16;
/// The oldest protocol that is loaded: the first that says how much memory the kernel needs.
const OLDEST: u16 = 0x020a;
/// The first protocol with `xloadflags`.
const EXTENDED_FLAGS: u16 = 0x020c;

/// Offsets in the image, and the same in the boot parameters.
pub(super) mod offset {
    pub(in super::super) const SETUP_SECTORS: usize = 0x1f1;
    pub(in super::super) const VIDEO_MODE: usize = 0x1fa;
    pub(in super::super) const BOOT_FLAG: usize = 0x1fe;
    pub(in super::super) const JUMP_LENGTH: usize = 0x201;
    pub(in super::super) const MAGIC: usize = 0x202;
    pub(in super::super) const TYPE_OF_LOADER: usize = 0x210;
    pub(in super::super) const LOAD_FLAGS: usize = 0x211;
    pub(in super::super) const CODE32_START: usize = 0x214;
    pub(in super::super) const RAMDISK_IMAGE: usize = 0x218;
    pub(in super::super) const RAMDISK_SIZE: usize = 0x21c;
    pub(in super::super) const COMMAND_LINE: usize = 0x228;
    /// End of the header as protocol 2.10 has it.
    pub(in super::super) const END: usize = 0x264;
}

/// A header whose fields make sense together.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Header<'a> {
    image: &'a [u8],
    /// The header itself: [`offset::SETUP_SECTORS`] to where its jump goes.
    header_end: usize,
    version: u16,
    load_flags: u8,
    /// Where the protected-mode code begins in the image.
    code_start: usize,
    code_size: usize,
    /// Where it should be loaded.
    pub(super) preferred_address: u64,
    /// 1 byte if it can be nowhere else.
    pub(super) alignment: Option<u64>,
    /// Memory that it needs from where it is loaded, at least its own size.
    pub(super) memory_size: u64,
    /// Last byte that an initial RAM disk may take.
    pub(super) ramdisk_last: u64,
    /// The most bytes of the command line, its end mark not counted.
    pub(super) command_line_maximum: u64,
    has_64_bit_entry: bool,
}

impl<'a> Header<'a> {
    /// The header of an image, if it is a Linux kernel at all.
    pub(in super::super) fn find(image: &'a [u8]) -> Result<Option<Self>, BootError> {
        if image.get(offset::MAGIC..offset::MAGIC + 4) != Some(b"HdrS") {
            return Ok(None);
        }
        Self::parse(image).map(Some)
    }

    fn parse(image: &'a [u8]) -> Result<Self, BootError> {
        let malformed = |offset: usize| BootError::Malformed {
            what: WHAT,
            offset: offset as u64,
        };
        let truncated = |what, end: usize| BootError::Truncated {
            what,
            at: image.len() as u64,
            end: end as u64,
        };
        if image.len() < offset::END {
            return Err(truncated(WHAT, offset::END));
        }
        let byte = |at: usize| image.get(at).copied().ok_or(malformed(at));
        let half = |at: usize| -> Result<u16, BootError> {
            Ok(u16::from_le_bytes([byte(at)?, byte(at + 1)?]))
        };
        let long = |at: usize| word(image, at).ok_or(malformed(at));
        if half(offset::BOOT_FLAG)? != 0xaa55 {
            return Err(malformed(offset::BOOT_FLAG));
        }
        let version = half(0x206)?;
        if version < OLDEST {
            return Err(BootError::LinuxProtocol { version });
        }
        // The jump's length counts from behind it.
        let header_end = offset::MAGIC + usize::from(byte(offset::JUMP_LENGTH)?);
        if header_end < offset::END {
            return Err(malformed(offset::JUMP_LENGTH));
        }
        let load_flags = byte(offset::LOAD_FLAGS)?;
        if load_flags & LOADED_HIGH == 0 {
            return Err(malformed(offset::LOAD_FLAGS));
        }
        let sectors = match byte(offset::SETUP_SECTORS)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let code_start = (sectors + 1) * SECTOR;
        if code_start < header_end {
            return Err(malformed(offset::SETUP_SECTORS));
        }
        let code_size = (long(0x1f4)? as usize).saturating_mul(PARAGRAPH);
        let code_end = code_start.saturating_add(code_size);
        // The size counts paragraphs; a file may end inside the last.
        if code_end > image.len().next_multiple_of(PARAGRAPH) {
            return Err(truncated("Linux kernel", code_end));
        }
        let memory_size = u64::from(long(0x260)?);
        if code_size == 0 || memory_size < code_size as u64 {
            return Err(malformed(0x260));
        }
        let alignment = match (byte(0x234)?, u64::from(long(0x230)?)) {
            (0, _) => None,
            (_, alignment) if alignment.is_power_of_two() => Some(alignment),
            _ => return Err(malformed(0x230)),
        };
        let preferred_address = u64::from(long(0x258)?) | u64::from(long(0x25c)?) << 32;
        let has_64_bit_entry = version >= EXTENDED_FLAGS && half(0x236)? & 1 != 0;
        if has_64_bit_entry && code_size <= ENTRY_64 as usize {
            return Err(malformed(0x1f4));
        }
        let header = Self {
            image,
            header_end,
            version,
            load_flags,
            code_start,
            code_size,
            preferred_address,
            alignment,
            memory_size,
            ramdisk_last: u64::from(long(0x22c)?),
            command_line_maximum: u64::from(long(0x238)?),
            has_64_bit_entry,
        };
        if header
            .release()
            .is_some_and(|release| release < FIRST_WITHOUT_CHECKSUM)
            && !checksum::holds(image.get(..code_end).unwrap_or(&[]))
        {
            return Err(BootError::Checksum {
                length: code_end as u64,
            });
        }
        Ok(header)
    }

    pub(in super::super) fn has_64_bit_entry(&self) -> bool {
        self.has_64_bit_entry
    }

    /// The protected-mode code.
    pub(super) fn code(&self) -> &'a [u8] {
        let end = (self.code_start + self.code_size).min(self.image.len());
        self.image.get(self.code_start..end).unwrap_or(&[])
    }

    pub(super) fn load_flags(&self) -> u8 {
        self.load_flags
    }

    /// The header's bytes, and where they go in the boot parameters.
    pub(super) fn bytes(&self) -> (Range<usize>, &'a [u8]) {
        let range = offset::SETUP_SECTORS..self.header_end;
        (range.clone(), self.image.get(range).unwrap_or(&[]))
    }

    /// Major and minor number of the kernel, from its version string.
    fn release(&self) -> Option<(u32, u32)> {
        let at = self.image.get(0x20e..0x210)?.first_chunk::<2>()?;
        let at = usize::from(u16::from_le_bytes(*at));
        if at == 0 || self.version < 0x0200 {
            return None;
        }
        let rest = self.image.get(at + 0x200..self.code_start)?;
        let text = rest.split(|byte| *byte == 0).next()?;
        let mut numbers = core::str::from_utf8(text).ok()?.split(['.', '-', ' ']);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Later kernels are built without the image's checksum; what the protocol's text says of it is
/// only right for those before.
const FIRST_WITHOUT_CHECKSUM: (u32, u32) = (6, 15);

/// Load flag 0: the protected-mode code goes above 1 MiB, as every bzImage does.
const LOADED_HIGH: u8 = 1;
/// Offset of the 64-bit entry point in the protected-mode code.
pub(super) const ENTRY_64: u64 = 0x200;
