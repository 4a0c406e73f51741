//! Model-specific registers (SDM volume 4): which exist, and what may be written to them.

use arch::msr::{self, feature_control};

use super::{Cpu, breakpoint::debugctl, model_specific::Written, raise::Raised, segment::register};

/// IA32_PLATFORM_ID.
const IA32_PLATFORM_ID: u32 = 0x17;
/// IA32_BIOS_UPDT_TRIG.
const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
/// The half of a register that is there.
const LOW_HALF: u64 = 0xffff_ffff;
/// First of the variable-range MTRRs: base and mask alternate.
const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// Last of the eight pairs.
const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
/// The fixed-range MTRRs.
const IA32_MTRR_FIX64K_00000: u32 = 0x250;
const IA32_MTRR_FIX16K_80000: u32 = 0x258;
const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
const MTRR_CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// IA32_MISC_ENABLE: the largest basic CPUID leaf is 2.
pub const LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: CPUID does not offer execute-disable.
pub const HIDE_EXECUTE_DISABLE: u64 = 1 << 34;
/// IA32_MISC_ENABLE: MONITOR and MWAIT exist.
pub const MONITOR: u64 = 1 << 18;
/// IA32_MISC_ENABLE: those and what makes no difference here: fast strings, thermal control, SpeedStep,
/// xTPR messages.
const MISC_ENABLES: u64 =
    1 | 1 << 3 | 1 << 16 | MONITOR | LIMIT_CPUID | 1 << 23 | HIDE_EXECUTE_DISABLE;
/// IA32_MISC_ENABLE: branch trace storage and precise event-based sampling are unavailable.
const TRACING_UNAVAILABLE: u64 = 3 << 11;
/// What IA32_BIOS_SIGN_ID shows after CPUID.1: the update's revision in bits 63:32.
pub const MICROCODE_REVISION: u64 = 1 << 32;
/// MSR accesses remembered for the host at most.
const MOST_UNKNOWN: usize = 64;

/// An access to an MSR that does not exist here, for the host to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMsr {
    /// The MSR's address.
    pub index: u32,
    /// The value that was to be written; `None` for a read.
    pub written: Option<u64>,
}

/// IA32_ARCH_CAPABILITIES (SDM volume 4): this processor does not speculate, so that none of the
/// attacks on speculation exists, and it needs no software against them. RDCL_NO, IBRS_ALL,
/// SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO; SBDR_SSDP_NO, FBSDP_NO, PSDP_NO;
/// BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO; ITS_NO.
pub const ARCHITECTURAL_CAPABILITIES: u64 =
    0b1_0111_1011 | 0b111 << 13 | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 62;
/// IA32_SPEC_CTRL: IBRS, STIBP and BHI_DIS_S, which do nothing.
const SPECULATION_CONTROLS: u64 = 0b11 | 1 << 10;
/// IA32_PRED_CMD: IBPB.
const PREDICTION_BARRIER: u64 = 1;

/// Whether `value` is a memory type that an MTRR may have (SDM table 11-8).
const fn is_mtrr_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// Whether `value` is a memory type that the PAT may have (SDM table 11-10).
const fn is_pat_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4..=7)
}

/// The place of a fixed-range MTRR in [`Msrs::mtrr_fixed`](super::state::Msrs::mtrr_fixed).
const fn fixed_range(index: u32) -> Option<usize> {
    match index {
        IA32_MTRR_FIX64K_00000 => Some(0),
        IA32_MTRR_FIX16K_80000 => Some(1),
        IA32_MTRR_FIX16K_A0000 => Some(2),
        IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => {
            Some((index - IA32_MTRR_FIX4K_C0000) as usize + 3)
        }
        _ => None,
    }
}

/// The place of a variable-range MTRR.
const fn variable_range(index: u32) -> Option<usize> {
    match index {
        IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => Some((index - IA32_MTRR_PHYSBASE0) as usize),
        _ => None,
    }
}

