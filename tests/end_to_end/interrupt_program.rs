//! Pieces of hand-made 32-bit programs that take interrupts.

use crate::elf::ENTRY;

/// Where the code puts its descriptor tables.
const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
/// Where it puts the operand of LGDT and LIDT.
const OPERAND: u32 = 0x3000;
/// Where the interrupt handler is, from the entry point.
pub(crate) const HANDLER: u32 = 0x400;

/// `mov dword [address], value`.
pub(crate) fn store(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x05];
    code.extend(address.to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// `lgdt` or `lidt`, whose second and third byte these are, of a table.
fn load_table(instruction: [u8; 2], base: u32) -> Vec<u8> {
    let mut code = store(OPERAND, base << 16 | 0x7ff);
    code.extend(store(OPERAND + 4, base >> 16));
    code.push(0x0f);
    code.extend(instruction);
    code.extend(OPERAND.to_le_bytes());
    code
}

/// Flat segments, a stack, and the gate of vector 20H to [`HANDLER`]; `at` bytes of code come before.
pub(crate) fn take_interrupts(at: usize) -> Vec<u8> {
    let mut code = Vec::new();
    for (address, value) in [
        // Code and data, flat.
        (GDT + 8, 0x0000_ffff),
        (GDT + 12, 0x00cf_9b00),
        (GDT + 16, 0x0000_ffff),
        (GDT + 20, 0x00cf_9300),
        // The gate of vector 20H.
        (IDT + 0x100, 8 << 16 | (ENTRY + HANDLER) & 0xffff),
        (IDT + 0x104, (ENTRY + HANDLER) & 0xffff_0000 | 0x8e00),
    ] {
        code.extend(store(address, value));
    }
    code.extend(load_table([0x01, 0x15], GDT));
    code.extend(load_table([0x01, 0x1d], IDT));
    code.push(0xea); // jmp 8:next
    code.extend((ENTRY + (at + code.len()) as u32 + 6).to_le_bytes());
    code.extend([8, 0]);
    code.extend([0x66, 0xb8, 16, 0, 0x8e, 0xd0]); // mov ax, 16; mov ss, ax
    code.extend([0xbc, 0, 0x80, 0, 0]); // mov esp, 8000H
    code
}
