//! The whole: from a booted machine to guests on processors.
#![allow(unsafe_code, reason = "hands vCPUs to processors")]

pub mod report;
pub mod virtual_machine;
pub mod vmx_operation;

use self::virtual_machine::{Line, MachineMemory, VirtualMachine};
use crate::host::aligned_page::AlignedPage;
use crate::host::frame_allocator::FrameAllocator;
use crate::host::instructions::{halt_forever, read_time_stamp, wait_for_interrupt};
use crate::host::processor::{Processor, note};
use crate::host::shutdown::{self, Status};
use crate::host::{console, instructions, local_apic, time};
use crate::interrupts::blocking::{
    SleepOutcome, handle_deadlines, handle_wakeup_vector, next_deadline,
};
use crate::interrupts::ipi_dispatch::IpiDispatcher;
use crate::interrupts::ipi_virtualization::Inhibition;
use crate::interrupts::physical_interrupts::{PhysicalInterrupts, VECTORS};
use crate::interrupts::posting::{Sender, Signal};
use crate::interrupts::vcpu_port::{NO_DEADLINE, VcpuPort};
use crate::interrupts::vm_interrupts::VmInterrupts;
use crate::say;
use crate::scheduler::{Departure, PlacementAction, ProcessorNumber, Scheduler, VcpuSlot};
use crate::vcpu::guest_state::Start;
use crate::vcpu::run::{self, Failure, Leave};
use crate::vcpu::virtual_processor::{Activity, VirtualProcessor};
use crate::vm::configuration::{
    ApicOffer, Configuration, NotificationSuppression, Sabotage, Switch,
};
use crate::vm::devices::{AccessContext, PlatformEffect, Presence};
use crate::vm::guest_image::{GuestImage, load_guest};
use crate::vmx::capability::Capabilities;
use crate::vmx::control_plan::apic_features;
use crate::vmx::feature::{self, Feature, FeatureSet};
use crate::vmx::instructions::RAX;
use crate::vmx::instructions::RBX;
use crate::vmx::instructions::RSI;
use crate::vmx::io_bitmap::IoBitmap;
use crate::vmx::vmcs::{Vmcs, VmxError};
use alloc::boxed::Box;
use alloc::vec::Vec;
use apic::apic_base::Processor as ProcessorKind;
use apic::local_apic::{Configuration as ApicConfiguration, Features as LocalApicFeatures};
use apic::pid_pointer_table::ApicIdSpace;
use apic::posted_interrupt::Notification;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, Ordering};
use firmware::boot::information::{BootInformation, ModuleLocation};
use spin::{Mutex, Once};

/// Length of a time slice in nanoseconds: short, for a guest that spins waits for a vCPU that may
/// have to be scheduled first.
const SLICE: u64 = 100_000;
/// How long a processor with the preemption timer goes without a look at its queue, in nanoseconds.
const LOOK_AROUND: u64 = 1_000_000;

/// What the image hands over.
#[derive(Debug)]
pub struct Boot {
    /// What the loader said.
    pub information: BootInformation,
    /// APIC IDs of the processors that can be started.
    pub apic_ids: Vec<u32>,
    /// Who made the platform, from the ACPI root pointer.
    pub oem_id: [u8; 6],
    /// Free memory.
    pub frames: FrameAllocator,
}

/// How a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest wrote this to port F4H.
    GuestExit(u8),
    /// The guest switched its machine off.
    PowerOff,
    /// The guest reset its machine, as Linux does after a panic.
    Reset,
    /// The guest did what ends it: a triple fault, an access that nothing can emulate.
    GuestCrashed,
}

impl Ending {
    const fn encode(self) -> u32 {
        match self {
            Self::GuestExit(status) => status as u32,
            Self::PowerOff => 0x100,
            Self::GuestCrashed => 0x101,
            Self::Reset => 0x102,
        }
    }

    const fn decode(code: u32) -> Self {
        match code {
            0x100 => Self::PowerOff,
            0x101 => Self::GuestCrashed,
            0x102 => Self::Reset,
            status => Self::GuestExit(status as u8),
        }
    }
}

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// IN.
    In,
    /// OUT of this value.
    Out(u32),
}

/// The hypervisor, once everything is set up.
#[derive(Debug)]
pub struct Hypervisor {
    /// What the command line asks for.
    pub configuration: Configuration,
    /// What the processor offers.
    pub capabilities: Capabilities,
    /// What is in use of it.
    pub features: FeatureSet,
    /// The virtual machine.
    pub vm: VirtualMachine,
    scheduler: Mutex<Scheduler>,
    /// Physical APIC IDs by processor number.
    processors: Box<[u32]>,
    /// Processors that have left the run loop for good.
    finished: AtomicU32,
}

