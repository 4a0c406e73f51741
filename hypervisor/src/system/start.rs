//! From a booted machine to a virtual machine and processors that run it.
#![allow(unsafe_code, reason = "reads the boot modules")]

use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use apic::apic_base::Processor as ProcessorKind;
use apic::local_apic::{Configuration as ApicConfiguration, Features as LocalApicFeatures};
use apic::pid_pointer_table::ApicIdSpace;
use firmware::boot::information::{BootInformation, ModuleLocation};
use firmware::multiprocessor::ProcessorDescription;
use spin::{Mutex, Once};

use super::machine_memory::{MachineError, MachineMemory};
use super::virtual_machine::VirtualMachine;
use super::{Hypervisor, apic_timer_hertz, report, tsc_ticks_per_timer_count, vmx_operation};
use crate::emulation::decoder;
use crate::host::aligned_page::AlignedPage;
use crate::host::frame_allocator::FrameAllocator;
use crate::host::instructions::{read_time_stamp, wait_for_interrupt};
use crate::host::processor::Processor;
use crate::host::serial_interrupt::SerialPin;
use crate::host::shutdown::{self, Status};
use crate::host::{console, instructions, interrupt, local_apic, time};
use crate::interrupts::physical_interrupts::{PhysicalInterrupts, VECTORS};
use crate::interrupts::vm_interrupts::VmInterrupts;
use crate::say;
use crate::scheduler::Scheduler;
use crate::vcpu::exits;
use crate::vcpu::guest_state::Start;
use crate::vcpu::virtual_processor::{Activity, VirtualProcessor};
use crate::vm::configuration::{ApicOffer, Configuration, Switch};
use crate::vm::cpuid::{self, CpuidContext};
use crate::vm::guest_image::{GuestImage, load_guest};
use crate::vmx::capability::Capabilities;
use crate::vmx::control_plan::apic_features;
use crate::vmx::feature::{self, Feature, FeatureSet};
use crate::vmx::instructions::{RAX, RBX, RSI};
use crate::vmx::io_bitmap::IoBitmap;

/// Length of a time slice in nanoseconds: short, for a guest that spins waits for a vCPU that may
/// have to be scheduled first.
const SLICE: u64 = 100_000;

/// The shortest period of a guest's local APIC timer in nanoseconds. Each interrupt costs an exit of a
/// microsecond or some, which a shorter one would leave nothing beside: the guest would never come to
/// write the timer's registers again. One-shot and TSC-deadline timers need no such floor, for each of
/// theirs is armed by an instruction of the guest.
const SHORTEST_TIMER_PERIOD: u64 = 20_000;

/// What the image hands over.
#[derive(Debug)]
pub struct Boot {
    /// What the loader said.
    pub information: BootInformation,
    /// APIC IDs of the processors that can be started.
    pub apic_ids: Vec<u32>,
    /// Who made the platform, from the ACPI root pointer.
    pub oem_id: [u8; 6],
    /// Where the serial console's interrupt arrives, if the platform can say.
    pub serial_pin: Option<SerialPin>,
    /// Free memory.
    pub frames: FrameAllocator,
}

/// Set when every processor may start to run vCPUs.
static HYPERVISOR: Once<Hypervisor> = Once::new();
/// Physical APIC IDs by processor number, as the processors come up.
static PROCESSORS: Mutex<Vec<(u32, u32)>> = Mutex::new(Vec::new());

/// Says where the hypervisor runs.
pub fn announce(boot: &Boot, tsc_source: time::Source) {
    say!(
        "posthaste {}: {} processors, {} MiB free, local APIC in {} mode, TSC {} MHz ({:?})",
        env!("CARGO_PKG_VERSION"),
        boot.apic_ids.len(),
        boot.frames.free_bytes() >> 20,
        match local_apic::mode() {
            local_apic::Mode::Xapic => "xAPIC",
            local_apic::Mode::X2apic => "x2APIC",
        },
        time::tsc_hertz() / 1_000_000,
        tsc_source
    );
}

/// Features that the command line turns off.
pub fn disabled_features(configuration: &Configuration) -> FeatureSet {
    let switches = &configuration.features;
    let mut disabled = FeatureSet::EMPTY;
    for (switch, features) in [
        (
            configuration.ipi_virtualization(),
            &[Feature::IpiVirtualization][..],
        ),
        (switches.posted_interrupts, &[Feature::PostedInterrupts]),
        (
            switches.virtual_interrupt_delivery,
            &[Feature::VirtualInterruptDelivery],
        ),
        (
            switches.apic_register_virtualization,
            &[Feature::ApicRegisterVirtualization],
        ),
        (switches.apic_virtualization, &[Feature::TprShadow]),
        (switches.vpid, &[Feature::Vpid]),
    ] {
        if switch == Switch::Off {
            features.iter().for_each(|f| disabled.insert(*f));
        }
    }
    disabled
}

