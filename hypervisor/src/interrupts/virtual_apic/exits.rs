//! What the exits of APIC virtualization, and the accesses that nothing virtualizes, do to the virtual
//! APIC.

use apic::{
    apic_base::{ApicMode, GeneralProtection},
    local_apic::{Effect, EndOfInterruptBroadcast},
    register_page::RegisterPage,
};
use arch::{
    apic_register::{INTERRUPT_COMMAND, SELF_IPI},
    interrupt_command::{DeliveryMode, InterruptCommand, Shorthand},
    msr::{IA32_X2APIC_ICR, IA32_X2APIC_SELF_IPI},
};

use super::{Arrivals, VirtualApic};
use crate::interrupts::{
    ipi_dispatch::{IpiDispatcher, dispatch_unicast, without_busy_bit, x2apic_command_faults},
    posting::{Sender, Signal},
    vm_interrupts::{Publication, VmInterrupts},
};

/// High half of the 64-bit ICR on the virtual-APIC page (SDM 30.1.1).
const X2APIC_COMMAND_HIGH: u32 = 0x304;

/// An exit that concerns the virtual APIC, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicExit {
    /// Exit reason 56. Trap-like: RIP is already past the instruction and must not be advanced (SDM
    /// 30.4.3.3).
    ApicWrite {
        /// Exit qualification bits 11:0.
        offset: u32,
    },
    /// Exit reason 45. Trap-like.
    VirtualizedEoi {
        /// Exit qualification.
        vector: u8,
    },
    /// Exit reason 43. Trap-like.
    TprBelowThreshold,
}

/// What is left to do after an access; every field asks for something if it is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FollowUp {
    /// Broadcast to the I/O APIC: `Platform::end_of_interrupt`.
    pub end_of_interrupt: Option<u8>,
    /// The timer's deadline changed: arm the host's timer by `VirtualApic::expire`.
    pub timer: bool,
    /// What it answers to changed: what senders may still be doing and what then becomes of it, then
    /// [`VirtualApic::reconfigure`] before the next entry.
    pub published: Option<(Publication, Arrivals)>,
}

impl FollowUp {
    /// Nothing.
    pub const NONE: Self = Self {
        end_of_interrupt: None,
        timer: false,
        published: None,
    };
}

impl<P: RegisterPage> VirtualApic<P> {
    /// The common way to send: WRMSR 830H intercepted, or its APIC-write exit, with a fixed physical
    /// unicast. `None` if it is anything else, and nothing was done; then take the general way.
    #[inline]
    pub fn send_unicast(
        &mut self,
        command: u64,
        vm: &VmInterrupts,
        sender: Sender,
    ) -> Option<Signal> {
        if self.apic.mode() != ApicMode::X2apic {
            return None;
        }
        let signal = dispatch_unicast(vm, command as u32, (command >> 32) as u32, sender)?;
        let page = self.apic.page_mut();
        page.write(INTERRUPT_COMMAND, command as u32);
        page.write(X2APIC_COMMAND_HIGH, (command >> 32) as u32);
        Some(signal)
    }

    /// The ICR that an APIC-write exit for 300H found on the page, in x2APIC mode: all 64 bits, without
    /// the busy bit.
    pub fn written_command(&self) -> u64 {
        let page = self.apic.page();
        let low = u64::from(page.read(INTERRUPT_COMMAND));
        without_busy_bit(low | u64::from(page.read(X2APIC_COMMAND_HIGH)) << 32)
    }

    /// Handles a trap-like exit. The effect goes to [`Self::follow_up`].
    pub fn exit(&mut self, exit: ApicExit, now: u64) -> Effect {
        self.dirty = true;
        match exit {
            ApicExit::ApicWrite { offset } => self.apic_write(offset, now),
            ApicExit::VirtualizedEoi { vector } => self.apic.ended(vector),
            // `prepare_entry` finds what became deliverable.
            ApicExit::TprBelowThreshold => Effect::PriorityChanged,
        }
    }

    fn apic_write(&mut self, offset: u32, now: u64) -> Effect {
        match (self.apic.mode(), offset) {
            // New with IPI virtualization: before it no such exit had this offset in x2APIC mode.
            (ApicMode::X2apic, INTERRUPT_COMMAND) => {
                let command = self.written_command();
                // The processor has checked the reserved bits (SDM 30.5), so this does not fault.
                self.apic
                    .write_msr(IA32_X2APIC_ICR, command, now)
                    .unwrap_or(Effect::None)
            }
            (ApicMode::X2apic, SELF_IPI) => {
                let value = u64::from(self.apic.page().read(SELF_IPI) & 0xff);
                self.apic
                    .write_msr(IA32_X2APIC_SELF_IPI, value, now)
                    .unwrap_or(Effect::None)
            }
            // A write into the middle of a register is not defined (SDM 10.4.1); it has no effect.
            (ApicMode::Xapic, offset) if offset & 0xf == 0 => {
                let value = self.apic.page().read(offset);
                self.apic.write_register(offset, value, now)
            }
            (ApicMode::X2apic | ApicMode::Xapic | ApicMode::Disabled, _) => Effect::None,
        }
    }

