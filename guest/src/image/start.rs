//! From the loader to all processors running.
#![allow(
    unsafe_code,
    reason = "entered from assembly, and reads what the loader left"
)]

use super::{
    conductor::{self, Plan},
    console::{Console, Status, exit, say},
    instruction::{out_byte, stop, time_stamp},
    local_apic::{LocalApic, has_x2apic},
    processor::{Processor, allocate, fill_interrupt_descriptors, processors},
};
use arch::interrupt_command::{
    DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode,
};
use core::{
    arch::global_asm,
    hint::spin_loop,
    panic::PanicInfo,
    ptr::null,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering},
};
use posthaste_guest::{
    acpi,
    boot_information::BootInformation,
    command_line::{self, ApicMode},
    physical_memory::PhysicalMemory,
};

global_asm!(
    include_str!("../../../freestanding/boot.s"),
    options(att_syntax)
);
global_asm!(
    include_str!("../../../freestanding/runtime.s"),
    options(att_syntax)
);
global_asm!(
    include_str!("application_processors.s"),
    options(att_syntax)
);

unsafe extern "C" {
    static start_up_code: u8;
    static start_up_code_end: u8;
    static image_end: u8;
}

/// Stack of the processor that is being started.
#[unsafe(no_mangle)]
static starting_stack: AtomicU64 = AtomicU64::new(0);
/// State of the processor that is being started.
#[unsafe(no_mangle)]
static starting_processor: AtomicPtr<Processor> = AtomicPtr::new(null::<Processor>().cast_mut());
/// The mode that application processors put their APICs into: 1 xAPIC, 2 x2APIC.
static MODE: AtomicU8 = AtomicU8::new(0);

/// Memory as the boot page tables map it, one to one.
struct IdentityMapped;

impl PhysicalMemory for IdentityMapped {
    fn byte(&self, address: u64) -> Option<u8> {
        // Not the null pointer; not beyond what is mapped.
        (1..1 << 32).contains(&address).then(|| {
            // SAFETY: the first 4 GiB are mapped; the loader's and the firmware's structures, which
            // this reads before the image uses any memory beside its own, are no Rust objects.
            unsafe { (address as *const u8).read_volatile() }
        })
    }
}

/// Says why the guest cannot run, and ends it.
macro_rules! refuse {
    ($($argument:tt)*) => {{
        say!($($argument)*);
        say!("#ph guest verdict=fail");
        exit(Status::Error)
    }};
}

#[unsafe(no_mangle)]
extern "C" fn boot_processor_start(protocol: u32, information: u64) -> ! {
    Console::initialize();
    // The 8259s' inputs stay masked: every interrupt here comes from a local APIC.
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);

    let memory = IdentityMapped;
    let boot = match BootInformation::read(&memory, protocol, information) {
        Ok(boot) => boot,
        Err(error) => refuse!("guest: {error}"),
    };
    let line = match boot.command_line() {
        Ok(line) => line,
        Err(_) => refuse!("guest: the command line is not UTF-8"),
    };
    let options = match command_line::parse(line) {
        Ok(options) => options,
        Err(error) => refuse!("guest: {error}"),
    };
    let mode = match (options.apic, has_x2apic()) {
        (Some(ApicMode::X2apic), false) => refuse!("guest: this processor has no x2APIC mode"),
        (Some(mode), _) => mode,
        (None, true) => ApicMode::X2apic,
        (None, false) => ApicMode::Xapic,
    };
    let Some(rsdp) = boot.rsdp.or_else(|| acpi::find_rsdp(&memory)) else {
        refuse!("guest: there is no ACPI");
    };
    let mut list = match acpi::processors(&memory, rsdp) {
        Ok(list) => list,
        Err(error) => refuse!("guest: {error}"),
    };
    // Before the state exists: CPUID names the running processor.
    let own_id = super::instruction::cpuid(1, 0).ebx >> 24;
    if !list.put_first(own_id) {
        refuse!("guest: ACPI does not list the boot processor, APIC ID {own_id}");
    }
    if mode == ApicMode::Xapic && list.ids().iter().any(|id| *id >= 0xff) {
        refuse!("guest: xAPIC mode cannot address APIC IDs above 254");
    }
    let after_image = (&raw const image_end) as u64;
    let Some(room) = boot.memory_map.room_from(after_image) else {
        refuse!("guest: the memory map has no RAM at the image's end, {after_image:#x}");
    };
    if allocate(room.start, room.end, list.ids()).is_none() {
        refuse!(
            "guest: {:#x} bytes after the image are too few for {} processors",
            room.end - room.start,
            list.ids().len()
        );
    }
    let Some(page) = boot.memory_map.start_up_page() else {
        refuse!("guest: no RAM below 1 MiB to start processors from");
    };
    fill_interrupt_descriptors();
    let boot_processor = &processors()[0];
    boot_processor.install();
    let apic = LocalApic::enable(mode, boot_processor);
    boot_processor.announce();

    say!(
        "guest: {} processors, {}, rounds {}, seed {}",
        list.ids().len(),
        mode.name(),
        options.rounds,
        options.seed
    );
    if let Err(processor) = start_others(apic, page) {
        refuse!(
            "guest: processor {} (APIC ID {}) did not start",
            processor.index(),
            processor.apic_id()
        );
    }
    let plan = Plan {
        phases: options.phases,
        rounds: options.rounds,
        seed: options.seed,
    };
    conductor::conduct(apic, boot_processor, &plan)
}

