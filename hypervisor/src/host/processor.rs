//! What belongs to one processor, reached through GS base.
#![allow(unsafe_code, reason = "GS base points to the processor's own state")]

use super::descriptor_tables::Bases;
use super::instructions::{read_msr, write_msr};
use alloc::boxed::Box;
use arch::msr;
use core::cell::Cell;

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
    /// The timer interrupt came.
    pub timer_fired: Cell<bool>,
    /// The wakeup interrupt came.
    pub wakeup_requested: Cell<bool>,
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
            timer_fired: Cell::new(false),
            wakeup_requested: Cell::new(false),
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

    /// This structure's address: HOST_GS_BASE.
    pub fn address(&self) -> u64 {
        self.this as u64
    }
}
