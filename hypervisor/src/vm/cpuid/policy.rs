//! The CPUID policy as a table.

use super::{MAX_BASIC_LEAF, MAX_EXTENDED_LEAF};

/// Feature bits, named as the manual names them.
pub(super) mod bit {
    pub(in super::super) mod leaf_1_ecx {
        pub(in super::super::super) const SSE3: u32 = 1 << 0;
        pub(in super::super::super) const PCLMULQDQ: u32 = 1 << 1;
        pub(in super::super::super) const SSSE3: u32 = 1 << 9;
        pub(in super::super::super) const CMPXCHG16B: u32 = 1 << 13;
        pub(in super::super::super) const SSE4_1: u32 = 1 << 19;
        pub(in super::super::super) const SSE4_2: u32 = 1 << 20;
        pub(in super::super::super) const X2APIC: u32 = 1 << 21;
        pub(in super::super::super) const MOVBE: u32 = 1 << 22;
        pub(in super::super::super) const POPCNT: u32 = 1 << 23;
        pub(in super::super::super) const TSC_DEADLINE: u32 = 1 << 24;
        pub(in super::super::super) const AESNI: u32 = 1 << 25;
        pub(in super::super::super) const RDRAND: u32 = 1 << 30;
        pub(in super::super::super) const HYPERVISOR: u32 = 1 << 31;
    }
    pub(in super::super) mod leaf_1_edx {
        pub(in super::super::super) const APIC: u32 = 1 << 9;
        pub(in super::super::super) const MTRR: u32 = 1 << 12;
        pub(in super::super::super) const HTT: u32 = 1 << 28;
        /// Debug store, ACPI clock modulation, thermal monitor, pending-break enable.
        pub(in super::super::super) const HIDDEN: u32 = 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31;
    }
    pub(in super::super) mod leaf_7_ebx {
        pub(in super::super::super) const FSGSBASE: u32 = 1 << 0;
        pub(in super::super::super) const BMI1: u32 = 1 << 3;
        pub(in super::super::super) const FDP_EXCEPTION_ONLY: u32 = 1 << 6;
        pub(in super::super::super) const SMEP: u32 = 1 << 7;
        pub(in super::super::super) const BMI2: u32 = 1 << 8;
        pub(in super::super::super) const ERMS: u32 = 1 << 9;
        pub(in super::super::super) const DEPRECATES_FPU_CS_DS: u32 = 1 << 13;
        pub(in super::super::super) const RDSEED: u32 = 1 << 18;
        pub(in super::super::super) const ADX: u32 = 1 << 19;
        pub(in super::super::super) const SMAP: u32 = 1 << 20;
        pub(in super::super::super) const CLFLUSHOPT: u32 = 1 << 23;
        pub(in super::super::super) const CLWB: u32 = 1 << 24;
        pub(in super::super::super) const SHA: u32 = 1 << 29;
    }
    pub(in super::super) mod leaf_7_ecx {
        pub(in super::super::super) const UMIP: u32 = 1 << 2;
        pub(in super::super::super) const RDPID: u32 = 1 << 22;
    }
    pub(in super::super) mod leaf_7_edx {
        pub(in super::super::super) const FSRM: u32 = 1 << 4;
        pub(in super::super::super) const SERIALIZE: u32 = 1 << 14;
    }
    pub(in super::super) mod extended_1_ecx {
        pub(in super::super::super) const LAHF: u32 = 1 << 0;
        pub(in super::super::super) const LZCNT: u32 = 1 << 5;
        pub(in super::super::super) const PREFETCHW: u32 = 1 << 8;
    }
    pub(in super::super) mod extended_1_edx {
        pub(in super::super::super) const SYSCALL: u32 = 1 << 11;
        pub(in super::super::super) const EXECUTE_DISABLE: u32 = 1 << 20;
        pub(in super::super::super) const PAGE_1G: u32 = 1 << 26;
        pub(in super::super::super) const RDTSCP: u32 = 1 << 27;
        pub(in super::super::super) const LONG_MODE: u32 = 1 << 29;
    }
}