#[unsafe(no_mangle)]
extern "C" fn application_processor_start(processor: &'static Processor) -> ! {
    processor.install();
    let mode = match MODE.load(Ordering::Acquire) {
        2 => ApicMode::X2apic,
        _ => ApicMode::Xapic,
    };
    let apic = LocalApic::enable(mode, processor);
    processor.announce();
    conductor::follow(apic, processor)
}

/// Starts the other processors one after the other (SDM 8.4.4.1 Typical BSP initialization
/// sequence).
fn start_others(apic: LocalApic, page: u64) -> Result<(), &'static Processor> {
    MODE.store(
        match apic.mode() {
            ApicMode::Xapic => 1,
            ApicMode::X2apic => 2,
        },
        Ordering::Release,
    );
    let code = &raw const start_up_code;
    let length = (&raw const start_up_code_end) as usize - code as usize;
    // SAFETY: the page is RAM by the loader's map, below 1 MiB and so not the image's; what the
    // loader may have left there has been read.
    unsafe { core::ptr::copy_nonoverlapping(code, page as *mut u8, length) };

    let command = |delivery_mode, vector, destination| InterruptCommand {
        vector,
        delivery_mode,
        destination_mode: DestinationMode::Physical,
        assert: true,
        trigger_mode: TriggerMode::Edge,
        shorthand: Shorthand::None,
        destination,
    };
    for processor in &processors()[1..] {
        starting_stack.store(processor.stack_top(), Ordering::Relaxed);
        starting_processor.store(core::ptr::from_ref(processor).cast_mut(), Ordering::SeqCst);
        let id = processor.apic_id();
        apic.send(command(DeliveryMode::Init, 0, id));
        delay(200_000);
        for _ in 0..2 {
            apic.send(command(DeliveryMode::StartUp, (page >> 12) as u8, id));
            delay(50_000);
        }
        if !(0..100_000_000).any(|_| {
            spin_loop();
            processor.is_alive()
        }) {
            return Err(processor);
        }
    }
    Ok(())
}

/// Lets `ticks` of the time-stamp counter pass.
fn delay(ticks: u64) {
    let start = time_stamp();
    while time_stamp().wrapping_sub(start) < ticks {
        spin_loop();
    }
}

/// What the processor pushed, below what the entry added.
#[repr(C)]
struct ExceptionFrame {
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(frame: &ExceptionFrame) -> ! {
    let cr2: u64;
    // SAFETY: reading CR2 changes nothing.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    refuse!(
        "guest: unexpected exception {}, error code {:#x}, at {:#x}:{:#x}, RFLAGS {:#x}, stack {:#x}:{:#x}, CR2 {cr2:#x}",
        frame.vector,
        frame.error_code,
        frame.cs,
        frame.rip,
        frame.rflags,
        frame.ss,
        frame.rsp
    )
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    static PANICKED: AtomicU8 = AtomicU8::new(0);
    if PANICKED.swap(1, Ordering::Relaxed) != 0 {
        stop();
    }
    refuse!("guest: {information}")
}
