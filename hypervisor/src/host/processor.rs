//! What belongs to one processor, reached through GS base.
#![allow(unsafe_code, reason = "GS base points to the processor's own state")]

use super::descriptor_tables::Bases;
use super::instructions::{read_msr, write_msr};
use alloc::boxed::Box;
use arch::msr;
use core::cell::Cell;

/// What an interrupt asks of the run loop.
pub mod note {
    /// Look at the timers: deadlines of vCPUs, the slice, devices.
    pub const TIMER: u32 = 1 << 0;
    /// Look at the wakeup list.
    pub const WAKEUP: u32 = 1 << 1;
    /// Take what arrived at the serial console.
    pub const SERIAL: u32 = 1 << 2;
}

/// One processor's state. Only that processor touches it, except where a field says otherwise.
#[derive(Debug)]
#[repr(C)]
pub struct Processor {
    /// GS:0, this structure.
    this: *const Processor,
    /// GS:8, where the #NM stub saves the guest's x87 and SSE state; 0 when nobody's state is in
    /// the registers.
    pub fpu_area: Cell<u64>,
    /// GS:16, 1 when the #NM stub has saved it.
    pub fpu_saved: Cell<u64>,
    /// Number, 0 for the boot processor.
    pub number: u32,
    /// Physical APIC ID.
    pub apic_id: u32,
    /// What interrupts have asked of the run loop: bits of [`note`].
    notes: Cell<u32>,
    /// Bases for the host-state area.
    pub bases: Bases,
}

impl Processor {
    /// Makes the state of the processor that runs this, and points its GS base there.
    pub fn install(number: u32, apic_id: u32, bases: Bases) -> &'static Self {
        let processor = Box::leak(Box::new(Self {
            this: core::ptr::null(),
            fpu_area: Cell::new(0),
            fpu_saved: Cell::new(0),
            number,
            apic_id,
            notes: Cell::new(0),
            bases,
        }));
        processor.this = processor;
        let address = processor.this as u64;
        // SAFETY: nothing else uses GS; the structure lives for ever.
        unsafe { write_msr(msr::IA32_GS_BASE, address) };
        processor
    }

    /// The state of the processor that runs this; `None` before [`install`](Self::install).
    pub fn current() -> Option<&'static Self> {
        let this = read_msr(msr::IA32_GS_BASE) as *const Self;
        // SAFETY: GS base is 0 (the boot code's value) or what `install` wrote.
        unsafe { this.as_ref() }
    }

    /// Whether the run loop has to look at something.
    #[inline(always)]
    pub fn has_notes(&self) -> bool {
        self.notes.get() != 0
    }

    /// Takes the notes.
    pub fn take_notes(&self) -> u32 {
        self.notes.take()
    }

    /// Leaves a note.
    pub fn note(&self, note: u32) {
        self.notes.set(self.notes.get() | note);
    }

    /// Makes the run loop look at all timers of this processor.
    pub fn note_timer(&self) {
        self.note(note::TIMER);
    }

    /// This structure's address: HOST_GS_BASE.
    pub fn address(&self) -> u64 {
        self.this as u64
    }
}