/// Where one register of a leaf comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The processor's value under a mask.
    Processor(u32),
    /// This value.
    Constant(u32),
}

/// What is computed after the sources were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// Nothing.
    None,
    /// EAX is lowered to this if higher.
    HighestLeaf(u32),
    /// Leaf 1: APIC ID, count, and the bits that follow the vCPU's state.
    Features,
    /// Leaf 4: nobody shares a cache; as many cores as there are vCPUs.
    CacheSharing,
    /// Leaf 7: bits that follow a control.
    StructuredFeatures,
    /// Leaves 0BH and 1FH.
    Topology,
    /// Leaf 15H.
    TimeStampCounter,
    /// Leaf 16H.
    Frequency,
    /// Leaf 80000001H.
    ExtendedFeatures,
}

/// One line of the policy.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The leaf (EAX).
    pub leaf: u32,
    /// The subleaf (ECX), or any.
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub sources: [Source; 4],
    /// What follows.
    pub adjustment: Adjustment,
    /// Why it is so.
    pub reason: &'static str,
}

const ALL: Source = Source::Processor(u32::MAX);
const NONE: Source = Source::Constant(0);

const fn line(
    leaf: u32,
    subleaf: Option<u32>,
    sources: [Source; 4],
    adjustment: Adjustment,
    reason: &'static str,
) -> Line {
    Line {
        leaf,
        subleaf,
        sources,
        adjustment,
        reason,
    }
}

/// KVM_FEATURE_NOP_IO_DELAY (Linux, Documentation/virt/kvm/x86/cpuid.rst).
const KVM_NO_IO_DELAY: u32 = 1 << 1;

