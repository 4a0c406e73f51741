//! What only a bootable image has: entry points, the panic handler, the heap, and the start of the
//! other processors.
#![allow(unsafe_code, reason = "entry points, linker symbols and the heap")]

extern crate alloc;

mod heap;
mod start;

use core::arch::global_asm;
use core::panic::PanicInfo;
use posthaste_hypervisor::host::interrupt::{self, Frame};
use posthaste_hypervisor::host::{console, shutdown};
use posthaste_hypervisor::say;

global_asm!(
    include_str!("../../../freestanding/boot.s"),
    options(att_syntax)
);
global_asm!(include_str!("trampoline.s"), options(att_syntax));
global_asm!(
    include_str!("../../../freestanding/runtime.s"),
    options(att_syntax)
);
global_asm!(include_str!("exceptions.s"), options(att_syntax));

#[panic_handler]
fn panic(information: &PanicInfo) -> ! {
    console::force_unlock();
    say!("hypervisor panic: {information}");
    say!("#ph stop reason=panic");
    shutdown::stop(shutdown::Status::Other)
}

/// What the interrupt stubs call.
///
/// # Safety
/// `frame` must be what the stubs pushed.
#[unsafe(no_mangle)]
unsafe extern "C" fn image_interrupt(frame: *mut Frame) {
    // SAFETY: the caller's promise.
    interrupt::dispatch(unsafe { &mut *frame });
}
