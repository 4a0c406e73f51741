//! Interrupts and exceptions that reach the hypervisor itself.
//!
//! Root mode runs with interrupts masked; they come by VM exit (acknowledged by the processor) or
//! in the idle loop. Either way they end up in [`handle`], which only notes what happened: the run
//! loop looks at the notes.

use super::processor::{Processor, note};
use super::shutdown::{self, Status};
use super::{console, instructions};
use super::{local_apic, machine_check};
use arch::exception;

/// Something arrived at the serial console; the boot processor's alone.
pub const SERIAL_VECTOR: u8 = 0xee;
/// The processor's timer. The others are `interrupts::physical_interrupts::VECTORS`.
pub const TIMER_VECTOR: u8 = 0xef;
/// Somebody wants the run loop to look around.
const KICK_VECTOR: u8 = crate::interrupts::physical_interrupts::VECTORS.kick;
/// A blocked vCPU's descriptor got an interrupt.
const WAKEUP_VECTOR: u8 = crate::interrupts::physical_interrupts::VECTORS.wakeup;
/// The local APIC's spurious vector; it wants no EOI.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// What the stubs push, lowest address first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0.
    pub error_code: u64,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

/// Names of the exceptions that have one.
const EXCEPTIONS: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP",
    "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
];

/// Handles external interrupt `vector` on this processor: notes it and ends it.
#[inline]
pub fn handle(processor: &Processor, vector: u8) {
    match vector {
        // A kick may be about a queue that now needs a time slice, or a device's next event.
        TIMER_VECTOR | KICK_VECTOR => processor.note_timer(),
        WAKEUP_VECTOR => processor.note(note::WAKEUP),
        SERIAL_VECTOR => processor.note(note::SERIAL),
        SPURIOUS_VECTOR => return,
        // A notification in root mode means that the next entry finds requests.
        _ => {}
    }
    local_apic::end_of_interrupt();
}

/// What the assembly stubs call.
pub fn dispatch(frame: &mut Frame) {
    if frame.vector >= 32 {
        match Processor::current() {
            Some(processor) => handle(processor, frame.vector as u8),
            None => local_apic::end_of_interrupt(),
        }
        return;
    }
    if frame.vector == u64::from(exception::MACHINE_CHECK) {
        stop_for_machine_check()
    }
    if frame.vector == u64::from(exception::GENERAL_PROTECTION)
        && let Some(rip) = instructions::after_refused_probe(frame.rip)
    {
        frame.rip = rip;
        return;
    }
    report(frame);
    shutdown::stop(Status::Other)
}

/// Says what the processor's banks hold, and stops.
fn stop_for_machine_check() -> ! {
    console::force_unlock();
    let number = Processor::current().map_or(u32::MAX, |processor| processor.number);
    console::with_writer(|out| {
        let _ = machine_check::write(out, number);
        let _ = writeln!(out, "#ph stop reason=machine-check");
    });
    shutdown::stop(Status::Other)
}

/// An exception in root mode is a mistake of the hypervisor's own: say everything and stop.
fn report(frame: &Frame) {
    console::force_unlock();
    let name = EXCEPTIONS.get(frame.vector as usize).unwrap_or(&"?");
    let number = Processor::current().map_or(u32::MAX, |processor| processor.number);
    console::with_writer(|out| {
        let _ = writeln!(
            out,
            "\nexception {name} (vector {}) in the hypervisor, processor {number}, error code {:#x}\n\
             RIP {:#018x} RSP {:#018x} RFLAGS {:#x} CS {:#x} CR0 {:#x} CR2 {:#x} CR3 {:#x} CR4 {:#x}",
            frame.vector,
            frame.error_code,
            frame.rip,
            frame.rsp,
            frame.rflags,
            frame.cs,
            instructions::read_cr0(),
            instructions::read_cr2(),
            instructions::read_cr3(),
            instructions::read_cr4(),
        );
        let names = [
            "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "R8", "R9", "R10", "R11", "R12",
            "R13", "R14", "R15",
        ];
        for (name, value) in names.iter().zip(frame.registers) {
            let _ = writeln!(out, "  {name:3} {value:#018x}");
        }
        let _ = writeln!(
            out,
            "#ph stop reason=hypervisor-exception vector={}",
            frame.vector
        );
    });
}
