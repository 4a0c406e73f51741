//! The MSR bitmap (SDM 25.6.9 MSR-bitmap address): everything exits unless it is passed through.

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// One 4-KByte bitmap.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct MsrBitmap([u8; 4096]);

impl Default for MsrBitmap {
    fn default() -> Self {
        Self::new()
    }
}

impl MsrBitmap {
    /// Every access exits.
    pub const fn new() -> Self {
        Self([0xff; 4096])
    }

    /// Byte and bit of an access; `None` for an MSR that the bitmap does not cover (it always
    /// exits).
    fn place(msr: u32, access: Access) -> Option<(usize, u8)> {
        let (base, index) = match msr {
            0..=0x1fff => (0, msr),
            0xc000_0000..=0xc000_1fff => (1024, msr & 0x1fff),
            _ => return None,
        };
        let base = match access {
            Access::Read => base,
            Access::Write => base + 2048,
        };
        Some((base + index as usize / 8, 1 << (index % 8)))
    }

    /// Lets the guest do `access` to `msr`.
    pub fn pass(&mut self, msr: u32, access: Access) {
        if let Some((byte, bit)) = Self::place(msr, access) {
            self.0[byte] &= !bit;
        }
    }

    /// Makes `access` to `msr` exit.
    pub fn intercept(&mut self, msr: u32, access: Access) {
        if let Some((byte, bit)) = Self::place(msr, access) {
            self.0[byte] |= bit;
        }
    }

    /// Whether `access` to `msr` exits.
    pub fn intercepts(&self, msr: u32, access: Access) -> bool {
        Self::place(msr, access).is_none_or(|(byte, bit)| self.0[byte] & bit != 0)
    }

    /// Sets what an x2APIC guest may do without exits under `plan`. The rest of 800H-8FFH exits:
    /// without virtualization those MSRs are the physical APIC's, which no guest may reach.
    pub fn set_x2apic(&mut self, plan: super::control_plan::ApicPlan) {
        use arch::msr;
        for register in msr::X2APIC_FIRST..=msr::X2APIC_LAST {
            self.intercept(register, Access::Read);
            self.intercept(register, Access::Write);
        }
        if !plan.x2apic_mode {
            return;
        }
        // SDM 30.5 Virtualizing MSR-based APIC accesses.
        self.pass(msr::IA32_X2APIC_TPR, Access::Read);
        self.pass(msr::IA32_X2APIC_TPR, Access::Write);
        if plan.registers {
            for register in msr::X2APIC_FIRST..=msr::X2APIC_LAST {
                // The current count is never on the page; PPR is only where the processor keeps it.
                let on_page = readable_from_page(register)
                    && (plan.delivery || register != msr::X2APIC_FIRST + 0x0a);
                if on_page {
                    self.pass(register, Access::Read);
                }
            }
        }
        if plan.delivery {
            self.pass(msr::IA32_X2APIC_EOI, Access::Write);
            self.pass(msr::IA32_X2APIC_SELF_IPI, Access::Write);
        }
        // Only while the processor virtualizes IPIs: otherwise this is the physical ICR.
        if plan.ipi {
            self.pass(msr::IA32_X2APIC_ICR, Access::Write);
        }
    }
}

/// Whether a read of the x2APIC MSR is answered by what the virtual-APIC page holds. Others, and
/// MSRs that do not exist (which must fault), exit.
const fn readable_from_page(msr: u32) -> bool {
    matches!(
        msr - arch::msr::X2APIC_FIRST,
        0x02 | 0x03 | 0x08 | 0x0a | 0x0d | 0x0f | 0x10..=0x28 | 0x30 | 0x32..=0x38 | 0x3e
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::control_plan::ApicPlan;

    const ALL: ApicPlan = ApicPlan {
        tpr_shadow: true,
        apic_accesses: false,
        x2apic_mode: true,
        registers: true,
        delivery: true,
        posted: true,
        ipi: true,
    };

    #[test]
    fn places_are_the_manuals() {
        for (msr, access, byte) in [
            (0, Access::Read, 0),
            (0x1fff, Access::Read, 1023),
            (0xc000_0000, Access::Read, 1024),
            (0x830, Access::Write, 2048 + 0x106),
            (0xc000_1fff, Access::Write, 4095),
        ] {
            let mut bitmap = MsrBitmap::new();
            bitmap.pass(msr, access);
            assert_eq!(
                bitmap.0.iter().position(|b| *b != 0xff),
                Some(byte),
                "{msr:#x}"
            );
            assert!(!bitmap.intercepts(msr, access));
            bitmap.intercept(msr, access);
            assert!(bitmap.intercepts(msr, access));
        }
        assert!(MsrBitmap::new().intercepts(0x4000_0000, Access::Read));
    }

    fn icr_write_exits(plan: ApicPlan) -> bool {
        let mut bitmap = MsrBitmap::new();
        bitmap.set_x2apic(ALL);
        bitmap.set_x2apic(plan);
        bitmap.intercepts(0x830, Access::Write)
    }

    #[test]
    fn the_icr_is_only_open_while_the_processor_virtualizes_ipis() {
        assert!(!icr_write_exits(ALL));
        assert!(icr_write_exits(ApicPlan { ipi: false, ..ALL }));
        assert!(icr_write_exits(ApicPlan::default()));
        assert!(icr_write_exits(ApicPlan {
            x2apic_mode: false,
            ..ALL
        }));
    }

    #[test]
    fn each_part_opens_its_own_registers() {
        let mut bitmap = MsrBitmap::new();
        bitmap.set_x2apic(ApicPlan {
            registers: false,
            delivery: false,
            posted: false,
            ipi: false,
            ..ALL
        });
        let open = |bitmap: &MsrBitmap, access| {
            (0x800..0x900)
                .filter(|msr| !bitmap.intercepts(*msr, access))
                .collect::<Vec<u32>>()
        };
        assert_eq!(open(&bitmap, Access::Read), [0x808]);
        assert_eq!(open(&bitmap, Access::Write), [0x808]);
        bitmap.set_x2apic(ALL);
        assert_eq!(open(&bitmap, Access::Write), [0x808, 0x80b, 0x830, 0x83f]);
        assert!(bitmap.intercepts(0x839, Access::Read));
        assert!(bitmap.intercepts(0x831, Access::Read));
        assert!(!bitmap.intercepts(0x80a, Access::Read));
    }
}
