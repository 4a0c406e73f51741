//! The features that CPUID names: what the machine's processor has, and what its guest is shown.

use posthaste_hypervisor::vm::configuration::ApicOffer;
use posthaste_hypervisor::vm::cpuid::{CpuidContext, CpuidRegisters, answer};

use crate::machine_processor;
use crate::table::{hex, table};

/// Registers in the order in which CPUID's table has them.
const ECX: usize = 2;
const EDX: usize = 3;
const EBX: usize = 1;

/// Leaf, register, bit and name (SDM volume 2, CPUID). What neither side ever shows is here as well, if
/// software often asks for it.
const FEATURES: &[(u32, usize, u32, &str)] = &[
    (1, EDX, 0, "FPU"),
    (1, EDX, 1, "VME"),
    (1, EDX, 2, "DE"),
    (1, EDX, 3, "PSE"),
    (1, EDX, 4, "TSC"),
    (1, EDX, 5, "MSR"),
    (1, EDX, 6, "PAE"),
    (1, EDX, 7, "MCE"),
    (1, EDX, 8, "CX8"),
    (1, EDX, 9, "APIC"),
    (1, EDX, 11, "SEP"),
    (1, EDX, 12, "MTRR"),
    (1, EDX, 13, "PGE"),
    (1, EDX, 14, "MCA"),
    (1, EDX, 15, "CMOV"),
    (1, EDX, 16, "PAT"),
    (1, EDX, 17, "PSE-36"),
    (1, EDX, 19, "CLFSH"),
    (1, EDX, 21, "DS"),
    (1, EDX, 23, "MMX"),
    (1, EDX, 24, "FXSR"),
    (1, EDX, 25, "SSE"),
    (1, EDX, 26, "SSE2"),
    (1, EDX, 28, "HTT"),
    (1, ECX, 0, "SSE3"),
    (1, ECX, 1, "PCLMULQDQ"),
    (1, ECX, 3, "MONITOR"),
    (1, ECX, 5, "VMX"),
    (1, ECX, 9, "SSSE3"),
    (1, ECX, 12, "FMA"),
    (1, ECX, 13, "CMPXCHG16B"),
    (1, ECX, 17, "PCID"),
    (1, ECX, 19, "SSE4.1"),
    (1, ECX, 20, "SSE4.2"),
    (1, ECX, 21, "x2APIC"),
    (1, ECX, 22, "MOVBE"),
    (1, ECX, 23, "POPCNT"),
    (1, ECX, 24, "TSC-Deadline"),
    (1, ECX, 25, "AESNI"),
    (1, ECX, 26, "XSAVE"),
    (1, ECX, 27, "OSXSAVE"),
    (1, ECX, 28, "AVX"),
    (1, ECX, 30, "RDRAND"),
    (1, ECX, 31, "hypervisor"),
    (7, EBX, 0, "FSGSBASE"),
    (7, EBX, 1, "TSC_ADJUST"),
    (7, EBX, 3, "BMI1"),
    (7, EBX, 5, "AVX2"),
    (7, EBX, 6, "FDP_EXCPTN_ONLY"),
    (7, EBX, 7, "SMEP"),
    (7, EBX, 8, "BMI2"),
    (7, EBX, 9, "ERMS"),
    (7, EBX, 10, "INVPCID"),
    (7, EBX, 11, "RTM"),
    (7, EBX, 13, "FPU CS and DS deprecated"),
    (7, EBX, 18, "RDSEED"),
    (7, EBX, 19, "ADX"),
    (7, EBX, 20, "SMAP"),
    (7, EBX, 23, "CLFLUSHOPT"),
    (7, EBX, 24, "CLWB"),
    (7, EBX, 29, "SHA"),
    (7, ECX, 2, "UMIP"),
    (7, ECX, 3, "PKU"),
    (7, ECX, 16, "LA57"),
    (7, ECX, 22, "RDPID"),
    (7, EDX, 4, "FSRM"),
    (7, EDX, 5, "UINTR"),
    (7, EDX, 14, "SERIALIZE"),
    (7, EDX, 26, "IBRS and IBPB"),
    (7, EDX, 27, "STIBP"),
    (7, EDX, 29, "IA32_ARCH_CAPABILITIES"),
    (7, EDX, 31, "SSBD"),
    (0x8000_0001, ECX, 0, "LAHF/SAHF in 64-bit mode"),
    (0x8000_0001, ECX, 5, "LZCNT"),
    (0x8000_0001, ECX, 8, "PREFETCHW"),
    (0x8000_0001, EDX, 11, "SYSCALL"),
    (0x8000_0001, EDX, 20, "execute disable"),
    (0x8000_0001, EDX, 26, "1-GByte pages"),
    (0x8000_0001, EDX, 27, "RDTSCP"),
    (0x8000_0001, EDX, 29, "64-bit mode"),
    (0x8000_0007, EDX, 8, "invariant TSC"),
];

