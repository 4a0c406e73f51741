//! From the loader's hand-over to all processors in the run loop.

use super::{alloc, heap};
use core::sync::atomic::{AtomicU32, Ordering};
use firmware::acpi::read::{ProcessorState, find_rsdp};
use firmware::boot::information::{BootInformation, read_multiboot2, read_pvh};
use posthaste_hypervisor::host::frame_allocator::{FRAME, FrameAllocator, Range};
use posthaste_hypervisor::host::instructions::{cpuid, halt_forever, write_cr3};
use posthaste_hypervisor::host::physical_memory::LowMemory;
use posthaste_hypervisor::host::processor::Processor;
use posthaste_hypervisor::host::serial_interrupt::SerialPin;
use posthaste_hypervisor::host::shutdown::{self, Status};
use posthaste_hypervisor::host::{console, descriptor_tables, interrupt, local_apic, paging, time};
use posthaste_hypervisor::say;
use posthaste_hypervisor::system::{self, Boot};
use spin::Once;

const STACK_SIZE: u64 = 32 * 1024;
const BOOT_HEAP: usize = 256 * 1024;
/// The heap: so much, and so much more for each processor.
const HEAP: u64 = 8 << 20;
const HEAP_PER_PROCESSOR: u64 = 192 << 10;
const MAXIMUM_PROCESSORS: usize = 256;

/// EAX of a multiboot2 loader.
const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;
/// CPUID.1:ECX bit 5.
const CPUID_VMX: u32 = 1 << 5;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static exception_stubs: u8;
    static device_not_available_stub: u8;
    static non_maskable_interrupt_stub: u8;
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_arguments: u8;
}

static IDT: Once<&'static [u64; 512]> = Once::new();
/// Processors that answered the start-up IPI.
static ANSWERED: AtomicU32 = AtomicU32::new(0);

fn fail(message: core::fmt::Arguments) -> ! {
    say!("posthaste: {message}");
    shutdown::stop(Status::Other)
}

#[repr(align(4096))]
struct BootHeap(core::cell::UnsafeCell<[u8; BOOT_HEAP]>);
// SAFETY: only its address is taken, once.
unsafe impl Sync for BootHeap {}
static BOOT_MEMORY: BootHeap = BootHeap(core::cell::UnsafeCell::new([0; BOOT_HEAP]));

/// The first Rust code: `protocol` and `information` are what the loader passed.
#[unsafe(no_mangle)]
extern "C" fn boot_processor_start(protocol: u32, information: u64) -> ! {
    console::initialize();
    if cpuid(1, 0).ecx & CPUID_VMX == 0 {
        say!("posthaste: this processor has no VT-x (CPUID.1:ECX.VMX is 0); nothing can run here");
        shutdown::stop(Status::NoVtx)
    }
    // The loader's structures are read before any memory is taken, with a heap inside the image.
    // SAFETY: nobody else uses BOOT_MEMORY, and this runs once.
    unsafe { heap::initialize(BOOT_MEMORY.0.get() as u64, BOOT_HEAP) };
    let boot = match protocol {
        arch::pvh::MAGIC => read_pvh(&LowMemory, information),
        MULTIBOOT2_MAGIC => read_multiboot2(&LowMemory, information),
        _ => fail(format_args!(
            "started by an unknown boot protocol ({protocol:#x})"
        )),
    };
    let boot = boot.unwrap_or_else(|error| fail(format_args!("{error}")));
    let Some(rsdp) = boot.rsdp.or_else(|| find_rsdp(&LowMemory)) else {
        fail(format_args!("no ACPI tables: cannot find the processors"))
    };
    let hardware = firmware::acpi::read::read(&LowMemory, rsdp)
        .unwrap_or_else(|error| fail(format_args!("{error}")));
    let apic_ids: alloc::vec::Vec<u32> = hardware
        .processors
        .iter()
        .filter(|processor| processor.state == ProcessorState::Enabled)
        .map(|processor| processor.apic_id)
        .collect();
    let mut frames = free_memory(&boot);
    let Some(trampoline) = frames.allocate_below(FRAME, FRAME, 0xa_0000) else {
        fail(format_args!(
            "no free page below 640 KiB to start processors from"
        ))
    };
    // The guest's files are loaded from where the boot loader put them.
    let heap_size = HEAP + HEAP_PER_PROCESSOR * apic_ids.len() as u64;
    let Some(heap) = frames.allocate(heap_size, FRAME) else {
        fail(format_args!(
            "not {} KiB of free memory for the heap",
            heap_size >> 10
        ))
    };
    let top = ram(&boot).map(|range| range.end).max().unwrap_or(0);
    let Some(cr3) = paging::identity_map(&mut frames, top) else {
        fail(format_args!("no memory for page tables"))
    };
    // SAFETY: the new map is a superset of the old one.
    unsafe { write_cr3(cr3) };
    // SAFETY: fresh from the allocator, mapped, and disjoint from the first piece.
    unsafe { heap::extend(heap, heap_size as usize) };

    let stubs = descriptor_tables::Stubs {
        first: &raw const exception_stubs as u64,
        non_maskable: &raw const non_maskable_interrupt_stub as u64,
        device_not_available: &raw const device_not_available_stub as u64,
    };
    let idt = *IDT.call_once(|| descriptor_tables::build_idt(stubs));
    let bases = descriptor_tables::load(idt);
    local_apic::mask_8259();
    local_apic::initialize();
    let processor = Processor::install(0, local_apic::id(), bases);
    let source = time::initialize();
    time::initialize_timer(interrupt::TIMER_VECTOR);

    let mut boot = Boot {
        information: boot,
        apic_ids,
        oem_id: hardware.oem_id,
        serial_pin: SerialPin::find(&hardware),
        frames,
    };
    system::announce(&boot, source);
    start_processors(&mut boot, processor.apic_id, cr3, trampoline);
    system::run_boot_processor(boot, processor, ANSWERED.load(Ordering::Acquire) + 1)
}