/// Set when every processor may start to run vCPUs.
static HYPERVISOR: Once<Hypervisor> = Once::new();
/// Physical APIC IDs by processor number, as the processors come up.
static PROCESSORS: Mutex<Vec<(u32, u32)>> = Mutex::new(Vec::new());

/// Frequency of a guest's APIC timer before its divider, in Hz.
pub fn apic_timer_hertz() -> u64 {
    let ticks = u64::from(tsc_ticks_per_timer_count().get());
    time::tsc_hertz() / ticks
}

/// TSC ticks to one tick of the guest's APIC timer: about 100 MHz.
fn tsc_ticks_per_timer_count() -> NonZeroU32 {
    let ratio = (time::tsc_hertz() / 100_000_000).clamp(1, 1000) as u32;
    NonZeroU32::new(ratio).unwrap_or(NonZeroU32::MIN)
}

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
        core::hint::spin_loop();
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
        Err(error) => fail(Status::Other, format_args!("{error}")),
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
    let loaded = match load_guest(&memory.memory, &image, configuration.vcpus) {
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
    let inhibitions: &[Inhibition] = if features.contains(Feature::IpiVirtualization) {
        &[]
    } else if configuration.ipi_virtualization() == Switch::Off {
        &[Inhibition::SwitchedOff]
    } else {
        &[Inhibition::Unsupported]
    };
    let interrupts = match VmInterrupts::new(
        configuration.vcpus,
        PhysicalInterrupts::new(VECTORS, destinations),
        ApicIdSpace::Xapic,
        width,
        inhibitions,
    ) {
        Ok(interrupts) => interrupts,
        Err(error) => fail(Status::Other, format_args!("{error}")),
    };
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
            features: LocalApicFeatures {
                x2apic: configuration.apic == ApicOffer::X2apic,
                ..LocalApicFeatures::ALL
            },
        };
        let mut vcpu = VirtualProcessor::new(number, apic, apic_features(features));
        vcpu.pending_reset = Some(Start::StartUp { page: 0 });
        if number == 0 {
            vcpu.activity = Activity::Active;
            vcpu.pending_reset = Some(Start::Loaded(loaded.entry));
            vcpu.registers.0[RSI] = loaded.entry.rsi;
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
    let vm = VirtualMachine::new(memory, interrupts, vcpus, io_bitmap, read_time_stamp());
    for (number, port) in (0u32..).zip(vm.interrupts.ports()) {
        let descriptor = core::ptr::from_ref(port.descriptor()) as u64;
        if let Err(error) = vm
            .interrupts
            .ipi_virtualization()
            .add_vcpu(number, descriptor)
        {
            fail(Status::Other, format_args!("{error}"));
        }
    }
    vm
}

/// The bytes of a boot module.
fn module_bytes(module: &ModuleLocation) -> &'static [u8] {
    // SAFETY: the loader put the module there, and the frame allocator has it reserved for good.
    unsafe { core::slice::from_raw_parts(module.address as *const u8, module.size as usize) }
}

impl Hypervisor {
    /// Whether a control is to be wrong on purpose.
    pub fn sabotage(&self) -> bool {
        self.configuration.sabotage == Some(Sabotage::IllegalControl)
    }

    /// Whether notifications are suppressed while a vCPU's processor is in root mode.
    pub fn suppresses_in_root(&self) -> bool {
        self.configuration.notification_suppression == NotificationSuppression::WhileInRoot
    }

    fn port_of(&self, slot: u32) -> Option<&VcpuPort> {
        self.vm.interrupts.port(slot)
    }

