//! Tiny kernels: a few instructions in an ELF image that starts by PVH.

/// Where the code is, and where it starts: 32-bit protected mode, flat segments, no paging.
pub(crate) const ENTRY: u32 = 0x10_0000;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Offset of the note in the file.
const NOTE: usize = HEADER + 2 * PROGRAM_HEADER;
/// Its size: three words, "Xen\0", the entry point.
const NOTE_SIZE: usize = 20;
/// Offset of the code in the file.
const CODE: usize = 0x1000;

/// Says `>` on the serial port and echoes what it receives there; `!` ends the run with success, as our
/// guests say it.
pub(crate) const ECHO: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'>', 0xee, // >
    0x66, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, // received-data interrupts on
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, // until data is ready
    0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, b'!', 0x75, 0xed, // back, unless it is !
    0xb0, 0x10, 0x66, 0xba, 0xf4, 0x00, 0xee, 0xf4, // 10H to the debug-exit port
];

/// An ELF64 image of `code`.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    // e_ident: ELF64, little-endian, version 1.
    image.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    half(&mut image, 2); // e_type: executable
    half(&mut image, 62); // e_machine: x86-64
    word(&mut image, 1);
    long(&mut image, u64::from(ENTRY));
    long(&mut image, HEADER as u64); // e_phoff
    long(&mut image, 0); // e_shoff
    word(&mut image, 0);
    half(&mut image, HEADER as u16);
    half(&mut image, PROGRAM_HEADER as u16);
    half(&mut image, 2);
    for _ in 0..3 {
        half(&mut image, 0); // no sections
    }
    // PT_LOAD, readable, writable, executable.
    program_header(&mut image, 1, 7, CODE, u64::from(ENTRY), code.len());
    // PT_NOTE.
    program_header(&mut image, 4, 4, NOTE, 0, NOTE_SIZE);
    word(&mut image, 4);
    word(&mut image, 4);
    word(&mut image, 18); // XEN_ELFNOTE_PHYS32_ENTRY
    image.extend(b"Xen\0");
    word(&mut image, ENTRY);
    image.resize(CODE, 0);
    image.extend(code);
    image
}

fn program_header(
    image: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    offset: usize,
    address: u64,
    size: usize,
) {
    word(image, kind);
    word(image, flags);
    long(image, offset as u64);
    long(image, address);
    long(image, address);
    long(image, size as u64);
    long(image, size as u64);
    long(image, 1);
}

fn half(image: &mut Vec<u8>, value: u16) {
    image.extend(value.to_le_bytes());
}

fn word(image: &mut Vec<u8>, value: u32) {
    image.extend(value.to_le_bytes());
}

fn long(image: &mut Vec<u8>, value: u64) {
    image.extend(value.to_le_bytes());
}
