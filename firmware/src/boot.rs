//! Loads a kernel image the way its boot protocol says, and reads what such a loader left.

pub mod error;
pub mod image;
pub mod information;
mod linux;
mod multiboot1;
mod multiboot2;
mod placement;
mod pvh;

use crate::memory::LoadMemory;
use alloc::vec::Vec;
use arch::pvh::MemoryRegion;
use core::fmt;
use core::ops::Range;
pub use error::BootError;
use image::{Image, Segment};
use placement::Placement;

/// The name under which a multiboot kernel sees this loader.
const LOADER_NAME: &[u8] = b"posthaste\0";

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// PVH: an ELF note "Xen" of type 18 holds the entry point.
    Pvh,
    /// Multiboot2.
    Multiboot2,
    /// Multiboot, the first version.
    Multiboot1,
    /// The Linux boot protocol's 64-bit entry.
    Linux64,
    /// The Linux boot protocol's 32-bit entry.
    Linux32,
}

impl Protocol {
    /// Every protocol, the one preferred by default first.
    pub const ALL: [Self; 5] = [
        Self::Pvh,
        Self::Multiboot2,
        Self::Multiboot1,
        Self::Linux64,
        Self::Linux32,
    ];

    /// The name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Multiboot2 => "multiboot2",
            Self::Multiboot1 => "multiboot1",
            Self::Linux64 => "the Linux 64-bit entry",
            Self::Linux32 => "the Linux 32-bit entry",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A boot module: bytes for the kernel, an initial RAM disk for instance.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its content.
    pub bytes: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
}

/// The ACPI root pointer that the kernel is told about.
#[derive(Clone, Copy, Debug)]
pub struct Rsdp<'a> {
    /// Where it is in memory.
    pub address: u64,
    /// Its bytes; multiboot2 hands over a copy.
    pub bytes: &'a [u8],
}

/// What to load, and what to tell it.
#[derive(Clone, Copy, Debug)]
pub struct BootRequest<'a> {
    /// The kernel image.
    pub kernel: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// Boot modules.
    pub modules: &'a [Module<'a>],
    /// The memory of the machine, as E820 would tell; where regions overlap, memory is RAM only if
    /// all of them say so. Nothing is loaded outside its RAM.
    pub memory_map: &'a [MemoryRegion],
    /// The ACPI root pointer, if there is one. A multiboot1 kernel is not told, and looks for it in
    /// E0000H-FFFFFH.
    pub rsdp: Option<Rsdp<'a>>,
    /// `None` takes the first of [`Protocol::ALL`] that the image offers.
    pub protocol: Option<Protocol>,
}

/// Whether paging is on when a kernel starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// 32-bit protected mode: CR0.PE = 1, CR0.PG = 0; CR4 and EFER are 0.
    Protected,
    /// 64-bit mode: CR0.PE = CR0.PG = 1, CR4.PAE = 1, EFER.LME = EFER.LMA = 1.
    Long {
        /// Page tables that map the first 4 GiB to themselves.
        cr3: u64,
    },
}

/// The segments with which a kernel starts: CS is a code segment of the entry's mode, the other
/// segment registers are writable data segments, all of base 0 and limit FFFFFFFFH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Selector in CS.
    pub code: u16,
    /// Selector in DS, ES, FS, GS and SS.
    pub data: u16,
    /// Physical address of a global descriptor table that holds both, or 0 if there is none because
    /// the protocol leaves GDTR undefined.
    pub descriptor_table: u64,
    /// The table's limit.
    pub limit: u16,
}

impl Flat {
    /// What PVH and multiboot leave open.
    const UNDEFINED: Self = Self {
        code: 8,
        data: 0x10,
        descriptor_table: 0,
        limit: 0,
    };
}

/// The state in which the kernel starts, at privilege level 0. EFLAGS.IF and EFLAGS.VM are 0, A20 is
/// on. General registers that are not mentioned are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The protocol that this is.
    pub protocol: Protocol,
    /// Instruction pointer, a physical address below 4 GiB.
    pub rip: u64,
    /// EAX: the protocol's magic number, 0 for PVH and Linux.
    pub eax: u32,
    /// EBX: physical address of the boot information; 0 for Linux.
    pub ebx: u32,
    /// RSI: physical address of the boot parameters for Linux, otherwise 0.
    pub rsi: u64,
    /// The processor's mode.
    pub mode: EntryMode,
    /// The segments.
    pub segments: Flat,
}

/// A loaded kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How to start it.
    pub entry: EntryState,
    /// The physical memory from its lowest to its highest segment.
    pub kernel: Range<u64>,
    /// The physical memory of each module, in the order given.
    pub modules: Vec<Range<u64>>,
    /// The physical memory of the boot information, command lines included.
    pub information: Range<u64>,
}

