//! Intel's MultiProcessor tables, for kernels that do not know ACPI: the floating pointer structure and
//! the configuration table. They say what the ACPI tables say, as far as they can.
//!
//! Citations name the MultiProcessor Specification, version 1.4 ("MPS").

use alloc::vec::Vec;

use crate::acpi::build::TableConfig;
use crate::acpi::sum;

/// Where the floating pointer structure is; the configuration table follows it. Software searches the BIOS
/// area from here on (MPS 4).
pub const BASE: u64 = 0xf_0000;

/// Length of the floating pointer structure.
const POINTER_LENGTH: usize = 16;
/// Offset of its checksum.
const POINTER_CHECKSUM: usize = 10;
/// Length of the configuration table's header.
const HEADER_LENGTH: usize = 44;
/// Offset of its checksum.
const CHECKSUM: usize = 7;
/// Both structures are of this revision of the specification: 1.4.
const REVISION: u8 = 4;

/// MPS 4.3.1: a processor that can be used, and the one that starts.
const ENABLED: u8 = 1 << 0;
const BOOTSTRAP: u8 = 1 << 1;
/// MPS 4.3.1: stepping, model and family; the bits above are reserved.
const SIGNATURE: u32 = 0xfff;
/// The APIC ID that means everybody.
const EVERYBODY: u8 = 0xff;

/// Kinds of entries (MPS table 4-3).
mod entry {
    pub(super) const PROCESSOR: u8 = 0;
    pub(super) const BUS: u8 = 1;
    pub(super) const IO_APIC: u8 = 2;
    pub(super) const IO_INTERRUPT: u8 = 3;
    pub(super) const LOCAL_INTERRUPT: u8 = 4;
}

/// Interrupt types (MPS table 4-11).
mod interrupt {
    pub(super) const VECTORED: u8 = 0;
    pub(super) const NMI: u8 = 1;
    pub(super) const EXTERNAL: u8 = 3;
}

/// Polarity and trigger mode as the bus has it, and active high and level-triggered (MPS table 4-10).
const CONFORMS: u8 = 0;
const HIGH_AND_LEVEL: u8 = 0x0d;

/// The buses; a PCI bus's ID is its number.
const PCI: u8 = 0;
const ISA: u8 = 1;

/// ISA's interrupt requests, and the one that the second 8259 takes.
const REQUESTS: core::ops::Range<u8> = 0..16;
const CASCADE: u8 = 2;
/// The I/O APIC's pin of IRQ 0.
const TIMER_PIN: u8 = 2;

/// What kind of processors a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorDescription {
    /// CPUID.1:EAX.
    pub signature: u32,
    /// CPUID.1:EDX.
    pub features: u32,
    /// Bits 7:0 of the local APICs' version register.
    pub local_apic_version: u8,
    /// Bits 7:0 of the I/O APIC's version register.
    pub io_apic_version: u8,
}

/// The floating pointer structure with the configuration table behind it, to be put at [`BASE`].
/// Processors with an APIC ID of 255 or more cannot be named and are left out.
pub fn build(config: &TableConfig<'_>, kind: ProcessorDescription) -> Vec<u8> {
    let mut bytes = pointer();
    bytes.extend(configuration(config, kind));
    bytes
}

/// MPS 4.1 MP Floating Pointer Structure.
fn pointer() -> Vec<u8> {
    let mut pointer = Vec::from(*b"_MP_");
    pointer.extend((BASE as u32 + POINTER_LENGTH as u32).to_le_bytes());
    // Length in paragraphs; the checksum; a configuration table, not a default configuration; virtual-wire
    // mode, so that there is no IMCR.
    pointer.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, POINTER_CHECKSUM);
    pointer
}

/// MPS 4.2 MP Configuration Table Header, and 4.3 Base MP Configuration Table Entries.
fn configuration(config: &TableConfig<'_>, kind: ProcessorDescription) -> Vec<u8> {
    let entries = entries(config, kind);
    let length = HEADER_LENGTH + entries.iter().map(Vec::len).sum::<usize>();
    let mut table = Vec::from(*b"PCMP");
    table.extend((length as u16).to_le_bytes());
    table.extend([REVISION, 0]);
    table.extend(config.oem_id);
    table.extend(b"  MACHINE     ");
    // No table of the manufacturer's.
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(config.local_apic_address.to_le_bytes());
    // No extended table.
    table.extend([0; 4]);
    table.extend(entries.concat());
    set_checksum(&mut table, CHECKSUM);
    table
}

