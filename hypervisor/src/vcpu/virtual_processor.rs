//! A virtual processor: everything that belongs to it alone.

use super::event_injection::Event;
use super::exit_counters::ExitCounters;
use super::extended_state::ExtendedState;
use crate::host::aligned_page::AlignedPage;
use crate::interrupts::ipi_dispatch::IpiDispatcher;
use crate::interrupts::virtual_apic::VirtualApic;
use crate::vm::msr::{MemoryTypeRegisters, UnknownMsrs};
use crate::vmx::control_shadow::ControlShadow;
use crate::vmx::instructions::{GuestRegisters, LaunchState};
use crate::vmx::msr_bitmap::MsrBitmap;
use alloc::boxed::Box;
use apic::local_apic::Configuration;
use apic::non_maskable::PendingNonMaskable;
use arch::vmcs::{self, Field32, Field64};

use crate::interrupts::apic_virtualization::ApicFeatures;

/// Shadows of the control fields.
#[derive(Debug)]
pub struct ControlShadows {
    /// Pin-based controls.
    pub pin: ControlShadow<Field32>,
    /// Primary processor-based controls.
    pub primary: ControlShadow<Field32>,
    /// Secondary processor-based controls.
    pub secondary: ControlShadow<Field32>,
    /// Tertiary processor-based controls.
    pub tertiary: ControlShadow<Field64>,
    /// VM-exit controls.
    pub exit: ControlShadow<Field32>,
    /// VM-entry controls.
    pub entry: ControlShadow<Field32>,
}

impl ControlShadows {
    const fn new() -> Self {
        Self {
            pin: ControlShadow::new(vmcs::PIN_BASED_CONTROLS),
            primary: ControlShadow::new(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS),
            secondary: ControlShadow::new(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS),
            tertiary: ControlShadow::new(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS),
            exit: ControlShadow::new(vmcs::EXIT_CONTROLS),
            entry: ControlShadow::new(vmcs::ENTRY_CONTROLS),
        }
    }
}

/// What the vCPU does when it is next entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executes instructions.
    Active,
    /// Has executed HLT: nothing until an event.
    Halted,
    /// Nothing until a start-up IPI.
    WaitForSipi,
}

/// One virtual processor. Owned by the physical processor that the scheduler gave it to.
#[derive(Debug)]
pub struct VirtualProcessor {
    /// General-purpose registers but RSP.
    pub registers: GuestRegisters,
    /// Number in the virtual machine, and its x2APIC ID.
    pub number: u32,
    /// Whether the VMCS has been launched.
    pub launched: LaunchState,
    /// Whether the VMCS's fields have been written for the first time.
    pub initialized: bool,
    /// The processor that had it last.
    pub last_processor: Option<u32>,
    /// Executing, halted or waiting.
    pub activity: Activity,
    /// Exits by reason.
    pub exits: ExitCounters,
    /// The local APIC, over the virtual-APIC page.
    pub apic: VirtualApic<AlignedPage>,
    /// Address of the virtual-APIC page.
    pub virtual_apic_address: u64,
    /// What the next entry delivers before anything else: a fault, or what an exit interrupted.
    pub event: Option<Event>,
    /// NMIs that wait.
    pub non_maskable: PendingNonMaskable,
    /// Guest TSC less host TSC.
    pub tsc_offset: u64,
    /// Shadows of the control fields.
    pub controls: ControlShadows,
    /// The VMCS region.
    pub vmcs_region: AlignedPage,
    /// Which MSR accesses exit.
    pub msr_bitmap: Box<MsrBitmap>,
    /// x87, SSE and the MSRs that software switches.
    pub extended: ExtendedState,
    /// Memory-type range registers.
    pub memory_types: MemoryTypeRegisters,
    /// MSRs the guest tried in vain.
    pub unknown_msrs: UnknownMsrs,
    /// A buffer for sending.
    pub dispatcher: IpiDispatcher,
    /// Where INIT or the loader left the registers that the VMCS holds, to be written before the next
    /// entry.
    pub pending_reset: Option<super::guest_state::Start>,
}

impl VirtualProcessor {
    /// A vCPU after power-up, that waits for a start-up IPI.
    pub fn new(number: u32, apic: Configuration, features: ApicFeatures) -> Self {
        let page = AlignedPage::new();
        let virtual_apic_address = page.address();
        Self {
            registers: GuestRegisters::default(),
            number,
            launched: LaunchState::Clear,
            initialized: false,
            last_processor: None,
            activity: Activity::WaitForSipi,
            exits: ExitCounters::default(),
            apic: VirtualApic::new(page, number, apic, features),
            virtual_apic_address,
            event: None,
            non_maskable: PendingNonMaskable::NONE,
            tsc_offset: 0,
            controls: ControlShadows::new(),
            vmcs_region: AlignedPage::new(),
            msr_bitmap: Box::new(MsrBitmap::new()),
            extended: ExtendedState::new(),
            memory_types: MemoryTypeRegisters::default(),
            unknown_msrs: UnknownMsrs::default(),
            dispatcher: IpiDispatcher::default(),
            pending_reset: None,
        }
    }
}
