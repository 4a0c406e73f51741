//! Multiboot, the first version: its header and its boot information.

use super::image::{AddressFields, Plan, word};
use super::placement::Placement;
use super::{BootError, BootRequest, LOADER_NAME, Protocol};
use alloc::vec;
use alloc::vec::Vec;
use arch::pvh::MemoryRegion;
use core::ops::Range;

/// Multiboot 3.2: EAX at the entry.
pub(super) const BOOT_MAGIC: u32 = 0x2bad_b002;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// Multiboot 3.1: the header is within the first 8192 bytes, longword aligned.
const SEARCH_LENGTH: usize = 8192;

const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFORMATION: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESS_FIELDS: u32 = 1 << 16;
/// Multiboot 3.1.2: of bits 15:0 the loader must understand those that are set.
const REQUIREMENTS: u32 = 0xffff;

/// Offsets of the boot information (Multiboot 3.3) and its length.
const INFORMATION_LENGTH: usize = 120;
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// A header found in an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    offset: usize,
    flags: u32,
}

impl Header {
    pub(super) fn find(image: &[u8]) -> Option<Self> {
        let limit = image.len().min(SEARCH_LENGTH);
        (0..limit.saturating_sub(11)).step_by(4).find_map(|offset| {
            let magic = word(image, offset)?;
            let flags = word(image, offset.checked_add(4)?)?;
            let checksum = word(image, offset.checked_add(8)?)?;
            // Multiboot 3.1.2: the three fields sum to zero.
            let sum = magic.wrapping_add(flags).wrapping_add(checksum);
            (magic == HEADER_MAGIC && sum == 0).then_some(Self { offset, flags })
        })
    }

    /// The load addresses, if the header gives them; fails when it demands what is not here.
    pub(super) fn addresses(&self, image: &[u8]) -> Result<Option<Plan>, BootError> {
        let unsupported = |what, number| BootError::Unsupported {
            protocol: Protocol::Multiboot1,
            what,
            number,
        };
        // A video mode is passed over, as other loaders do where there is no display: the boot information
        // says that there is none.
        let demanded = self.flags & REQUIREMENTS & !(PAGE_ALIGN | MEMORY_INFORMATION | VIDEO_MODE);
        if demanded != 0 {
            return Err(unsupported("a feature, flag", demanded.trailing_zeros()));
        }
        if self.flags & ADDRESS_FIELDS == 0 {
            return Ok(None);
        }
        let field = |index: usize| {
            word(image, self.offset.saturating_add(index)).ok_or(BootError::Truncated {
                what: "multiboot1 header",
                at: image.len() as u64,
                end: (self.offset as u64).saturating_add(32),
            })
        };
        let fields = AddressFields {
            header: field(12)?,
            load: field(16)?,
            load_end: field(20)?,
            bss_end: field(24)?,
        };
        Ok(Some(Plan {
            segments: vec![fields.segment(self.offset as u64, image)?],
            entry: field(28)?,
        }))
    }
}

/// The boot information as it lies at `address`, strings and lists behind it.
pub(super) fn write_information(
    request: &BootRequest<'_>,
    modules: &[Range<u64>],
    address: u32,
) -> Result<Vec<u8>, BootError> {
    let mut blob = vec![0; INFORMATION_LENGTH];
    // Where the next byte appended will be; a wrap shows as too large a blob, which was placed.
    let here = |blob: &Vec<u8>| address.wrapping_add(blob.len() as u32);
    let mut fields: Vec<(usize, u32)> = Vec::new();

    let (lower, upper) = memory_kib(request.memory_map);
    fields.extend([(4, lower), (8, upper)]);

    fields.push((16, here(&blob)));
    push_string(&mut blob, request.command_line);

    let mut list = Vec::new();
    for (module, range) in request.modules.iter().zip(modules) {
        list.extend((range.start as u32).to_le_bytes());
        list.extend((range.end as u32).to_le_bytes());
        list.extend(here(&blob).to_le_bytes());
        list.extend([0; 4]);
        push_string(&mut blob, module.command_line);
    }
    blob.resize(blob.len().next_multiple_of(8), 0);
    fields.extend([(20, modules.len() as u32), (24, here(&blob))]);
    blob.append(&mut list);

    let map_start = blob.len();
    fields.push((48, here(&blob)));
    for region in request.memory_map {
        // Multiboot 3.3: the size does not count itself.
        blob.extend(20_u32.to_le_bytes());
        blob.extend(region.address.to_le_bytes());
        blob.extend(region.size.to_le_bytes());
        blob.extend(region.kind.to_le_bytes());
    }
    fields.push((44, (blob.len() - map_start) as u32));

    fields.push((64, here(&blob)));
    blob.extend(LOADER_NAME);

    fields.push((
        0,
        HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME,
    ));
    for (offset, value) in fields {
        if let Some(slot) = blob.get_mut(offset..offset + 4) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(blob)
}

/// KiB of RAM from 0 and from 1 MiB without a hole (Multiboot 3.3 mem_lower and mem_upper).
pub(super) fn memory_kib(map: &[MemoryRegion]) -> (u32, u32) {
    let ram = Placement::new(map);
    let kib = |start| u32::try_from(ram.contiguous_from(start) >> 10).unwrap_or(u32::MAX);
    (kib(0).min(640), kib(1 << 20))
}

fn push_string(blob: &mut Vec<u8>, string: &str) {
    blob.extend(string.bytes().take_while(|byte| *byte != 0));
    blob.push(0);
}