    /// A read of the APIC page that exited (reason 44, or an EPT violation without virtualized
    /// accesses): the 32-bit register, to be cut to the access. The instruction was not executed.
    pub fn read_register(&mut self, offset: u32, now: u64) -> u32 {
        // A register that does not exist raises the error interrupt.
        self.dirty = true;
        self.apic.read_register(offset & 0xff0, now)
    }

    /// A write of the APIC page that exited. The instruction was not executed.
    pub fn write_register(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        self.dirty = true;
        if offset & 0xf != 0 {
            return Effect::None;
        }
        self.apic.write_register(offset, value, now)
    }

    /// RDMSR of 800H to 8FFH that exited.
    ///
    /// # Errors
    /// #GP(0): not in x2APIC mode, reserved or write-only.
    pub fn read_msr(&self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        self.apic.read_msr(msr, now)
    }

    /// WRMSR of 800H to 8FFH that exited. The effect goes to [`Self::follow_up`].
    ///
    /// # Errors
    /// #GP(0): not in x2APIC mode, reserved, read-only, or a reserved bit, with the bits of the ICR as
    /// the processor checks them (prior-art B5 number 2).
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        if msr == IA32_X2APIC_ICR && x2apic_command_faults(value) {
            return Err(GeneralProtection);
        }
        self.dirty = true;
        self.apic.write_msr(msr, value, now)
    }

    /// MOV from CR8, without the TPR shadow.
    pub fn cr8(&self) -> u64 {
        self.apic.cr8()
    }

    /// MOV to CR8, without the TPR shadow.
    ///
    /// # Errors
    /// #GP(0): a bit above the low four.
    pub fn write_cr8(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        self.dirty = true;
        self.apic.write_cr8(value)
    }

    /// WRMSR to IA32_TSC_DEADLINE.
    pub fn write_tsc_deadline(&mut self, value: u64) -> Effect {
        self.apic.write_tsc_deadline(value)
    }

    /// Does what an effect asks for as far as it is about this virtual machine's interrupts, and says
    /// what is left.
    pub fn follow_up(
        &mut self,
        effect: Effect,
        vm: &VmInterrupts,
        dispatcher: &mut IpiDispatcher,
        sender: Sender,
        signal: impl FnMut(Signal),
    ) -> FollowUp {
        match effect {
            Effect::None | Effect::PriorityChanged | Effect::LocalVectorTableChanged => {
                FollowUp::NONE
            }
            Effect::SendInterrupt(command) => {
                self.send(command, vm, dispatcher, sender, signal);
                FollowUp::NONE
            }
            Effect::EndOfInterrupt {
                vector, broadcast, ..
            } => FollowUp {
                end_of_interrupt: (broadcast == EndOfInterruptBroadcast::Sent).then_some(vector),
                ..FollowUp::NONE
            },
            Effect::TimerChanged => FollowUp {
                timer: true,
                ..FollowUp::NONE
            },
            Effect::IdentityChanged => FollowUp {
                published: Some((self.publish(vm), self.arrivals())),
                ..FollowUp::NONE
            },
            Effect::BaseChanged => FollowUp {
                timer: true,
                published: Some((self.publish(vm), self.arrivals())),
                end_of_interrupt: None,
            },
        }
    }

    /// What becomes of vectors under way after a write of the guest's.
    fn arrivals(&self) -> Arrivals {
        match self.apic.mode() {
            ApicMode::Disabled => Arrivals::Lost,
            ApicMode::Xapic | ApicMode::X2apic => Arrivals::Completed,
        }
    }

    fn send(
        &mut self,
        command: InterruptCommand,
        vm: &VmInterrupts,
        dispatcher: &mut IpiDispatcher,
        sender: Sender,
        signal: impl FnMut(Signal),
    ) {
        if command.shorthand == Shorthand::SelfOnly && command.delivery_mode == DeliveryMode::Fixed
        {
            self.accept(command.vector);
        } else {
            dispatcher.dispatch(vm, self.vcpu, command, sender, signal);
        }
    }
}