fn fail(status: Status, message: core::fmt::Arguments) -> ! {
    say!("posthaste: {message}");
    shutdown::stop(status)
}

/// The boot processor, after `processors` processors answered.
pub fn run_boot_processor(mut boot: Boot, processor: &'static Processor, processors: u32) -> ! {
    let command_line = core::mem::take(&mut boot.information.command_line);
    let configuration = match Configuration::parse(&command_line) {
        Ok(configuration) => configuration,
        Err(error) => fail(Status::Other, format_args!("{error}")),
    };
    decoder::initialize();
    let capabilities = Capabilities::read(instructions::read_msr);
    let disabled = disabled_features(&configuration);
    console::with_writer(|out| {
        let _ = feature::write_table(out, &capabilities, disabled);
    });
    if let Some(verdict) = feature::missing_requirement(&capabilities) {
        fail(
            Status::NoVtx,
            format_args!(
                "this processor's VT-x lacks {}, without which nothing can run here",
                verdict.row.name
            ),
        );
    }
    let features = feature::negotiate(&capabilities, disabled);
    enter_vmx(&capabilities);

    // All processors that answered have entered themselves here.
    PROCESSORS
        .lock()
        .push((processor.number, processor.apic_id));
    let apic_ids = loop {
        let list = PROCESSORS.lock();
        if list.len() as u32 >= processors {
            let mut list = list.clone();
            list.sort_unstable();
            break list.into_iter().map(|(_, id)| id).collect::<Vec<u32>>();
        }
    };
    let vm = make_virtual_machine(
        &mut boot,
        &configuration,
        &capabilities,
        features,
        &apic_ids,
    );
    let vcpus = vm.vcpu_count();
    say!(
        "posthaste: {vcpus} vcpus on {processors} processors, {} MiB of guest memory",
        configuration.memory_mib
    );
    let mut features = features;
    if vcpus <= processors {
        // Nobody waits for a processor: there are no time slices to end.
        features.remove(Feature::PreemptionTimer);
    }
    let hypervisor = HYPERVISOR.call_once(|| Hypervisor {
        configuration,
        capabilities,
        features,
        vm,
        scheduler: Mutex::new(Scheduler::new(vcpus, processors, time::ticks(SLICE))),
        processors: apic_ids.into_boxed_slice(),
        finished: AtomicU32::new(0),
    });
    if let Some(pin) = boot.serial_pin
        && pin.route(interrupt::SERIAL_VECTOR, processor.apic_id)
    {
        console::listen();
    }
    for number in 1..processors {
        hypervisor.kick(number);
    }
    hypervisor.start(processor);
    hypervisor.run(processor)
}

/// Every other processor.
pub fn run_application_processor(processor: &'static Processor) -> ! {
    PROCESSORS
        .lock()
        .push((processor.number, processor.apic_id));
    let hypervisor = loop {
        if let Some(hypervisor) = HYPERVISOR.get() {
            break hypervisor;
        }
        // The boot processor interrupts all when it is done.
        wait_for_interrupt();
    };
    enter_vmx(&hypervisor.capabilities);
    hypervisor.run(processor)
}

fn enter_vmx(capabilities: &Capabilities) {
    if let Err(error) = vmx_operation::enter(capabilities) {
        fail(Status::NoVtx, format_args!("{error}"));
    }
}

