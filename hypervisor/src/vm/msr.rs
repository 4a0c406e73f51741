//! What RDMSR and WRMSR do for a guest, as a table: one line per range, each direction with what
//! happens, and why.
//!
//! The MSR bitmap is made from the same table: a direction that passes through does not exit (SDM
//! 24.6.9 MSR-bitmap address). The x2APIC range is not here: it follows the vCPU's APIC mode and
//! virtualization and is planned by `interrupts::virtual_apic`.

use arch::{control_register::efer, msr};

/// What one direction of an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The guest reads or writes the register itself, without an exit. The value is in the guest
    /// state area or the run loop switches it.
    PassThrough,
    /// An exit, and this register of the hypervisor.
    Emulated(Register),
    /// Reads as this value.
    Constant(u64),
    /// The write has no effect.
    Ignored,
    /// A write of this value has no effect; of another, #GP(0).
    Only(u64),
    /// #GP(0).
    Fault,
}

/// Registers that need a hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// IA32_APIC_BASE: the virtual APIC decides.
    ApicBase,
    /// IA32_TSC_DEADLINE: the virtual APIC's timer.
    TscDeadline,
    /// IA32_TIME_STAMP_COUNTER, written: the TSC offset changes.
    TimeStampCounter,
    /// IA32_EFER in the guest state area; see [`checked_efer`].
    Efer,
    /// IA32_PAT in the guest state area; see [`checked_pat`].
    Pat,
    /// A memory-type range register of [`MemoryTypeRegisters`].
    MemoryType,
}

/// One line of the policy.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// First MSR.
    pub first: u32,
    /// Last MSR.
    pub last: u32,
    /// RDMSR.
    pub read: Access,
    /// WRMSR.
    pub write: Access,
    /// Why it is so.
    pub reason: &'static str,
}

const fn line(first: u32, last: u32, read: Access, write: Access, reason: &'static str) -> Line {
    Line {
        first,
        last,
        read,
        write,
        reason,
    }
}

const fn both(first: u32, last: u32, access: Access, reason: &'static str) -> Line {
    line(first, last, access, access, reason)
}

/// IA32_PLATFORM_ID.
const IA32_PLATFORM_ID: u32 = 0x17;
/// MSR_SMI_COUNT.
const SMI_COUNT: u32 = 0x34;
/// MSR_PPIN_CTL.
const PPIN_CONTROL: u32 = 0x4e;
/// MSR_PPIN_CTL bit 0: locked out until reset.
const PPIN_LOCKED_OUT: u64 = 1 << 0;
/// MISC_FEATURE_ENABLES: CPUID faulting, and on other processors ring 3 MONITOR/MWAIT.
const MISC_FEATURE_ENABLES: u32 = 0x140;
/// DE_CFG of AMD's processors.
const AMD_DE_CFG: u32 = 0xc001_1029;
/// MSR_PLATFORM_INFO.
const PLATFORM_INFO: u32 = 0xce;
/// First variable-range MTRR.
const MTRR_PHYSBASE0: u32 = 0x200;
/// One past the last register of eight variable ranges.
const MTRR_VARIABLE_END: u32 = MTRR_PHYSBASE0 + 16;
/// IA32_MTRR_FIX64K_00000.
const MTRR_FIX64K: u32 = 0x250;
/// IA32_MTRR_FIX16K_80000 and A0000.
const MTRR_FIX16K: u32 = 0x258;
/// IA32_MTRR_FIX4K_C0000 to F8000.
const MTRR_FIX4K: u32 = 0x268;
/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining (SDM 11.11.1).
const MTRR_CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// IA32_MISC_ENABLE: fast strings; no branch-trace storage, no PEBS.
const MISC_ENABLE: u64 = 1 << 0 | 1 << 11 | 1 << 12;

use Access::{Constant, Emulated, Fault, Ignored, Only, PassThrough};

