//! What a guest of the hypervisor finds.

use devices::pc::PORTS;
use firmware::acpi::build::{DestinationRule, TableConfig, build};
use firmware::multiprocessor::{self, ProcessorDescription};
use posthaste_hypervisor::vm::cpuid::{Adjustment, POLICY as CPUID, Source};
use posthaste_hypervisor::vm::guest_image;
use posthaste_hypervisor::vm::memory::MemoryLayout;
use posthaste_hypervisor::vm::msr::{Access, POLICY as MSRS, Register};

use crate::msr_name;
use crate::table::{hex, range, table};

/// The ports.
pub(crate) fn ports() -> String {
    table(
        &["ports", "device", "what"],
        PORTS.iter().map(|ports| {
            vec![
                range(ports.first.into(), ports.last.into()),
                ports.device.to_owned(),
                ports.what.to_owned(),
            ]
        }),
    )
}

/// What E820 would say of 64 MiB and of 5 GiB.
pub(crate) fn memory_map() -> String {
    let mut rows = Vec::new();
    for (size, name) in [(64_u64 << 20, "64 MiB"), (5 << 30, "5 GiB")] {
        for region in guest_image::memory_map(MemoryLayout::new(size)) {
            let kind = match region.kind {
                arch::pvh::MEMORY_RAM => "RAM",
                arch::pvh::MEMORY_RESERVED => "reserved",
                arch::pvh::MEMORY_ACPI => "ACPI tables, reclaimable",
                other => panic!("an unknown kind of memory: {other}"),
            };
            rows.push(vec![
                name.to_owned(),
                range(region.address, region.address + region.size - 1),
                kind.to_owned(),
            ]);
        }
    }
    table(&["a guest with", "guest-physical addresses", "is"], rows)
}

/// The firmware's tables of a guest with two vCPUs.
pub(crate) fn firmware_tables() -> String {
    let tables = build(&TableConfig {
        destinations: DestinationRule::ForcePhysical,
        ..TableConfig::posthaste(&[0, 1])
    })
    .unwrap();
    let bytes = |address: u64, length: usize| -> &[u8] {
        let start = usize::try_from(address - tables.base).unwrap();
        &tables.bytes[start..start + length]
    };
    let number = |address: u64, length: usize| -> u64 {
        let bytes = bytes(address, length).iter().rev();
        bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let rsdp = tables.base;
    let (rsdt, xsdt) = (number(rsdp + 16, 4), number(rsdp + 24, 8));
    let entries = (number(xsdt + 4, 4) - 36) / 8;
    let mut addresses = vec![rsdt, xsdt];
    addresses.extend((0..entries).map(|entry| number(xsdt + 36 + entry * 8, 8)));
    let fixed = addresses
        .iter()
        .copied()
        .find(|address| bytes(*address, 4) == b"FACP")
        .unwrap();
    addresses.extend([number(fixed + 36, 4), number(fixed + 40, 4)]);
    assert_ne!(
        number(fixed + 112, 4) & 1 << 19,
        0,
        "no physical destinations"
    );
    let mut rows = vec![vec![
        "RSD PTR".to_owned(),
        hex(rsdp),
        "the root pointer, where software finds it by searching, by PVH and by multiboot2"
            .to_owned(),
    ]];
    for address in addresses {
        let signature = std::str::from_utf8(bytes(address, 4)).unwrap();
        let what = match signature {
            "RSDT" | "XSDT" => "the list of tables",
            "FACP" => {
                "PM timer of 32 bits, SCI 9, reset by CF9H, the alarm of the real-time clock in PM1, neither VGA nor keyboard controller; physical \
                 destination mode is forced, so that IPIs are of the kind that is virtualized"
            }
            "APIC" => {
                "a local APIC for each vCPU, one I/O APIC; IRQ 0 is pin 2, IRQ 9 level-triggered"
            }
            "DSDT" => "processors, serial port, the sleep state S5",
            "FACS" => "what a FADT must point to",
            other => panic!("a table that nobody has described: {other}"),
        };
        rows.push(vec![signature.to_owned(), hex(address), what.to_owned()]);
    }
    let kind = ProcessorDescription {
        signature: 0,
        features: 0,
        local_apic_version: apic::local_apic::VERSION_NUMBER,
        io_apic_version: devices::pc::IO_APIC_VERSION.number(),
    };
    let bytes = multiprocessor::build(&TableConfig::posthaste(&[0, 1]), kind);
    assert!(bytes.starts_with(b"_MP_") && bytes[16..].starts_with(b"PCMP"));
    rows.push(vec![
        "\\_MP\\_".to_owned(),
        hex(multiprocessor::BASE),
        "Intel's MultiProcessor floating pointer structure, for kernels that do not know ACPI"
            .to_owned(),
    ]);
    rows.push(vec![
        "PCMP".to_owned(),
        hex(multiprocessor::BASE + 16),
        "their configuration table: the processors, I/O APIC and interrupts of the APIC table, the 8259s at \
         LINT0 of the bootstrap processor, NMI at LINT1"
            .to_owned(),
    ]);
    table(&["table", "address", "what it says"], rows)
}

/// How one register of a leaf comes about.
fn source(source: Source) -> String {
    match source {
        Source::Processor(u32::MAX) => "the processor's".to_owned(),
        Source::Processor(mask) => format!("the processor's & {}", hex(mask.into())),
        Source::Constant(value) => {
            let bytes = value.to_le_bytes();
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            let is_text = bytes[0].is_ascii_alphabetic()
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_graphic() || *byte == 0);
            if is_text {
                format!("\"{}\"", text.trim_end_matches('\0'))
            } else if value == 0 {
                "0".to_owned()
            } else {
                hex(value.into())
            }
        }
    }
}