fn make_virtual_machine(
    boot: &mut Boot,
    configuration: &Configuration,
    capabilities: &Capabilities,
    features: FeatureSet,
    apic_ids: &[u32],
) -> VirtualMachine {
    let width = report::physical_address_width();
    let access_page = features
        .contains(Feature::VirtualizeApicAccesses)
        .then(AlignedPage::new);
    let memory = match MachineMemory::new(
        &mut boot.frames,
        configuration.memory_mib,
        capabilities.ept_vpid,
        access_page,
    ) {
        Ok(memory) => memory,
        Err(error) => {
            if let MachineError::NoMemory { mib, free_mib } = error {
                say!("#ph no-memory guest={mib} free={free_mib}");
            }
            fail(Status::Other, format_args!("{error}"))
        }
    };
    let Some((kernel, others)) = boot.information.modules.split_first() else {
        fail(
            Status::Other,
            format_args!("no guest: boot module 0 must be the guest's kernel"),
        )
    };
    let modules: Vec<firmware::boot::Module> = others
        .iter()
        .map(|module| firmware::boot::Module {
            bytes: module_bytes(module),
            command_line: &module.command_line,
        })
        .collect();
    let image = GuestImage {
        kernel: module_bytes(kernel),
        command_line: &kernel.command_line,
        modules: &modules,
    };
    let kind = vcpu_kind(configuration, features);
    let loaded = match load_guest(&memory.memory, &image, configuration.vcpus, kind) {
        Ok(loaded) => loaded,
        Err(error) => fail(Status::Other, format_args!("{error}")),
    };
    let destinations = apic_ids
        .iter()
        .map(|id| match local_apic::mode() {
            local_apic::Mode::X2apic => *id,
            local_apic::Mode::Xapic => {
                arch::posted_interrupt_descriptor::xapic_destination(*id as u8)
            }
        })
        .collect();
    let interrupts = match VmInterrupts::new(
        configuration.vcpus,
        PhysicalInterrupts::new(VECTORS, destinations),
        ApicIdSpace::Xapic,
        width,
    ) {
        Ok(interrupts) => interrupts,
        Err(error) => fail(Status::Other, format_args!("{error}")),
    };
    // Before any local APIC says what it takes.
    for (number, port) in (0u32..).zip(interrupts.ports()) {
        let descriptor = core::ptr::from_ref(port.descriptor()) as u64;
        let table = interrupts.ipi_virtualization();
        if let Err(error) = table.add_vcpu(number, descriptor) {
            fail(Status::Other, format_args!("{error}"));
        }
    }
    let mut vcpus = Vec::new();
    for number in 0..configuration.vcpus {
        let apic = ApicConfiguration {
            x2apic_id: number,
            processor: if number == 0 {
                ProcessorKind::Bootstrap
            } else {
                ProcessorKind::Application
            },
            physical_address_width: width,
            tsc_ticks_per_timer_count: tsc_ticks_per_timer_count(),
            shortest_timer_period: time::ticks(SHORTEST_TIMER_PERIOD),
            features: LocalApicFeatures {
                x2apic: configuration.apic == ApicOffer::X2apic,
                ..LocalApicFeatures::ALL
            },
        };
        let mut vcpu = VirtualProcessor::new(number, apic, apic_features(features));
        vcpu.pending_reset = Some(Start::StartUp { page: 0 });
        if number == 0 {
            vcpu.activity = Activity::Active;
            // Nobody sends yet.
            let _ = vcpu.apic.enter_virtual_wire_mode(&interrupts);
            vcpu.pending_reset = Some(Start::Loaded(loaded.entry));
            vcpu.registers.0[RAX] = u64::from(loaded.entry.eax);
            vcpu.registers.0[RBX] = u64::from(loaded.entry.ebx);
            vcpu.registers.0[RSI] = loaded.entry.rsi;
        }
        vcpus.push(vcpu);
    }
    let mut io_bitmap = IoBitmap::new();
    if boot.oem_id == *b"POSTHA" {
        // Phase marks are for the machine alone; a mark is a 32-bit OUT.
        (0xf5..=0xf8).for_each(|port| io_bitmap.pass(port));
    }
    VirtualMachine::new(memory, interrupts, vcpus, io_bitmap, read_time_stamp())
}

/// What the firmware's tables say of the vCPUs: what CPUID will.
fn vcpu_kind(configuration: &Configuration, features: FeatureSet) -> ProcessorDescription {
    let about = CpuidContext {
        apic_id: 0,
        vcpus: configuration.vcpus,
        apic: configuration.apic,
        apic_enabled: true,
        rdtscp: features.contains(Feature::Rdtscp),
        tsc_hz: time::tsc_hertz(),
        apic_timer_hz: apic_timer_hertz(),
    };
    let leaf = cpuid::answer(1, 0, &about, exits::cpuid::processor);
    ProcessorDescription {
        signature: leaf.eax,
        features: leaf.edx,
        local_apic_version: apic::local_apic::VERSION_NUMBER,
        io_apic_version: devices::pc::IO_APIC_VERSION.number(),
    }
}

/// The bytes of a boot module.
fn module_bytes(module: &ModuleLocation) -> &'static [u8] {
    // SAFETY: the loader put the module there, and the frame allocator has it reserved for good.
    unsafe { core::slice::from_raw_parts(module.address as *const u8, module.size as usize) }
}
