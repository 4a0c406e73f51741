//! VMX operation: one chapter of the manual per file.

pub mod apic_access;
pub mod apic_virtualization;
pub mod capabilities;
pub mod control_registers;
pub mod controls;
pub mod entry;
pub mod entry_checks;
pub mod ept;
pub mod events;
pub mod exceptions;
pub mod exit;
pub mod exit_class;
pub mod guest;
pub mod instruction_information;
pub mod intercept;
pub mod io_bitmap;
pub mod ipi_virtualization;
pub mod modification_log;
pub mod msr_areas;
pub mod msr_bitmap;
pub mod pause_loop;
pub mod posted_interrupts;
pub mod preemption_timer;
pub mod virtualization_exception;
pub mod vm_functions;
pub mod vmcs;
pub mod vmcs_shadowing;
pub mod vpid;

use arch::exit::ExitReason;

use crate::cpu::{
    Cpu,
    paging::Place,
    raise::{Exception, Raised},
};

pub use apic_access::{apic_access_fetch, apic_access_read, apic_access_write};
pub use capabilities::capability;
pub use exit::exit;

/// A VM exit about to happen (SDM 27.2 Recording VM-exit information and updating VM-entry control
/// fields). What is not here is collected when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmExit {
    /// Basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
    /// VM-exit instruction information.
    pub instruction_information: u32,
    /// The event that causes it directly, for the VM-exit interruption information.
    pub event: Option<Exception>,
}

impl VmExit {
    /// An exit without qualification.
    pub const fn new(reason: ExitReason) -> Self {
        Self::qualified(reason, 0)
    }

    /// An exit with a qualification.
    pub const fn qualified(reason: ExitReason, qualification: u64) -> Self {
        Self {
            reason,
            qualification,
            instruction_information: 0,
            event: None,
        }
    }

    /// The same with instruction information.
    pub const fn with_instruction_information(self, instruction_information: u32) -> Self {
        Self {
            instruction_information,
            ..self
        }
    }

    /// The exit that `event` causes directly (SDM 27.1 Architectural State Before A VM Exit).
    pub const fn by_event(reason: ExitReason, event: Exception) -> Self {
        Self {
            event: Some(event),
            ..Self::new(reason)
        }
    }
}

/// What the processor was doing when it used a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPhysicalAccess {
    /// The access to a translated linear address.
    Operand {
        /// That address.
        linear: u64,
        /// What paging makes of it.
        mode: LinearMode,
    },
    /// A paging-structure entry, on the way to translating `linear`.
    PagingStructure {
        /// The address being translated.
        linear: u64,
    },
    /// PDPTEs being loaded by MOV to CR; there is no linear address.
    PageDirectoryPointers,
}

/// What paging maps a linear address as (SDM 28.3.3.2 EPT Violations, on instruction fetches).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearMode {
    /// A supervisor-mode address: a U/S flag on the way is 0.
    Supervisor,
    /// A user-mode address, which every address is without paging.
    User,
}

/// What happens right after an instruction, before any event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The write went to the virtual-APIC page; now it takes effect (SDM 30.4.3.2).
    ApicWriteEmulation(apic_access::VirtualizedWrite),
    /// A trap-like VM exit.
    Exit(VmExit),
}

/// VMX operation of one processor.
#[derive(Debug)]
pub struct Vmx {
    /// VMXON was executed and VMXOFF was not.
    pub on: bool,
    /// Physical address of the VMXON region.
    pub vmxon_region: u64,
    /// The current-VMCS pointer, a physical address or [`vmcs::NO_POINTER`].
    pub current: u64,
    /// RAM offset of the current VMCS's region.
    pub region: u64,
    /// The processor is in VMX non-root operation.
    pub non_root: bool,
    /// ... and this is the guest. In VMX root operation it is that of none.
    pub guest: guest::Guest,
    /// Guest-physical translations.
    pub ept_cache: ept::Cache,
    /// Linear translations of guests.
    pub translations: vpid::Translations,
    /// Length of the instruction that was executed last.
    pub instruction_length: u8,
    /// The rule that made the last VM entry fail.
    pub last_violation: Option<entry_checks::Violation>,
}

impl Default for Vmx {
    fn default() -> Self {
        Self {
            on: false,
            vmxon_region: vmcs::NO_POINTER,
            current: vmcs::NO_POINTER,
            region: 0,
            non_root: false,
            guest: guest::Guest::default(),
            ept_cache: ept::Cache::default(),
            translations: vpid::Translations::default(),
            instruction_length: 0,
            last_violation: None,
        }
    }
}

impl Vmx {
    /// VM entry: `guest` is in force.
    fn enter(&mut self, guest: guest::Guest) {
        self.non_root = true;
        self.guest = guest;
    }

    /// VM exit: nothing of the guest stays. Gives the controls that it was left by.
    fn leave(&mut self) -> controls::Controls {
        self.non_root = false;
        std::mem::take(&mut self.guest).controls
    }
}

impl Cpu {
    /// Reads a field of the current VMCS.
    pub(crate) fn vmcs<F: vmcs::Field>(&self, field: F) -> F::Value {
        field.get(&self.ram, self.vmx.region)
    }

    /// Writes a field of the current VMCS.
    pub(crate) fn set_vmcs<F: vmcs::Field>(&mut self, field: F, value: F::Value) {
        let region = self.vmx.region;
        field.set(self, region, value);
    }
}

/// The APIC-access page, if `physical` lies in that of the VMCS in force (SDM 30.4).
#[inline]
pub fn apic_access_page(cpu: &Cpu, physical: u64) -> Option<Place> {
    (cpu.vmx.guest.controls.virtualize_apic_accesses()
        && physical & !0xfff == cpu.vmx.guest.controls.apic_access)
        .then_some(Place::ApicAccess(physical & 0xfff))
}

/// Raises a fault-like VM exit for an instruction.
#[cold]
pub fn instruction_exit(cpu: &mut Cpu, reason: ExitReason) -> Raised {
    cpu.vm_exit(VmExit::new(reason))
}