/// RAM, as the loader's memory map has it.
fn ram(boot: &BootInformation) -> impl Iterator<Item = Range> {
    boot.memory_map
        .iter()
        .filter(|region| region.kind == arch::pvh::MEMORY_RAM)
        .map(|region| Range::new(region.address, region.size))
}

/// Usable RAM without what is in use.
fn free_memory(boot: &BootInformation) -> FrameAllocator {
    let mut frames = FrameAllocator::new();
    ram(boot).for_each(|range| frames.add(range));
    let image = Range {
        start: &raw const image_start as u64,
        end: &raw const image_end as u64,
    };
    // The real-mode interrupt table and BIOS data; firmware's own area above 640 KiB.
    frames.reserve(Range {
        start: 0,
        end: 0x1000,
    });
    frames.reserve(Range {
        start: 0x9_f000,
        end: 0x10_0000,
    });
    frames.reserve(image);
    // The loader's structures have been copied; the modules stay where they are.
    for module in &boot.modules {
        frames.reserve(Range::new(module.address, module.size));
    }
    frames
}

/// INIT, start-up, start-up to every other processor (SDM 9.4.4 MP initialization example).
fn start_processors(boot: &mut Boot, own_id: u32, cr3: u64, trampoline: u64) {
    let others: alloc::vec::Vec<u32> = boot
        .apic_ids
        .iter()
        .copied()
        .filter(|id| *id != own_id)
        .take(MAXIMUM_PROCESSORS - 1)
        .collect();
    let Some(stacks) = boot
        .frames
        .allocate(others.len() as u64 * STACK_SIZE, FRAME)
    else {
        fail(format_args!(
            "no memory for the stacks of {} processors",
            others.len()
        ))
    };
    let source = &raw const trampoline_start;
    // SAFETY: the symbols delimit the trampoline, which fits into the page taken for it.
    unsafe {
        let length = (&raw const trampoline_end).offset_from_unsigned(source);
        core::ptr::copy_nonoverlapping(source, trampoline as *mut u8, length);
        let offset = (&raw const trampoline_arguments).offset_from_unsigned(source);
        let arguments = (trampoline + offset as u64) as *mut u64;
        arguments.write(cr3);
        arguments.add(1).write(0);
        arguments.add(2).write(stacks);
        arguments
            .add(3)
            .write(application_processor as *const () as u64);
        arguments.add(4).write(STACK_SIZE);
    }
    let page = (trampoline >> 12) as u32;
    for id in &others {
        local_apic::send(*id, 0x4500);
    }
    time::spin(10_000_000);
    for round in 0..2 {
        if round == 1 && ANSWERED.load(Ordering::Acquire) == others.len() as u32 {
            break;
        }
        for id in &others {
            local_apic::send(*id, 0x4600 | page);
        }
        time::spin(200_000);
    }
    // A slow machine may need longer; a missing processor does not come.
    for _ in 0..1000 {
        if ANSWERED.load(Ordering::Acquire) == others.len() as u32 {
            return;
        }
        time::spin(1_000_000);
    }
    say!(
        "posthaste: {} of {} other processors answered the start-up IPI",
        ANSWERED.load(Ordering::Acquire),
        others.len()
    );
}

/// Where the trampoline calls: processor `index` + 1, on a stack of its own.
extern "C" fn application_processor(index: u32) -> ! {
    let Some(idt) = IDT.get() else { halt_forever() };
    let bases = descriptor_tables::load(idt);
    local_apic::initialize();
    let processor = Processor::install(index + 1, local_apic::id(), bases);
    time::initialize_timer(interrupt::TIMER_VECTOR);
    ANSWERED.fetch_add(1, Ordering::AcqRel);
    system::run_application_processor(processor)
}
