//! What kind of processor the machine has.

/// Which VT-x features the processor offers; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VirtualizationLevel {
    /// No VMX at all.
    None,
    /// VMX with EPT, VPID and unrestricted guest, without TPR shadow or APIC virtualization.
    Base,
    /// And TPR shadow, virtualized APIC accesses, x2APIC virtualization, APIC-register
    /// virtualization and virtual-interrupt delivery.
    ApicVirtualization,
    /// And posted interrupts.
    PostedInterrupts,
    /// And tertiary controls with IPI virtualization.
    IpiVirtualization,
}

/// Whether VM entry makes the checks on the PID-pointer table that public text does not confirm.
///
/// Software must not depend on either: not on an entry that fails, and not on one that succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidPointerTableChecks {
    /// A misaligned table, or one whose first or last entry is beyond the physical-address width,
    /// fails the entry.
    Strict,
    /// Nothing is checked at entry; an entry of the table that cannot be read is unusable.
    Unknown,
}

/// Parameters of every logical processor of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// CPUID.1:EAX, family, model and stepping.
    pub signature: u32,
    /// MAXPHYADDR.
    pub physical_address_width: u32,
    /// 1-GByte pages.
    pub pages_1g: bool,
    /// VT-x features.
    pub virtualization: VirtualizationLevel,
    /// What VM entry checks of the PID-pointer table.
    pub pid_pointer_table_checks: PidPointerTableChecks,
}

impl Default for CpuModel {
    fn default() -> Self {
        Self {
            // Family 6, model F0H, which is no processor of Intel's: software that dispatches by model finds
            // none that it knows and asks for features. A known model would promise AVX, for instance.
            signature: 0x000f_0601,
            physical_address_width: 46,
            pages_1g: true,
            virtualization: VirtualizationLevel::IpiVirtualization,
            pid_pointer_table_checks: PidPointerTableChecks::Strict,
        }
    }
}

impl CpuModel {
    /// The bits that a physical address may have.
    pub const fn physical_mask(&self) -> u64 {
        (1 << self.physical_address_width) - 1
    }
}