/// The policy. An MSR that has no line faults and is counted in [`UnknownMsrs`].
pub const POLICY: &[Line] = &[
    line(
        msr::IA32_TIME_STAMP_COUNTER,
        msr::IA32_TIME_STAMP_COUNTER,
        PassThrough,
        Emulated(Register::TimeStampCounter),
        "reads get the TSC offset from the processor; a write changes it",
    ),
    line(
        IA32_PLATFORM_ID,
        IA32_PLATFORM_ID,
        Constant(0),
        Fault,
        "read by microcode loaders",
    ),
    both(
        msr::IA32_APIC_BASE,
        msr::IA32_APIC_BASE,
        Emulated(Register::ApicBase),
        "mode changes of the virtual APIC",
    ),
    line(
        SMI_COUNT,
        SMI_COUNT,
        Constant(0),
        Fault,
        "no system-management interrupt reaches the guest; a register of this processor model",
    ),
    line(
        msr::IA32_FEATURE_CONTROL,
        msr::IA32_FEATURE_CONTROL,
        Constant(msr::feature_control::LOCK),
        Fault,
        "locked without VMX, which CPUID hides",
    ),
    both(
        msr::IA32_TSC_ADJUST,
        msr::IA32_TSC_ADJUST,
        Fault,
        "CPUID hides it",
    ),
    both(
        msr::IA32_SPEC_CTRL,
        msr::IA32_SPEC_CTRL,
        Fault,
        "CPUID hides it",
    ),
    line(
        PPIN_CONTROL,
        PPIN_CONTROL,
        Constant(PPIN_LOCKED_OUT),
        Fault,
        "the processor's serial number is none of the guest's business: locked out",
    ),
    line(
        msr::IA32_BIOS_SIGN_ID,
        msr::IA32_BIOS_SIGN_ID,
        Constant(1 << 32),
        Ignored,
        "the protocol writes 0 before it reads the revision; the guest must not load microcode",
    ),
    line(
        PLATFORM_INFO,
        PLATFORM_INFO,
        Constant(0),
        Fault,
        "no CPUID faulting, no turbo ratios",
    ),
    line(
        msr::IA32_MTRRCAP,
        msr::IA32_MTRRCAP,
        Constant(MTRR_CAPABILITIES),
        Fault,
        "CPUID shows MTRRs; EPT decides the memory type",
    ),
    line(
        MISC_FEATURE_ENABLES,
        MISC_FEATURE_ENABLES,
        Constant(0),
        Only(0),
        "CPUID faulting is not offered (MSR_PLATFORM_INFO); kernels write 0 to have it off",
    ),
    both(
        msr::IA32_SYSENTER_CS,
        msr::IA32_SYSENTER_EIP,
        PassThrough,
        "in the guest state area (SDM 24.4.1)",
    ),
    line(
        msr::IA32_MCG_CAP,
        msr::IA32_MCG_CAP,
        Constant(0),
        Fault,
        "no machine-check banks",
    ),
    line(
        msr::IA32_MCG_STATUS,
        msr::IA32_MCG_STATUS,
        Constant(0),
        Ignored,
        "no machine check is in progress",
    ),
    line(
        msr::IA32_MISC_ENABLE,
        msr::IA32_MISC_ENABLE,
        Constant(MISC_ENABLE),
        Ignored,
        "nothing of it can be changed",
    ),
    line(
        msr::IA32_DEBUGCTL,
        msr::IA32_DEBUGCTL,
        Constant(0),
        Ignored,
        "branch tracing is not virtualized",
    ),
    both(
        MTRR_PHYSBASE0,
        MTRR_VARIABLE_END - 1,
        Emulated(Register::MemoryType),
        "kept, not acted on: EPT decides",
    ),
    both(
        MTRR_FIX64K,
        MTRR_FIX64K,
        Emulated(Register::MemoryType),
        "kept, not acted on: EPT decides",
    ),
    both(
        MTRR_FIX16K,
        MTRR_FIX16K + 1,
        Emulated(Register::MemoryType),
        "kept, not acted on: EPT decides",
    ),
    both(
        MTRR_FIX4K,
        MTRR_FIX4K + 7,
        Emulated(Register::MemoryType),
        "kept, not acted on: EPT decides",
    ),
    both(
        msr::IA32_PAT,
        msr::IA32_PAT,
        Emulated(Register::Pat),
        "in the guest state area; a write is checked",
    ),
    both(
        msr::IA32_MTRR_DEF_TYPE,
        msr::IA32_MTRR_DEF_TYPE,
        Emulated(Register::MemoryType),
        "kept, not acted on: EPT decides",
    ),
    both(
        msr::IA32_PERF_GLOBAL_CTRL,
        msr::IA32_PERF_GLOBAL_CTRL,
        Fault,
        "performance monitoring is hidden",
    ),
    both(
        msr::IA32_VMX_BASIC,
        msr::IA32_VMX_PROCBASED_CTLS3,
        Fault,
        "CPUID hides VMX",
    ),
    both(
        msr::IA32_TSC_DEADLINE,
        msr::IA32_TSC_DEADLINE,
        Emulated(Register::TscDeadline),
        "the virtual APIC's timer",
    ),
    both(msr::IA32_XSS, msr::IA32_XSS, Fault, "CPUID hides XSAVES"),
    both(
        msr::IA32_EFER,
        msr::IA32_EFER,
        Emulated(Register::Efer),
        "in the guest state area; a write is checked",
    ),
    both(
        msr::IA32_STAR,
        msr::IA32_FMASK,
        PassThrough,
        "no effect in root mode; switched with the vCPU",
    ),
    both(
        msr::IA32_FS_BASE,
        msr::IA32_GS_BASE,
        PassThrough,
        "in the guest state area (SDM 24.4.1)",
    ),
    both(
        msr::IA32_KERNEL_GS_BASE,
        msr::IA32_KERNEL_GS_BASE,
        PassThrough,
        "no effect in root mode; switched with the vCPU",
    ),
    both(
        msr::IA32_TSC_AUX,
        msr::IA32_TSC_AUX,
        PassThrough,
        "no effect in root mode; switched with the vCPU",
    ),
    both(
        AMD_DE_CFG,
        AMD_DE_CFG,
        Fault,
        "another vendor's; Linux probes it when it looks for what to keep across suspend",
    ),
];

