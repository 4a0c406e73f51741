//! The Linux boot protocol, versions 2.10 and later ("Boot": The Linux/x86 Boot Protocol), by its
//! 64-bit or its 32-bit entry.

mod checksum;
mod header;
mod initial_ram_disk;

pub(super) use header::Header;

use super::placement::Placement;
use super::{BootError, BootRequest, EntryMode, EntryState, Flat, Loaded, PAGE, Protocol};
use super::{HIGH_MEMORY, LOW_MEMORY};
use crate::memory::LoadMemory;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use header::offset;

/// The boot parameters are a page (Boot, "Zero Page").
const PARAMETERS: usize = 4096;
const RSDP_ADDRESS: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const E820_MOST: usize = 128;

/// A loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// Video mode "normal".
const NORMAL_VIDEO: u16 = 0xffff;
/// Load flag 5: no early messages. Load flag 6: keep the segments. The loader sets neither.
const QUIET_OR_KEEP_SEGMENTS: u8 = 1 << 5 | 1 << 6;
/// Archives of an initial RAM disk follow each other on multiples of this.
const ARCHIVE_ALIGNMENT: usize = 4;

/// Code and data segments as the protocol wants them: selectors 10H and 18H, flat.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// 4 GiB, present, accessed; 32-bit code, 64-bit code and data (SDM 3.4.5 Segment descriptors).
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Page-table entry bits (SDM 4.5): present, writable; a large page.
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
/// The identity mapping has a page-map level-4 table, a page-directory-pointer table, and a
/// directory for each GiB below 4 GiB.
const TABLES: u64 = 2 + 4;

pub(super) fn load(
    request: &BootRequest<'_>,
    header: &Header<'_>,
    protocol: Protocol,
    placement: &mut Placement,
    memory: &mut (impl LoadMemory + ?Sized),
) -> Result<Loaded, BootError> {
    let command_line: Vec<u8> = request
        .command_line
        .bytes()
        .take_while(|byte| *byte != 0)
        .chain([0])
        .collect();
    let length = command_line.len() as u64 - 1;
    if length > header.command_line_maximum {
        return Err(BootError::CommandLine {
            length,
            maximum: header.command_line_maximum,
        });
    }
    let kernel = place_kernel(header, placement)?;
    memory.write(kernel.start, header.code())?;
    let modules = load_ram_disk(request, header, &kernel, placement, memory)?;

    let structures = Structures::new(command_line.len());
    let range = placement.place("boot information", structures.size, PAGE, LOW_MEMORY)?;
    let base = range.start;
    let parameters = parameters(
        request,
        header,
        base + structures.command_line,
        kernel.start,
        &modules,
    )?;
    memory.write(base, &parameters)?;
    memory.write(base + structures.command_line, &command_line)?;
    let descriptor_table = base + structures.descriptors;
    let code = match protocol {
        Protocol::Linux64 => CODE_64,
        _ => CODE_32,
    };
    memory.write(descriptor_table, &words(&[0, 0, code, DATA]))?;

    let (mode, rip) = match protocol {
        Protocol::Linux64 => {
            let cr3 = base + structures.tables;
            memory.write(cr3, &identity_mapping(cr3))?;
            (EntryMode::Long { cr3 }, kernel.start + header::ENTRY_64)
        }
        _ => (EntryMode::Protected, kernel.start),
    };
    Ok(Loaded {
        entry: EntryState {
            protocol,
            rip,
            eax: 0,
            ebx: 0,
            rsi: base,
            mode,
            segments: Flat {
                code: CODE_SELECTOR,
                data: DATA_SELECTOR,
                descriptor_table,
                limit: 4 * 8 - 1,
            },
        },
        kernel,
        modules,
        information: range,
    })
}

/// Where the structures are from their first byte, the boot parameters.
struct Structures {
    tables: u64,
    descriptors: u64,
    command_line: u64,
    size: u64,
}

impl Structures {
    fn new(command_line: usize) -> Self {
        let tables = PARAMETERS as u64;
        let descriptors = tables + TABLES * PAGE;
        let command_line_at = descriptors + 4 * 8;
        Self {
            tables,
            descriptors,
            command_line: command_line_at,
            size: command_line_at + command_line as u64,
        }
    }
}

/// Takes the preferred place, or if there is no RAM and the kernel may be elsewhere, the lowest.
fn place_kernel(header: &Header<'_>, placement: &mut Placement) -> Result<Range<u64>, BootError> {
    let start = header.preferred_address;
    let outside = |ram| BootError::OutsideRam {
        start,
        end: start.saturating_add(header.memory_size),
        ram,
    };
    if let Some(end) = start.checked_add(header.memory_size)
        && start >= HIGH_MEMORY
        && end <= 1 << 32
        && placement.is_ram(&(start..end))
    {
        placement.occupy(start..end);
        return Ok(start..end);
    }
    match header.alignment {
        Some(alignment) => placement
            .place("kernel", header.memory_size, alignment, HIGH_MEMORY)
            .map_err(|_| outside(placement.ram_size())),
        None => Err(outside(placement.ram_size())),
    }
}

