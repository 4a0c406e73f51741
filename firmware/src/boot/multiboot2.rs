//! Multiboot2: its header and its boot information.

use super::image::{AddressFields, Segment, word};
use super::multiboot1::memory_kib;
use super::{BootError, BootRequest, Protocol};
use alloc::vec::Vec;
use core::ops::Range;

/// Multiboot2 3.3: EAX at the entry.
pub(super) const BOOT_MAGIC: u32 = 0x36d7_6289;
const HEADER_MAGIC: u32 = 0xe852_50d6;
/// Multiboot2 3.1.1: the header is within the first 32768 bytes, 64-bit aligned.
/// Kernels go by GRUB's name when they decide whether the command line begins with the kernel's file name:
/// GRUB 2 leaves it out, and so does this loader.
const LOADER_NAME: &[u8] = b"posthaste, in the manner of GRUB 2\0";
const SEARCH_LENGTH: usize = 32768;
const ARCHITECTURE_I386: u32 = 0;
const FIXED_LENGTH: usize = 16;

/// Tags of the boot information (Multiboot2 3.6).
pub(super) mod tag {
    pub(in crate::boot) const END: u32 = 0;
    pub(in crate::boot) const COMMAND_LINE: u32 = 1;
    pub(in crate::boot) const LOADER_NAME: u32 = 2;
    pub(in crate::boot) const MODULE: u32 = 3;
    pub(in crate::boot) const BASIC_MEMORY: u32 = 4;
    pub(in crate::boot) const MEMORY_MAP: u32 = 6;
    pub(in crate::boot) const ACPI_OLD: u32 = 14;
    pub(in crate::boot) const ACPI_NEW: u32 = 15;
    /// The last that the specification defines.
    pub(in crate::boot) const LAST: u32 = 21;
}

/// A header found in an image: the tags after its fixed part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    offset: usize,
    tags: &'a [u8],
}

/// What the header's tags ask of the loader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demands {
    pub(super) addresses: Option<Segment>,
    pub(super) entry: Option<u32>,
}