/// The MSRs that pass through in both directions and that the processor does not switch: the run
/// loop must save and load them when the vCPU changes (SDM 24.4.1 has no field for them).
pub const SWITCHED_BY_SOFTWARE: [u32; 6] = [
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_KERNEL_GS_BASE,
    msr::IA32_TSC_AUX,
];

/// The policy's line for an MSR.
pub fn line_of(register: u32) -> Option<&'static Line> {
    POLICY
        .iter()
        .find(|line| (line.first..=line.last).contains(&register))
}

/// What RDMSR of `register` does; an unknown register faults.
pub fn read_access(register: u32) -> Access {
    line_of(register).map_or(Access::Fault, |line| line.read)
}

/// What WRMSR of `register` does; an unknown register faults.
pub fn write_access(register: u32) -> Access {
    line_of(register).map_or(Access::Fault, |line| line.write)
}

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Whether CR0.PG is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// CR0.PG is 0.
    Off,
    /// CR0.PG is 1.
    On,
}

/// The value IA32_EFER takes when the guest writes `written` over `current`.
///
/// # Errors
/// A reserved bit, or a change of LME while paging is on (SDM 2.2.1, 4.1.1).
pub const fn checked_efer(
    current: u64,
    written: u64,
    paging: Paging,
) -> Result<u64, GeneralProtection> {
    const WRITABLE: u64 = efer::SCE | efer::LME | efer::NXE;
    if written & !(WRITABLE | efer::LMA) != 0 {
        return Err(GeneralProtection);
    }
    if matches!(paging, Paging::On) && (current ^ written) & efer::LME != 0 {
        return Err(GeneralProtection);
    }
    // LMA is the processor's: a write does not change it.
    Ok(written & WRITABLE | current & efer::LMA)
}

/// The value IA32_PAT takes.
///
/// # Errors
/// An entry that is not a memory type: 2, 3 or above 7 (SDM 11.12.2).
pub const fn checked_pat(written: u64) -> Result<u64, GeneralProtection> {
    let mut entry = 0;
    while entry < 8 {
        if !matches!(written >> (entry * 8) & 0xff, 0 | 1 | 4..=7) {
            return Err(GeneralProtection);
        }
        entry += 1;
    }
    Ok(written)
}

/// A vCPU's memory-type range registers: they hold what was written and do nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryTypeRegisters {
    variable: [u64; 16],
    fixed: [u64; 11],
    default_type: u64,
}

