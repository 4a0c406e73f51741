//! What a guest's write of its interrupt command becomes: the decision tables of APIC-write
//! emulation and of WRMSR to the x2APIC range, without their effects.
//!
//! Each function says what the processor does after it has stored the value on the virtual-APIC
//! page, except [`IpiDecision::GeneralProtection`] and [`IpiDecision::NotVirtualized`], before
//! which nothing is stored.

use arch::interrupt_command::X2APIC_RESERVED;

/// The two controls that virtualize the interrupt command register (SDM 30.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Controls {
    /// Secondary control "virtual-interrupt delivery".
    pub virtual_interrupt_delivery: bool,
    /// Tertiary control "IPI virtualization".
    pub ipi_virtualization: bool,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum IpiDecision {
    /// Self-IPI virtualization (SDM 30.1.5).
    SelfIpi {
        /// 16 to 255.
        vector: u8,
    },
    /// IPI virtualization (SDM 30.1.6): look `target` up, see
    /// [`pid_pointer_table`](crate::pid_pointer_table). The vector may still be illegal.
    VirtualizeIpi {
        /// V of the manual's pseudocode.
        vector: u8,
        /// T of the manual's pseudocode: a virtual APIC ID.
        target: u32,
    },
    /// APIC-write VM exit for the page offset that was written (for an MSR: its page offset).
    ApicWriteExit,
    /// #GP(0); nothing is stored.
    GeneralProtection,
    /// The controls do not virtualize this MSR: the write goes to the physical local APIC.
    NotVirtualized,
}

/// APIC-write emulation for page offset 300H: `low` is VICR_LO after the write, `high` VICR_HI.
///
/// Reserved bits never fault here; they only force the exit.
// SDM 30.4.3.2 APIC-Write Emulation.
pub const fn memory_mapped_command(low: u32, high: u32, controls: Controls) -> IpiDecision {
    // Bits 14 (level) and 11 (destination mode) do not matter to a self-IPI.
    if controls.virtual_interrupt_delivery && low & 0xffff_b700 == 0x0004_0000 && low & 0xf0 != 0 {
        return IpiDecision::SelfIpi { vector: low as u8 };
    }
    // Bit 14 does not matter. The vector is tested by IPI virtualization itself.
    // UNCONFIRMED wording: that the list is the x2APIC form's plus the reserved bits, and that T
    // is VICR_HI[31:24].
    if controls.ipi_virtualization && low & 0xffff_bf00 == 0 {
        return IpiDecision::VirtualizeIpi {
            vector: low as u8,
            target: high >> 24,
        };
    }
    IpiDecision::ApicWriteExit
}

/// WRMSR 830H under "virtualize x2APIC mode", not intercepted by the MSR bitmap.
// SDM 30.5 Virtualizing MSR-Based APIC Accesses.
pub const fn x2apic_command(value: u64, controls: Controls) -> IpiDecision {
    if !controls.ipi_virtualization {
        return IpiDecision::NotVirtualized;
    }
    if value & X2APIC_RESERVED != 0 {
        return IpiDecision::GeneralProtection;
    }
    // Shorthand, trigger mode, delivery status, destination mode, delivery mode. The shorthand
    // "self" is not self-IPI virtualized in this form, and bit 12 does not fault: it stays on the
    // page for the VMM to clear (prior-art B5 #1).
    if value & 0x000c_9f00 == 0 {
        IpiDecision::VirtualizeIpi {
            vector: value as u8,
            target: (value >> 32) as u32,
        }
    } else {
        IpiDecision::ApicWriteExit
    }
}

