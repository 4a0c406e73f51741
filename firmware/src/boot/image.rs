//! What a kernel image consists of: its format, the protocols it offers and where it wants to be.

use super::linux;
use super::multiboot1;
use super::multiboot2;
use super::{BootError, Protocol};
use alloc::vec::Vec;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::{Note, NoteIterator};
use elf::parse::ParseError;

/// A piece of the image and the memory it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) file_offset: u64,
    pub(super) file_size: u64,
    pub(super) address: u64,
    /// At least `file_size`; the rest is zeroes. `address + memory_size` does not wrap.
    pub(super) memory_size: u64,
}

impl Segment {
    /// A segment whose sizes have been checked against each other.
    pub(super) fn new(
        file: Range<u64>,
        address: u64,
        memory_size: u64,
        offset: u64,
    ) -> Result<Self, BootError> {
        let malformed = BootError::Malformed {
            what: "segment",
            offset,
        };
        let file_size = file.end.checked_sub(file.start).ok_or(malformed)?;
        if file_size > memory_size || address.checked_add(memory_size).is_none() {
            return Err(malformed);
        }
        Ok(Self {
            file_offset: file.start,
            file_size,
            address,
            memory_size,
        })
    }

    pub(super) fn memory(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.memory_size)
    }

    pub(super) fn bytes<'a>(&self, image: &'a [u8]) -> Result<&'a [u8], BootError> {
        let end = self.file_offset.saturating_add(self.file_size);
        let range = usize::try_from(self.file_offset)
            .ok()
            .zip(usize::try_from(end).ok());
        range
            .and_then(|(start, end)| image.get(start..end))
            .ok_or(BootError::Truncated {
                what: "segment",
                at: image.len() as u64,
                end,
            })
    }
}

/// What a protocol makes of an image.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) segments: Vec<Segment>,
    pub(super) entry: u32,
}

/// A kernel image, its headers found.
pub(super) struct Image<'a> {
    bytes: &'a [u8],
    elf: Option<ElfImage>,
    multiboot1: Option<multiboot1::Header>,
    multiboot2: Option<multiboot2::Header<'a>>,
    linux: Option<linux::Header<'a>>,
}

struct ElfImage {
    segments: Vec<ElfSegment>,
    entry: u64,
    pvh_entry: Option<u32>,
}

struct ElfSegment {
    segment: Segment,
    virtual_address: u64,
}

impl<'a> Image<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BootError> {
        let elf = if bytes.starts_with(b"\x7fELF") {
            Some(ElfImage::parse(bytes)?)
        } else {
            None
        };
        Ok(Self {
            bytes,
            elf,
            multiboot1: multiboot1::Header::find(bytes),
            multiboot2: multiboot2::Header::find(bytes),
            linux: linux::Header::find(bytes)?,
        })
    }

    pub(super) fn offers(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Pvh => self.elf.as_ref().is_some_and(|elf| elf.pvh_entry.is_some()),
            Protocol::Multiboot2 => self.multiboot2.is_some(),
            Protocol::Multiboot1 => self.multiboot1.is_some(),
            Protocol::Linux64 => self.linux.is_some_and(|linux| linux.has_64_bit_entry()),
            Protocol::Linux32 => self.linux.is_some(),
        }
    }

    /// The Linux setup header, for the protocols that go by it.
    pub(super) fn linux(&self, protocol: Protocol) -> Option<&linux::Header<'a>> {
        match protocol {
            Protocol::Linux64 | Protocol::Linux32 => self.linux.as_ref(),
            Protocol::Pvh | Protocol::Multiboot2 | Protocol::Multiboot1 => None,
        }
    }

    pub(super) fn unknown_format(&self) -> BootError {
        if self.elf.is_some() {
            return BootError::NoEntryNote;
        }
        let mut start = [0; 4];
        let length = self.bytes.len().min(4);
        for (to, from) in start.iter_mut().zip(self.bytes) {
            *to = *from;
        }
        BootError::UnknownFormat { start, length }
    }

    /// What to load and where to enter for a protocol that the image offers.
    pub(super) fn plan(&self, protocol: Protocol) -> Result<Plan, BootError> {
        let absent = BootError::ProtocolAbsent { protocol };
        match protocol {
            Protocol::Pvh => {
                let elf = self.elf.as_ref().ok_or(absent)?;
                Ok(Plan {
                    segments: elf.segments.iter().map(|s| s.segment).collect(),
                    entry: elf.pvh_entry.ok_or(absent)?,
                })
            }
            Protocol::Multiboot1 => {
                let header = self.multiboot1.as_ref().ok_or(absent)?;
                match header.addresses(self.bytes)? {
                    Some(plan) => Ok(plan),
                    None => self.elf_plan(protocol, None),
                }
            }
            Protocol::Multiboot2 => {
                let header = self.multiboot2.as_ref().ok_or(absent)?;
                let demands = header.demands(self.bytes)?;
                match demands.addresses {
                    Some(segment) => Ok(Plan {
                        segments: alloc::vec![segment],
                        entry: demands.entry.ok_or(BootError::Malformed {
                            what: "multiboot2 header: an address tag without an entry tag",
                            offset: header.offset(),
                        })?,
                    }),
                    None => self.elf_plan(protocol, demands.entry),
                }
            }
            // These go by their own header, not by segments.
            Protocol::Linux64 | Protocol::Linux32 => Err(absent),
        }
    }

    /// Loads by the ELF program headers; `entry` overrides e_entry.
    fn elf_plan(&self, protocol: Protocol, entry: Option<u32>) -> Result<Plan, BootError> {
        let elf = self.elf.as_ref().ok_or(BootError::Malformed {
            what: "multiboot header: no load addresses and not an ELF image",
            offset: 0,
        })?;
        for ElfSegment { segment, .. } in &elf.segments {
            if segment.memory().end > 1 << 32 {
                return Err(BootError::AboveFourGib {
                    protocol,
                    address: segment.address,
                });
            }
        }
        let entry = match entry {
            Some(entry) => entry,
            None => {
                let address = elf.physical_entry();
                u32::try_from(address).map_err(|_| BootError::AboveFourGib { protocol, address })?
            }
        };
        Ok(Plan {
            segments: elf.segments.iter().map(|s| s.segment).collect(),
            entry,
        })
    }
}