    fn context<'a>(&'a self, processor: &Processor) -> AccessContext<'a> {
        AccessContext {
            vm: &self.vm.interrupts,
            sender: Sender {
                processor: processor.number,
            },
            now: self.device_time(),
        }
    }

    /// Nanoseconds since the virtual machine was made.
    fn device_time(&self) -> u64 {
        time::nanoseconds(read_time_stamp().wrapping_sub(self.vm.start_time))
    }

    /// Makes the bootstrap vCPU ready.
    fn start(&self, processor: &Processor) {
        if let Some(port) = self.port_of(0) {
            let _ = port.start();
            self.queue(0, processor);
        }
    }

    /// Does what a sender has to do.
    #[inline]
    pub fn signal(&self, signal: Signal, processor: &Processor) {
        match signal {
            Signal::None => {}
            Signal::Send(notification) => send(notification),
            Signal::Queue(slot) => self.queue(slot, processor),
        }
    }

    /// A vCPU can run: gives it to a processor.
    fn queue(&self, slot: u32, processor: &Processor) {
        let placement = self.scheduler.lock().make_ready(VcpuSlot(slot));
        let Ok(placement) = placement else {
            // Only its own processor or its waker brings a vCPU back, and there is one of them.
            return;
        };
        if placement.action == PlacementAction::Interrupt {
            if placement.processor.0 == processor.number {
                processor.note_timer();
            } else {
                self.kick(placement.processor.0);
            }
        }
    }

    fn kick(&self, processor: u32) {
        send(self.vm.interrupts.around().host.kick(processor));
    }

    /// The virtual machine ends: every processor leaves its vCPU.
    pub fn end(&self, ending: Ending) {
        if self.vm.begin_ending(ending.encode()) {
            for number in 0..self.processors.len() as u32 {
                self.kick(number);
            }
        }
    }

    /// Makes every vCPU look at its controls again.
    pub fn refresh_every_vcpu(&self, processor: &Processor) {
        let sender = Sender {
            processor: processor.number,
        };
        for port in self.vm.interrupts.ports() {
            let signal = self.vm.interrupts.around().demand_attention(port, sender);
            self.signal(signal, processor);
        }
    }

    /// What an effect of a device asks for.
    fn act(&self, effect: PlatformEffect, line: &mut Line, processor: &Processor) {
        match effect {
            PlatformEffect::Signal(signal) => self.signal(signal, processor),
            PlatformEffect::Console(byte) => {
                if line.push(byte, self.device_time()) {
                    // Somebody has to look when it gets old.
                    self.note_device_timer(processor);
                }
            }
            PlatformEffect::PowerOff => self.end(Ending::PowerOff),
            PlatformEffect::Reset(_) => self.end(Ending::Reset),
            PlatformEffect::Exit(status) => self.end(Ending::GuestExit(status as u8)),
            PlatformEffect::Mark(_) => {}
        }
    }

    /// An IN or OUT of the guest.
    pub fn port_access(
        &self,
        port: u16,
        size: u8,
        direction: Direction,
        _dispatcher: &mut IpiDispatcher,
        processor: &Processor,
    ) -> u32 {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let context = self.context(processor);
        let line = &mut devices.line;
        let act = |effect| self.act(effect, line, processor);
        let value = match direction {
            Direction::In => devices.platform.io_read(context, port, size, act),
            Direction::Out(value) => {
                devices.platform.io_write(context, port, size, value, act);
                0
            }
        };
        // A timer may have been programmed: the boot processor keeps their time.
        if matches!(port, 0x40..=0x43 | 0x61 | 0x600..=0x60f) {
            self.note_device_timer(processor);
        }
        value
    }

    fn note_device_timer(&self, processor: &Processor) {
        if processor.number == 0 {
            processor.note_timer();
        } else {
            self.kick(0);
        }
    }

    /// A read of the I/O APIC.
    pub fn io_apic_read(&self, offset: u64) -> u32 {
        let address = devices::io_apic::DEFAULT_ADDRESS + offset;
        self.vm
            .devices
            .lock()
            .platform
            .mmio_read(address)
            .unwrap_or(u32::MAX)
    }

    /// A write of the I/O APIC.
    pub fn io_apic_write(
        &self,
        offset: u64,
        value: u32,
        _dispatcher: &mut IpiDispatcher,
        processor: &Processor,
    ) {
        let address = devices::io_apic::DEFAULT_ADDRESS + offset;
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        match devices.platform.mmio_write(context, address, value, act) {
            Presence::Device | Presence::NoDevice => {}
        }
    }

    /// The end of a level-triggered interrupt, for the I/O APIC.
    pub fn end_of_interrupt(
        &self,
        vector: u8,
        _dispatcher: &mut IpiDispatcher,
        processor: &Processor,
    ) {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        devices.platform.end_of_interrupt(context, vector, act);
    }

    /// The vCPU takes the 8259's interrupt: its vector.
    pub fn acknowledge_external_interrupt(&self, processor: &Processor) -> u8 {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        devices
            .platform
            .acknowledge_external_interrupt(context, act)
    }

    /// Looks at what interrupts have noted, with a vCPU loaded; `Some` if it has to leave.
    #[cold]
    #[inline(never)]
    pub fn service(
        &self,
        vcpu: &mut VirtualProcessor,
        vmcs: &mut impl Vmcs,
        processor: &Processor,
    ) -> Result<Option<Leave>, VmxError> {
        let notes = processor.take_notes();
        if self.vm.is_ending() {
            return Ok(Some(Leave::Ending));
        }
        if notes & note::WAKEUP != 0 {
            self.wake_up(processor);
        }
        let now = read_time_stamp();
        let own = vcpu
            .apic
            .expire(now.wrapping_add(vcpu.tsc_offset))
            .map(|deadline| deadline.wrapping_sub(vcpu.tsc_offset));
        let shared = self.service_timers(processor, now);
        let number = ProcessorNumber(processor.number);
        let scheduler = self.scheduler.lock();
        if scheduler.slice_is_over(number, now) {
            return Ok(Some(Leave::Preempted));
        }
        let slice = scheduler.slice_end(number);
        drop(scheduler);
        let slice = self.arm_preemption_timer(slice, now, vmcs)?;
        time::arm([own, shared, slice].into_iter().flatten().min());
        Ok(None)
    }

    /// Lets the VMX-preemption timer end the time slice, if it is in use; gives back what is left for
    /// the processor's own timer to do.
    fn arm_preemption_timer(
        &self,
        slice: Option<u64>,
        now: u64,
        vmcs: &mut impl Vmcs,
    ) -> Result<Option<u64>, VmxError> {
        if !self.features.contains(Feature::PreemptionTimer) {
            return Ok(slice);
        }
        // Somebody may be queued behind this vCPU later, and the kick that says so may come late:
        // Bochs 2.7 holds external interrupts back while a guest that was entered with IF = 0 does not
        // change it. So look around now and then in any case.
        let end = slice.unwrap_or_else(|| now.saturating_add(time::ticks(LOOK_AROUND)));
        // SDM 26.5.1: it counts down by 1 each time this bit of the TSC changes.
        let shift = self.capabilities.preemption_timer_shift();
        let count = (end.saturating_sub(now) >> shift) + 1;
        vmcs.write(
            arch::vmcs::PREEMPTION_TIMER_VALUE,
            u32::try_from(count).unwrap_or(u32::MAX),
        )?;
        Ok(None)
    }

    /// The wakeup vector came.
    fn wake_up(&self, processor: &Processor) {
        let around = self.vm.interrupts.around();
        handle_wakeup_vector(
            processor.number,
            &around.lists,
            &around.host,
            |slot| self.port_of(slot),
            |slot| self.queue(slot, processor),
        );
    }

    /// Timers that do not belong to the vCPU that runs: of vCPUs that sleep here, and the devices' on
    /// the boot processor. When to look again.
    fn service_timers(&self, processor: &Processor, now: u64) -> Option<u64> {
        let around = self.vm.interrupts.around();
        handle_deadlines(
            processor.number,
            now,
            &around.lists,
            &around.host,
            |slot| self.port_of(slot),
            |slot| self.queue(slot, processor),
        );
        let sleeping = next_deadline(processor.number, &around.lists, |slot| self.port_of(slot));
        let sleeping = (sleeping != NO_DEADLINE).then_some(sleeping);
        if processor.number != 0 {
            return sleeping;
        }
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        devices.platform.advance(context, act);
        let next = [
            devices.platform.next_event(context.now),
            devices.line.advance(context.now),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| now.saturating_add(time::ticks(at.saturating_sub(context.now)).max(1)));
        [sleeping, next].into_iter().flatten().min()
    }

    /// What a processor does for ever.
    pub fn run(&self, processor: &'static Processor) -> ! {
        let number = ProcessorNumber(processor.number);
        let mut loaded: Option<u32> = None;
        // Look at the timers first.
        processor.note_timer();
        loop {
            if self.vm.is_ending() {
                self.finish(processor)
            }
            let picked = self.scheduler.lock().pick(number, read_time_stamp());
            let Ok(Some(slot)) = picked else {
                self.idle(processor);
                continue;
            };
            if let Err((slot, failure)) = self.run_vcpu(slot.0, &mut loaded, processor) {
                self.fail(slot, &failure, processor)
            }
        }
    }

    /// Nothing to run: looks at the notes, or waits for an interrupt.
    fn idle(&self, processor: &Processor) {
        let notes = processor.take_notes();
        if notes & note::WAKEUP != 0 {
            self.wake_up(processor);
        }
        if notes != 0 {
            let deadline = self.service_timers(processor, read_time_stamp());
            time::arm(deadline);
            return;
        }
        wait_for_interrupt();
    }

    /// Runs vCPU `slot` until it leaves.
    fn run_vcpu(
        &self,
        slot: u32,
        loaded: &mut Option<u32>,
        processor: &'static Processor,
    ) -> Result<(), (u32, Failure)> {
        let number = ProcessorNumber(processor.number);
        let around = self.vm.interrupts.around();
        // SAFETY: the scheduler has just given it to this processor.
        let vcpu = unsafe { self.vm.vcpu(slot) };
        let (Some(vcpu), Some(port)) = (vcpu, self.port_of(slot)) else {
            return Ok(());
        };
        let failed = |failure| (slot, failure);
        if *loaded != Some(slot) {
            run::load(vcpu, self, processor).map_err(failed)?;
            *loaded = Some(slot);
        }
        // Whatever was posted meanwhile is received before the entry.
        let _ = port.load(processor.number, &around.host);
        processor.note_timer();
        let leave = run::run(vcpu, port, self, processor).map_err(failed)?;
        let deadline = vcpu
            .apic
            .apic()
            .timer_deadline()
            .map_or(NO_DEADLINE, |due| due.wrapping_sub(vcpu.tsc_offset));
        // A vCPU with a processor of its own stays loaded there.
        if !self.is_pinned() {
            run::unload(vcpu, processor).map_err(failed)?;
            *loaded = None;
        }
        port.set_deadline(deadline);
        processor.note_timer();
        let mut scheduler = self.scheduler.lock();
        // From here on another processor may have the vCPU.
        let outcome = match leave {
            Leave::Ending => return Ok(()),
            Leave::Preempted => {
                port.preempt();
                let _ = scheduler.depart(number, Departure::Preempted);
                return Ok(());
            }
            // The scheduler's lock keeps a waker from queueing it before it has departed.
            Leave::Sleep(wake_on) => {
                let _ = scheduler.depart(number, Departure::Waiting);
                port.block(processor.number, wake_on, &around.lists, &around.host)
            }
            Leave::WaitForSipi => {
                let _ = scheduler.depart(number, Departure::Waiting);
                port.wait_for_sipi(processor.number, &around.host)
            }
        };
        if outcome == SleepOutcome::Resume {
            // It was never off this processor; the next pick finds it.
            let _ = scheduler.make_ready(VcpuSlot(slot));
        }
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.vm.vcpu_count() as usize <= self.processors.len()
    }

    /// The end of this processor's work. The boot processor reports when all have come here.
    fn finish(&self, processor: &Processor) -> ! {
        self.finished.fetch_add(1, Ordering::AcqRel);
        if processor.number != 0 {
            halt_forever()
        }
        for _ in 0..1000 {
            if self.finished.load(Ordering::Acquire) as usize == self.processors.len() {
                break;
            }
            time::spin(1_000_000);
        }
        self.vm.devices.lock().line.finish();
        report::exits(self);
        let (status, end) = match self.vm.ending().map(Ending::decode) {
            Some(Ending::GuestExit(status)) => {
                say!("#ph guest-exit status={status}");
                match status {
                    0x10 => (Status::GuestSucceeded, "guest-exit"),
                    0x11 => (Status::GuestFailed, "guest-exit"),
                    _ => (Status::Other, "guest-exit"),
                }
            }
            Some(Ending::PowerOff) => (Status::GuestSucceeded, "guest-power-off"),
            Some(Ending::Reset) => {
                say!("posthaste: the guest reset its machine");
                (Status::Other, "guest-reset")
            }
            Some(Ending::GuestCrashed) | None => (Status::Other, "guest-crashed"),
        };
        say!("#ph stop reason={end}");
        shutdown::stop(status)
    }

    /// An entry failed, or a VMX instruction did: says everything and stops.
    fn fail(&self, vcpu: u32, failure: &Failure, processor: &Processor) -> ! {
        // The first to fail reports.
        if !self.vm.begin_ending(Ending::GuestCrashed.encode()) {
            halt_forever()
        }
        report::dump_vmcs(vcpu, processor.number, failure);
        say!("#ph stop reason=entry-failure");
        shutdown::stop(Status::EntryFailure)
    }
}

/// Sends a physical interrupt.
#[inline]
fn send(notification: Notification) {
    // NDST has an xAPIC's ID in bits 15:8.
    let destination = match local_apic::mode() {
        local_apic::Mode::X2apic => notification.destination,
        local_apic::Mode::Xapic => notification.destination >> 8,
    };
    local_apic::send(destination, u32::from(notification.vector));
}
