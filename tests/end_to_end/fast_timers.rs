//! A timer that interrupts faster than the hypervisor could pass it on leaves its guest time to run, as on
//! the bare machine.

use crate::elf::kernel;
use crate::interrupt_program::{HANDLER, store, take_interrupts};
use crate::program::{TemporaryFile, posthaste};

/// What interrupts all the time.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The local APIC's timer, periodic, 30 counts.
    LocalApic,
    /// Channel 0 of the 8254 through the 8259, mode 2, 30 counts.
    Channel0,
}

/// Starts the timer, turns a million times in a loop, and ends with success.
fn works_while_it_is_interrupted(source: Source) -> Vec<u8> {
    let mut code = take_interrupts(0);
    let mut handler = vec![0x50]; // push eax
    match source {
        Source::LocalApic => {
            for (offset, value) in [
                (0xf0, 0x1ff),
                // Divide by 1; periodic, vector 20H.
                (0x3e0, 0b1011),
                (0x320, 1 << 17 | 0x20),
                (0x380, 30),
            ] {
                code.extend(store(0xfee0_0000 + offset, value));
            }
            handler.extend(store(0xfee0_00b0, 0));
        }
        Source::Channel0 => {
            for (port, value) in [
                // ICW1 to ICW4, and all but IRQ 0 masked.
                (0x20, 0x11),
                (0x21, 0x20),
                (0x21, 0x04),
                (0x21, 0x01),
                (0x21, 0xfe),
                (0x43, 0x34),
                (0x40, 30),
                (0x40, 0),
            ] {
                code.extend([0xb0, value, 0xe6, port]); // mov al, value; out port, al
            }
            handler.extend([0xb0, 0x20, 0xe6, 0x20]); // mov al, 20H; out 20H, al
        }
    }
    code.extend([0xb9, 0x40, 0x42, 0x0f, 0x00]); // mov ecx, 1000000
    code.extend([0xfb, 0xe2, 0xfe]); // sti; loop $
    code.extend([0xfa, 0xb0, 0x10, 0xe6, 0xf4, 0xf4]); // cli; mov al, 10H; out f4H, al; hlt
    assert!(code.len() < HANDLER as usize);
    code.resize(HANDLER as usize, 0);
    code.extend(handler);
    code.extend([0x58, 0xcf]); // pop eax; iret
    code
}

fn leaves_time_to_run(source: Source) {
    let name = format!("fast-timer-{source:?}");
    let file = TemporaryFile::new(&name, &kernel(&works_while_it_is_interrupted(source)));
    for (arguments, status) in [
        (&["machine", "--engine", "translator"][..], 2 * 0x10 + 1),
        (&["machine", "--engine", "interpreter"], 2 * 0x10 + 1),
        (&["run", "--vcpus", "2", "--cpus", "2"], 0),
        (&["run", "--vcpus", "2", "--cpus", "1"], 0),
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
            "{source:?} {arguments:?}: {ended:#?}"
        );
    }
}

#[test]
fn the_local_apics() {
    leaves_time_to_run(Source::LocalApic);
}

#[test]
fn channel_0_of_the_8254() {
    leaves_time_to_run(Source::Channel0);
}
