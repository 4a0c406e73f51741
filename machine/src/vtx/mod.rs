//! VMX operation: one chapter of the manual per file.

pub mod ept;

use arch::exit::ExitReason;

use crate::cpu::{Cpu, paging::Place, raise::Raised, tlb::Access};

/// A VM exit about to happen (SDM 27.2 Recording VM-exit information and updating VM-entry control
/// fields). The remaining fields are collected when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmExit {
    /// Basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
    /// VM-exit instruction information.
    pub instruction_information: u32,
}

/// What the processor was doing when it used a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPhysicalAccess {
    /// The access to a translated linear address.
    Operand {
        /// That address.
        linear: u64,
    },
    /// A paging-structure entry, on the way to translating `linear`.
    PagingStructure {
        /// The address being translated.
        linear: u64,
    },
}

/// VMX operation of one processor.
#[derive(Debug, Default)]
pub struct Vmx {}

/// The APIC-access page, if `physical` lies in that of the VMCS in force (SDM 30.4).
#[inline]
pub fn apic_access_page(_cpu: &Cpu, _physical: u64) -> Option<Place> {
    None
}

/// A read of the APIC-access page (SDM 30.4.2 Virtualizing reads from the APIC-access page).
pub fn apic_access_read(
    cpu: &mut Cpu,
    offset: u64,
    _size: usize,
    _linear: u64,
) -> Result<u64, Raised> {
    cpu.device_read::<u32>(offset).map(u64::from)
}

/// A write of the APIC-access page (SDM 30.4.3 Virtualizing writes to the APIC-access page).
pub fn apic_access_write(
    cpu: &mut Cpu,
    offset: u64,
    _size: usize,
    value: u64,
    _linear: u64,
) -> Result<(), Raised> {
    cpu.device_write::<u32>(offset, value as u32)
}

/// An instruction fetch from the APIC-access page.
pub fn apic_access_fetch(cpu: &mut Cpu, offset: u64, _linear: u64) -> Result<u8, Raised> {
    cpu.device_read(offset)
}

/// Leaves the guest.
pub fn exit(cpu: &mut Cpu, _exit: VmExit) {
    cpu.activity = crate::cpu::Activity::Shutdown;
    let _ = Access::Read;
}
