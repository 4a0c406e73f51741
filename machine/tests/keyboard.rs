//! Somebody types while the machine runs: what is typed arrives, a machine that waits for it is no
//! deadlock, and nothing changes as long as nobody types.
#![allow(missing_docs, reason = "a test binary has no outside")]

mod support;
#[path = "support/tables.rs"]
mod tables;

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste_machine::cpu::{Activity, Processor};
use posthaste_machine::platform::{Outcome, Platform};
use posthaste_machine::schedule::{Deterministic, run_parallel};

/// Vector of the serial port's interrupt.
const VECTOR: u8 = 0x40;
const LIMIT: u64 = 1_000_000_000;

/// Takes bytes from the serial port by interrupts, in HLT meanwhile, and writes each to the debug-exit
/// port, whose status is then that byte: only `!` ends the run so; others are ignored.
fn listener() -> Processor {
    let mut code = vec![];
    for (register, value) in [
        // The serial port's pin of the I/O APIC, and the local APIC's spurious vector.
        (0xfec0_0000_u32, 0x18_u32),
        (0xfec0_0010, u32::from(VECTOR)),
        (0xfee0_00f0, 0x1ff),
    ] {
        code.push(0xbb); // mov ebx, register
        code.extend(register.to_le_bytes());
        code.extend([0xc7, 0x03]); // mov dword [rbx], value
        code.extend(value.to_le_bytes());
    }
    for (port, value) in [(0x3f9_u16, 1_u8), (0x3fc, 8)] {
        code.extend([0x66, 0xba]); // mov dx, port
        code.extend(port.to_le_bytes());
        code.extend([0xb0, value, 0xee]); // mov al, value; out dx, al
    }
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]); // sti; again: hlt; jmp again
    let mut processor = tables::kernel(&code);
    let handler = [
        0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, 3f8h; in al, dx
        0x3c, b'!', 0x75, 0x05, // cmp al, '!'; jne over the next two
        0x66, 0xba, 0xf4, 0x00, 0xee, // mov dx, 0f4h; out dx, al
        0xbb, 0xb0, 0x00, 0xe0, 0xfe, // mov ebx, EOI register
        0xc7, 0x03, 0, 0, 0, 0, // mov dword [rbx], 0
        0x48, 0xcf, // iretq
    ];
    let cpu = &mut processor.cpu;
    cpu.platform
        .bus_agent()
        .write_bytes(tables::HANDLER, &handler);
    tables::set_gate(cpu, VECTOR, tables::HANDLER, tables::CODE_64, 0x8e, 0);
    cpu.publish_identity();
    processor
}

fn deterministic(platform: &Platform, processor: &mut Processor) -> Outcome {
    Deterministic::new(1)
        .run_until(platform, std::slice::from_mut(processor), LIMIT)
        .expect("an outcome before the limit")
}

/// Runs `schedule` while another thread types, each key after the one before was taken.
fn typed_at(schedule: impl FnOnce(&Platform, &mut Processor) -> Outcome) {
    let mut processor = listener();
    let platform = processor.cpu.platform.clone();
    platform.open_keyboard();
    let typist = Arc::clone(&platform);
    let thread = std::thread::spawn(move || {
        for key in [b"a", b"b", b"!"] {
            typist.type_in(key);
            let start = Instant::now();
            while typist.input_waiting() != 0 && !typist.stopped() {
                assert!(start.elapsed() < Duration::from_secs(1200), "not taken");
                std::thread::yield_now();
            }
        }
    });
    let outcome = schedule(&platform, &mut processor);
    assert_eq!(outcome, Outcome::Exit(u32::from(b'!')));
    thread.join().unwrap();
}

#[test]
fn keys_arrive_under_the_deterministic_schedule() {
    typed_at(deterministic);
}

#[test]
fn keys_arrive_under_the_parallel_schedule() {
    typed_at(|platform, processor| run_parallel(platform, std::slice::from_mut(processor), LIMIT));
}

#[test]
fn without_a_keyboard_waiting_for_a_key_is_a_deadlock() {
    let mut processor = listener();
    let platform = processor.cpu.platform.clone();
    assert_eq!(deterministic(&platform, &mut processor), Outcome::Deadlock);
    assert_eq!(processor.cpu.activity, Activity::Halted);
}

#[test]
fn a_machine_that_no_key_can_wake_is_a_deadlock_with_a_keyboard_too() {
    // cli; hlt
    let mut processor = tables::kernel(&[0xfa, 0xf4]);
    let platform = processor.cpu.platform.clone();
    platform.open_keyboard();
    assert_eq!(deterministic(&platform, &mut processor), Outcome::Deadlock);
}

#[test]
fn a_stop_from_outside_ends_the_wait_for_a_key() {
    let mut processor = listener();
    let platform = processor.cpu.platform.clone();
    platform.open_keyboard();
    let stopper = Arc::clone(&platform);
    let thread = std::thread::spawn(move || stopper.stop(Outcome::Stopped));
    assert_eq!(deterministic(&platform, &mut processor), Outcome::Stopped);
    thread.join().unwrap();
}

/// Sleeps for 2 ms by the local APIC's timer, then switches off.
fn sleeper() -> Processor {
    let mut code = vec![];
    for (register, value) in [
        (0xfee0_00f0_u32, 0x1ff_u32),
        (0xfee0_0320, u32::from(VECTOR)),
        // 100 MHz, divided by 2.
        (0xfee0_0380, 100_000),
    ] {
        code.push(0xbb);
        code.extend(register.to_le_bytes());
        code.extend([0xc7, 0x03]);
        code.extend(value.to_le_bytes());
    }
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]);
    let mut processor = tables::kernel(&code);
    let handler = [0x66, 0xba, 0xf4, 0x00, 0xee]; // mov dx, 0f4h; out dx, al
    let cpu = &mut processor.cpu;
    cpu.platform
        .bus_agent()
        .write_bytes(tables::HANDLER, &handler);
    tables::set_gate(cpu, VECTOR, tables::HANDLER, tables::CODE_64, 0x8e, 0);
    cpu.publish_identity();
    processor
}

#[test]
fn a_keyboard_that_nobody_touches_changes_the_hosts_time_alone() {
    let run = |keyboard: bool| {
        let mut processor = sleeper();
        let platform = processor.cpu.platform.clone();
        if keyboard {
            platform.open_keyboard();
        }
        let start = Instant::now();
        let outcome = deterministic(&platform, &mut processor);
        assert!(matches!(outcome, Outcome::Exit(_)), "{outcome}");
        let cpu = &processor.cpu;
        let virtual_end = (cpu.instructions, cpu.now(), cpu.trace.hash());
        (virtual_end, start.elapsed())
    };
    let (without, _) = run(false);
    let (with, host) = run(true);
    assert_eq!(with, without);
    // A sleep of 2 ms takes that long where somebody sits and waits for it.
    assert!(host >= Duration::from_millis(2), "{host:?}");
}
