use super::super::*;
use super::checksum;
use alloc::string::{String, ToString};
use arch::pvh::MEMORY_RAM;

/// A bzImage with five setup sectors and a page of code.
struct TestKernel {
    version: u16,
    release: &'static [u8],
    relocatable: bool,
    preferred: u64,
    memory_size: u32,
    flags: u16,
    ramdisk_last: u32,
}

const CODE: usize = 6 * 512;

impl Default for TestKernel {
    fn default() -> Self {
        Self {
            version: 0x020f,
            release: b"6.1.0-test (someone) #1",
            relocatable: true,
            preferred: 0x20_0000,
            memory_size: 0x8000,
            flags: 1,
            ramdisk_last: 0x7fff_ffff,
        }
    }
}

impl TestKernel {
    fn build(&self) -> Vec<u8> {
        let mut out = alloc::vec![0; CODE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[5]);
        put(0x1f4, &(4096_u32 / 16).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x20e, &0x400_u16.to_le_bytes());
        put(0x600, self.release);
        put(0x211, &[1 | 1 << 5]);
        put(0x22c, &self.ramdisk_last.to_le_bytes());
        put(0x230, &0x1_0000_u32.to_le_bytes());
        put(0x234, &[u8::from(self.relocatable)]);
        put(0x236, &self.flags.to_le_bytes());
        put(0x238, &100_u32.to_le_bytes());
        put(0x258, &self.preferred.to_le_bytes());
        put(0x260, &self.memory_size.to_le_bytes());
        out.resize(CODE + 4092, 0x90);
        seal(&mut out);
        out
    }
}

fn seal(image: &mut Vec<u8>) {
    image.extend(checksum::remainder(image).to_le_bytes());
}

/// An archive with one file and its trailer.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in [(&b"init\0"[..], content), (b"TRAILER!!!\0", b"")] {
        let mut fields = [0_u32; 13];
        fields[6] = content.len() as u32;
        fields[11] = name.len() as u32;
        out.extend(b"070701");
        for field in fields {
            out.extend(alloc::format!("{field:08x}").bytes());
        }
        out.extend(name);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

const MEMORY: u64 = 4 << 20;

fn region(address: u64, size: u64) -> MemoryRegion {
    MemoryRegion {
        address,
        size,
        kind: MEMORY_RAM,
        reserved: 0,
    }
}

fn boot(
    kernel: &[u8],
    command_line: &str,
    disks: &[&[u8]],
    protocol: Option<Protocol>,
) -> Result<(Loaded, Vec<u8>), BootError> {
    let mut memory = alloc::vec![0xcc; MEMORY as usize];
    let modules: Vec<Module<'_>> = disks
        .iter()
        .map(|bytes| Module {
            bytes,
            command_line: "",
        })
        .collect();
    let request = BootRequest {
        kernel,
        command_line,
        modules: &modules,
        memory_map: &[region(0, 0xa_0000), region(0x10_0000, MEMORY - 0x10_0000)],
        rsdp: Some(Rsdp {
            address: 0xe_1230,
            bytes: &[],
        }),
        protocol,
    };
    load(&request, memory.as_mut_slice()).map(|loaded| (loaded, memory))
}

fn number(memory: &[u8], address: u64, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&memory[address as usize..address as usize + size]);
    u64::from_le_bytes(bytes)
}

