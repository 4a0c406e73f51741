//! What CPUID tells a guest, as a table: one line per leaf, each register from the processor under a
//! mask, or constant, and why (SDM volume 2, CPUID—CPU identification).
//!
//! The rule behind the masks: a feature is shown only when the guest can use all of it under this
//! hypervisor. A feature bit that is not named is hidden.

mod policy;

use super::configuration::ApicOffer;
use policy::bit;
pub use policy::{Adjustment, Line, POLICY, Source};

/// The four registers that CPUID writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidRegisters {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What a vCPU's answers depend on besides the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidContext {
    /// The vCPU's x2APIC ID (its xAPIC ID as long as the guest has not rewritten that).
    pub apic_id: u32,
    /// vCPUs of the virtual machine.
    pub vcpus: u32,
    /// Whether x2APIC is shown.
    pub apic: ApicOffer,
    /// IA32_APIC_BASE bit 11 of this vCPU.
    pub apic_enabled: bool,
    /// "Enable RDTSCP" is 1, so that RDTSCP and RDPID do not fault.
    pub rdtscp: bool,
    /// Frequency of the guest's TSC in Hz.
    pub tsc_hz: u64,
    /// Frequency of the virtual APIC timer before its divider, in Hz.
    pub apic_timer_hz: u64,
}

/// Highest basic leaf shown.
pub const MAX_BASIC_LEAF: u32 = 0x1f;
/// Highest extended leaf shown.
pub const MAX_EXTENDED_LEAF: u32 = 0x8000_0008;
/// First hypervisor leaf; its signature is `PosthasteVMM`.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// Last leaf of the ranges in which hypervisors introduce themselves, our own and KVM's.
pub const LAST_HYPERVISOR_LEAF: u32 = 0x4000_01ff;

/// The answer for one vCPU. `processor(leaf, subleaf)` executes CPUID on the processor.
pub fn answer(
    leaf: u32,
    subleaf: u32,
    context: &CpuidContext,
    processor: impl Fn(u32, u32) -> CpuidRegisters,
) -> CpuidRegisters {
    let highest = |first: u32, shown: u32| processor(first, 0).eax.min(shown);
    // SDM volume 2, CPUID: a leaf above the highest basic or extended one gives the data of the
    // highest basic leaf.
    let in_range = match leaf {
        0..HYPERVISOR_LEAF => leaf <= highest(0, MAX_BASIC_LEAF),
        HYPERVISOR_LEAF..=LAST_HYPERVISOR_LEAF => true,
        0x8000_0000.. => leaf <= highest(0x8000_0000, MAX_EXTENDED_LEAF),
        _ => false,
    };
    let leaf = if in_range {
        leaf
    } else {
        highest(0, MAX_BASIC_LEAF)
    };
    let line = POLICY
        .iter()
        .find(|line| line.leaf == leaf && line.subleaf.is_none_or(|wanted| wanted == subleaf));
    let Some(line) = line else {
        return CpuidRegisters::default();
    };
    let from = processor(leaf, subleaf);
    let [eax, ebx, ecx, edx] = line.sources;
    let take = |source, value: u32| match source {
        Source::Processor(mask) => value & mask,
        Source::Constant(constant) => constant,
    };
    let registers = CpuidRegisters {
        eax: take(eax, from.eax),
        ebx: take(ebx, from.ebx),
        ecx: take(ecx, from.ecx),
        edx: take(edx, from.edx),
    };
    adjust(line.adjustment, registers, subleaf, context)
}

