//! What CPUID says (SDM volume 2, CPUID). A bit is set only for what this machine executes.

use arch::control_register::cr4;

use super::{Cpu, CpuModel, execute::sse::extended_states, model_specific::RATIO, monitor, msr};

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Highest basic leaf; leaves beyond the highest extended one read as this (SDM volume 2).
const HIGHEST_BASIC: u32 = 0x1f;
const HIGHEST_EXTENDED: u32 = 0x8000_0008;

const BRAND: &[u8; 48] = b"Posthaste software VT-x processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Leaf 1 ECX.
mod leaf_1_ecx {
    pub(super) const SSE3: u32 = 1 << 0;
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const SSSE3: u32 = 1 << 9;
    pub(super) const CMPXCHG16B: u32 = 1 << 13;
    pub(super) const PCID: u32 = 1 << 17;
    pub(super) const SSE4_1: u32 = 1 << 19;
    pub(super) const SSE4_2: u32 = 1 << 20;
    pub(super) const X2APIC: u32 = 1 << 21;
    pub(super) const MOVBE: u32 = 1 << 22;
    pub(super) const POPCNT: u32 = 1 << 23;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const XSAVE: u32 = 1 << 26;
    pub(super) const OSXSAVE: u32 = 1 << 27;
    pub(super) const RDRAND: u32 = 1 << 30;
}

/// Leaf 1 EDX.
mod leaf_1_edx {
    pub(super) const FPU: u32 = 1 << 0;
    pub(super) const DE: u32 = 1 << 2;
    pub(super) const PSE: u32 = 1 << 3;
    pub(super) const TSC: u32 = 1 << 4;
    pub(super) const MSR: u32 = 1 << 5;
    pub(super) const PAE: u32 = 1 << 6;
    /// Machine check, with no banks.
    pub(super) const MCE: u32 = 1 << 7;
    pub(super) const CX8: u32 = 1 << 8;
    pub(super) const APIC: u32 = 1 << 9;
    pub(super) const SEP: u32 = 1 << 11;
    pub(super) const MTRR: u32 = 1 << 12;
    pub(super) const PGE: u32 = 1 << 13;
    pub(super) const MCA: u32 = 1 << 14;
    pub(super) const CMOV: u32 = 1 << 15;
    pub(super) const PAT: u32 = 1 << 16;
    pub(super) const PSE36: u32 = 1 << 17;
    pub(super) const CLFLUSH: u32 = 1 << 19;
    pub(super) const MMX: u32 = 1 << 23;
    pub(super) const FXSR: u32 = 1 << 24;
    pub(super) const SSE: u32 = 1 << 25;
    pub(super) const SSE2: u32 = 1 << 26;
    /// The package has room for more than one logical processor.
    pub(super) const HTT: u32 = 1 << 28;
}

/// Leaf 7 EBX.
mod leaf_7_ebx {
    pub(super) const FSGSBASE: u32 = 1 << 0;
    pub(super) const TSC_ADJUST: u32 = 1 << 1;
    pub(super) const BMI1: u32 = 1 << 3;
    pub(super) const SMEP: u32 = 1 << 7;
    pub(super) const BMI2: u32 = 1 << 8;
    /// Long REP MOVSB and STOSB are fast.
    pub(super) const ERMS: u32 = 1 << 9;
    pub(super) const INVPCID: u32 = 1 << 10;
    pub(super) const RDSEED: u32 = 1 << 18;
    pub(super) const ADX: u32 = 1 << 19;
    pub(super) const SMAP: u32 = 1 << 20;
    pub(super) const CLFLUSHOPT: u32 = 1 << 23;
    pub(super) const CLWB: u32 = 1 << 24;
}

/// Leaf 7 ECX.
mod leaf_7_ecx {
    pub(super) const UMIP: u32 = 1 << 2;
    pub(super) const RDPID: u32 = 1 << 22;
}

/// Leaf 7 EDX.
mod leaf_7_edx {
    /// So are short ones of MOVSB.
    pub(super) const FSRM: u32 = 1 << 4;
    pub(super) const SERIALIZE: u32 = 1 << 14;
    /// IA32_SPEC_CTRL with IA32_PRED_CMD.
    pub(super) const SPECULATION_CONTROL: u32 = 1 << 26;
    pub(super) const ARCHITECTURAL_CAPABILITIES: u32 = 1 << 29;
}

impl CpuModel {
    /// Whether VMX is there.
    pub fn offers_vmx(&self) -> bool {
        self.virtualization != super::model::VirtualizationLevel::None
    }
}

