//! Puts a guest into its memory: the kernel by its boot protocol, the ACPI tables, the memory map.

use alloc::vec::Vec;
use core::fmt;

use arch::pvh::{MEMORY_ACPI, MEMORY_RAM, MEMORY_RESERVED, MemoryRegion};
use firmware::{
    acpi::build::{BuildError, DestinationRule, TableConfig, build},
    boot::{BootError, BootRequest, EntryState, Module, Protocol, Rsdp, detect, load},
    memory::{LoadMemory, MemoryError},
    multiprocessor::{self, ProcessorDescription},
};

use super::memory::{FrameAccess, GuestMemory, GuestPhysical, MemoryLayout};

/// Conventional memory ends here: above it a PC has its extended BIOS data area.
const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The legacy video window begins.
const VIDEO_START: u64 = 0xa_0000;
/// The area where software looks for an RSDP begins.
const BIOS_START: u64 = 0xe_0000;
/// Extended memory begins.
const EXTENDED_START: u64 = 0x10_0000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct GuestImage<'a> {
    /// The kernel: boot module 0 of the hypervisor.
    pub kernel: &'a [u8],
    /// Its command line: that of the module.
    pub command_line: &'a str,
    /// The guest's own modules: the hypervisor's further ones.
    pub modules: &'a [Module<'a>],
}

/// A guest ready to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedGuest {
    /// The bootstrap vCPU's registers; 32-bit protected mode without paging, flat segments.
    pub entry: EntryState,
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
}

/// Why a guest could not be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestImageError {
    /// The kernel or its modules.
    Boot(BootError),
    /// The firmware's tables.
    Tables(BuildError),
    /// The tables do not fit into the guest's memory.
    Memory(MemoryError),
}

impl fmt::Display for GuestImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(error) => write!(f, "the guest image cannot be loaded: {error}"),
            Self::Tables(error) => {
                write!(f, "the guest's firmware tables cannot be built: {error}")
            }
            Self::Memory(error) => write!(f, "the guest's firmware tables do not fit: {error}"),
        }
    }
}

impl core::error::Error for GuestImageError {}

/// The guest's RAM as a loader's memory.
struct Loader<'a, F>(&'a GuestMemory<F>);

impl<F: FrameAccess> LoadMemory for Loader<'_, F> {
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0
            .write(GuestPhysical(address), bytes)
            .map_err(|refused| MemoryError {
                address: refused.address,
                length: refused.length,
            })
    }

    fn zero(&mut self, address: u64, length: u64) -> Result<(), MemoryError> {
        self.0
            .zero(GuestPhysical(address), length)
            .map_err(|refused| MemoryError {
                address: refused.address,
                length: refused.length,
            })
    }
}

/// The memory map that the guest is told, as E820 would tell it.
pub fn memory_map(layout: MemoryLayout) -> Vec<MemoryRegion> {
    let region = |start: u64, end: u64, kind: u32| MemoryRegion {
        address: start,
        size: end.saturating_sub(start),
        kind,
        reserved: 0,
    };
    let mut map = alloc::vec![
        region(0, CONVENTIONAL_END, MEMORY_RAM),
        region(CONVENTIONAL_END, VIDEO_START, MEMORY_RESERVED),
        region(BIOS_START, EXTENDED_START, MEMORY_ACPI),
        region(EXTENDED_START, layout.low().length, MEMORY_RAM),
    ];
    if let Some(high) = layout.high() {
        map.push(region(
            high.guest,
            high.guest.saturating_add(high.length),
            MEMORY_RAM,
        ));
    }
    map
}

