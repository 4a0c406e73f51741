//! The machine's processor, as software finds it at power-on.

use std::sync::Arc;

use apic::routing::Identity;
use arch::{msr, vmx_control};
use devices::pc::{PORTS, Pc};
use machine::cpu::cpuid::Leaf;
use machine::cpu::{Cpu, CpuModel, Processor};
use machine::memory::Ram;
use machine::platform::Platform;
use machine::schedule::{Clock, Share};
use posthaste_hypervisor::vmx::capability::Capabilities;
use posthaste_hypervisor::vmx::feature::{FeatureSet, judge};

use crate::msr_name;
use crate::table::{hex, range, table};

/// Processors of the machine that is looked at.
const PROCESSORS: u32 = 4;

/// Its first processor, of the default model, after reset.
pub(crate) fn processor() -> Processor {
    let identities = (0..PROCESSORS).map(Identity::at_reset).collect();
    let platform = Arc::new(Platform::new(
        Ram::new(1 << 20).unwrap(),
        identities,
        Pc::new(),
        Box::new(std::io::sink()),
    ));
    let clock = Clock::Deterministic(Share::ALONE);
    Processor::new(Cpu::new(0, platform, Arc::new(CpuModel::default()), clock))
}

/// EAX, EBX, ECX, EDX.
pub(crate) fn words(leaf: Leaf) -> [u32; 4] {
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

/// CPUID: leaves that do not read as zeros.
pub(crate) fn cpuid() -> String {
    let processor = processor();
    let ask = |leaf, subleaf| words(processor.cpu.cpuid(leaf, subleaf));
    let mut rows = Vec::new();
    let highest = ask(0, 0)[0];
    let highest_extended = ask(0x8000_0000, 0)[0];
    for leaf in (0..=highest).chain(0x8000_0000..=highest_extended) {
        for subleaf in 0..4 {
            let words = ask(leaf, subleaf);
            // A leaf without subleaves says the same in each.
            let is_new = subleaf == 0 || words != ask(leaf, 0) && words[..2] != [0, 0];
            if words != [0; 4] && is_new {
                let mut row = vec![format!("{}.{subleaf}", hex(leaf.into()))];
                row.extend(words.map(|word| hex(word.into())));
                rows.push(row);
            }
        }
    }
    table(&["leaf", "EAX", "EBX", "ECX", "EDX"], rows)
}

/// Every MSR in the ranges where processors have any, by trying; those of x2APIC mode are not there yet.
pub(crate) fn msrs() -> String {
    let mut processor = processor();
    let cpu = &mut processor.cpu;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut last = None;
    for index in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
        let value = cpu.read_msr(index).ok();
        // What is there may be read, or written with what it has.
        let writable = cpu.write_msr(index, value.unwrap_or(0)).is_ok();
        if value.is_none() && !writable {
            continue;
        }
        let (first, end, name) = msr_name::of(index);
        let access = match (value.is_some(), writable) {
            (true, true) => "read, write",
            (true, false) => "read",
            (false, _) => "write",
        };
        if last == Some(first) {
            continue;
        }
        last = Some(first);
        let at_reset = match value {
            Some(value) if first == end => hex(value),
            _ => String::new(),
        };
        rows.push(vec![
            range(first.into(), end.into()),
            name.to_owned(),
            access.to_owned(),
            at_reset,
        ]);
    }
    table(&["MSR", "name", "access", "at reset"], rows)
}

/// The features of VT-x that the hypervisor asks for.
pub(crate) fn vmx() -> String {
    let processor = std::cell::RefCell::new(processor());
    let capabilities = Capabilities::read(|index| {
        let mut processor = processor.borrow_mut();
        processor.cpu.read_msr(index).unwrap_or(0)
    });
    let rows = judge(&capabilities, FeatureSet::EMPTY).map(|verdict| {
        vec![
            verdict.row.name.to_owned(),
            if verdict.processor_has { "yes" } else { "no" }.to_owned(),
            verdict.row.purpose.to_owned(),
        ]
    });
    table(
        &["feature", "there", "what the hypervisor uses it for"],
        rows,
    )
}

/// The controls that may be 1, and those that the manual names and that may not.
pub(crate) fn controls() -> String {
    let mut processor = processor();
    let mut read = |index| processor.cpu.read_msr(index).unwrap();
    // SDM A.3 to A.5: bits 63:32 are the allowed 1-settings; of the tertiary controls all bits are.
    let allowed = |value: u64| value >> 32;
    let wide = |names: &[(u32, &'static str)]| -> Vec<(u64, &'static str)> {
        names
            .iter()
            .map(|(bit, name)| (u64::from(*bit), *name))
            .collect()
    };
    let vectors = [
        (
            "pin-based",
            allowed(read(msr::IA32_VMX_TRUE_PINBASED_CTLS)),
            wide(vmx_control::pin::NAMES),
        ),
        (
            "primary processor-based",
            allowed(read(msr::IA32_VMX_TRUE_PROCBASED_CTLS)),
            wide(vmx_control::primary::NAMES),
        ),
        (
            "secondary processor-based",
            allowed(read(msr::IA32_VMX_PROCBASED_CTLS2)),
            wide(vmx_control::secondary::NAMES),
        ),
        (
            "tertiary processor-based",
            read(msr::IA32_VMX_PROCBASED_CTLS3),
            vmx_control::tertiary::NAMES.to_vec(),
        ),
        (
            "VM-exit",
            allowed(read(msr::IA32_VMX_TRUE_EXIT_CTLS)),
            wide(vmx_control::exit::NAMES),
        ),
        (
            "VM-entry",
            allowed(read(msr::IA32_VMX_TRUE_ENTRY_CTLS)),
            wide(vmx_control::entry::NAMES),
        ),
    ];
    let rows = vectors.map(|(vector, allowed, names)| {
        let list = |there: bool| {
            let of_kind = names
                .iter()
                .filter(|(bit, _)| (allowed & bit != 0) == there);
            let names: Vec<&str> = of_kind.map(|(_, name)| *name).collect();
            names.join(", ")
        };
        vec![vector.to_owned(), list(true), list(false)]
    });
    table(&["controls", "there", "not there"], rows)
}

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