/// WRMSR 83FH under "virtualize x2APIC mode", not intercepted by the MSR bitmap.
// SDM 30.5 Virtualizing MSR-Based APIC Accesses.
pub const fn x2apic_self_ipi(value: u64, controls: Controls) -> IpiDecision {
    if !controls.virtual_interrupt_delivery {
        return IpiDecision::NotVirtualized;
    }
    if value & !0xff != 0 {
        return IpiDecision::GeneralProtection;
    }
    if value & 0xf0 != 0 {
        IpiDecision::SelfIpi {
            vector: value as u8,
        }
    } else {
        IpiDecision::ApicWriteExit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use IpiDecision::*;

    const BOTH: Controls = Controls {
        virtual_interrupt_delivery: true,
        ipi_virtualization: true,
    };
    const DELIVERY_ONLY: Controls = Controls {
        virtual_interrupt_delivery: true,
        ipi_virtualization: false,
    };
    const IPI_ONLY: Controls = Controls {
        virtual_interrupt_delivery: false,
        ipi_virtualization: true,
    };
    const NEITHER: Controls = Controls {
        virtual_interrupt_delivery: false,
        ipi_virtualization: false,
    };
    const UNICAST: IpiDecision = VirtualizeIpi {
        vector: 0xf1,
        target: 1,
    };

    #[test]
    fn memory_mapped_unicast_needs_each_field_zero() {
        for bit in 8..32 {
            let low = 0xf1 | 1 << bit;
            let expected = match bit {
                14 => UNICAST,
                18 => SelfIpi { vector: 0xf1 },
                _ => ApicWriteExit,
            };
            assert_eq!(
                memory_mapped_command(low, 0x0100_0000, BOTH),
                expected,
                "bit {bit}"
            );
        }
        assert_eq!(memory_mapped_command(0xf1, 0x01ff_ffff, BOTH), UNICAST);
        assert_eq!(memory_mapped_command(0xf1, 0x0100_0000, IPI_ONLY), UNICAST);
        assert_eq!(
            memory_mapped_command(0xf1, 0x0100_0000, DELIVERY_ONLY),
            ApicWriteExit
        );
        assert_eq!(
            memory_mapped_command(0xf1, 0x0100_0000, NEITHER),
            ApicWriteExit
        );
        // An illegal vector is IPI virtualization's business.
        assert_eq!(
            memory_mapped_command(0x0f, 0xff00_0000, BOTH),
            VirtualizeIpi {
                vector: 0x0f,
                target: 0xff
            }
        );
    }

    #[test]
    fn memory_mapped_self_needs_each_field_right() {
        let own = SelfIpi { vector: 0xf1 };
        assert_eq!(memory_mapped_command(0x0004_40f1, 0, BOTH), own);
        for bit in 8..32 {
            let low = 0x0004_00f1 ^ 1 << bit;
            let expected = match bit {
                11 | 14 => own,
                18 => VirtualizeIpi {
                    vector: 0xf1,
                    target: 0,
                },
                _ => ApicWriteExit,
            };
            assert_eq!(memory_mapped_command(low, 0, BOTH), expected, "bit {bit}");
        }
        assert_eq!(memory_mapped_command(0x0004_000f, 0, BOTH), ApicWriteExit);
        assert_eq!(
            memory_mapped_command(0x0004_0010, 0, BOTH),
            SelfIpi { vector: 0x10 }
        );
        assert_eq!(
            memory_mapped_command(0x0004_00f1, 0, IPI_ONLY),
            ApicWriteExit
        );
        assert_eq!(memory_mapped_command(0x0004_00f1, 0, DELIVERY_ONLY), own);
    }

    #[test]
    fn x2apic_command_bit_by_bit() {
        for bit in 0..64 {
            let value = 0x1_0000_00f1 ^ 1 << bit;
            let expected = match bit {
                13 | 16 | 17 | 20..=31 => GeneralProtection,
                0..=7 | 14 | 32.. => VirtualizeIpi {
                    vector: value as u8,
                    target: (value >> 32) as u32,
                },
                _ => ApicWriteExit,
            };
            assert_eq!(x2apic_command(value, BOTH), expected, "bit {bit}");
            assert_eq!(x2apic_command(value, IPI_ONLY), expected, "bit {bit}");
            assert_eq!(x2apic_command(value, DELIVERY_ONLY), NotVirtualized);
        }
    }

    /// Prior-art B5 #1 and #2.
    #[test]
    fn x2apic_busy_bit_exits_and_does_not_fault() {
        assert_eq!(x2apic_command(0x1_0000_10f1, BOTH), ApicWriteExit);
        assert_eq!(x2apic_command(0x1_0000_30f1, BOTH), GeneralProtection);
    }

    #[test]
    fn x2apic_shorthands_and_modes_exit() {
        for low in [
            0x4_0041, 0x8_0041, 0xc_0041, 0x441, 0x541, 0x641, 0x841, 0x8041,
        ] {
            assert_eq!(x2apic_command(low, BOTH), ApicWriteExit, "{low:#x}");
        }
        assert_eq!(
            x2apic_command(0xffff_ffff_0000_0041, BOTH),
            VirtualizeIpi {
                vector: 0x41,
                target: 0xffff_ffff
            }
        );
    }

    #[test]
    fn x2apic_self_ipi_lines() {
        assert_eq!(x2apic_self_ipi(0x41, BOTH), SelfIpi { vector: 0x41 });
        assert_eq!(
            x2apic_self_ipi(0x41, DELIVERY_ONLY),
            SelfIpi { vector: 0x41 }
        );
        assert_eq!(x2apic_self_ipi(0x0f, BOTH), ApicWriteExit);
        assert_eq!(x2apic_self_ipi(0x141, BOTH), GeneralProtection);
        assert_eq!(x2apic_self_ipi(0x1_0000_0041, BOTH), GeneralProtection);
        assert_eq!(x2apic_self_ipi(0x41, IPI_ONLY), NotVirtualized);
    }
}