fn adjust(
    adjustment: Adjustment,
    mut registers: CpuidRegisters,
    subleaf: u32,
    context: &CpuidContext,
) -> CpuidRegisters {
    let set = |register: &mut u32, bits: u32, on: bool| {
        *register = if on {
            *register | bits
        } else {
            *register & !bits
        };
    };
    match adjustment {
        Adjustment::None => {}
        Adjustment::HighestLeaf(shown) => registers.eax = registers.eax.min(shown),
        Adjustment::Features => {
            use bit::{leaf_1_ecx as ecx, leaf_1_edx as edx};
            let count = context.vcpus.min(255);
            registers.ebx |= (context.apic_id & 0xff) << 24 | count << 16;
            set(
                &mut registers.ecx,
                ecx::X2APIC,
                context.apic == ApicOffer::X2apic,
            );
            registers.ecx |= ecx::TSC_DEADLINE | ecx::HYPERVISOR;
            // SDM 10.4.3: the feature flag follows the global enable bit.
            set(&mut registers.edx, edx::APIC, context.apic_enabled);
            set(&mut registers.edx, edx::HTT, context.vcpus > 1);
            registers.edx |= edx::MTRR;
        }
        Adjustment::CacheSharing => {
            if registers.eax & 0x1f != 0 {
                let cores = context.vcpus.clamp(1, 64) - 1;
                registers.eax = registers.eax & 0x3fff | cores << 26;
            }
        }
        Adjustment::StructuredFeatures => {
            if !context.rdtscp {
                registers.ecx &= !bit::leaf_7_ecx::RDPID;
            }
        }
        Adjustment::Topology => {
            // SDM volume 2, CPUID leaf 0BH: ECX[7:0] echoes the subleaf, ECX[15:8] is the level's
            // type (1 SMT, 2 core, 0 none), EAX the shift to the next level's ID, EBX the count.
            let width = 32 - context.vcpus.saturating_sub(1).leading_zeros();
            let (eax, ebx, kind) = match subleaf {
                0 => (0, 1, 1),
                1 => (width, context.vcpus, 2),
                _ => (0, 0, 0),
            };
            registers = CpuidRegisters {
                eax,
                ebx,
                ecx: subleaf & 0xff | kind << 8,
                edx: context.apic_id,
            };
        }
        Adjustment::TimeStampCounter => {
            let divisor = greatest_common_divisor(context.tsc_hz, context.apic_timer_hz);
            let ratio = |hz: u64| hz.checked_div(divisor).and_then(|n| u32::try_from(n).ok());
            let crystal = u32::try_from(context.apic_timer_hz).ok();
            if let (Some(denominator), Some(numerator), Some(crystal)) =
                (ratio(context.apic_timer_hz), ratio(context.tsc_hz), crystal)
            {
                registers = CpuidRegisters {
                    eax: denominator,
                    ebx: numerator,
                    ecx: crystal,
                    edx: 0,
                };
            }
        }
        Adjustment::Frequency => {
            let mhz = (context.tsc_hz / 1_000_000).min(0xffff) as u32;
            let bus = (context.apic_timer_hz / 1_000_000).min(0xffff) as u32;
            registers = CpuidRegisters {
                eax: mhz,
                ebx: mhz,
                ecx: bus,
                edx: 0,
            };
        }
        Adjustment::ExtendedFeatures => {
            if !context.rdtscp {
                registers.edx &= !bit::extended_1_edx::RDTSCP;
            }
        }
    }
    registers
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: CpuidContext = CpuidContext {
        apic_id: 5,
        vcpus: 6,
        apic: ApicOffer::X2apic,
        apic_enabled: true,
        rdtscp: true,
        tsc_hz: 1_000_000_000,
        apic_timer_hz: 100_000_000,
    };

    /// A processor with every feature bit set.
    fn everything(leaf: u32, _: u32) -> CpuidRegisters {
        let ones = CpuidRegisters {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        match leaf {
            0 => CpuidRegisters { eax: 0x24, ..ones },
            0x8000_0000 => CpuidRegisters {
                eax: 0x8000_0021,
                ..ones
            },
            _ => ones,
        }
    }

    fn ask(leaf: u32, subleaf: u32) -> CpuidRegisters {
        answer(leaf, subleaf, &CONTEXT, everything)
    }

    #[test]
    fn features_that_are_not_virtualized_are_hidden_even_if_the_processor_has_them() {
        for (name, leaf, register, bit) in [
            ("MONITOR", 1, 2, 3),
            ("VMX", 1, 2, 5),
            ("SMX", 1, 2, 6),
            ("FMA", 1, 2, 12),
            ("PDCM", 1, 2, 15),
            ("PCID", 1, 2, 17),
            ("XSAVE", 1, 2, 26),
            ("OSXSAVE", 1, 2, 27),
            ("AVX", 1, 2, 28),
            ("DS", 1, 3, 21),
            ("AVX2", 7, 1, 5),
            ("TSC_ADJUST", 7, 1, 1),
            ("INVPCID", 7, 1, 10),
            ("RTM", 7, 1, 11),
            ("AVX512F", 7, 1, 16),
            ("PKU", 7, 2, 3),
            ("WAITPKG", 7, 2, 5),
            ("LA57", 7, 2, 16),
            ("UINTR", 7, 3, 5),
            ("SPEC_CTRL", 7, 3, 26),
            ("ARCH_CAPABILITIES", 7, 3, 29),
        ] {
            let r = ask(leaf, 0);
            let value = [r.eax, r.ebx, r.ecx, r.edx][register];
            assert_eq!(value >> bit & 1, 0, "{name}");
        }
        for leaf in [5, 0x0a, 0x0d, 0x12, 0x14, 0x4000_0002] {
            assert_eq!(ask(leaf, 0), CpuidRegisters::default(), "{leaf:#x}");
        }
        assert_eq!(ask(7, 1), CpuidRegisters::default());
    }

    #[test]
    fn what_the_processor_lacks_is_not_shown() {
        let nothing = |leaf: u32, _: u32| CpuidRegisters {
            eax: match leaf {
                0 => 0x16,
                0x8000_0000 => 0x8000_0008,
                _ => 0,
            },
            ..CpuidRegisters::default()
        };
        let one = answer(1, 0, &CONTEXT, nothing);
        // Emulated in software, so shown regardless: x2APIC, TSC-deadline, hypervisor.
        assert_eq!(one.ecx, 1 << 21 | 1 << 24 | 1 << 31);
        assert_eq!(one.edx, 1 << 9 | 1 << 12 | 1 << 28);
        assert_eq!(answer(7, 0, &CONTEXT, nothing), CpuidRegisters::default());
        assert_eq!(answer(0x8000_0001, 0, &CONTEXT, nothing).edx, 0);
    }

    #[test]
    fn leaf_1_follows_the_vcpu() {
        let base = ask(1, 0);
        assert_eq!(base.ebx >> 24, 5);
        assert_eq!(base.ebx >> 16 & 0xff, 6);
        assert_ne!(base.ecx & 1 << 21, 0);
        let hidden = CpuidContext {
            apic: ApicOffer::XapicOnly,
            apic_enabled: false,
            vcpus: 1,
            ..CONTEXT
        };
        let other = answer(1, 0, &hidden, everything);
        assert_eq!(other.ecx & 1 << 21, 0, "x2APIC");
        assert_eq!(other.edx & 1 << 9, 0, "APIC");
        assert_eq!(other.edx & 1 << 28, 0, "HTT");
    }

    #[test]
    fn topology_is_one_package_of_single_threaded_cores() {
        for leaf in [0x0b, 0x1f] {
            assert_eq!(
                ask(leaf, 0),
                CpuidRegisters {
                    eax: 0,
                    ebx: 1,
                    ecx: 0x100,
                    edx: 5
                }
            );
            assert_eq!(
                ask(leaf, 1),
                CpuidRegisters {
                    eax: 3,
                    ebx: 6,
                    ecx: 0x201,
                    edx: 5
                }
            );
            assert_eq!(
                ask(leaf, 2),
                CpuidRegisters {
                    eax: 0,
                    ebx: 0,
                    ecx: 2,
                    edx: 5
                }
            );
        }
        assert_eq!(ask(4, 0).eax, 0x3fff | 5 << 26);
        for (vcpus, width) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (255, 8)] {
            let context = CpuidContext { vcpus, ..CONTEXT };
            assert_eq!(answer(0x0b, 1, &context, everything).eax, width, "{vcpus}");
        }
    }

    #[test]
    fn clocks_are_the_guests() {
        assert_eq!(
            ask(0x15, 0),
            CpuidRegisters {
                eax: 1,
                ebx: 10,
                ecx: 100_000_000,
                edx: 0
            }
        );
        assert_eq!(
            ask(0x16, 0),
            CpuidRegisters {
                eax: 1000,
                ebx: 1000,
                ecx: 100,
                edx: 0
            }
        );
        let unknown = CpuidContext {
            tsc_hz: 0,
            apic_timer_hz: 0,
            ..CONTEXT
        };
        assert_eq!(
            answer(0x15, 0, &unknown, everything),
            CpuidRegisters::default()
        );
    }

    #[test]
    fn rdtscp_follows_its_control() {
        assert_ne!(ask(0x8000_0001, 0).edx & 1 << 27, 0);
        assert_ne!(ask(7, 0).ecx & 1 << 22, 0);
        let off = CpuidContext {
            rdtscp: false,
            ..CONTEXT
        };
        assert_eq!(answer(0x8000_0001, 0, &off, everything).edx & 1 << 27, 0);
        assert_eq!(answer(7, 0, &off, everything).ecx & 1 << 22, 0);
    }

    #[test]
    fn a_leaf_out_of_range_gives_the_highest_basic_leaf() {
        assert_eq!(ask(0, 0).eax, 0x1f);
        assert_eq!(ask(0x20, 1), ask(0x1f, 1));
        assert_eq!(ask(0x8000_0009, 0), ask(0x1f, 0));
        assert_eq!(ask(0x7fff_ffff, 0), ask(0x1f, 0));
        assert_eq!(ask(0x8000_0000, 0).eax, 0x8000_0008);
    }

    #[test]
    fn the_signature_reads_as_text() {
        let text = |leaf| -> Vec<u8> {
            let r = ask(leaf, 0);
            [r.ebx, r.ecx, r.edx]
                .iter()
                .flat_map(|r| r.to_le_bytes())
                .collect()
        };
        assert_eq!(text(HYPERVISOR_LEAF), b"PosthasteVMM");
        // Linux looks for KVM's every 100H leaves, and wants its features leaf to exist.
        assert_eq!(text(0x4000_0100), b"KVMKVMKVM\0\0\0");
        assert_eq!(ask(0x4000_0100, 0).eax, 0x4000_0101);
        assert_eq!(ask(0x4000_0101, 0).eax, 2);
    }

    #[test]
    fn every_line_has_a_reason_and_is_reachable() {
        for (i, line) in POLICY.iter().enumerate() {
            assert!(!line.reason.is_empty());
            let first = POLICY.iter().position(|l| {
                l.leaf == line.leaf && (l.subleaf.is_none() || l.subleaf == line.subleaf)
            });
            assert_eq!(first, Some(i), "leaf {:#x}", line.leaf);
        }
    }
}