/// The protocols that an image offers, the one preferred by default first; never empty.
pub fn detect(kernel: &[u8]) -> Result<Vec<Protocol>, BootError> {
    let image = Image::parse(kernel)?;
    let offered: Vec<Protocol> = Protocol::ALL
        .into_iter()
        .filter(|protocol| image.offers(*protocol))
        .collect();
    if offered.is_empty() {
        return Err(image.unknown_format());
    }
    Ok(offered)
}

/// Loads the kernel and its modules into `memory` and leaves the boot information there.
pub fn load(
    request: &BootRequest<'_>,
    memory: &mut (impl LoadMemory + ?Sized),
) -> Result<Loaded, BootError> {
    let image = Image::parse(request.kernel)?;
    let protocol = match request.protocol {
        Some(protocol) if image.offers(protocol) => protocol,
        Some(protocol) => return Err(BootError::ProtocolAbsent { protocol }),
        None => Protocol::ALL
            .into_iter()
            .find(|protocol| image.offers(*protocol))
            .ok_or_else(|| image.unknown_format())?,
    };
    let mut placement = Placement::new(request.memory_map);
    if let Some(header) = image.linux(protocol) {
        return linux::load(request, header, protocol, &mut placement, memory);
    }
    let plan = image.plan(protocol)?;
    let kernel = load_segments(&plan.segments, request.kernel, &mut placement, memory)?;
    if !plan
        .segments
        .iter()
        .any(|segment| segment.memory().contains(&u64::from(plan.entry)))
    {
        return Err(BootError::EntryOutside {
            entry: u64::from(plan.entry),
        });
    }
    let modules = load_modules(request.modules, kernel.end, &mut placement, memory)?;

    let write = match protocol {
        Protocol::Multiboot2 => multiboot2::write_information,
        Protocol::Multiboot1 => multiboot1::write_information,
        // The Linux protocols were dealt with above.
        Protocol::Pvh | Protocol::Linux64 | Protocol::Linux32 => pvh::write,
    };
    // The information holds absolute addresses, so its size is measured at address 0 first.
    let size = write(request, &modules, 0)?.len() as u64;
    let information = placement.place("boot information", size, 16, LOW_MEMORY)?;
    let address = u32::try_from(information.start).map_err(|_| BootError::NoRoom {
        what: "boot information",
        size,
    })?;
    memory.write(information.start, &write(request, &modules, address)?)?;
    Ok(Loaded {
        entry: EntryState {
            protocol,
            rip: u64::from(plan.entry),
            eax: match protocol {
                Protocol::Multiboot2 => multiboot2::BOOT_MAGIC,
                Protocol::Multiboot1 => multiboot1::BOOT_MAGIC,
                Protocol::Pvh | Protocol::Linux64 | Protocol::Linux32 => 0,
            },
            ebx: address,
            rsi: 0,
            mode: EntryMode::Protected,
            segments: Flat::UNDEFINED,
        },
        kernel,
        modules,
        information,
    })
}

/// Boot information goes above what real mode and start-up code (SIPI pages) commonly use.
const LOW_MEMORY: u64 = 0x1_0000;
/// Modules go above the legacy area.
const HIGH_MEMORY: u64 = 0x10_0000;
const PAGE: u64 = 4096;

fn load_segments(
    segments: &[Segment],
    image: &[u8],
    placement: &mut Placement,
    memory: &mut (impl LoadMemory + ?Sized),
) -> Result<Range<u64>, BootError> {
    let (mut lowest, mut highest) = (u64::MAX, 0);
    for segment in segments {
        let range = segment.memory();
        if !placement.is_ram(&range) {
            return Err(BootError::OutsideRam {
                start: range.start,
                end: range.end,
                ram: placement.ram_size(),
            });
        }
        let bytes = segment.bytes(image)?;
        memory.write(range.start, bytes)?;
        let loaded = bytes.len() as u64;
        memory.zero(
            range.start.saturating_add(loaded),
            segment.memory_size - loaded,
        )?;
        lowest = lowest.min(range.start);
        highest = highest.max(range.end);
        placement.occupy(range);
    }
    if highest <= lowest {
        return Err(BootError::NothingToLoad);
    }
    Ok(lowest..highest)
}

fn load_modules(
    modules: &[Module<'_>],
    kernel_end: u64,
    placement: &mut Placement,
    memory: &mut (impl LoadMemory + ?Sized),
) -> Result<Vec<Range<u64>>, BootError> {
    let above = kernel_end.max(HIGH_MEMORY);
    modules
        .iter()
        .map(|module| {
            let size = module.bytes.len() as u64;
            let range = placement.place("module", size, PAGE, above)?;
            memory.write(range.start, module.bytes)?;
            Ok(range)
        })
        .collect()
}

#[cfg(test)]
mod tests;