#[test]
fn the_64_bit_entry_gets_parameters_page_tables_and_segments() {
    let (first, second) = (archive(b"abc"), archive(b"defgh"));
    let cut = &first[..first.len() - 1];
    let (loaded, memory) = boot(
        &TestKernel::default().build(),
        "console=ttyS0",
        &[cut, &second],
        None,
    )
    .unwrap();
    let entry = loaded.entry;
    assert_eq!(entry.protocol, Protocol::Linux64);
    assert_eq!(entry.rip, 0x20_0200);
    assert_eq!(loaded.kernel, 0x20_0000..0x20_8000);
    assert_eq!(memory[0x20_0000..0x20_0ffc], [0x90; 0xffc]);

    let at = |offset: u64, size| number(&memory, entry.rsi + offset, size);
    assert_eq!(at(0x70, 8), 0xe_1230);
    assert_eq!(at(0x1e8, 1), 2);
    assert_eq!(
        (at(0x2d0 + 20, 8), at(0x2d0 + 28, 8)),
        (0x10_0000, 0x30_0000)
    );
    assert_eq!(at(0x2d0 + 36, 4), 1);
    assert_eq!(at(0x1ef, 1), 0, "sentinel");
    assert_eq!(at(0x1fa, 2), 0xffff);
    assert_eq!(at(0x202, 4), u64::from(u32::from_le_bytes(*b"HdrS")));
    assert_eq!((at(0x210, 1), at(0x211, 1)), (0xff, 1));
    assert_eq!(at(0x214, 4), 0x20_0000);
    let line = at(0x228, 4) as usize;
    assert_eq!(&memory[line..line + 14], b"console=ttyS0\0");

    // Both archives, one behind the other, with a zero where the first was cut.
    let disk = at(0x218, 4) as usize;
    assert_eq!(at(0x21c, 4) as usize, first.len() + second.len());
    assert_eq!(memory[disk..disk + first.len()], first);
    assert_eq!(memory[disk + first.len()..][..second.len()], second);
    assert_eq!(loaded.modules[1].start as usize, disk + first.len());

    let table = entry.segments.descriptor_table;
    let selected = |selector: u16| number(&memory, table + u64::from(selector), 8);
    assert_eq!(selected(entry.segments.code), 0x00af_9b00_0000_ffff);
    assert_eq!(selected(entry.segments.data), 0x00cf_9300_0000_ffff);
    let EntryMode::Long { cr3 } = entry.mode else {
        panic!("{:?}", entry.mode);
    };
    for address in [0, 0x20_0200, 0xfee0_0000, 0xffff_ffff_u64] {
        let level =
            |table: u64, shift: u32| number(&memory, table + (address >> shift & 511) * 8, 8);
        let directory = level(level(level(cr3, 39) & !0xfff, 30) & !0xfff, 21);
        assert_eq!(directory, address & !0x1f_ffff | 0x83);
    }
}

#[test]
fn the_32_bit_entry_is_at_the_start_of_the_code() {
    let kernel = TestKernel::default().build();
    let (loaded, memory) = boot(&kernel, "", &[], Some(Protocol::Linux32)).unwrap();
    let entry = loaded.entry;
    assert_eq!((entry.rip, entry.mode), (0x20_0000, EntryMode::Protected));
    let code = entry.segments.descriptor_table + 0x10;
    assert_eq!(number(&memory, code, 8), 0x00cf_9b00_0000_ffff);
    assert_eq!(number(&memory, entry.rsi + 0x218, 8), 0, "no RAM disk");
    let without = TestKernel {
        flags: 0,
        ..TestKernel::default()
    };
    assert_eq!(detect(&without.build()).unwrap(), [Protocol::Linux32]);
    assert_eq!(
        detect(&kernel).unwrap(),
        [Protocol::Linux64, Protocol::Linux32]
    );
}

#[test]
fn a_relocatable_kernel_goes_where_there_is_room() {
    let kernel = TestKernel {
        preferred: 0x100_0000,
        ..TestKernel::default()
    };
    let (loaded, memory) = boot(&kernel.build(), "", &[&archive(b"x")], None).unwrap();
    assert_eq!(loaded.kernel, 0x10_0000..0x10_8000);
    assert_eq!(number(&memory, loaded.entry.rsi + 0x214, 4), 0x10_0000);
    let fixed = TestKernel {
        relocatable: false,
        ..kernel
    };
    assert_eq!(
        boot(&fixed.build(), "", &[], None).unwrap_err().to_string(),
        "segment at 0x1000000..0x1008000 does not fit in 4 MiB of RAM"
    );
    let low = TestKernel {
        ramdisk_last: 0x1f_ffff,
        ..TestKernel::default()
    };
    let (loaded, _) = boot(&low.build(), "", &[&archive(b"x")], None).unwrap();
    assert_eq!(loaded.modules[0].start, 0x10_0000);
}

fn message(kernel: &[u8], command_line: &str, disks: &[&[u8]]) -> String {
    boot(kernel, command_line, disks, None)
        .unwrap_err()
        .to_string()
}

