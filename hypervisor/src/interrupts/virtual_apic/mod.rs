//! A vCPU's virtual local APIC: `apic::LocalApic` over the vCPU's virtual-APIC page, plus what depends
//! on how much of it the processor virtualizes.
//!
//! The same object serves alone, where the processor has no APIC virtualization, and for what the
//! processor leaves to software elsewhere. It belongs to the processor that runs the vCPU; others send
//! through the vCPU's port and this side receives before each entry.

mod entry;
mod exits;
#[cfg(all(test, not(loom)))]
mod tests;

pub use entry::{EntryState, GuestInterruptibility, Injection};
pub use exits::{ApicExit, FollowUp};

use apic::{
    apic_base::{ApicBase, GeneralProtection},
    local_apic::{Configuration, Effect, LocalApic},
    mailbox::vectors_of,
    register_page::{RegisterPage, VectorBank, merge_vectors},
};
use arch::{apic_register, interrupt_command::TriggerMode, msr::apic_base::DEFAULT_ADDRESS};

use super::{
    apic_virtualization::{ApicControls, ApicFeatures, ApicPage, LocalApicState, SoftwareState},
    posting::{Received, Vectors},
    vcpu_port::VcpuPort,
    vm_interrupts::{Publication, VmInterrupts},
};

/// What came for a vCPU that is not the local APIC's to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ReceivedEvents {
    /// Non-maskable interrupts: 0, 1, or 2 for two and more.
    pub non_maskable: u8,
    /// INIT: reset the vCPU's registers, call [`VirtualApic::init`], then wait for a start-up. It comes
    /// before `start_up`.
    pub init: bool,
    /// A start-up with its page; ignored unless the vCPU waits for one.
    pub start_up: Option<u8>,
}

/// What becomes of vectors that were under way when a local APIC stopped taking them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Their reception is completed (SDM 10.4.7.2).
    Completed,
    /// INIT or the global disable lose them with everything else (SDM 10.4.7.3, 10.4.3).
    Lost,
}

/// The local APIC of one vCPU.
#[derive(Debug)]
pub struct VirtualApic<P> {
    apic: LocalApic<P>,
    vcpu: u32,
    features: ApicFeatures,
    controls: ApicControls,
    /// VIRR, VISR or TMR changed in software since the last entry, or may have.
    dirty: bool,
    threshold: u32,
    end_of_interrupt_exits: [u64; 4],
}

impl<P: RegisterPage> VirtualApic<P> {
    /// The local APIC of vCPU `vcpu` after power-up, over `page`, the vCPU's virtual-APIC page.
    pub fn new(page: P, vcpu: u32, configuration: Configuration, features: ApicFeatures) -> Self {
        let apic = LocalApic::with_page(page, configuration);
        let controls = ApicControls::new(features, state(&apic));
        Self {
            apic,
            vcpu,
            features,
            controls,
            dirty: true,
            threshold: 0,
            end_of_interrupt_exits: [0; 4],
        }
    }

    /// The architectural state.
    pub const fn apic(&self) -> &LocalApic<P> {
        &self.apic
    }

    /// The controls in force.
    pub const fn controls(&self) -> ApicControls {
        self.controls
    }

    /// Decides the controls again, after a change of mode, page or software enable; `Some` if they
    /// change. The caller then writes the control fields and the MSR bitmap, before the next entry.
    // RVI and SVI are stale if virtual-interrupt delivery was off: `dirty` makes the next entry load
    // them from the page (SDM 30.1.2 Guest interrupt status).
    pub fn reconfigure(&mut self) -> Option<ApicControls> {
        let controls = ApicControls::new(self.features, state(&self.apic));
        self.dirty = true;
        if controls == self.controls {
            return None;
        }
        self.controls = controls;
        Some(controls)
    }

    /// Takes what was sent to the vCPU: vectors into VIRR, the rest to the caller. With interrupts
    /// masked, before every entry and before HLT is obeyed.
    #[inline]
    pub fn receive(&mut self, port: &VcpuPort) -> ReceivedEvents {
        let Received { requests, events } = port.receive();
        if requests != [0; 4] {
            self.accept_requests(requests);
        }
        let Some(taken) = events else {
            return ReceivedEvents::default();
        };
        // Who sent has looked whether it takes them.
        for (vector, trigger_mode) in taken.vectors() {
            let _ = self.apic.complete_reception(vector, trigger_mode);
            self.dirty = true;
        }
        ReceivedEvents {
            non_maskable: taken.non_maskable,
            init: taken.init,
            start_up: taken.start_up,
        }
    }