fn entries(config: &TableConfig<'_>, kind: ProcessorDescription) -> Vec<Vec<u8>> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let ids = config.apic_ids.iter().copied();
    let ids: Vec<u8> = ids
        .filter_map(|id| u8::try_from(id).ok())
        .filter(|id| *id != EVERYBODY)
        .collect();
    let first = ids.first().copied().unwrap_or(0);
    for id in ids {
        let role = if id == first { BOOTSTRAP } else { 0 };
        let mut processor = Vec::from([
            entry::PROCESSOR,
            id,
            kind.local_apic_version,
            ENABLED | role,
        ]);
        processor.extend((kind.signature & SIGNATURE).to_le_bytes());
        processor.extend(kind.features.to_le_bytes());
        processor.extend([0; 8]);
        entries.push(processor);
    }
    for (id, name) in [(PCI, b"PCI   "), (ISA, b"ISA   ")] {
        let mut bus = Vec::from([entry::BUS, id]);
        bus.extend(name);
        entries.push(bus);
    }
    let io_apic = config.io_apic_id;
    let mut io_apic_entry = Vec::from([entry::IO_APIC, io_apic, kind.io_apic_version, 1]);
    io_apic_entry.extend(config.io_apic_address.to_le_bytes());
    entries.push(io_apic_entry);
    // The 8259s' pin 0 is left out: software takes it for virtual-wire mode by the I/O APIC (MPS 3.6.2.2),
    // and misses that firmware has set it up so.
    for request in REQUESTS.filter(|request| *request != CASCADE) {
        let flags = if request == config.sci {
            HIGH_AND_LEVEL
        } else {
            CONFORMS
        };
        let pin = if request == 0 { TIMER_PIN } else { request };
        entries.push(Vec::from([
            entry::IO_INTERRUPT,
            interrupt::VECTORED,
            flags,
            0,
            ISA,
            request,
            io_apic,
            pin,
        ]));
    }
    // LINT0 of the bootstrap processor, LINT1 of every one.
    for (kind, to, pin) in [
        (interrupt::EXTERNAL, first, 0),
        (interrupt::NMI, EVERYBODY, 1),
    ] {
        let local = [entry::LOCAL_INTERRUPT, kind, CONFORMS, 0, ISA, 0, to, pin];
        entries.push(Vec::from(local));
    }
    entries
}

fn set_checksum(bytes: &mut [u8], offset: usize) {
    let rest = sum(bytes);
    if let Some(place) = bytes.get_mut(offset) {
        *place = 0_u8.wrapping_sub(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ProcessorDescription = ProcessorDescription {
        signature: 0x000c_06f2,
        features: 0x178b_fbfd,
        local_apic_version: 0x14,
        io_apic_version: 0x20,
    };

    /// The entries, as software walks them: by the header's count, and each by its kind's length.
    fn walk(table: &[u8]) -> Vec<&[u8]> {
        let count = u16::from_le_bytes([table[34], table[35]]);
        let mut at = HEADER_LENGTH;
        let mut entries = Vec::new();
        for _ in 0..count {
            let length = if table[at] == 0 { 20 } else { 8 };
            entries.push(&table[at..at + length]);
            at += length;
        }
        assert_eq!(at, table.len(), "the entries fill the table");
        entries
    }

    #[test]
    fn the_pointer_leads_to_a_table_of_the_length_it_says() {
        for processors in [0, 1, 4, 255, 300] {
            let ids: Vec<u32> = (0..processors).collect();
            let bytes = build(&TableConfig::posthaste(&ids), KIND);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!(&pointer[..4], b"_MP_");
            assert_eq!(pointer[4..10], [0x10, 0, 0x0f, 0, 1, 4]);
            assert_eq!(pointer[11..], [0; 5], "a table, virtual-wire mode");
            assert_eq!(sum(pointer), 0);
            assert_eq!(&table[..4], b"PCMP");
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            assert_eq!(table[6], 4);
            assert_eq!(sum(table), 0);
            assert_eq!(&table[8..28], b"POSTHA  MACHINE     ");
            assert_eq!(table[36..40], [0, 0, 0xe0, 0xfe]);
            let named = walk(table).iter().filter(|entry| entry[0] == 0).count();
            assert_eq!(named, processors.min(255) as usize);
            assert!(bytes.len() < 0xff00, "below what else is in the area");
        }
    }

    #[test]
    fn processors_buses_and_interrupts_are_what_the_machine_has() {
        let bytes = build(&TableConfig::posthaste(&[0, 1]), KIND);
        let entries = walk(&bytes[16..]);
        let mut processor = [0; 20];
        processor[..12].copy_from_slice(&[0, 0, 0x14, 3, 0xf2, 6, 0, 0, 0xfd, 0xfb, 0x8b, 0x17]);
        assert_eq!(entries[0], processor);
        processor[1] = 1;
        processor[3] = 1;
        assert_eq!(entries[1], processor);
        assert_eq!(entries[2..4], [b"\x01\0PCI   ", b"\x01\x01ISA   "]);
        assert_eq!(entries[4], [2, 0, 0x20, 1, 0, 0, 0xc0, 0xfe]);
        let (io, local) = entries[5..].split_at(15);
        assert_eq!(io[0], [3, 0, 0, 0, 1, 0, 0, 2], "IRQ 0 at pin 2");
        assert_eq!(io[1], [3, 0, 0, 0, 1, 1, 0, 1]);
        assert_eq!(io[2], [3, 0, 0, 0, 1, 3, 0, 3], "no IRQ 2");
        assert_eq!(io[8], [3, 0, 0x0d, 0, 1, 9, 0, 9], "the SCI");
        assert_eq!(io[14], [3, 0, 0, 0, 1, 15, 0, 15]);
        assert_eq!(
            local,
            [[4, 3, 0, 0, 1, 0, 0, 0], [4, 1, 0, 0, 1, 0, 0xff, 1]]
        );
    }
}
