//! The whole: from a booted machine to guests on processors.

use crate::host::boot_information::BootInformation;
use crate::host::frame_allocator::FrameAllocator;
use crate::host::processor::Processor;
use crate::host::shutdown::{self, Status};
use crate::host::{acpi, console, instructions, local_apic, time};
use crate::say;
use crate::vm::configuration::{Configuration, Switch};
use crate::vmx::capability::Capabilities;
use crate::vmx::feature::{self, Feature, FeatureSet};

/// What the image hands over.
#[derive(Debug)]
pub struct Boot {
    /// What the loader said.
    pub information: BootInformation,
    /// What ACPI says.
    pub platform: acpi::Platform,
    /// Free memory.
    pub frames: FrameAllocator,
}

/// Says where the hypervisor runs.
pub fn announce(boot: &Boot, tsc_source: time::Source) {
    say!(
        "posthaste {}: {} processors, {} MiB free, local APIC in {} mode, TSC {} MHz ({:?})",
        env!("CARGO_PKG_VERSION"),
        boot.platform.apic_ids.len(),
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

/// The boot processor, after `processors` processors answered.
pub fn run_boot_processor(boot: Boot, processor: &'static Processor, processors: u32) -> ! {
    let configuration = match Configuration::parse(&boot.information.command_line) {
        Ok(configuration) => configuration,
        Err(error) => {
            say!("posthaste: {error}");
            shutdown::stop(Status::Other)
        }
    };
    say!("processor {} of {processors}", processor.number);
    let capabilities = Capabilities::read(instructions::read_msr);
    let disabled = disabled_features(&configuration);
    console::with_writer(|out| {
        let _ = feature::write_table(out, &capabilities, disabled);
    });
    if let Some(verdict) = feature::missing_requirement(&capabilities) {
        say!(
            "posthaste: this processor's VT-x lacks {}, without which nothing can run here",
            verdict.row.name
        );
        shutdown::stop(Status::NoVtx)
    }
    shutdown::stop(Status::Other)
}

/// Every other processor.
pub fn run_application_processor(processor: &'static Processor) -> ! {
    say!(
        "processor {} has APIC ID {}",
        processor.number,
        processor.apic_id
    );
    instructions::halt_forever()
}