impl MemoryTypeRegisters {
    fn slot(&mut self, register: u32) -> Option<&mut u64> {
        match register {
            MTRR_PHYSBASE0..MTRR_VARIABLE_END => {
                self.variable.get_mut((register - MTRR_PHYSBASE0) as usize)
            }
            MTRR_FIX64K => self.fixed.get_mut(0),
            0x258..=0x259 => self.fixed.get_mut((register - MTRR_FIX16K) as usize + 1),
            0x268..=0x26f => self.fixed.get_mut((register - MTRR_FIX4K) as usize + 3),
            msr::IA32_MTRR_DEF_TYPE => Some(&mut self.default_type),
            _ => None,
        }
    }

    /// RDMSR.
    ///
    /// # Errors
    /// `register` is not a memory-type range register.
    pub fn read(&mut self, register: u32) -> Result<u64, GeneralProtection> {
        self.slot(register)
            .map(|slot| *slot)
            .ok_or(GeneralProtection)
    }

    /// WRMSR.
    ///
    /// # Errors
    /// A reserved memory type or bit (SDM 11.11.2), or another register.
    pub fn write(&mut self, register: u32, value: u64) -> Result<(), GeneralProtection> {
        let is_type = |bits: u64| matches!(bits & 0xff, 0 | 1 | 4 | 5 | 6);
        let allowed = match register {
            // PHYSBASE has the type in bits 7:0 and bits 11:8 reserved, PHYSMASK only V below bit 12.
            MTRR_PHYSBASE0..MTRR_VARIABLE_END if register & 1 == 0 => {
                is_type(value) && value & 0xf00 == 0
            }
            MTRR_PHYSBASE0..MTRR_VARIABLE_END => value & 0x7ff == 0,
            msr::IA32_MTRR_DEF_TYPE => is_type(value) && value & !0xcff == 0,
            _ => (0..8).all(|i| is_type(value >> (i * 8))),
        };
        let slot = self.slot(register).ok_or(GeneralProtection)?;
        if !allowed {
            return Err(GeneralProtection);
        }
        *slot = value;
        Ok(())
    }
}

/// The direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// Whether an access to an unknown MSR should be written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first of its kind.
    Log,
    /// Counted only.
    Quiet,
}

/// MSRs that guests tried and that have no line: counted, reported once each. Bounded: a guest that
/// probes the whole address space fills it and is then only counted.
#[derive(Clone, Debug)]
pub struct UnknownMsrs {
    seen: [(u32, Direction, u64); 16],
    used: usize,
    total: u64,
}

impl Default for UnknownMsrs {
    fn default() -> Self {
        Self {
            seen: [(0, Direction::Read, 0); 16],
            used: 0,
            total: 0,
        }
    }
}

impl UnknownMsrs {
    /// Counts one access that faulted.
    pub fn count(&mut self, register: u32, direction: Direction) -> Notice {
        self.total = self.total.saturating_add(1);
        let known = self.seen[..self.used]
            .iter_mut()
            .find(|(r, d, _)| (*r, *d) == (register, direction));
        if let Some((_, _, count)) = known {
            *count = count.saturating_add(1);
            return Notice::Quiet;
        }
        match self.seen.get_mut(self.used) {
            Some(entry) => {
                *entry = (register, direction, 1);
                self.used += 1;
                Notice::Log
            }
            None => Notice::Quiet,
        }
    }