/// Loads `image` and the tables for `vcpus` vCPUs, whose APIC IDs are their numbers and which are of the
/// `kind`, into `memory`.
///
/// The tables force physical destination mode (FADT flag bit 19), so that a guest that obeys them
/// sends the IPIs that IPI virtualization handles (SDM 30.1.6; prior-art C5). Their OEM ID is our
/// machine's, by which a guest of ours knows that it may mark phases.
///
/// # Errors
/// The image is not one, does not fit, or the tables do not.
pub fn load_guest<F: FrameAccess>(
    memory: &GuestMemory<F>,
    image: &GuestImage<'_>,
    vcpus: u32,
    kind: ProcessorDescription,
) -> Result<LoadedGuest, GuestImageError> {
    let apic_ids: Vec<u32> = (0..vcpus).collect();
    let config = TableConfig {
        destinations: DestinationRule::ForcePhysical,
        ..TableConfig::posthaste(&apic_ids)
    };
    let tables = build(&config).map_err(GuestImageError::Tables)?;
    let mut loader = Loader(memory);
    loader
        .write(tables.base, &tables.bytes)
        .and_then(|()| {
            let tables = multiprocessor::build(&config, kind);
            loader.write(multiprocessor::BASE, &tables)
        })
        .map_err(GuestImageError::Memory)?;
    let map = memory_map(memory.layout());
    // vCPUs start in protected mode, and every Linux kernel can be entered in it.
    let protocol = detect(image.kernel)
        .map_err(GuestImageError::Boot)?
        .into_iter()
        .find(|protocol| *protocol != Protocol::Linux64);
    let request = BootRequest {
        kernel: image.kernel,
        command_line: image.command_line,
        modules: image.modules,
        memory_map: &map,
        rsdp: Some(Rsdp {
            address: tables.base,
            bytes: tables.rsdp(),
        }),
        protocol,
    };
    let loaded = load(&request, &mut loader).map_err(GuestImageError::Boot)?;
    Ok(LoadedGuest {
        entry: loaded.entry,
        rsdp: tables.base,
    })
}

#[cfg(test)]
mod tests {
    use super::super::memory::sparse::SparseFrames;
    use super::*;
    use arch::pvh::{ELF_NOTE_PHYS32_ENTRY, MAGIC};

    const ENTRY: u32 = 0x10_0040;
    const TEXT: &[u8] = &[0xfa, 0xf4];

    const KIND: ProcessorDescription = ProcessorDescription {
        signature: 0x6f2,
        features: 0x178b_fbfd,
        local_apic_version: 0x14,
        io_apic_version: 0x20,
    };

