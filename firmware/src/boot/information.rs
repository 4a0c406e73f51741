//! Reads the boot information that a loader left: the other side of this module's writers.
//!
//! Nothing in it is trusted: counts and lengths are bounded before anything is allocated.

use super::BootError;
use super::multiboot2::tag;
use crate::memory::PhysicalMemory;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use arch::pvh::{MAGIC, MemoryRegion, Module, StartInfo};
use core::mem::size_of;

/// The longest command line that is read; what is behind is cut off.
pub const MAXIMUM_COMMAND_LINE: usize = 4096;
/// The most modules that are read.
pub const MAXIMUM_MODULES: u32 = 64;
/// The most memory regions that are read; firmware tables have a few dozen.
pub const MAXIMUM_REGIONS: u32 = 1024;
/// The largest multiboot2 information that is read.
pub const MAXIMUM_MULTIBOOT2_SIZE: u32 = 256 * 1024;

/// Where a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleLocation {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Its command line; bytes that are not UTF-8 are replaced.
    pub command_line: String,
}

/// What a loader said.
#[derive(Clone, Debug, Default)]
pub struct BootInformation {
    /// The command line; bytes that are not UTF-8 are replaced.
    pub command_line: String,
    /// The modules in their order.
    pub modules: Vec<ModuleLocation>,
    /// The memory map; kinds are those of E820.
    pub memory_map: Vec<MemoryRegion>,
    /// Physical address of the ACPI root pointer, or of the loader's copy of it.
    pub rsdp: Option<u64>,
}

/// Reads the PVH start info at `address` (EBX at the entry).
pub fn read_pvh(
    memory: &(impl PhysicalMemory + ?Sized),
    address: u64,
) -> Result<BootInformation, BootError> {
    let wrong = |what| BootError::Information { what, address };
    let mut header = [0; size_of::<StartInfo>()];
    // Version 0 ends after the RSDP, 40 bytes in.
    let (head, tail) = header.split_at_mut(40);
    memory.read(address, head)?;
    if u32_at(head, 0) != MAGIC {
        return Err(wrong("not a PVH start info (wrong magic)"));
    }
    if u32_at(head, 4) >= 1 {
        memory.read(address.saturating_add(40), tail)?;
    }
    let mut information = BootInformation {
        command_line: string(memory, u64_at(&header, 24))?,
        rsdp: Some(u64_at(&header, 32)).filter(|address| *address != 0),
        ..BootInformation::default()
    };
    let count = u32_at(&header, 12);
    if count > MAXIMUM_MODULES {
        return Err(wrong("too many modules"));
    }
    let list = u64_at(&header, 16);
    for index in 0..u64::from(count) {
        let mut entry = [0; size_of::<Module>()];
        memory.read(list.saturating_add(index * entry.len() as u64), &mut entry)?;
        information.modules.push(ModuleLocation {
            address: u64_at(&entry, 0),
            size: u64_at(&entry, 8),
            command_line: string(memory, u64_at(&entry, 16))?,
        });
    }
    let count = u32_at(&header, 48);
    if count > MAXIMUM_REGIONS {
        return Err(wrong("too many memory regions"));
    }
    let list = u64_at(&header, 40);
    for index in 0..u64::from(count) {
        let mut entry = [0; size_of::<MemoryRegion>()];
        memory.read(list.saturating_add(index * entry.len() as u64), &mut entry)?;
        information.memory_map.push(MemoryRegion {
            address: u64_at(&entry, 0),
            size: u64_at(&entry, 8),
            kind: u32_at(&entry, 16),
            reserved: 0,
        });
    }
    Ok(information)
}

/// Reads the multiboot2 boot information at `address` (EBX at the entry).
pub fn read_multiboot2(
    memory: &(impl PhysicalMemory + ?Sized),
    address: u64,
) -> Result<BootInformation, BootError> {
    let wrong = |what| BootError::Information { what, address };
    let mut size = [0; 4];
    memory.read(address, &mut size)?;
    let size = u32::from_le_bytes(size);
    if !(16..=MAXIMUM_MULTIBOOT2_SIZE).contains(&size) {
        return Err(wrong("implausible total size"));
    }
    let mut blob = vec![0; size as usize];
    memory.read(address, &mut blob)?;

    let mut information = BootInformation::default();
    let mut offset = 8_usize;
    loop {
        let rest = blob.get(offset..).unwrap_or(&[]);
        if rest.len() < 8 {
            return Err(wrong("no end tag"));
        }
        let kind = u32_at(rest, 0);
        let size = u32_at(rest, 4) as usize;
        let body = rest
            .get(8..size)
            .ok_or_else(|| wrong("a tag longer than the whole"))?;
        match kind {
            tag::END => return Ok(information),
            tag::COMMAND_LINE => information.command_line = text(body),
            tag::MODULE if body.len() >= 8 => {
                if information.modules.len() >= MAXIMUM_MODULES as usize {
                    return Err(wrong("too many modules"));
                }
                let (start, end) = (u32_at(body, 0), u32_at(body, 4));
                information.modules.push(ModuleLocation {
                    address: u64::from(start),
                    size: u64::from(
                        end.checked_sub(start)
                            .ok_or_else(|| wrong("a module that ends before it starts"))?,
                    ),
                    command_line: text(body.get(8..).unwrap_or(&[])),
                });
            }
            tag::MEMORY_MAP if body.len() >= 8 => {
                // Multiboot2 3.6.8: entries may grow, so their size is told; at least 24.
                let entry_size = u32_at(body, 0) as usize;
                if entry_size < 24 {
                    return Err(wrong("memory map entries that are too short"));
                }
                let entries = body.get(8..).unwrap_or(&[]).chunks_exact(entry_size);
                information.memory_map = entries
                    .take(MAXIMUM_REGIONS as usize)
                    .map(|entry| MemoryRegion {
                        address: u64_at(entry, 0),
                        size: u64_at(entry, 8),
                        kind: u32_at(entry, 16),
                        reserved: 0,
                    })
                    .collect();
            }
            // The newer one wins whatever the order.
            tag::ACPI_OLD if information.rsdp.is_none() => {
                information.rsdp = Some(address.saturating_add(offset as u64 + 8));
            }
            tag::ACPI_NEW => information.rsdp = Some(address.saturating_add(offset as u64 + 8)),
            _ => {}
        }
        // `size` is within the blob, so this neither wraps nor stands still.
        offset += size.max(8).next_multiple_of(8);
    }
}

/// Bytes up to a NUL, as text.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len())
        .min(MAXIMUM_COMMAND_LINE);
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[])).into_owned()
}

/// The NUL-terminated string at `address`; none at 0.
fn string(memory: &(impl PhysicalMemory + ?Sized), address: u64) -> Result<String, BootError> {
    let mut bytes = Vec::new();
    if address == 0 {
        return Ok(String::new());
    }
    // Byte by byte: the string may end just below the end of memory.
    for index in 0..MAXIMUM_COMMAND_LINE as u64 {
        let mut byte = [0];
        memory.read(address.saturating_add(index), &mut byte)?;
        if byte == [0] {
            break;
        }
        bytes.extend(byte);
    }
    Ok(text(&bytes))
}

/// The word at `offset`, 0 where there is none.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The double word at `offset`, 0 where there is none.
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