/// The policy. A leaf that has no line reads as zeros.
pub const POLICY: &[Line] = &[
    line(
        0,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::HighestLeaf(MAX_BASIC_LEAF),
        "vendor as it is; no leaf above the topology leaf is shown",
    ),
    line(
        1,
        None,
        [
            ALL,
            Source::Processor(0xffff),
            Source::Processor({
                use bit::leaf_1_ecx::*;
                SSE3 | PCLMULQDQ
                    | SSSE3
                    | CMPXCHG16B
                    | SSE4_1
                    | SSE4_2
                    | MOVBE
                    | POPCNT
                    | AESNI
                    | RDRAND
            }),
            Source::Processor(!bit::leaf_1_edx::HIDDEN),
        ],
        Adjustment::Features,
        "VMX, SMX, MONITOR, PCID, performance and thermal features are not virtualized; XSAVE, AVX, \
         FMA and F16C stay hidden because the extended state is not switched",
    ),
    line(
        2,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::None,
        "cache descriptors are information only",
    ),
    line(
        4,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::CacheSharing,
        "cache sizes as they are, sharing as the vCPUs are",
    ),
    line(
        5,
        None,
        [NONE; 4],
        Adjustment::None,
        "MONITOR and MWAIT are hidden",
    ),
    line(
        6,
        None,
        [Source::Constant(1 << 2), NONE, NONE, NONE],
        Adjustment::None,
        "no power management but ARAT: the virtual APIC timer always runs",
    ),
    line(
        7,
        Some(0),
        [
            NONE,
            Source::Processor({
                use bit::leaf_7_ebx::*;
                FSGSBASE
                    | BMI1
                    | FDP_EXCEPTION_ONLY
                    | SMEP
                    | BMI2
                    | ERMS
                    | DEPRECATES_FPU_CS_DS
                    | RDSEED
                    | ADX
                    | SMAP
                    | CLFLUSHOPT
                    | CLWB
                    | SHA
            }),
            Source::Processor(bit::leaf_7_ecx::UMIP | bit::leaf_7_ecx::RDPID),
            Source::Processor(bit::leaf_7_edx::FSRM | bit::leaf_7_edx::SERIALIZE),
        ],
        Adjustment::StructuredFeatures,
        "AVX2 and AVX-512 need XSAVE; INVPCID, TSC_ADJUST, SGX, RTM, PT, PKU, LA57, CET, WAITPKG, \
         user interrupts and the speculation MSRs are not virtualized",
    ),
    line(
        0x0a,
        None,
        [NONE; 4],
        Adjustment::None,
        "performance monitoring is not virtualized",
    ),
    line(
        0x0b,
        None,
        [NONE; 4],
        Adjustment::Topology,
        "one package, a core per vCPU, one thread per core",
    ),
    line(0x0d, None, [NONE; 4], Adjustment::None, "XSAVE is hidden"),
    line(
        0x15,
        None,
        [NONE; 4],
        Adjustment::TimeStampCounter,
        "the ratio of the guest's TSC to the virtual APIC timer's clock",
    ),
    line(
        0x16,
        None,
        [NONE; 4],
        Adjustment::Frequency,
        "base and maximum frequency are the TSC's",
    ),
    line(0x1f, None, [NONE; 4], Adjustment::Topology, "as leaf 0BH"),
    line(
        0x4000_0000,
        None,
        [
            Source::Constant(0x4000_0001),
            Source::Constant(u32::from_le_bytes(*b"Post")),
            Source::Constant(u32::from_le_bytes(*b"hast")),
            Source::Constant(u32::from_le_bytes(*b"eVMM")),
        ],
        Adjustment::None,
        "the hypervisor's signature",
    ),
    line(
        0x4000_0001,
        None,
        [NONE; 4],
        Adjustment::None,
        "no paravirtual interface",
    ),
    line(
        0x4000_0100,
        None,
        [
            Source::Constant(0x4000_0101),
            Source::Constant(u32::from_le_bytes(*b"KVMK")),
            Source::Constant(u32::from_le_bytes(*b"VMKV")),
            Source::Constant(u32::from_le_bytes(*b"M\0\0\0")),
        ],
        Adjustment::None,
        "KVM's interface: without interrupt remapping Linux takes x2APIC mode, whose IPIs need no \
         memory access, only from a hypervisor that it knows",
    ),
    line(
        0x4000_0101,
        None,
        [Source::Constant(KVM_NO_IO_DELAY), NONE, NONE, NONE],
        Adjustment::None,
        "of KVM's features one: port accesses need no delays, each of which would be an exit",
    ),
    line(
        0x8000_0000,
        None,
        [ALL, NONE, NONE, NONE],
        Adjustment::HighestLeaf(MAX_EXTENDED_LEAF),
        "no extended leaf above the address widths is shown",
    ),
    line(
        0x8000_0001,
        None,
        [
            NONE,
            NONE,
            Source::Processor({
                use bit::extended_1_ecx::*;
                LAHF | LZCNT | PREFETCHW
            }),
            Source::Processor({
                use bit::extended_1_edx::*;
                SYSCALL | EXECUTE_DISABLE | PAGE_1G | RDTSCP | LONG_MODE
            }),
        ],
        Adjustment::ExtendedFeatures,
        "64-bit mode as it is; RDTSCP only when its control is on",
    ),
    line(
        0x8000_0002,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::None,
        "brand string",
    ),
    line(
        0x8000_0003,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::None,
        "brand string",
    ),
    line(
        0x8000_0004,
        None,
        [ALL, ALL, ALL, ALL],
        Adjustment::None,
        "brand string",
    ),
    line(
        0x8000_0006,
        None,
        [NONE, NONE, ALL, NONE],
        Adjustment::None,
        "L2 cache is information only",
    ),
    line(
        0x8000_0007,
        None,
        [NONE, NONE, NONE, Source::Processor(1 << 8)],
        Adjustment::None,
        "the guest's TSC is the processor's plus an offset, so it is as invariant",
    ),
    line(
        0x8000_0008,
        None,
        [Source::Processor(0xffff), NONE, NONE, NONE],
        Adjustment::None,
        "address widths as they are; EPT maps what there is",
    ),
];
