//! Registers that belong to processor models rather than to the architecture (SDM volume 4, 2.8 and later
//! tables), as far as processors of this family have had them for long: kernels read these without asking
//! whether they are there. What they control does not exist here, so that they say what is so, or keep what
//! is written and do nothing.

use super::Cpu;

/// Multiples of the bus clock of 100 MHz at which the processor runs; CPUID leaves 15H and 16H say the same.
pub(super) const RATIO: u64 = 10;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// #GP(0).
    Refused,
    /// These bits are kept; the others are reserved and must be 0.
    Keeps(u64),
    /// These bits of events that have never happened are cleared by zeros; the others are reserved.
    Clears(u64),
}

/// A register.
#[derive(Clone, Copy, Debug)]
struct Register {
    index: u32,
    at_reset: u64,
    write: Write,
}

const fn fixed(index: u32, value: u64) -> Register {
    Register {
        index,
        at_reset: value,
        write: Write::Refused,
    }
}

const fn kept(index: u32, at_reset: u64, bits: u64) -> Register {
    Register {
        index,
        at_reset,
        write: Write::Keeps(bits),
    }
}

/// The number of cores and threads, which the table does not know.
const CORE_THREAD_COUNT: u32 = 0x35;
/// Log bits of the thermal status registers.
const THERMAL_LOGS: u64 = 0xaaaa;

/// All of them, in order.
const REGISTERS: [Register; COUNT] = [
    // IA32_P5_MC_ADDR and IA32_P5_MC_TYPE: no machine check has been.
    fixed(0x00, 0),
    fixed(0x01, 0),
    // MSR_EBL_CR_POWERON: no option was strapped.
    fixed(0x2a, 0),
    // MSR_SMI_COUNT.
    fixed(0x34, 0),
    // MSR_PPIN_CTL: the processor's inventory number is locked out.
    fixed(0x4e, 1),
    // MSR_FSB_FREQ: 100 MHz.
    fixed(0xcd, 0b101),
    // MSR_PLATFORM_INFO: the maximum ratio without turbo mode and the one of maximum efficiency. Ratio limits
    // cannot be programmed, and CPUID does not fault.
    fixed(0xce, RATIO << 8 | RATIO << 40),
    // MSR_PKG_CST_CONFIG_CONTROL: no package C-state, locked.
    fixed(0xe2, 1 << 15),
    // MSR_MISC_FEATURES_ENABLES: as MSR_PLATFORM_INFO says, CPUID cannot be made to fault.
    kept(0x140, 0, 0),
    // IA32_PERF_STATUS and IA32_PERF_CTL: the ratio that is and the one that is wanted; no turbo mode.
    fixed(0x198, RATIO << 8),
    kept(0x199, RATIO << 8, 0xffff | 1 << 32),
    // IA32_CLOCK_MODULATION, IA32_THERM_INTERRUPT, IA32_THERM_STATUS: no reading is valid.
    kept(0x19a, 0, 0x1e),
    kept(0x19b, 0, 0x00ff_ff1f),
    Register {
        index: 0x19c,
        at_reset: 0,
        write: Write::Clears(THERMAL_LOGS),
    },
    // MSR_TEMPERATURE_TARGET: 100 degrees Celsius.
    fixed(0x1a2, 100 << 16),
    // MSR_MISC_FEATURE_CONTROL: there are no prefetchers that it could turn off.
    kept(0x1a4, 0, 0xf),
    // MSR_TURBO_RATIO_LIMIT: the same for any number of active cores.
    fixed(0x1ad, RATIO * 0x0101_0101_0101_0101),
    // IA32_PACKAGE_THERM_STATUS and IA32_PACKAGE_THERM_INTERRUPT.
    Register {
        index: 0x1b1,
        at_reset: 0,
        write: Write::Clears(THERMAL_LOGS & 0xfff),
    },
    kept(0x1b2, 0, 0x01ff_ff17),
    // MSR_POWER_CTL: C1E, race to halt, energy-efficiency optimization.
    kept(0x1fc, 0, 1 << 1 | 1 << 19 | 1 << 20),
    // MSR_RAPL_POWER_UNIT: an eighth of a watt, 61 microjoules, 976 microseconds.
    fixed(0x606, 0xa_0e03),
    // MSR_PKG_POWER_LIMIT: none, locked.
    fixed(0x610, 1 << 63),
    // MSR_PKG_ENERGY_STATUS, MSR_DRAM_ENERGY_STATUS, MSR_PP0_ENERGY_STATUS: this costs no energy.
    fixed(0x611, 0),
    fixed(0x619, 0),
    fixed(0x639, 0),
];

/// How many there are.
const COUNT: usize = 25;

/// What was written to those that keep it.
#[derive(Clone, Copy, Debug)]
pub struct ModelSpecific([u64; COUNT]);

impl Default for ModelSpecific {
    fn default() -> Self {
        Self(REGISTERS.map(|register| register.at_reset))
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It took effect.
    Done,
    /// A reserved bit, or a register that cannot be written.
    Refused,
    /// There is no such register.
    Absent,
}

impl Cpu {
    /// Reads one of these; `None` if `index` is none of them.
    pub(super) fn read_model_specific(&self, index: u32) -> Option<u64> {
        if index == CORE_THREAD_COUNT {
            // A thread for each core.
            let count = self.platform.processors() as u64 & 0xffff;
            return Some(count << 16 | count);
        }
        let place = place(index)?;
        self.msrs.model_specific.0.get(place).copied()
    }

    /// Writes one of these.
    pub(super) fn write_model_specific(&mut self, index: u32, value: u64) -> Written {
        if index == CORE_THREAD_COUNT {
            return Written::Refused;
        }
        let Some(place) = place(index) else {
            return Written::Absent;
        };
        let write = REGISTERS.get(place).map(|register| register.write);
        match (write, self.msrs.model_specific.0.get_mut(place)) {
            (Some(Write::Keeps(bits)), Some(register)) if value & !bits == 0 => {
                *register = value;
                Written::Done
            }
            (Some(Write::Clears(bits)), _) if value & !bits == 0 => Written::Done,
            _ => Written::Refused,
        }
    }
}

fn place(index: u32) -> Option<usize> {
    REGISTERS
        .binary_search_by_key(&index, |register| register.index)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_in_order() {
        assert!(REGISTERS.is_sorted_by(|a, b| a.index < b.index));
        for register in REGISTERS {
            if let Write::Keeps(bits) = register.write {
                assert_eq!(register.at_reset & !bits, 0, "{:#x}", register.index);
            }
        }
    }
}
