use super::information::{BootInformation, read_multiboot2, read_pvh};
use super::*;
use crate::memory::{MemoryError, PhysicalMemory};
use alloc::string::ToString;
use alloc::vec;
use arch::pvh::{MEMORY_ACPI, MEMORY_RAM, MEMORY_RESERVED};

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Elf32,
    Elf64,
}

/// One executable segment: a page of the file at offset 1000H.
struct TestElf {
    class: Class,
    entry: u64,
    physical: u64,
    virtual_address: u64,
    code: Vec<u8>,
    memory_size: u64,
    note: Option<Vec<u8>>,
}

impl TestElf {
    fn new(class: Class) -> Self {
        Self {
            class,
            entry: 0x10_0040,
            physical: 0x10_0000,
            virtual_address: 0x10_0000,
            code: vec![0x90; 0x100],
            memory_size: 0x3000,
            note: None,
        }
    }

    fn pvh(class: Class, entry: &[u8]) -> Self {
        let mut note = vec![];
        for word in [4, entry.len() as u32, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(entry);
        Self {
            note: Some(note),
            ..Self::new(class)
        }
    }

    fn header(&self, kind: u32, offset: u64, file: u64, memory: u64) -> Vec<u8> {
        let mut out = vec![];
        let (v, p) = (self.virtual_address, self.physical);
        match self.class {
            Class::Elf64 => {
                out.extend(kind.to_le_bytes());
                out.extend(5_u32.to_le_bytes());
                for field in [offset, v, p, file, memory, 4] {
                    out.extend(field.to_le_bytes());
                }
            }
            Class::Elf32 => {
                for field in [kind as u64, offset, v, p, file, memory, 5, 4] {
                    out.extend((field as u32).to_le_bytes());
                }
            }
        }
        out
    }

    fn build(&self) -> Vec<u8> {
        let wide = self.class == Class::Elf64;
        let (header_size, entry_size) = if wide { (64, 56) } else { (52, 32) };
        let mut out = b"\x7fELF".to_vec();
        out.extend([if wide { 2 } else { 1 }, 1, 1]);
        out.resize(16, 0);
        out.extend([2, 0, if wide { 62 } else { 3 }, 0, 1, 0, 0, 0]);
        let word = |out: &mut Vec<u8>, value: u64| {
            out.extend(&value.to_le_bytes()[..if wide { 8 } else { 4 }]);
        };
        for value in [self.entry, header_size, 0] {
            word(&mut out, value);
        }
        out.extend([0; 4]);
        let count = 1 + u16::from(self.note.is_some());
        for half in [header_size as u16, entry_size, count, 0, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        assert_eq!(out.len() as u64, header_size);
        out.extend(self.header(1, 0x200, self.code.len() as u64, self.memory_size));
        if let Some(note) = &self.note {
            out.extend(self.header(4, 0x180, note.len() as u64, note.len() as u64));
            out.resize(0x180, 0);
            out.extend(note);
        }
        out.resize(0x200, 0);
        out.extend(&self.code);
        out
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn multiboot1_header(flags: u32) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    words(&[magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags)])
}

fn multiboot2_header(tags: &[u8]) -> Vec<u8> {
    let (magic, length) = (0xe852_50d6_u32, 16 + tags.len() as u32);
    let mut out = words(&[magic, 0, length, 0_u32.wrapping_sub(magic + length)]);
    out.extend(tags);
    out
}

const END_TAG: [u8; 8] = [0, 0, 0, 0, 8, 0, 0, 0];

fn region(address: u64, size: u64, kind: u32) -> MemoryRegion {
    MemoryRegion {
        address,
        size,
        kind,
        reserved: 0,
    }
}

fn map() -> [MemoryRegion; 4] {
    [
        region(0, 0xa_0000, MEMORY_RAM),
        region(0xf_0000, 0x1_0000, MEMORY_RESERVED),
        region(0x10_0000, 0x30_0000, MEMORY_RAM),
        region(0x3f_0000, 0x1_0000, MEMORY_ACPI),
    ]
}

const RSDP: [u8; 36] = *b"RSD PTR 0123456789012345678901234567";

fn boot(kernel: &[u8], protocol: Option<Protocol>) -> (Result<Loaded, BootError>, Vec<u8>) {
    let mut memory = vec![0xcc; 4 << 20];
    let loaded = load(
        &BootRequest {
            kernel,
            command_line: "apic=x2apic rounds=3",
            modules: &[
                Module {
                    bytes: &[0xaa; 5000],
                    command_line: "guest one",
                },
                Module {
                    bytes: b"second",
                    command_line: "",
                },
            ],
            memory_map: &map(),
            rsdp: Some(Rsdp {
                address: 0xf_0000,
                bytes: &RSDP,
            }),
            protocol,
        },
        memory.as_mut_slice(),
    );
    (loaded, memory)
}

fn check_information(information: &BootInformation, memory: &[u8]) {
    assert_eq!(information.command_line, "apic=x2apic rounds=3");
    assert_eq!(information.modules.len(), 2);
    assert_eq!(information.modules[0].command_line, "guest one");
    assert_eq!(information.modules[0].size, 5000);
    assert_eq!(information.modules[1].command_line, "");
    let second = information.modules[1].address as usize;
    assert_eq!(&memory[second..second + 6], b"second");
    assert!(second.is_multiple_of(4096) && second > 0x10_3000);
    let regions: Vec<_> = information
        .memory_map
        .iter()
        .map(|r| (r.address, r.size, r.kind))
        .collect();
    let expected: Vec<_> = map().iter().map(|r| (r.address, r.size, r.kind)).collect();
    assert_eq!(regions, expected);
}

#[test]
fn pvh_kernels_of_both_classes_load() {
    for (class, entry) in [
        (Class::Elf64, &[0x50, 0, 0x10, 0, 0, 0, 0, 0][..]),
        (Class::Elf32, &[0x50, 0, 0x10, 0][..]),
    ] {
        let (loaded, memory) = boot(&TestElf::pvh(class, entry).build(), None);
        let loaded = loaded.unwrap();
        assert_eq!(loaded.entry.protocol, Protocol::Pvh);
        assert_eq!((loaded.entry.rip, loaded.entry.eax), (0x10_0050, 0));
        assert_eq!(loaded.kernel, 0x10_0000..0x10_3000);
        assert!(memory[0x10_0000..0x10_0100].iter().all(|b| *b == 0x90));
        assert!(memory[0x10_0100..0x10_3000].iter().all(|b| *b == 0));
        assert_eq!(memory[0x10_3000 - 1 + 0x1000 * 8], 0xcc);
        let information = read_pvh(memory.as_slice(), u64::from(loaded.entry.ebx)).unwrap();
        check_information(&information, &memory);
        assert_eq!(information.rsdp, Some(0xf_0000));
    }
}

#[test]
fn multiboot2_elf_loads_with_a_virtual_entry() {
    let mut elf = TestElf::new(Class::Elf64);
    elf.virtual_address = 0xffff_ffff_8010_0000;
    elf.entry = 0xffff_ffff_8010_0060;
    elf.code[..24].copy_from_slice(&multiboot2_header(&END_TAG));
    let (loaded, memory) = boot(&elf.build(), None);
    let entry = loaded.unwrap().entry;
    assert_eq!(entry.protocol, Protocol::Multiboot2);
    assert_eq!((entry.rip, entry.eax), (0x10_0060, 0x36d7_6289));
    let information = read_multiboot2(memory.as_slice(), u64::from(entry.ebx)).unwrap();
    check_information(&information, &memory);
    let mut copy = [0; 36];
    memory
        .as_slice()
        .read(information.rsdp.unwrap(), &mut copy)
        .unwrap();
    assert_eq!(copy, RSDP);
}

#[test]
fn multiboot2_address_and_entry_tags_load_a_flat_image() {
    let mut tags = words(&[2, 24, 0x20_0008, 0x20_0000, 0, 0x20_1000]);
    tags.extend(words(&[3, 12, 0x20_0010, 0]));
    tags.extend(END_TAG);
    let mut image = vec![0; 8];
    image.extend(multiboot2_header(&tags));
    image.resize(0x100, 0x77);
    let (loaded, memory) = boot(&image, None);
    let loaded = loaded.unwrap();
    assert_eq!(loaded.entry.rip, 0x20_0010);
    assert_eq!(loaded.kernel, 0x20_0000..0x20_1000);
    assert_eq!((memory[0x20_00ff], memory[0x20_0100]), (0x77, 0));
}

#[test]
fn multiboot2_demands_are_met_or_refused() {
    for (tag, refused) in [
        (words(&[1, 16, 6, 15]), None),
        (words(&[1, 12, 99, 0]), Some(99)),
        (words(&[1 | 1 << 16, 12, 99, 0]), None),
        (words(&[4, 12, 2, 0]), None),
        (words(&[4, 12, 1, 0]), Some(4)),
        (words(&[5, 20, 0, 0, 0, 0]), None),
        (words(&[5 | 1 << 16, 20, 0, 0, 0, 0]), None),
        (words(&[6, 8]), None),
        (words(&[7, 8]), Some(7)),
        (words(&[55, 8]), Some(55)),
        (words(&[55 | 1 << 16, 8]), None),
    ] {
        let mut elf = TestElf::new(Class::Elf32);
        let mut tags = tag.clone();
        tags.extend(END_TAG);
        let header = multiboot2_header(&tags);
        elf.code[..header.len()].copy_from_slice(&header);
        let got = match boot(&elf.build(), None).0 {
            Ok(_) => None,
            Err(BootError::Unsupported { number, .. }) => Some(number),
            Err(other) => panic!("{tag:x?}: {other}"),
        };
        assert_eq!(got, refused, "{tag:x?}");
    }
}

fn read_u32(memory: &[u8], address: u32) -> u32 {
    let at = address as usize;
    u32::from_le_bytes(memory[at..at + 4].try_into().unwrap())
}

fn read_string(memory: &[u8], address: u32) -> &[u8] {
    let rest = &memory[address as usize..];
    &rest[..rest.iter().position(|b| *b == 0).unwrap()]
}

#[test]
fn multiboot1_information_is_laid_out_by_the_book() {
    let mut elf = TestElf::new(Class::Elf32);
    elf.code[4..16].copy_from_slice(&multiboot1_header(3));
    let (loaded, memory) = boot(&elf.build(), None);
    let loaded = loaded.unwrap();
    assert_eq!(loaded.entry.protocol, Protocol::Multiboot1);
    assert_eq!(
        (loaded.entry.rip, loaded.entry.eax),
        (0x10_0040, 0x2bad_b002)
    );
    let mbi = loaded.entry.ebx;
    let field = |offset: u32| read_u32(&memory, mbi + offset);
    assert_eq!(field(0), 0x24d);
    assert_eq!((field(4), field(8)), (640, 0x2f_0000 >> 10));
    assert_eq!(read_string(&memory, field(16)), b"apic=x2apic rounds=3");
    assert_eq!(field(20), 2);
    let module = field(24);
    let (start, end) = (read_u32(&memory, module), read_u32(&memory, module + 4));
    assert_eq!(u64::from(start)..u64::from(end), loaded.modules[0]);
    assert_eq!(end - start, 5000);
    assert_eq!(memory[start as usize], 0xaa);
    assert_eq!(
        read_string(&memory, read_u32(&memory, module + 8)),
        b"guest one"
    );
    assert_eq!(read_string(&memory, read_u32(&memory, module + 24)), b"");
    assert_eq!(field(44), 4 * 24);
    let second = field(48) + 24;
    assert_eq!(read_u32(&memory, second), 20);
    assert_eq!(read_u32(&memory, second + 4), 0xf_0000);
    assert_eq!(read_u32(&memory, second + 20), MEMORY_RESERVED);
    assert_eq!(read_string(&memory, field(64)), b"posthaste");
}

#[test]
fn multiboot1_address_fields_load_a_flat_image() {
    let mut image = vec![0; 4];
    image.extend(multiboot1_header(1 << 16));
    image.extend(words(&[
        0x20_0004, 0x20_0000, 0x20_0080, 0x20_2000, 0x20_0030,
    ]));
    image.resize(0x100, 0x77);
    let (loaded, memory) = boot(&image, None);
    let loaded = loaded.unwrap();
    assert_eq!(loaded.entry.rip, 0x20_0030);
    assert_eq!(loaded.kernel, 0x20_0000..0x20_2000);
    assert_eq!((memory[0x20_007f], memory[0x20_0080]), (0x77, 0));
    // A video mode is passed over: bits 11 and 12 of the information's flags say that there is none.
    image[4..16].copy_from_slice(&multiboot1_header(1 << 16 | 4));
    let (loaded, memory) = boot(&image, None);
    let information = loaded.unwrap().entry.ebx as usize;
    assert_eq!(memory[information + 1] & 0x18, 0);
    image[4..16].copy_from_slice(&multiboot1_header(1 << 9));
    let refused = boot(&image, None).0.unwrap_err();
    assert!(matches!(refused, BootError::Unsupported { number: 9, .. }));
}

#[test]
fn preference_is_pvh_then_multiboot2_then_multiboot1_unless_told() {
    let mut elf = TestElf::pvh(Class::Elf64, &[0x50, 0, 0x10, 0]);
    elf.code[..24].copy_from_slice(&multiboot2_header(&END_TAG));
    elf.code[24..36].copy_from_slice(&multiboot1_header(0));
    let image = elf.build();
    let offered = [Protocol::Pvh, Protocol::Multiboot2, Protocol::Multiboot1];
    assert_eq!(detect(&image).unwrap(), offered);
    assert_eq!(boot(&image, None).0.unwrap().entry.protocol, Protocol::Pvh);
    for protocol in offered {
        let loaded = boot(&image, Some(protocol)).0.unwrap();
        assert_eq!(loaded.entry.protocol, protocol);
    }
    let plain = TestElf::pvh(Class::Elf64, &[0x50, 0, 0x10, 0]).build();
    assert_eq!(
        boot(&plain, Some(Protocol::Multiboot1))
            .0
            .unwrap_err()
            .to_string(),
        "the image does not offer multiboot1, which was asked for"
    );
}

#[test]
fn errors_say_what_is_wrong() {
    let pvh = |change: fn(&mut TestElf)| {
        let mut elf = TestElf::pvh(Class::Elf64, &[0x50, 0, 0x10, 0]);
        change(&mut elf);
        elf.build()
    };
    let mut high = TestElf::new(Class::Elf64);
    (high.physical, high.virtual_address, high.entry) = (1 << 32, 1 << 32, 1 << 32);
    high.code[..12].copy_from_slice(&multiboot1_header(0));
    let mut linux = vec![0; 0x300];
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    let mut arm = TestElf::new(Class::Elf64).build();
    arm[18] = 183;
    let mut cut = pvh(|_| {});
    cut.truncate(0x280);
    for (image, message) in [
        (vec![], "the image is empty"),
        (
            b"MZ\x90".to_vec(),
            "not an ELF, multiboot or Linux image (starts with 4d 5a 90)",
        ),
        (
            linux,
            "malformed Linux setup header at byte 510 of the image",
        ),
        (
            TestElf::new(Class::Elf64).build(),
            "an ELF image that offers no boot protocol: neither a PVH note nor a multiboot header",
        ),
        (
            arm,
            "an ELF image for another processor (machine 183, expected 3 or 62)",
        ),
        (
            cut,
            "truncated at byte 640, inside the segment, which ends at byte 768",
        ),
        (
            pvh(|elf| elf.memory_size = 64 << 20),
            "segment at 0x100000..0x4100000 does not fit in 4 MiB of RAM",
        ),
        (
            pvh(|elf| elf.memory_size = 1),
            "malformed segment at byte 512 of the image",
        ),
        (
            pvh(|elf| elf.memory_size = u64::MAX),
            "malformed segment at byte 512 of the image",
        ),
        (
            pvh(|elf| elf.physical = 0x3e_f000),
            "segment at 0x3ef000..0x3f2000 does not fit in 4 MiB of RAM",
        ),
        (
            pvh(|elf| elf.physical = 0x20_0000),
            "the entry point 0x100050 is in no loaded segment",
        ),
        (
            high.build(),
            "a multiboot1 kernel is entered in 32-bit mode, but this one is linked at 0x100000000, above 4 GiB",
        ),
    ] {
        assert_eq!(boot(&image, None).0.unwrap_err().to_string(), message);
    }
}

#[test]
fn truncated_and_corrupted_images_never_panic() {
    let mut elf = TestElf::pvh(Class::Elf64, &[0x50, 0, 0x10, 0, 0, 0, 0, 0]);
    let mut tags = words(&[2, 24, 0x10_0000, 0x10_0000, 0, 0]);
    tags.extend(words(&[3, 12, 0x10_0010, 0]));
    tags.extend(END_TAG);
    let header = multiboot2_header(&tags);
    elf.code[..header.len()].copy_from_slice(&header);
    elf.code[0x80..0x8c].copy_from_slice(&multiboot1_header(1 << 16));
    elf.memory_size = 0x1000;
    let image = elf.build();
    // Small memory, for speed; both outcomes are legal, a panic is not.
    let mut memory = vec![0; 0x11_0000];
    let regions = [region(0, 0x11_0000, MEMORY_RAM)];
    let mut attempt = |kernel: &[u8]| {
        for protocol in [None, Some(Protocol::Multiboot2), Some(Protocol::Multiboot1)] {
            let request = BootRequest {
                kernel,
                command_line: "",
                modules: &[],
                memory_map: &regions,
                rsdp: None,
                protocol,
            };
            if let Ok(loaded) = load(&request, memory.as_mut_slice()) {
                assert!(loaded.kernel.contains(&loaded.entry.rip));
            }
        }
    };
    for length in 0..image.len() {
        attempt(&image[..length]);
    }
    for offset in 0..image.len() {
        for value in [0, 0x7f, 0x80, 0xff] {
            let mut corrupted = image.clone();
            corrupted[offset] = value;
            attempt(&corrupted);
        }
    }
}

#[test]
fn corrupted_boot_information_never_panics() {
    let mut elf = TestElf::pvh(Class::Elf64, &[0x50, 0, 0x10, 0]);
    elf.code[..24].copy_from_slice(&multiboot2_header(&END_TAG));
    let image = elf.build();
    for protocol in [Protocol::Pvh, Protocol::Multiboot2] {
        let (loaded, memory) = boot(&image, Some(protocol));
        let range = loaded.unwrap().information;
        let address = range.start;
        let mut memory = memory[..range.end as usize].to_vec();
        for offset in range.start as usize..range.end as usize {
            let before = memory[offset];
            for value in [0, 1, 0x7f, 0xff] {
                memory[offset] = value;
                let _ = read_pvh(memory.as_slice(), address);
                let _ = read_multiboot2(memory.as_slice(), address);
            }
            memory[offset] = before;
        }
        for length in address as usize..range.end as usize {
            let cut: &[u8] = &memory[..length];
            assert!(protocol != Protocol::Multiboot2 || read_multiboot2(cut, address).is_err());
            let _ = read_pvh(cut, address);
        }
    }
    assert!(read_pvh([0; 8].as_slice(), u64::MAX).is_err());
    assert_eq!(
        read_pvh([0; 64].as_slice(), 0).unwrap_err().to_string(),
        "boot information at 0x0: not a PVH start info (wrong magic)"
    );
    assert!(matches!(
        read_multiboot2([0; 4].as_slice(), 1),
        Err(BootError::Memory(MemoryError {
            address: 1,
            length: 4
        }))
    ));
}
