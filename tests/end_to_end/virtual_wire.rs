//! What a kernel without a driver for the local APIC relies on: the bootstrap processor takes the 8259's
//! interrupts (MultiProcessor Specification 3.6.2.2 Virtual Wire Mode), on the bare machine and as a guest.

use crate::elf::{ENTRY, kernel};
use crate::program::{TemporaryFile, posthaste};

/// Where the code puts its descriptor tables.
const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
/// Where it puts the operand of LGDT and LIDT.
const OPERAND: u32 = 0x3000;
/// Where the interrupt handler is, from the entry point.
const HANDLER: u32 = 0x400;

/// `mov dword [address], value`.
fn store(address: u32, value: u32) -> Vec<u8> {
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

/// What passes the 8259's interrupt to the processor.
#[derive(Clone, Copy, Debug)]
enum Wire {
    /// LINT0, as firmware left it.
    Lint0,
    /// The I/O APIC's pin 0, by ExtINT messages; LINT0 is masked.
    IoApic,
}

/// Has channel 0 of the timer interrupt through the 8259, and waits. The handler ends the run with success.
fn waits_for_the_timer(wire: Wire) -> Vec<u8> {
    let mut code = Vec::new();
    if let Wire::IoApic = wire {
        for (address, value) in [
            (0xfee0_0350, 0x1_0000),
            (0xfec0_0000, 0x10),
            (0xfec0_0010, 0x700),
        ] {
            code.extend(store(address, value));
        }
    }
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
    code.extend((ENTRY + code.len() as u32 + 6).to_le_bytes());
    code.extend([8, 0]);
    code.extend([0x66, 0xb8, 16, 0, 0x8e, 0xd0]); // mov ax, 16; mov ss, ax
    code.extend([0xbc, 0, 0x80, 0, 0]); // mov esp, 8000H
    for (port, value) in [
        // The 8259: ICW1 to ICW4, and all but IRQ 0 masked.
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfe),
        // The timer: channel 0, mode 2, 1,000H counts.
        (0x43, 0x34),
        (0x40, 0x00),
        (0x40, 0x10),
    ] {
        code.extend([0xb0, value, 0xe6, port]); // mov al, value; out port, al
    }
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]); // sti; again: hlt; jmp again
    assert!(code.len() < HANDLER as usize);
    code.resize(HANDLER as usize, 0);
    code.extend([0xb0, 0x10, 0xe6, 0xf4, 0xf4]); // mov al, 10H; out f4H, al; hlt
    code
}

fn the_timer_interrupts_by(wire: Wire) {
    let name = format!("virtual-wire-{wire:?}");
    let file = TemporaryFile::new(&name, &kernel(&waits_for_the_timer(wire)));
    for (arguments, status) in [
        (&["machine", "--engine", "translator"][..], 2 * 0x10 + 1),
        (&["machine", "--engine", "interpreter"], 2 * 0x10 + 1),
        (&["run", "--vcpus", "2"], 0),
        (
            &["run", "--vcpus", "2", "--hypervisor-append", "apicv=off"],
            0,
        ),
    ] {
        let limit = ["--limit", "1000000000", "--kernel", file.path()];
        let ended = posthaste(&[arguments, &limit].concat());
        assert_eq!(
            ended.status,
            Some(status),
            "{wire:?} {arguments:?}: {ended:#?}"
        );
    }
}

#[test]
fn the_timer_interrupts_through_the_8259_alone() {
    the_timer_interrupts_by(Wire::Lint0);
}

#[test]
fn the_8259_interrupts_through_the_io_apic() {
    the_timer_interrupts_by(Wire::IoApic);
}