    /// A 64-bit ELF with one segment at 1 MiB and a PVH note.
    fn kernel() -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4u32, 4, ELF_NOTE_PHYS32_ENTRY] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(ENTRY.to_le_bytes());
        let headers = 64 + 2 * 56u64;
        let note_at = headers;
        let text_at = note_at + note.len() as u64;
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        elf.extend(2u16.to_le_bytes());
        elf.extend(62u16.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        elf.extend(u64::from(ENTRY).to_le_bytes());
        elf.extend(64u64.to_le_bytes());
        elf.extend(0u64.to_le_bytes());
        elf.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        for (kind, offset, address, file, size) in [
            (4u32, note_at, 0u64, note.len() as u64, note.len() as u64),
            (1, text_at, u64::from(ENTRY), TEXT.len() as u64, 0x1000),
        ] {
            elf.extend(kind.to_le_bytes());
            elf.extend(5u32.to_le_bytes());
            for word in [offset, address, address, file, size, 1] {
                elf.extend(word.to_le_bytes());
            }
        }
        elf.extend(&note);
        elf.extend(TEXT);
        elf
    }

    fn memory(size: u64) -> GuestMemory<SparseFrames> {
        GuestMemory::new(MemoryLayout::new(size), SparseFrames::default())
    }

    fn image(kernel: &[u8]) -> GuestImage<'_> {
        GuestImage {
            kernel,
            command_line: "apic=x2apic rounds=3",
            modules: &[],
        }
    }

    fn bytes(memory: &GuestMemory<SparseFrames>, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read(GuestPhysical(address), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_pvh_kernel_finds_its_command_line_its_tables_and_its_memory() {
        let memory = memory(5 << 30);
        let elf = kernel();
        let loaded = load_guest(&memory, &image(&elf), 3, KIND).unwrap();
        assert_eq!((loaded.entry.rip, loaded.entry.eax), (u64::from(ENTRY), 0));
        assert_eq!(bytes(&memory, u64::from(ENTRY), 2), TEXT);
        let info = u64::from(loaded.entry.ebx);
        let word = |at| memory.read_u32(GuestPhysical(at)).unwrap();
        let long = |at| memory.read_u64(GuestPhysical(at)).unwrap();
        assert_eq!(word(info), MAGIC);
        assert_eq!(
            bytes(&memory, long(info + 24), 21),
            b"apic=x2apic rounds=3\0"
        );
        assert_eq!(long(info + 32), loaded.rsdp);
        assert_eq!(bytes(&memory, loaded.rsdp, 8), b"RSD PTR ");
        assert_eq!(word(info + 48), 5, "regions");
        let last = long(info + 40) + 4 * 24;
        assert_eq!(
            (long(last), long(last + 8), word(last + 16)),
            (4 << 30, 2 << 30, MEMORY_RAM)
        );
    }

    #[test]
    fn the_tables_force_physical_destinations_and_name_every_vcpu() {
        let memory = memory(64 << 20);
        let elf = kernel();
        let loaded = load_guest(&memory, &image(&elf), 3, KIND).unwrap();
        let xsdt = memory.read_u64(GuestPhysical(loaded.rsdp + 24)).unwrap();
        let length = memory.read_u32(GuestPhysical(xsdt + 4)).unwrap();
        let mut flags = None;
        let mut processors = 0;
        for entry in (36..u64::from(length)).step_by(8) {
            let table = memory.read_u64(GuestPhysical(xsdt + entry)).unwrap();
            let size = memory.read_u32(GuestPhysical(table + 4)).unwrap() as usize;
            let content = bytes(&memory, table, size);
            assert_eq!(&content[10..16], b"POSTHA");
            match &content[..4] {
                b"FACP" => flags = Some(u32::from_le_bytes(content[112..116].try_into().unwrap())),
                b"APIC" => {
                    let mut at = 44;
                    while at < size {
                        processors += usize::from(matches!(content[at], 0 | 9));
                        at += usize::from(content[at + 1]);
                    }
                }
                _ => {}
            }
        }
        // FADT flag bit 19, FORCE_APIC_PHYSICAL_DESTINATION_MODE.
        assert_ne!(flags.unwrap() & 1 << 19, 0);
        assert_eq!(processors, 3);
    }

    #[test]
    fn the_multiprocessor_tables_name_every_vcpu() {
        let memory = memory(64 << 20);
        load_guest(&memory, &image(&kernel()), 3, KIND).unwrap();
        assert_eq!(bytes(&memory, 0xf_0000, 4), b"_MP_");
        let table = memory.read_u32(GuestPhysical(0xf_0004)).unwrap();
        assert_eq!(bytes(&memory, table.into(), 4), b"PCMP");
        let processors = bytes(&memory, u64::from(table) + 44, 4 * 20);
        let ids: Vec<_> = processors.chunks(20).map(|entry| &entry[..4]).collect();
        let expected = [[0, 0, 0x14, 3], [0, 1, 0x14, 1], [0, 2, 0x14, 1]];
        assert_eq!(ids[..3], expected);
        assert_eq!(ids[3][0], 1, "a bus follows");
    }

    #[test]
    fn what_cannot_be_loaded_is_one_line() {
        let memory = memory(64 << 20);
        let elf = kernel();
        for (kernel, expected) in [
            (&b"junk"[..], "the guest image cannot be loaded: "),
            (&[][..], "the guest image cannot be loaded: "),
            (&elf[..100], "the guest image cannot be loaded: "),
        ] {
            let error = load_guest(&memory, &image(kernel), 1, KIND)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(expected) && !error.contains('\n'),
                "{error}"
            );
        }
        let small = self::memory(0x10_0000);
        assert!(
            load_guest(&small, &image(&elf), 1, KIND).is_err(),
            "too little memory"
        );
    }

    #[test]
    fn the_map_keeps_the_guest_off_what_is_not_ram() {
        let map = memory_map(MemoryLayout::new(64 << 20));
        let ram: Vec<_> = map
            .iter()
            .filter(|region| region.kind == MEMORY_RAM)
            .map(|region| (region.address, region.size))
            .collect();
        assert_eq!(ram, [(0, 0x9_fc00), (0x10_0000, (64 << 20) - 0x10_0000)]);
        for pair in map.windows(2) {
            assert!(pair[0].address + pair[0].size <= pair[1].address);
        }
    }
}
