//! A vCPU's x87 and SSE state, and the MSRs that the processor does not switch.
//!
//! HOST_CR0 has TS set, so at an exit the guest's state simply stays in the registers; if root code
//! uses SSE, #NM saves it first (`image/exceptions.s`), and it is loaded again before the next entry.
#![allow(unsafe_code, reason = "saves and loads processor state")]

use crate::host::instructions::{
    clear_task_switched, cpuid, fxrstor, fxsave, read_cr0, read_cr2, read_dr0, read_dr1, read_dr2,
    read_dr3, read_dr6, read_msr, write_cr0, write_cr2, write_dr0, write_dr1, write_dr2, write_dr3,
    write_dr6, write_msr,
};
use crate::host::processor::Processor;
use crate::vm::msr::SWITCHED_BY_SOFTWARE;
use arch::control_register::cr0;
use arch::msr;

/// Whether the processor has one of [`SWITCHED_BY_SOFTWARE`]: IA32_TSC_AUX comes with RDTSCP.
fn exists(register: u32) -> bool {
    register != msr::IA32_TSC_AUX || cpuid(0x8000_0001, 0).edx >> 27 & 1 != 0
}

/// An FXSAVE area.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
struct Area([u8; 512]);

/// What is switched by software when another vCPU runs.
#[derive(Clone, Debug)]
pub struct ExtendedState {
    area: Area,
    msrs: [u64; SWITCHED_BY_SOFTWARE.len()],
    cr2: u64,
    /// DR0 to DR3 and DR6; DR7 is in the guest-state area.
    debug: [u64; 5],
}

impl Default for ExtendedState {
    fn default() -> Self {
        Self::new()
    }
}

impl ExtendedState {
    /// The state after reset.
    // SDM 9.1.1 Processor State After Reset: FCW = 0040H, FTW = 5555H (abridged: FFH valid bits 0),
    // MXCSR = 1F80H.
    pub fn new() -> Self {
        let mut area = Area([0; 512]);
        area.0[0..2].copy_from_slice(&0x0040u16.to_le_bytes());
        area.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        Self {
            area,
            msrs: [0; SWITCHED_BY_SOFTWARE.len()],
            cr2: 0,
            // SDM 9.1.1: DR6 = FFFF0FF0H.
            debug: [0, 0, 0, 0, 0xffff_0ff0],
        }
    }

    fn address(&mut self) -> *mut u8 {
        self.area.0.as_mut_ptr()
    }

    /// Loads everything: the vCPU comes to this processor.
    pub fn load(&mut self, processor: &Processor) {
        for (register, value) in SWITCHED_BY_SOFTWARE.into_iter().zip(self.msrs) {
            if !exists(register) {
                continue;
            }
            // SAFETY: registers without effect in root mode; the guest wrote the values itself, so
            // the processor has accepted them before.
            unsafe { write_msr(register, value) };
        }
        // SAFETY: CR2 has no effect, and an exit has left DR7 without a breakpoint (SDM 28.5.1).
        unsafe {
            write_cr2(self.cr2);
            write_dr0(self.debug[0]);
            write_dr1(self.debug[1]);
            write_dr2(self.debug[2]);
            write_dr3(self.debug[3]);
            write_dr6(self.debug[4]);
        }
        processor.fpu_area.set(self.address() as u64);
        // Loaded before the entry.
        processor.fpu_saved.set(1);
    }

    /// Saves everything: the vCPU leaves this processor.
    pub fn save(&mut self, processor: &Processor) {
        if processor.fpu_saved.get() == 0 {
            clear_task_switched();
            // SAFETY: the area is 512 bytes, aligned to 16.
            unsafe { fxsave(self.address()) };
        }
        processor.fpu_area.set(0);
        processor.fpu_saved.set(0);
        for (register, value) in SWITCHED_BY_SOFTWARE.into_iter().zip(&mut self.msrs) {
            if exists(register) {
                *value = read_msr(register);
            }
        }
        self.cr2 = read_cr2();
        self.debug = [read_dr0(), read_dr1(), read_dr2(), read_dr3(), read_dr6()];
    }

    /// The image of the x87 and SSE registers, as FXSAVE stores it, of the vCPU that is loaded. What it
    /// becomes is loaded before the next entry.
    pub fn image(&mut self, processor: &Processor) -> &mut [u8; 512] {
        if processor.fpu_saved.get() == 0 {
            clear_task_switched();
            // SAFETY: the area is 512 bytes, aligned to 16.
            unsafe { fxsave(self.address()) };
            processor.fpu_saved.set(1);
        }
        &mut self.area.0
    }

    /// Puts the guest's x87 and SSE state back into the registers if root code took them. The last
    /// thing before an entry.
    #[inline(always)]
    pub fn restore(&self, processor: &Processor) {
        if processor.fpu_saved.get() != 0 {
            self.restore_saved(processor);
        }
    }

    #[cold]
    #[inline(never)]
    fn restore_saved(&self, processor: &Processor) {
        clear_task_switched();
        processor.fpu_saved.set(0);
        // SAFETY: the area holds what FXSAVE stored, or the reset image; XMM registers are declared
        // clobbered, so the compiler keeps nothing in them.
        unsafe { fxrstor(self.area.0.as_ptr()) };
        // From here to the entry root code must not use SSE unnoticed.
        // SAFETY: TS only makes SSE instructions raise #NM.
        unsafe { write_cr0(read_cr0() | cr0::TS) };
    }
}

/// Gives the loaded vCPU the address of a page fault that it is about to get: its CR2 is the
/// processor's.
pub fn set_page_fault_address(linear: u64) {
    // SAFETY: CR2 has no effect, and root code has no page faults of its own.
    unsafe { write_cr2(linear) };
}

/// Changes the loaded vCPU's DR6, which is the processor's as well.
pub fn update_debug_status(change: impl FnOnce(u64) -> u64) {
    let status = change(read_dr6());
    // SAFETY: DR6 only tells what debug exceptions met, and root code has none.
    unsafe { write_dr6(status) };
}