/// A guest with two vCPUs, everything on.
const CONTEXT: CpuidContext = CpuidContext {
    apic_id: 0,
    vcpus: 2,
    apic: ApicOffer::X2apic,
    apic_enabled: true,
    rdtscp: true,
    tsc_hz: 1_000_000_000,
    apic_timer_hz: 100_000_000,
};

/// A processor whose leaves all read as `value`, but for the highest ones.
fn processor(value: u32) -> impl Fn(u32, u32) -> CpuidRegisters {
    move |leaf, _| CpuidRegisters {
        eax: match leaf {
            0 => 0x1f,
            0x8000_0000 => 0x8000_0008,
            _ => value,
        },
        ebx: value,
        ecx: value,
        edx: value,
    }
}

fn words(registers: CpuidRegisters) -> [u32; 4] {
    [registers.eax, registers.ebx, registers.ecx, registers.edx]
}

/// Every feature, on the machine and for a guest.
pub(crate) fn guest_and_machine() -> String {
    let machine = machine_processor::processor();
    // What no name tells must not be shown either.
    for leaf in [1, 7, 0x8000_0001, 0x8000_0007] {
        let shown = words(answer(leaf, 0, &CONTEXT, processor(u32::MAX)));
        let has = machine_processor::words(machine.cpu.cpuid(leaf, 0));
        for register in [EBX, ECX, EDX] {
            // Leaf 1 EBX has numbers, leaf 1 EDX bits that say nothing.
            let unnamed = |value: u32| {
                let named = FEATURES
                    .iter()
                    .filter(|(l, r, _, _)| (*l, *r) == (leaf, register));
                named.fold(value, |value, (_, _, bit, _)| value & !(1 << bit))
            };
            if (leaf, register) != (1, EBX) {
                assert_eq!(unnamed(has[register]), 0, "the machine, leaf {leaf:#x}");
            }
            if leaf != 1 {
                assert_eq!(unnamed(shown[register]), 0, "a guest, leaf {leaf:#x}");
            }
        }
    }
    let rows = FEATURES.iter().map(|(leaf, register, bit, name)| {
        let shown =
            |value| words(answer(*leaf, 0, &CONTEXT, processor(value)))[*register] >> bit & 1 != 0;
        let guest = match (shown(0), shown(u32::MAX)) {
            (true, _) => "always",
            (false, true) => "if the processor has it",
            (false, false) => "never",
        };
        let has = machine_processor::words(machine.cpu.cpuid(*leaf, 0))[*register];
        let register = ["EAX", "EBX", "ECX", "EDX"][*register];
        vec![
            (*name).to_owned(),
            format!("{} {register} {bit}", hex((*leaf).into())),
            if has >> bit & 1 != 0 { "yes" } else { "no" }.to_owned(),
            guest.to_owned(),
        ]
    });
    table(
        &[
            "feature",
            "leaf, register, bit",
            "the machine's processor",
            "shown to a guest",
        ],
        rows,
    )
}