/// What is computed besides.
fn adjustment(adjustment: Adjustment) -> String {
    match adjustment {
        Adjustment::None => String::new(),
        Adjustment::HighestLeaf(highest) => {
            format!("; EAX is at most {}", hex(highest.into()))
        }
        Adjustment::Features => {
            "; EBX has the APIC ID and the number of vCPUs; x2APIC, TSC-deadline and the hypervisor bit are \
             set, the APIC bit follows IA32_APIC_BASE"
                .to_owned()
        }
        Adjustment::CacheSharing => "; as many cores as vCPUs, nobody shares a cache".to_owned(),
        Adjustment::StructuredFeatures | Adjustment::ExtendedFeatures => {
            "; RDTSCP and RDPID need their VM-execution control".to_owned()
        }
        Adjustment::Topology => "; SMT and core level, the x2APIC ID in EDX".to_owned(),
        Adjustment::TimeStampCounter => "; denominator, numerator, crystal".to_owned(),
        Adjustment::Frequency => "; in MHz".to_owned(),
    }
}

/// CPUID leaf by leaf.
pub(crate) fn cpuid() -> String {
    let rows = CPUID.iter().map(|line| {
        let leaf = match line.subleaf {
            Some(subleaf) => format!("{}.{subleaf}", hex(line.leaf.into())),
            None => hex(line.leaf.into()),
        };
        let mut row = vec![leaf];
        row.extend(line.sources.map(source));
        row.push(format!("{}{}", line.reason, adjustment(line.adjustment)));
        row
    });
    table(&["leaf", "EAX", "EBX", "ECX", "EDX", "why"], rows)
}

/// What an access to an MSR does.
fn access(access: Access) -> String {
    match access {
        Access::PassThrough => "no exit".to_owned(),
        Access::Emulated(register) => {
            let by = match register {
                Register::ApicBase => "the virtual APIC",
                Register::TscDeadline => "the virtual APIC's timer",
                Register::TimeStampCounter => "the TSC offset",
                Register::Efer | Register::Pat => "the guest state, checked",
                Register::MemoryType => "a register that does nothing",
            };
            by.to_owned()
        }
        Access::Constant(0) => "0".to_owned(),
        Access::Constant(value) => hex(value),
        Access::Ignored => "ignored".to_owned(),
        Access::Only(value) => format!("{} is ignored, else #GP", hex(value)),
        Access::Fault => "#GP".to_owned(),
    }
}

/// The MSRs.
pub(crate) fn msrs() -> String {
    let rows = MSRS.iter().map(|line| {
        vec![
            range(line.first.into(), line.last.into()),
            msr_name::of(line.first).2.to_owned(),
            access(line.read),
            access(line.write),
            line.reason.to_owned(),
        ]
    });
    table(&["MSR", "name", "RDMSR", "WRMSR", "why"], rows)
}
