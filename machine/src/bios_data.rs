//! What a PC's firmware leaves for software that starts without asking it: the BIOS data area and the
//! extended one (IBM PS/2 and PC BIOS Interface Technical Reference), where boot code looks for the end
//! of the base memory, and real-mode interrupt handlers, by which boot code asks what is there. They
//! answer that no function is supported: what there is to know, the boot protocol has said.

use firmware::memory::{LoadMemory, MemoryError};

/// First address of the extended BIOS data area, and with that the end of base memory.
pub(crate) const EXTENDED_START: u64 = 0x9_fc00;

/// Places in the BIOS data area.
mod place {
    /// Base ports of the serial ports, four words.
    pub(super) const SERIAL_PORTS: u64 = 0x400;
    /// Segment of the extended BIOS data area.
    pub(super) const EXTENDED_SEGMENT: u64 = 0x40e;
    /// Equipment.
    pub(super) const EQUIPMENT: u64 = 0x410;
    /// Base memory in KBytes.
    pub(super) const BASE_MEMORY: u64 = 0x413;
}

const COM1: u16 = 0x3f8;
/// A mathematics coprocessor, and one serial port.
const EQUIPMENT: u16 = 1 << 1 | 1 << 9;

/// Segment of the interrupt handlers.
const HANDLER_SEGMENT: u16 = 0xf000;

/// Interrupt handlers: offset in their segment and code.
mod handler {
    /// Where PCs have their handler that does nothing.
    pub(super) const NOTHING: (u16, &[u8]) = (0xff53, &[0xcf]);
    /// An interrupt of the first 8259: ended.
    pub(super) const FIRST_8259: (u16, &[u8]) = (
        0xff80,
        &[
            0x50, // push ax
            0xb0, 0x20, // mov al, 20h
            0xe6, 0x20, // out 20h, al
            0x58, // pop ax
            0xcf, // iret
        ],
    );
    /// An interrupt of the second: ended there and at the first.
    pub(super) const SECOND_8259: (u16, &[u8]) = (
        0xff90,
        &[
            0x50, // push ax
            0xb0, 0x20, // mov al, 20h
            0xe6, 0xa0, // out 0a0h, al
            0xe6, 0x20, // out 20h, al
            0x58, // pop ax
            0xcf, // iret
        ],
    );
    /// Not supported: CF in the FLAGS that IRET loads, and 86H in AH.
    pub(super) const UNSUPPORTED: (u16, &[u8]) = (
        0xff60,
        &[
            0x55, // push bp
            0x89, 0xe5, // mov bp, sp
            0x80, 0x4e, 0x06, 0x01, // or byte [bp + 6], 1
            0x5d, // pop bp
            0xb4, 0x86, // mov ah, 86h
            0xcf, // iret
        ],
    );
    /// No key was pressed: ZF in the FLAGS that IRET loads, and 0 in AX.
    pub(super) const NO_KEY: (u16, &[u8]) = (
        0xff70,
        &[
            0x55, // push bp
            0x89, 0xe5, // mov bp, sp
            0x80, 0x4e, 0x06, 0x40, // or byte [bp + 6], 40h
            0x5d, // pop bp
            0x31, 0xc0, // xor ax, ax
            0xcf, // iret
        ],
    );
}

/// The interrupt by which disks are read, and the one of the system's services.
const DISK: u8 = 0x13;
const SYSTEM: u8 = 0x15;
/// The keyboard's.
const KEYBOARD: u8 = 0x16;

fn write_handlers(memory: &mut impl LoadMemory) -> Result<(), MemoryError> {
    for (offset, code) in [
        handler::NOTHING,
        handler::FIRST_8259,
        handler::SECOND_8259,
        handler::UNSUPPORTED,
        handler::NO_KEY,
    ] {
        let address = u64::from(HANDLER_SEGMENT) * 16 + u64::from(offset);
        memory.write(address, code)?;
    }
    for vector in 0..=u8::MAX {
        let (offset, _) = match vector {
            DISK | SYSTEM => handler::UNSUPPORTED,
            KEYBOARD => handler::NO_KEY,
            0x08..=0x0f => handler::FIRST_8259,
            0x70..=0x77 => handler::SECOND_8259,
            _ => handler::NOTHING,
        };
        let place = u64::from(vector) * 4;
        memory.write(place, &offset.to_le_bytes())?;
        memory.write(place + 2, &HANDLER_SEGMENT.to_le_bytes())?;
    }
    Ok(())
}

/// Writes the areas and the handlers.
pub(crate) fn write(memory: &mut impl LoadMemory) -> Result<(), MemoryError> {
    write_handlers(memory)?;
    for (address, value) in [
        (place::SERIAL_PORTS, COM1),
        (place::EXTENDED_SEGMENT, (EXTENDED_START >> 4) as u16),
        (place::EQUIPMENT, EQUIPMENT),
        (place::BASE_MEMORY, (EXTENDED_START >> 10) as u16),
        // The extended area begins with its size in KBytes.
        (EXTENDED_START, 1),
    ] {
        memory.write(address, &value.to_le_bytes())?;
    }
    Ok(())
}