impl Cpu {
    /// RDMSR at CPL 0.
    pub fn read_msr(&mut self, index: u32) -> Result<u64, Raised> {
        Ok(match index {
            msr::IA32_APIC_BASE | msr::IA32_TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.apic_msr_read(index);
            }
            msr::IA32_TIME_STAMP_COUNTER => self.time_stamp_counter(),
            msr::IA32_TSC_ADJUST => self.msrs.tsc_adjust,
            IA32_PLATFORM_ID => 0,
            msr::IA32_FEATURE_CONTROL if self.model.offers_vmx() => self.msrs.feature_control,
            msr::IA32_SPEC_CTRL => self.msrs.spec_ctrl,
            msr::IA32_ARCH_CAPABILITIES => ARCHITECTURAL_CAPABILITIES,
            msr::IA32_BIOS_SIGN_ID => self.msrs.bios_sign_id,
            msr::IA32_MTRRCAP => MTRR_CAPABILITIES,
            msr::IA32_SYSENTER_CS => self.msrs.sysenter_cs,
            msr::IA32_SYSENTER_ESP => self.msrs.sysenter_esp,
            msr::IA32_SYSENTER_EIP => self.msrs.sysenter_eip,
            // No banks of machine-check registers.
            msr::IA32_MCG_CAP => 0,
            msr::IA32_MCG_STATUS => self.msrs.mcg_status,
            msr::IA32_MISC_ENABLE => self.msrs.misc_enable | TRACING_UNAVAILABLE,
            msr::IA32_DEBUGCTL => self.msrs.debugctl,
            msr::IA32_PAT => self.msrs.pat,
            msr::IA32_MTRR_DEF_TYPE => self.msrs.mtrr_def_type,
            msr::IA32_EFER => self.efer,
            msr::IA32_STAR => self.msrs.star,
            msr::IA32_LSTAR => self.msrs.lstar,
            msr::IA32_CSTAR => self.msrs.cstar,
            msr::IA32_FMASK => self.msrs.fmask,
            msr::IA32_FS_BASE => self.segments[register::FS as usize].base,
            msr::IA32_GS_BASE => self.segments[register::GS as usize].base,
            msr::IA32_KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            msr::IA32_TSC_AUX => self.msrs.tsc_aux,
            // No supervisor state component.
            msr::IA32_XSS => 0,
            _ => return self.read_range_msr(index),
        })
    }

    fn read_range_msr(&mut self, index: u32) -> Result<u64, Raised> {
        if let Some(value) = variable_range(index).and_then(|i| self.msrs.mtrr_variable.get(i)) {
            return Ok(*value);
        }
        if let Some(value) = fixed_range(index).and_then(|i| self.msrs.mtrr_fixed.get(i)) {
            return Ok(*value);
        }
        if let Some(value) = crate::vtx::capability(self, index) {
            return Ok(value);
        }
        if let Some(value) = self.read_model_specific(index) {
            return Ok(value);
        }
        Err(self.unknown_msr(index, None))
    }

    /// WRMSR at CPL 0.
    pub fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Raised> {
        match index {
            msr::IA32_APIC_BASE | msr::IA32_TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.apic_msr_write(index, value);
            }
            msr::IA32_TIME_STAMP_COUNTER => {
                let adjust = value.wrapping_sub(self.now());
                self.set_tsc_adjust(adjust);
            }
            msr::IA32_TSC_ADJUST => self.set_tsc_adjust(value),
            msr::IA32_FEATURE_CONTROL if self.model.offers_vmx() => {
                // SMX is not offered, and the lock holds until reset.
                let defined = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
                let locked = self.msrs.feature_control & feature_control::LOCK != 0;
                self.permit(!locked && value & !defined == 0)?;
                self.msrs.feature_control = value;
            }
            msr::IA32_SPEC_CTRL => {
                self.permit(value & !SPECULATION_CONTROLS == 0)?;
                self.msrs.spec_ctrl = value;
            }
            // There is no prediction to hold back.
            msr::IA32_PRED_CMD => self.permit(value & !PREDICTION_BARRIER == 0)?,
            msr::IA32_BIOS_SIGN_ID => self.msrs.bios_sign_id = value,
            // Whatever update is offered, it is for another processor (SDM 9.11.6).
            IA32_BIOS_UPDT_TRIG => {}
            // The high halves of these are not there, which the VMCS field of the first shows, too.
            msr::IA32_SYSENTER_CS => self.msrs.sysenter_cs = value & LOW_HALF,
            msr::IA32_FMASK => self.msrs.fmask = value & LOW_HALF,
            msr::IA32_SYSENTER_ESP => self.msrs.sysenter_esp = self.canonical(value)?,
            msr::IA32_SYSENTER_EIP => self.msrs.sysenter_eip = self.canonical(value)?,
            msr::IA32_MCG_STATUS => {
                self.permit(value & !7 == 0)?;
                self.msrs.mcg_status = value;
            }
            msr::IA32_MISC_ENABLE => {
                self.permit(value & !(MISC_ENABLES | TRACING_UNAVAILABLE) == 0)?;
                self.msrs.misc_enable = value & MISC_ENABLES;
            }
            msr::IA32_DEBUGCTL => {
                self.permit(value & !debugctl::DEFINED == 0)?;
                self.msrs.debugctl = value;
            }
            msr::IA32_PAT => {
                self.permit(value.to_le_bytes().into_iter().all(is_pat_type))?;
                self.msrs.pat = value;
            }
            msr::IA32_EFER => return self.write_efer(value),
            msr::IA32_STAR => self.msrs.star = value,
            msr::IA32_LSTAR => self.msrs.lstar = self.canonical(value)?,
            msr::IA32_CSTAR => self.msrs.cstar = self.canonical(value)?,
            msr::IA32_FS_BASE => {
                self.segments[register::FS as usize].base = self.canonical(value)?;
            }
            msr::IA32_GS_BASE => {
                self.segments[register::GS as usize].base = self.canonical(value)?;
            }
            msr::IA32_KERNEL_GS_BASE => self.msrs.kernel_gs_base = self.canonical(value)?,
            msr::IA32_TSC_AUX => {
                self.permit(value >> 32 == 0)?;
                self.msrs.tsc_aux = value;
            }
            msr::IA32_XSS => self.permit(value == 0)?,
            _ => return self.write_range_msr(index, value),
        }
        Ok(())
    }

    // SDM 11.11.2 Setting memory ranges with MTRRs
    fn write_range_msr(&mut self, index: u32, value: u64) -> Result<(), Raised> {
        let address = self.model.physical_mask() & !0xfff;
        if index == msr::IA32_MTRR_DEF_TYPE {
            self.permit(value & !0xcff == 0 && is_mtrr_type(value & 0xff))?;
            self.msrs.mtrr_def_type = value;
        } else if let Some(place) = variable_range(index) {
            let valid = if place % 2 == 0 {
                value & !(address | 0xff) == 0 && is_mtrr_type(value & 0xff)
            } else {
                value & !(address | 1 << 11) == 0
            };
            self.permit(valid)?;
            if let Some(slot) = self.msrs.mtrr_variable.get_mut(place) {
                *slot = value;
            }
        } else if let Some(place) = fixed_range(index) {
            let types = value.to_le_bytes();
            self.permit(types.into_iter().all(|kind| is_mtrr_type(kind.into())))?;
            if let Some(slot) = self.msrs.mtrr_fixed.get_mut(place) {
                *slot = value;
            }
        } else {
            match self.write_model_specific(index, value) {
                Written::Done => {}
                Written::Refused => return Err(self.general_protection(0)),
                Written::Absent => return Err(self.unknown_msr(index, Some(value))),
            }
        }
        Ok(())
    }

    /// SDM 17.17.3 Time-stamp counter adjustment: the local APIC's deadline stays one of the
    /// counter, whose distance changes.
    fn set_tsc_adjust(&mut self, adjust: u64) {
        let difference = adjust.wrapping_sub(self.msrs.tsc_adjust);
        self.msrs.tsc_adjust = adjust;
        self.shift_apic_time(difference);
    }

    fn permit(&mut self, valid: bool) -> Result<(), Raised> {
        if valid {
            Ok(())
        } else {
            Err(self.general_protection(0))
        }
    }

    fn canonical(&mut self, value: u64) -> Result<u64, Raised> {
        self.permit(Self::is_canonical(value))?;
        Ok(value)
    }

    /// #GP(0) for an MSR that does not exist, or that cannot be written; remembered for the host.
    #[cold]
    fn unknown_msr(&mut self, index: u32, written: Option<u64>) -> Raised {
        let known = |other: &UnknownMsr| {
            other.index == index && other.written.is_some() == written.is_some()
        };
        if self.unknown_msrs.len() < MOST_UNKNOWN && !self.unknown_msrs.iter().any(known) {
            self.unknown_msrs.push(UnknownMsr { index, written });
        }
        self.general_protection(0)
    }
}