/// Puts the modules one behind the other: together they are the initial RAM disk.
fn load_ram_disk(
    request: &BootRequest<'_>,
    header: &Header<'_>,
    kernel: &Range<u64>,
    placement: &mut Placement,
    memory: &mut (impl LoadMemory + ?Sized),
) -> Result<Vec<Range<u64>>, BootError> {
    let mut size = 0_usize;
    for (index, module) in request.modules.iter().enumerate() {
        initial_ram_disk::check(module.bytes, index)?;
        size = size
            .next_multiple_of(ARCHIVE_ALIGNMENT)
            .saturating_add(module.bytes.len());
    }
    if size == 0 {
        return Ok(Vec::new());
    }
    let size = size as u64;
    let what = "initial RAM disk";
    let above = kernel.end.max(HIGH_MEMORY);
    let disk = match placement.place(what, size, PAGE, above) {
        Ok(disk) if disk.end - 1 <= header.ramdisk_last => disk,
        // Below the kernel then, as it may have been placed high.
        _ => placement.place(what, size, PAGE, HIGH_MEMORY)?,
    };
    if disk.end - 1 > header.ramdisk_last {
        return Err(BootError::NoRoom { what, size });
    }
    let mut address = disk.start;
    let mut modules = Vec::new();
    for module in request.modules {
        address = address.next_multiple_of(ARCHIVE_ALIGNMENT as u64);
        // The gap before is zeroes whatever was in memory.
        memory.write(address, module.bytes)?;
        let end = address + module.bytes.len() as u64;
        modules.push(address..end);
        let next = end.next_multiple_of(ARCHIVE_ALIGNMENT as u64);
        memory.zero(end, next.min(disk.end).saturating_sub(end))?;
        address = end;
    }
    Ok(modules)
}

/// The boot parameters: the header as the kernel gave it, with the loader's fields filled in.
fn parameters(
    request: &BootRequest<'_>,
    header: &Header<'_>,
    command_line: u64,
    kernel: u64,
    modules: &[Range<u64>],
) -> Result<Vec<u8>, BootError> {
    let mut page = vec![0; PARAMETERS];
    let (range, bytes) = header.bytes();
    put(&mut page, range.start, bytes);
    let rsdp = request.rsdp.map_or(0, |rsdp| rsdp.address);
    put(&mut page, RSDP_ADDRESS, &rsdp.to_le_bytes());

    let count = request.memory_map.len();
    if count > E820_MOST {
        return Err(BootError::MemoryMap { regions: count });
    }
    put(&mut page, E820_ENTRIES, &[count as u8]);
    for (index, region) in request.memory_map.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY;
        put(&mut page, at, &region.address.to_le_bytes());
        put(&mut page, at + 8, &region.size.to_le_bytes());
        put(&mut page, at + 16, &region.kind.to_le_bytes());
    }

    put(&mut page, offset::VIDEO_MODE, &NORMAL_VIDEO.to_le_bytes());
    put(&mut page, offset::TYPE_OF_LOADER, &[UNKNOWN_LOADER]);
    let flags = header.load_flags() & !QUIET_OR_KEEP_SEGMENTS;
    put(&mut page, offset::LOAD_FLAGS, &[flags]);
    // All of these were placed below 4 GiB.
    let (disk, disk_size) = match (modules.first(), modules.last()) {
        (Some(first), Some(last)) => (first.start as u32, (last.end - first.start) as u32),
        _ => (0, 0),
    };
    for (at, value) in [
        (offset::CODE32_START, kernel as u32),
        (offset::RAMDISK_IMAGE, disk),
        (offset::RAMDISK_SIZE, disk_size),
        (offset::COMMAND_LINE, command_line as u32),
    ] {
        put(&mut page, at, &value.to_le_bytes());
    }
    Ok(page)
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Page tables at `base` that map the first 4 GiB to themselves.
fn identity_mapping(base: u64) -> Vec<u8> {
    let entry = |address: u64| address | PRESENT_WRITABLE;
    let page = |count: u64, entries: &mut dyn Iterator<Item = u64>| {
        let mut page: Vec<u64> = entries.collect();
        page.resize((count * PAGE / 8) as usize, 0);
        page
    };
    let directories = base + 2 * PAGE;
    let mut tables = page(1, &mut [entry(base + PAGE)].into_iter());
    tables.extend(page(1, &mut (0..4).map(|n| entry(directories + n * PAGE))));
    tables.extend(page(4, &mut (0..4 * 512).map(|n| entry(n << 21) | LARGE)));
    words(&tables)
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