    /// Every access counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Register, direction and count of the first sixteen.
    pub fn entries(&self) -> &[(u32, Direction, u64)] {
        &self.seen[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_order_and_do_not_overlap() {
        assert!(POLICY.windows(2).all(|pair| pair[0].last < pair[1].first));
        for line in POLICY {
            assert!(line.first <= line.last && !line.reason.is_empty());
        }
    }

    #[test]
    fn each_class_of_register() {
        for (register, read, write) in [
            (0x10, PassThrough, Emulated(Register::TimeStampCounter)),
            (
                0x1b,
                Emulated(Register::ApicBase),
                Emulated(Register::ApicBase),
            ),
            (0x3a, Constant(1), Fault),
            (0x48, Fault, Fault),
            (0x4e, Constant(1), Fault),
            (0x140, Constant(0), Only(0)),
            (0xc001_1029, Fault, Fault),
            (0x8b, Constant(1 << 32), Ignored),
            (0xfe, Constant(0x508), Fault),
            (0x174, PassThrough, PassThrough),
            (0x176, PassThrough, PassThrough),
            (
                0x200,
                Emulated(Register::MemoryType),
                Emulated(Register::MemoryType),
            ),
            (
                0x20f,
                Emulated(Register::MemoryType),
                Emulated(Register::MemoryType),
            ),
            (0x210, Fault, Fault),
            (0x277, Emulated(Register::Pat), Emulated(Register::Pat)),
            (0x480, Fault, Fault),
            (0x492, Fault, Fault),
            (
                0x6e0,
                Emulated(Register::TscDeadline),
                Emulated(Register::TscDeadline),
            ),
            (
                0xc000_0080,
                Emulated(Register::Efer),
                Emulated(Register::Efer),
            ),
            (0xc000_0082, PassThrough, PassThrough),
            (0xc000_0103, PassThrough, PassThrough),
            (0x1234, Fault, Fault),
        ] {
            assert_eq!(
                (read_access(register), write_access(register)),
                (read, write),
                "{register:#x}"
            );
        }
    }

    #[test]
    fn efer_writes_are_checked() {
        use efer::{LMA, LME, NXE, SCE};
        for (current, written, paging, expected) in [
            (0, LME | SCE | NXE, Paging::Off, Ok(LME | SCE | NXE)),
            (LME | LMA, LME | LMA | NXE, Paging::On, Ok(LME | LMA | NXE)),
            (LME | LMA, LME | NXE, Paging::On, Ok(LME | LMA | NXE)),
            (LME, LME | LMA, Paging::Off, Ok(LME)),
            (LME | LMA, NXE, Paging::On, Err(GeneralProtection)),
            (0, LME, Paging::On, Err(GeneralProtection)),
            (0, 1 << 1, Paging::Off, Err(GeneralProtection)),
            (0, 1 << 12, Paging::Off, Err(GeneralProtection)),
        ] {
            assert_eq!(
                checked_efer(current, written, paging),
                expected,
                "{current:#x} {written:#x}"
            );
        }
    }

    #[test]
    fn pat_entries_are_memory_types() {
        assert!(checked_pat(0x0007_0406_0007_0406).is_ok());
        for (entry, bad) in [(0, 2), (3, 3), (5, 8), (7, 0xff)] {
            assert_eq!(
                checked_pat(bad << (entry * 8)),
                Err(GeneralProtection),
                "{entry}"
            );
        }
    }

    #[test]
    fn mtrrs_keep_what_was_written() {
        let mut registers = MemoryTypeRegisters::default();
        for register in (0x200..0x210)
            .chain([0x250, 0x258, 0x259])
            .chain(0x268..=0x26f)
            .chain([0x2ff])
        {
            let value = if (0x200..0x210).contains(&register) && register & 1 == 1 {
                0x800 | u64::from(register) << 12
            } else {
                6
            };
            registers.write(register, value).unwrap();
            assert_eq!(registers.read(register), Ok(value), "{register:#x}");
        }
        for (register, value) in [
            (0x200, 2),
            (0x200, 0x106),
            (0x201, 0x400),
            (0x250, 3 << 8),
            (0x2ff, 0x1006),
            (0x2ff, 7),
            (0x210, 0),
            (0x25a, 0),
        ] {
            assert_eq!(
                registers.write(register, value),
                Err(GeneralProtection),
                "{register:#x}"
            );
        }
    }

    #[test]
    fn unknown_registers_are_logged_once_and_the_list_is_bounded() {
        let mut unknown = UnknownMsrs::default();
        assert_eq!(unknown.count(0x1234, Direction::Read), Notice::Log);
        assert_eq!(unknown.count(0x1234, Direction::Read), Notice::Quiet);
        assert_eq!(unknown.count(0x1234, Direction::Write), Notice::Log);
        for register in 0..1000 {
            unknown.count(register, Direction::Write);
        }
        assert_eq!(unknown.entries().len(), 16);
        assert_eq!(unknown.entries()[0], (0x1234, Direction::Read, 2));
        assert_eq!(unknown.total(), 1003);
        assert_eq!(unknown.count(0x9999, Direction::Read), Notice::Quiet);
    }
}
