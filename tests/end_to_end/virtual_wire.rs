//! What a kernel without a driver for the local APIC relies on: the bootstrap processor takes the 8259's
//! interrupts (MultiProcessor Specification 3.6.2.2 Virtual Wire Mode), on the bare machine and as a guest.

use crate::elf::kernel;
use crate::interrupt_program::{HANDLER, store, take_interrupts};
use crate::program::{TemporaryFile, posthaste};

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
    code.extend(take_interrupts(code.len()));
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