impl ElfImage {
    fn parse(bytes: &[u8]) -> Result<Self, BootError> {
        let length = bytes.len() as u64;
        let malformed = |error| match error {
            ParseError::SliceReadError((_, end)) if end > bytes.len() => BootError::Truncated {
                what: "ELF headers",
                at: length,
                end: end as u64,
            },
            _ => BootError::Malformed {
                what: "ELF header",
                offset: 0,
            },
        };
        // Multiboot2 3.1.2 and PVH know little-endian x86 images only.
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(malformed)?;
        let machine = file.ehdr.e_machine;
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(BootError::WrongMachine { machine });
        }
        let mut elf = Self {
            segments: Vec::new(),
            entry: file.ehdr.e_entry,
            pvh_entry: None,
        };
        for header in file.segments().iter().flat_map(|table| table.iter()) {
            let end = header.p_offset.checked_add(header.p_filesz);
            let end = end.ok_or(BootError::Malformed {
                what: "segment",
                offset: header.p_offset,
            })?;
            match header.p_type {
                PT_LOAD if header.p_memsz > 0 => {
                    let segment = Segment::new(
                        header.p_offset..end,
                        header.p_paddr,
                        header.p_memsz,
                        header.p_offset,
                    )?;
                    segment.bytes(bytes)?;
                    elf.segments.push(ElfSegment {
                        segment,
                        virtual_address: header.p_vaddr,
                    });
                }
                PT_NOTE => {
                    let data = file.segment_data(&header).map_err(malformed)?;
                    // Linkers write alignments of 0 and 1 where they mean 4.
                    let alignment = if header.p_align == 8 { 8 } else { 4 };
                    let notes = NoteIterator::new(LittleEndian, file.ehdr.class, alignment, data);
                    for note in notes {
                        if let Note::Unknown(note) = note
                            && note.n_type == u64::from(arch::pvh::ELF_NOTE_PHYS32_ENTRY)
                            && note.name_str().is_ok_and(|name| name == "Xen")
                        {
                            elf.pvh_entry = Some(entry_of(note.desc, header.p_offset)?);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(elf)
    }

    /// e_entry as a physical address: it is virtual when the kernel is linked high.
    fn physical_entry(&self) -> u64 {
        self.segments
            .iter()
            .find_map(|segment| {
                let offset = self.entry.checked_sub(segment.virtual_address)?;
                (offset < segment.segment.memory_size)
                    .then(|| segment.segment.address.saturating_add(offset))
            })
            .unwrap_or(self.entry)
    }
}

/// PVH: the descriptor is the 32-bit physical address; 64-bit kernels may pad it to 8 bytes.
fn entry_of(descriptor: &[u8], offset: u64) -> Result<u32, BootError> {
    let malformed = BootError::Malformed {
        what: "PVH note",
        offset,
    };
    match *descriptor {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(malformed),
    }
}

/// The little-endian word at `offset`, if the image has it.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let chunk = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*chunk))
}

/// Loads by a header's address fields (Multiboot 3.1.3, Multiboot2 3.1.5), which are the same in
/// both: `header` is where the header itself belongs, `load_end` 0 means to the end of the image
/// and `bss_end` 0 means none.
pub(super) struct AddressFields {
    pub(super) header: u32,
    pub(super) load: u32,
    pub(super) load_end: u32,
    pub(super) bss_end: u32,
}

impl AddressFields {
    /// `header_offset` is where in the image the header is.
    pub(super) fn segment(&self, header_offset: u64, image: &[u8]) -> Result<Segment, BootError> {
        let malformed = BootError::Malformed {
            what: "load addresses of the multiboot header",
            offset: header_offset,
        };
        let length = image.len() as u64;
        // A load address of all-ones asks for the whole image (Multiboot2 3.1.5).
        let before = if self.load == u32::MAX {
            header_offset
        } else {
            u64::from(self.header.checked_sub(self.load).ok_or(malformed)?)
        };
        let start = header_offset.checked_sub(before).ok_or(malformed)?;
        let address = u64::from(self.header)
            .checked_sub(before)
            .ok_or(malformed)?;
        let end = match self.load_end {
            0 => length,
            load_end => u64::from(load_end)
                .checked_sub(address)
                .and_then(|size| size.checked_add(start))
                .ok_or(malformed)?,
        };
        if end > length {
            return Err(BootError::Truncated {
                what: "load area of the multiboot header",
                at: length,
                end,
            });
        }
        let loaded = end.checked_sub(start).ok_or(malformed)?;
        let memory_size = match self.bss_end {
            0 => loaded,
            bss_end => u64::from(bss_end).checked_sub(address).ok_or(malformed)?,
        };
        Segment::new(start..end, address, memory_size, header_offset)
    }
}