#[test]
fn errors_say_what_is_wrong() {
    let good = TestKernel::default().build();
    let long = "x".repeat(101);
    assert!(boot(&good, &long[1..], &[], None).is_ok());
    assert_eq!(
        message(&good, &long, &[]),
        "the command line has 101 bytes; this kernel takes 100"
    );
    let old = TestKernel {
        version: 0x0209,
        ..TestKernel::default()
    };
    assert_eq!(
        message(&old.build(), "", &[]),
        "a Linux kernel with boot protocol 2.09; 2.10 (Linux 2.6.31) is the oldest that is loaded"
    );
    let mut damaged = good.clone();
    damaged[CODE + 77] ^= 0x20;
    assert_eq!(
        message(&damaged, "", &[]),
        "damaged: the checksum of the Linux kernel's 7168 bytes is wrong"
    );
    // A kernel that is built without a checksum is not refused for that.
    let new = TestKernel {
        release: b"6.16.1 (someone) #1",
        ..TestKernel::default()
    };
    let mut new = new.build();
    new[CODE + 77] ^= 0x20;
    assert!(boot(&new, "", &[], None).is_ok());
    let large = TestKernel {
        memory_size: 0x1000_0000,
        ..TestKernel::default()
    };
    assert_eq!(
        message(&large.build(), "", &[]),
        "segment at 0x200000..0x10200000 does not fit in 4 MiB of RAM"
    );
    let mut large = archive(&alloc::vec![7; 3 << 20]);
    assert_eq!(
        message(&good, "", &[&large]),
        alloc::format!(
            "no RAM below 4 GiB is left for the initial RAM disk of {} bytes",
            large.len()
        )
    );
    large.truncate(1000);
    assert_eq!(
        message(&good, "", &[&large]),
        "module 0 is no intact initial RAM disk: the archive ends in a file (byte 1000)"
    );
    assert_eq!(
        message(&good, "", &[&archive(b""), b"junk"]),
        "module 1 is no intact initial RAM disk: neither a cpio archive nor compressed (byte 0)"
    );
    assert_eq!(
        message(&good, "", &[b""]),
        "module 0 is no intact initial RAM disk: the archive has no end (byte 0)"
    );
}

#[test]
fn truncation_at_every_byte_is_refused() {
    let image = TestKernel::default().build();
    for length in 0..image.len() {
        let error = boot(&image[..length], "", &[], None).unwrap_err();
        let expected = match length {
            0..0x206 => matches!(error, BootError::UnknownFormat { .. }),
            0x206..0x264 => {
                error.to_string()
                    == alloc::format!(
                        "truncated at byte {length}, inside the Linux setup header, which ends at byte 612"
                    )
            }
            // Part of the last paragraph is missing, as it may; the checksum tells.
            7153.. => matches!(error, BootError::Checksum { .. }),
            _ => {
                error.to_string()
                    == alloc::format!(
                        "truncated at byte {length}, inside the Linux kernel, which ends at byte 7168"
                    )
            }
        };
        assert!(expected, "{length}: {error}");
    }
    let disk = archive(b"content");
    // The padding behind the trailer's name is no loss.
    for length in 0..disk.len() - 3 {
        let error = boot(&image, "", &[&disk[..length]], None).unwrap_err();
        assert!(
            matches!(error, BootError::InitialRamDisk { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn corrupted_headers_and_archives_never_panic() {
    let image = TestKernel {
        release: b"7.0",
        ..TestKernel::default()
    };
    let image = image.build();
    let disk = archive(b"content");
    let mut memory = alloc::vec![0; 0x30_0000];
    let map = [region(0, 0x30_0000)];
    let mut attempt = |kernel: &[u8], disk: &[u8]| {
        for protocol in [Protocol::Linux64, Protocol::Linux32] {
            let request = BootRequest {
                kernel,
                command_line: "",
                modules: &[Module {
                    bytes: disk,
                    command_line: "",
                }],
                memory_map: &map,
                rsdp: None,
                protocol: Some(protocol),
            };
            if let Ok(loaded) = load(&request, memory.as_mut_slice()) {
                assert!(loaded.kernel.contains(&loaded.entry.rip));
            }
        }
    };
    for offset in 0x1f0..0x270 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut corrupted = image.clone();
            corrupted[offset] = value;
            attempt(&corrupted, &disk);
        }
    }
    for offset in 0..disk.len() {
        for value in [0, b'0', b'f', b'+', 0xff] {
            let mut corrupted = disk.clone();
            corrupted[offset] = value;
            attempt(&image, &corrupted);
        }
    }
}
