//! What a boot loader hands over, by PVH or multiboot2, in one form.
#![allow(
    unsafe_code,
    reason = "reads the structures that the loader left in memory"
)]

use super::frame_allocator::Range;
use alloc::string::String;
use alloc::vec::Vec;
use arch::pvh;
use core::ffi::CStr;

/// EAX of a multiboot2 loader.
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// A file the loader left in memory.
#[derive(Clone, Debug)]
pub struct Module {
    /// Where its bytes are.
    pub range: Range,
    /// What follows its name in the loader's configuration.
    pub command_line: String,
}

/// Everything the loader said.
#[derive(Clone, Debug, Default)]
pub struct BootInformation {
    /// The hypervisor's command line.
    pub command_line: String,
    /// Usable RAM.
    pub memory: Vec<Range>,
    /// Modules in order.
    pub modules: Vec<Module>,
    /// The RSDP: its address, or a copy of its bytes.
    pub rsdp: Option<u64>,
    /// Where the loader's own structures are, not to be overwritten before they are read.
    pub structures: Vec<Range>,
}

/// Reads NUL-terminated text.
///
/// # Safety
/// `address` must be 0 or that of NUL-terminated bytes.
unsafe fn text(address: u64) -> String {
    if address == 0 {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(address as *const core::ffi::c_char) };
    String::from_utf8_lossy(text.to_bytes()).into_owned()
}

/// Reads what `protocol` (the loader's magic number) left at `address`.
///
/// # Safety
/// Both must be what the loader passed, and its structures must still be intact.
pub unsafe fn read(protocol: u32, address: u64) -> Option<BootInformation> {
    // SAFETY: the caller's promise, by protocol.
    unsafe {
        match protocol {
            pvh::MAGIC => Some(read_pvh(address)),
            MULTIBOOT2_MAGIC => Some(read_multiboot2(address)),
            _ => None,
        }
    }
}

unsafe fn read_pvh(address: u64) -> BootInformation {
    // SAFETY: PVH passes the address of its start information, whose pointers are valid.
    unsafe {
        let start = (address as *const pvh::StartInfo).read_unaligned();
        let mut boot = BootInformation {
            command_line: text(start.command_line),
            rsdp: (start.rsdp != 0).then_some(start.rsdp),
            ..Default::default()
        };
        boot.structures
            .push(Range::new(address, size_of::<pvh::StartInfo>() as u64));
        for index in 0..start.module_count as usize {
            let entry = (start.module_list as *const pvh::Module)
                .add(index)
                .read_unaligned();
            boot.modules.push(Module {
                range: Range::new(entry.address, entry.size),
                command_line: text(entry.command_line),
            });
        }
        if start.version >= 1 {
            for index in 0..start.memory_map_entries as usize {
                let entry = (start.memory_map as *const pvh::MemoryRegion)
                    .add(index)
                    .read_unaligned();
                if entry.kind == pvh::MEMORY_RAM {
                    boot.memory.push(Range::new(entry.address, entry.size));
                }
            }
        }
        boot
    }
}

unsafe fn read_multiboot2(address: u64) -> BootInformation {
    let u32_at = |at: u64| {
        // SAFETY: `at` lies inside the information structure, whose size the loader wrote.
        unsafe { (at as *const u32).read_unaligned() }
    };
    let u64_at = |at: u64| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let total = u64::from(u32_at(address));
    let mut boot = BootInformation::default();
    boot.structures.push(Range::new(address, total));
    let mut tag = address + 8;
    while tag + 8 <= address + total {
        let (kind, size) = (u32_at(tag), u64::from(u32_at(tag + 4)));
        match kind {
            0 => break,
            // SAFETY: a NUL-terminated string inside the tag.
            1 => boot.command_line = unsafe { text(tag + 8) },
            3 => boot.modules.push(Module {
                range: Range {
                    start: u64::from(u32_at(tag + 8)),
                    end: u64::from(u32_at(tag + 12)),
                },
                // SAFETY: as above.
                command_line: unsafe { text(tag + 16) },
            }),
            6 => {
                let entry_size = u64::from(u32_at(tag + 8)).max(24);
                let mut entry = tag + 16;
                while entry + 24 <= tag + size {
                    if u32_at(entry + 16) == pvh::MEMORY_RAM {
                        boot.memory
                            .push(Range::new(u64_at(entry), u64_at(entry + 8)));
                    }
                    entry += entry_size;
                }
            }
            // ACPI 1.0 and 2.0 RSDP, a copy; prefer the newer.
            14 if boot.rsdp.is_none() => boot.rsdp = Some(tag + 8),
            15 => boot.rsdp = Some(tag + 8),
            _ => {}
        }
        tag += (size.max(8) + 7) & !7;
    }
    boot
}