impl Cpu {
    /// CPUID with `leaf` in EAX and `subleaf` in ECX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        match leaf {
            0..=HIGHEST_BASIC => self.basic_leaf(leaf, subleaf),
            0x8000_0000..=HIGHEST_EXTENDED => self.extended_leaf(leaf),
            _ => self.basic_leaf(HIGHEST_BASIC, subleaf),
        }
    }

    fn processor_count(&self) -> u32 {
        u32::try_from(self.platform.processors()).unwrap_or(u32::MAX)
    }

    /// Bits of an APIC ID that number processors in the one package.
    fn core_bits(&self) -> u32 {
        self.processor_count().next_power_of_two().trailing_zeros()
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32) -> Leaf {
        match leaf {
            0 => Leaf {
                eax: if self.msrs.misc_enable & msr::LIMIT_CPUID != 0 {
                    2
                } else {
                    HIGHEST_BASIC
                },
                ebx: u32::from_le_bytes(*b"Genu"),
                edx: u32::from_le_bytes(*b"ineI"),
                ecx: u32::from_le_bytes(*b"ntel"),
            },
            1 => self.features(),
            // One descriptor: the caches are in leaf 4.
            2 => Leaf {
                eax: 0x0000_ff01,
                ..Leaf::default()
            },
            4 => self.caches(subleaf),
            // Lines of 64 bytes, no extension, no C-state.
            5 if self.msrs.misc_enable & msr::MONITOR != 0 => Leaf {
                eax: monitor::LINE as u32,
                ebx: monitor::LINE as u32,
                ..Leaf::default()
            },
            // 6: the local APIC's timer runs in every power state (ARAT).
            6 => Leaf {
                eax: 1 << 2,
                ..Leaf::default()
            },
            7 if subleaf == 0 => Leaf {
                eax: 2,
                ebx: {
                    use leaf_7_ebx::*;
                    FSGSBASE
                        | TSC_ADJUST
                        | BMI1
                        | SMEP
                        | BMI2
                        | ERMS
                        | INVPCID
                        | RDSEED
                        | ADX
                        | SMAP
                        | CLFLUSHOPT
                        | CLWB
                },
                ecx: leaf_7_ecx::UMIP | leaf_7_ecx::RDPID,
                edx: {
                    use leaf_7_edx::*;
                    FSRM | SERIALIZE | SPECULATION_CONTROL | ARCHITECTURAL_CAPABILITIES
                },
            },
            // IA32_SPEC_CTRL has BHI_DIS_S.
            7 if subleaf == 2 => Leaf {
                edx: 1 << 4,
                ..Leaf::default()
            },
            0xb | 0x1f => self.topology(subleaf),
            0xd => self.extended_states(subleaf),
            // Crystal of 100 MHz, times the ratio gives the TSC's 1 GHz.
            0x15 => Leaf {
                eax: 1,
                ebx: RATIO as u32,
                ecx: 100_000_000,
                edx: 0,
            },
            // Base and maximum frequency and bus, in MHz.
            0x16 => Leaf {
                eax: 100 * RATIO as u32,
                ebx: 100 * RATIO as u32,
                ecx: 100,
                edx: 0,
            },
            // 0AH performance monitoring and all others: nothing.
            _ => Leaf::default(),
        }
    }

    fn features(&self) -> Leaf {
        use leaf_1_ecx as c;
        use leaf_1_edx as d;
        let count = self.processor_count();
        let mut ecx = c::SSE3
            | c::SSSE3
            | c::CMPXCHG16B
            | c::PCID
            | c::SSE4_1
            | c::SSE4_2
            | c::X2APIC
            | c::MOVBE
            | c::POPCNT
            | c::TSC_DEADLINE
            | c::XSAVE
            | c::RDRAND;
        if self.msrs.misc_enable & msr::MONITOR != 0 {
            ecx |= c::MONITOR;
        }
        // It follows CR4.OSXSAVE.
        if self.cr4 & cr4::OSXSAVE != 0 {
            ecx |= c::OSXSAVE;
        }
        if self.model.offers_vmx() {
            ecx |= c::VMX;
        }
        let mut edx = d::FPU
            | d::DE
            | d::PSE
            | d::TSC
            | d::MSR
            | d::PAE
            | d::MCE
            | d::CX8
            | d::SEP
            | d::MTRR
            | d::PGE
            | d::MCA
            | d::CMOV
            | d::PAT
            | d::PSE36
            | d::CLFLUSH
            | d::MMX
            | d::FXSR
            | d::SSE
            | d::SSE2;
        // SDM 10.4.3: the bit follows IA32_APIC_BASE's global enable.
        if self.apic.mode() != apic::apic_base::ApicMode::Disabled {
            edx |= d::APIC;
        }
        if count > 1 {
            edx |= d::HTT;
        }
        let room = (1_u32 << self.core_bits().min(7)).min(0xff);
        Leaf {
            eax: self.model.signature,
            // CLFLUSH line of 8 quadwords, room for processors, initial APIC ID.
            ebx: 8 << 8 | room << 16 | (self.index as u32 & 0xff) << 24,
            ecx,
            edx,
        }
    }

    /// The XSAVE feature set (SDM volume 1, 13.2 Enumeration of CPU support for XSAVE instructions and
    /// XSAVE-supported features).
    fn extended_states(&self, subleaf: u32) -> Leaf {
        match subleaf {
            0 => Leaf {
                eax: extended_states::OFFERED as u32,
                ebx: extended_states::AREA as u32,
                ecx: extended_states::AREA as u32,
                edx: 0,
            },
            // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES.
            1 => Leaf {
                eax: 0b1111,
                ebx: extended_states::AREA as u32,
                ..Leaf::default()
            },
            _ => Leaf::default(),
        }
    }

    /// Deterministic cache parameters: 32 KBytes each for data and code, 1 MByte behind them.
    fn caches(&self, subleaf: u32) -> Leaf {
        let (kind, level, ways, sets) = match subleaf {
            0 => (1, 1, 8, 64),
            1 => (2, 1, 8, 64),
            2 => (3, 2, 16, 1024),
            _ => return Leaf::default(),
        };
        let cores = (1_u32 << self.core_bits().min(6)).min(64) - 1;
        Leaf {
            eax: kind | level << 5 | 1 << 8 | cores << 26,
            ebx: (ways - 1) << 22 | (64 - 1),
            ecx: sets - 1,
            edx: 0,
        }
    }

    /// Extended topology: one thread a core, all cores in one package.
    fn topology(&self, subleaf: u32) -> Leaf {
        let (eax, ebx, level) = match subleaf {
            0 => (0, 1, 1 << 8),
            1 => (self.core_bits(), self.processor_count() & 0xffff, 2 << 8),
            _ => (0, 0, 0),
        };
        Leaf {
            eax,
            ebx,
            ecx: level | subleaf & 0xff,
            edx: self.index as u32,
        }
    }

    fn extended_leaf(&self, leaf: u32) -> Leaf {
        match leaf {
            0x8000_0000 => Leaf {
                eax: HIGHEST_EXTENDED,
                ..Leaf::default()
            },
            // LAHF in 64-bit mode, LZCNT, PREFETCHW; SYSCALL (reported only where it works), execute-disable, 1-GByte
            // pages, RDTSCP, Intel 64.
            0x8000_0001 => Leaf {
                ecx: 1 | 1 << 5 | 1 << 8,
                edx: u32::from(self.mode_64) << 11
                    | u32::from(self.msrs.misc_enable & msr::HIDE_EXECUTE_DISABLE == 0) << 20
                    | u32::from(self.model.pages_1g) << 26
                    | 1 << 27
                    | 1 << 29,
                ..Leaf::default()
            },
            0x8000_0002..=0x8000_0004 => {
                let part = (leaf - 0x8000_0002) as usize * 16;
                let word = |i: usize| {
                    let mut bytes = [0; 4];
                    for (to, from) in bytes.iter_mut().zip(BRAND.iter().skip(part + i * 4)) {
                        *to = *from;
                    }
                    u32::from_le_bytes(bytes)
                };
                Leaf {
                    eax: word(0),
                    ebx: word(1),
                    ecx: word(2),
                    edx: word(3),
                }
            }
            // L2: 1 MByte, 16 ways, lines of 64 bytes.
            0x8000_0006 => Leaf {
                ecx: 1024 << 16 | 8 << 12 | 64,
                ..Leaf::default()
            },
            // Invariant TSC.
            0x8000_0007 => Leaf {
                edx: 1 << 8,
                ..Leaf::default()
            },
            0x8000_0008 => Leaf {
                eax: self.model.physical_address_width | 48 << 8,
                ..Leaf::default()
            },
            _ => Leaf::default(),
        }
    }
}