impl<'a> Header<'a> {
    pub(super) fn find(image: &'a [u8]) -> Option<Self> {
        let limit = image.len().min(SEARCH_LENGTH);
        (0..limit.saturating_sub(FIXED_LENGTH - 1))
            .step_by(8)
            .find_map(|offset| {
                let field = |index: usize| word(image, offset.checked_add(index)?);
                let (magic, architecture) = (field(0)?, field(4)?);
                let (length, checksum) = (field(8)?, field(12)?);
                let sum = magic
                    .wrapping_add(architecture)
                    .wrapping_add(length)
                    .wrapping_add(checksum);
                if magic != HEADER_MAGIC || architecture != ARCHITECTURE_I386 || sum != 0 {
                    return None;
                }
                let end = offset.checked_add(usize::try_from(length).ok()?)?;
                let tags = image.get(offset.checked_add(FIXED_LENGTH)?..end)?;
                Some(Self { offset, tags })
            })
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// Reads the tags; fails when one that is not optional demands what is not here.
    pub(super) fn demands(&self, image: &[u8]) -> Result<Demands, BootError> {
        let mut demands = Demands::default();
        let mut rest = self.tags;
        let malformed = BootError::Malformed {
            what: "multiboot2 header tag",
            offset: self.offset as u64,
        };
        loop {
            let Some([kind_low, kind_high, flags, _]) = rest.first_chunk::<4>() else {
                // The terminator may be missing when the header's length says where it ends.
                return if rest.is_empty() {
                    Ok(demands)
                } else {
                    Err(malformed)
                };
            };
            let kind = u32::from(u16::from_le_bytes([*kind_low, *kind_high]));
            // Multiboot2 3.1.3: bit 0 of the flags makes the tag optional.
            let optional = flags & 1 != 0;
            let size = word(rest, 4).ok_or(malformed)? as usize;
            let body = rest.get(8..size).ok_or(malformed)?;
            let field = |index: usize| word(body, index).ok_or(malformed);
            let unsupported = |what, number| BootError::Unsupported {
                protocol: Protocol::Multiboot2,
                what,
                number,
            };
            match kind {
                0 => return Ok(demands),
                1 => {
                    let unknown = body
                        .chunks_exact(4)
                        .filter_map(|chunk| word(chunk, 0))
                        .find(|request| *request > tag::LAST);
                    if let Some(number) = unknown.filter(|_| !optional) {
                        return Err(unsupported("an information tag", number));
                    }
                }
                2 => {
                    let fields = AddressFields {
                        header: field(0)?,
                        load: field(4)?,
                        load_end: field(8)?,
                        bss_end: field(12)?,
                    };
                    demands.addresses = Some(fields.segment(self.offset as u64, image)?);
                }
                3 => demands.entry = Some(field(0)?),
                // Console flags: bit 0 demands a console that the kernel can drive.
                4 if field(0)? & 1 != 0 && !optional => {
                    return Err(unsupported("a display, tag", kind));
                }
                // A framebuffer is passed over, as other loaders do where there is no display. Modules are page-aligned anyway; EFI entries matter to EFI loaders alone; the
                // kernel is loaded where it is linked, so it need not be relocated.
                4 | 5 | 6 | 8 | 9 | 10 => {}
                _ if optional => {}
                7 => return Err(unsupported("EFI boot services, tag", kind)),
                _ => return Err(unsupported("a tag", kind)),
            }
            // Multiboot2 3.1.3: tags are padded to 8-byte alignment; the last may end the header.
            let next = size.checked_next_multiple_of(8).ok_or(malformed)?;
            rest = rest.get(next..).unwrap_or(&[]);
        }
    }
}

/// The boot information. It holds no address of its own, so it is the same wherever it lies.
pub(super) fn write_information(
    request: &BootRequest<'_>,
    modules: &[Range<u64>],
    _address: u32,
) -> Result<Vec<u8>, BootError> {
    // Total size and a reserved word come first.
    let mut blob = Vec::from([0; 8]);
    push_tag(
        &mut blob,
        tag::COMMAND_LINE,
        &[],
        request.command_line.as_bytes(),
        &[0],
    );
    push_tag(&mut blob, tag::LOADER_NAME, &[], LOADER_NAME, &[]);
    for (module, range) in request.modules.iter().zip(modules) {
        let bounds = u64::from(range.start as u32) | range.end << 32;
        push_tag(
            &mut blob,
            tag::MODULE,
            &bounds.to_le_bytes(),
            module.command_line.as_bytes(),
            &[0],
        );
    }
    let (lower, upper) = memory_kib(request.memory_map);
    let memory = u64::from(lower) | u64::from(upper) << 32;
    push_tag(
        &mut blob,
        tag::BASIC_MEMORY,
        &memory.to_le_bytes(),
        &[],
        &[],
    );

    // Entry size 24, entry version 0.
    let mut map = Vec::from(24_u64.to_le_bytes());
    for region in request.memory_map {
        map.extend(region.address.to_le_bytes());
        map.extend(region.size.to_le_bytes());
        map.extend(u64::from(region.kind).to_le_bytes());
    }
    push_tag(&mut blob, tag::MEMORY_MAP, &map, &[], &[]);
    if let Some(rsdp) = request.rsdp {
        push_tag(&mut blob, tag::ACPI_NEW, rsdp.bytes, &[], &[]);
    }
    push_tag(&mut blob, tag::END, &[], &[], &[]);
    let size = blob.len() as u32;
    if let Some(slot) = blob.first_chunk_mut::<4>() {
        *slot = size.to_le_bytes();
    }
    Ok(blob)
}

fn push_tag(blob: &mut Vec<u8>, kind: u32, head: &[u8], body: &[u8], tail: &[u8]) {
    let size = 8 + head.len() + body.len() + tail.len();
    blob.extend(kind.to_le_bytes());
    blob.extend((size as u32).to_le_bytes());
    blob.extend(head);
    blob.extend(body);
    blob.extend(tail);
    // Multiboot2 3.6.1: each tag starts at an 8-byte boundary.
    blob.resize(blob.len().next_multiple_of(8), 0);
}