    fn accept_requests(&mut self, requests: [u64; 4]) {
        let page = self.apic.page_mut();
        merge_vectors(page, VectorBank::InterruptRequest, requests);
        // What is posted is edge-triggered, whatever the vector was before.
        for (index, bits) in (0u32..).zip(requests) {
            for (half, word) in [bits as u32, (bits >> 32) as u32].into_iter().enumerate() {
                let offset = apic_register::TRIGGER_MODE + (index * 2 + half as u32) * 16;
                if word != 0 && page.read(offset) & word != 0 {
                    page.write(offset, page.read(offset) & !word);
                }
            }
        }
        self.dirty = true;
    }

    /// Requests a vector of the vCPU's own, such as its timer's, without the detour.
    pub fn accept(&mut self, vector: u8) {
        let _ = self.apic.accept(vector, TriggerMode::Edge);
        self.dirty = true;
    }

    /// Lets the timer fire if it is due at `now`, in the guest's TSC; when to look again.
    pub fn expire(&mut self, now: u64) -> Option<u64> {
        if self.apic.timer_deadline().is_some_and(|due| due <= now) {
            self.apic.expire(now);
            self.dirty = true;
        }
        self.apic.timer_deadline()
    }

    /// The guest's TSC was changed by `difference`, wrapping.
    pub fn shift_time(&mut self, difference: u64) {
        let _ = self.apic.shift_time(difference);
    }

    /// IA32_APIC_BASE.
    pub const fn base(&self) -> ApicBase {
        self.apic.base()
    }

    /// WRMSR to IA32_APIC_BASE; the effect goes to [`Self::follow_up`].
    ///
    /// # Errors
    /// A reserved bit or an illegal transition (SDM 10.12.5).
    pub fn write_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        self.dirty = true;
        self.apic.write_base(value)
    }

    /// INIT: the registers. Publishes the identity; then [`Self::settle`] loses what was requested before.
    pub fn init(&mut self, vm: &VmInterrupts) -> Publication {
        self.apic.init();
        self.dirty = true;
        self.publish(vm)
    }

    /// After power-up, as a PC's firmware leaves the bootstrap processor's, before its first entry.
    /// Publishes the identity.
    pub fn enter_virtual_wire_mode(&mut self, vm: &VmInterrupts) -> Publication {
        self.apic.enter_virtual_wire_mode();
        // The first filling of the VMCS writes the controls.
        let _ = self.reconfigure();
        self.publish(vm)
    }

    /// Tells the senders what this local APIC answers to now.
    pub fn publish(&self, vm: &VmInterrupts) -> Publication {
        vm.publish(self.vcpu, &self.apic.identity())
    }

    /// Nobody is sending any more by what this local APIC was before it was published last: deals with
    /// the vectors that came until now. Nothing comes after, unless it takes it.
    pub fn settle(&mut self, port: &VcpuPort, arrivals: Arrivals) {
        let Vectors {
            requests,
            edge,
            level,
        } = port.take_vectors();
        if arrivals == Arrivals::Lost {
            return;
        }
        self.accept_requests(requests);
        for (vectors, trigger_mode) in [(edge, TriggerMode::Edge), (level, TriggerMode::Level)] {
            for vector in vectors_of(vectors) {
                let _ = self.apic.complete_reception(vector, trigger_mode);
            }
        }
        self.dirty = true;
    }

    /// Whether an interrupt is pending that the vCPU would take with RFLAGS.IF = 1: ends HLT.
    pub fn has_deliverable(&self) -> bool {
        self.apic.deliverable().is_some()
    }

    /// The vectors requested, ascending: for the dump.
    pub fn requested(&self) -> impl Iterator<Item = u8> {
        vectors_of(entry::bank(self.apic.page(), VectorBank::InterruptRequest))
    }
}

/// What of a local APIC decides how it is virtualized.
fn state<P: RegisterPage>(apic: &LocalApic<P>) -> LocalApicState {
    LocalApicState {
        mode: apic.mode(),
        page: if apic.base().page_address() == DEFAULT_ADDRESS {
            ApicPage::InPlace
        } else {
            ApicPage::Moved
        },
        software: if apic.is_software_enabled() {
            SoftwareState::Enabled
        } else {
            SoftwareState::Disabled
        },
    }
}
