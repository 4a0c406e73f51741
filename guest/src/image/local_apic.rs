//! The local APIC, in either mode.

use super::{
    crew::{Check, Waiting, check, wait_until},
    instruction::{
        GeneralProtection, cpuid, fence, read_msr, read_register, try_write_msr, write_msr,
        write_register,
    },
    processor::Processor,
};
use arch::{
    apic_register::{
        DESTINATION_FORMAT, ERROR_STATUS, ID, INTERRUPT_COMMAND, INTERRUPT_COMMAND_HIGH,
        INTERRUPT_REQUEST, LOGICAL_DESTINATION, LVT_ERROR, LVT_LINT0, LVT_LINT1, LVT_MASKED,
        LVT_TIMER, SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE, TASK_PRIORITY,
    },
    interrupt_command::{
        DELIVERY_STATUS, DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode,
    },
    msr::{IA32_APIC_BASE, IA32_X2APIC_ICR, X2APIC_FIRST, apic_base},
};
use posthaste_guest::{command_line::ApicMode, logical_destination::LogicalModel, vector};

/// Where the page is; this guest does not move it.
const PAGE: u64 = apic_base::DEFAULT_ADDRESS;

/// The running processor's local APIC.
#[derive(Clone, Copy)]
pub(super) struct LocalApic {
    mode: ApicMode,
}

/// A fixed, edge-triggered, physically addressed interrupt.
pub(super) const fn fixed(vector: u8, destination: u32) -> InterruptCommand {
    InterruptCommand {
        vector,
        delivery_mode: DeliveryMode::Fixed,
        destination_mode: DestinationMode::Physical,
        assert: true,
        trigger_mode: TriggerMode::Edge,
        shorthand: Shorthand::None,
        destination,
    }
}

/// Whether CPUID offers x2APIC mode.
pub(super) fn has_x2apic() -> bool {
    cpuid(1, 0).ecx >> 21 & 1 != 0
}

impl LocalApic {
    /// Puts the running processor's APIC into `mode`, enabled, with every local interrupt masked.
    pub(super) fn enable(mode: ApicMode, processor: &Processor) -> Self {
        let base = read_msr(IA32_APIC_BASE);
        match mode {
            ApicMode::X2apic => {
                // Through xAPIC mode: from disabled there is no direct way (SDM 10.12.5).
                write_msr(IA32_APIC_BASE, base | apic_base::ENABLE);
                write_msr(IA32_APIC_BASE, base | apic_base::ENABLE | apic_base::EXTD);
            }
            ApicMode::Xapic => {
                let disabled = base & !(apic_base::ENABLE | apic_base::EXTD);
                if base & apic_base::EXTD != 0 {
                    write_msr(IA32_APIC_BASE, disabled);
                }
                if base & (apic_base::EXTD | apic_base::ENABLE) != apic_base::ENABLE {
                    write_msr(IA32_APIC_BASE, disabled | apic_base::ENABLE);
                }
            }
        }
        let apic = Self { mode };
        processor.set_apic_page(match mode {
            ApicMode::Xapic => Some(PAGE),
            ApicMode::X2apic => None,
        });
        apic.write(
            SPURIOUS_VECTOR,
            SPURIOUS_VECTOR_ENABLE | u32::from(vector::SPURIOUS),
        );
        for entry in [LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR] {
            apic.write(entry, LVT_MASKED);
        }
        apic.write(TASK_PRIORITY, 0);
        apic
    }

    /// The mode.
    pub(super) const fn mode(self) -> ApicMode {
        self.mode
    }

    /// Reads a 32-bit register by its offset in the page.
    pub(super) fn read(self, register: u32) -> u32 {
        match self.mode {
            ApicMode::Xapic => read_register(PAGE + u64::from(register)),
            ApicMode::X2apic => read_msr(X2APIC_FIRST + (register >> 4)) as u32,
        }
    }

    /// Writes a 32-bit register.
    pub(super) fn write(self, register: u32, value: u32) {
        match self.mode {
            ApicMode::Xapic => write_register(PAGE + u64::from(register), value),
            ApicMode::X2apic => write_msr(X2APIC_FIRST + (register >> 4), u64::from(value)),
        }
    }

    /// The APIC ID.
    pub(super) fn id(self) -> u32 {
        match self.mode {
            ApicMode::Xapic => self.read(ID) >> 24,
            ApicMode::X2apic => self.read(ID),
        }
    }

    /// Sends an interrupt; in xAPIC mode once the previous one has left.
    pub(super) fn send(self, command: InterruptCommand) {
        self.wait_for_delivery();
        self.send_unpolled(command);
    }

    /// Waits until the previous interrupt has left; an x2APIC does not tell (SDM 10.12.9).
    fn wait_for_delivery(self) {
        if self.mode == ApicMode::Xapic {
            let idle = wait_until(Waiting::Politely, || {
                u64::from(self.read(INTERRUPT_COMMAND)) & DELIVERY_STATUS == 0
            });
            if !idle {
                let command = self.read(INTERRUPT_COMMAND);
                let cleared = u64::from(command) & DELIVERY_STATUS == 0;
                check(
                    cleared,
                    Check::DeliveryStatusClears,
                    self.id() as usize,
                    command.into(),
                );
            }
        }
    }

    /// Sends an interrupt when the previous one is known to have left: nothing but the writes.
    pub(super) fn send_unpolled(self, command: InterruptCommand) {
        match self.mode {
            ApicMode::Xapic => {
                self.write(INTERRUPT_COMMAND_HIGH, command.destination << 24);
                self.write(INTERRUPT_COMMAND, command.low());
            }
            ApicMode::X2apic => {
                fence();
                write_msr(IA32_X2APIC_ICR, command.to_x2apic());
            }
        }
    }

    /// Writes the interrupt command register as given. `high` is bits 63:32: in xAPIC mode the
    /// destination is in the top byte.
    pub(super) fn write_command(self, low: u32, high: u32) -> Result<(), GeneralProtection> {
        match self.mode {
            ApicMode::Xapic => {
                self.wait_for_delivery();
                self.write(INTERRUPT_COMMAND_HIGH, high);
                self.write(INTERRUPT_COMMAND, low);
                Ok(())
            }
            ApicMode::X2apic => {
                fence();
                try_write_msr(IA32_X2APIC_ICR, u64::from(high) << 32 | u64::from(low))
            }
        }
    }

    /// `destination` where [`Self::write_command`] wants it.
    pub(super) const fn command_high(self, destination: u32) -> u32 {
        match self.mode {
            ApicMode::Xapic => destination << 24,
            ApicMode::X2apic => destination,
        }
    }

    /// The interrupt command register as it reads.
    pub(super) fn read_command(self) -> u64 {
        match self.mode {
            ApicMode::Xapic => {
                u64::from(self.read(INTERRUPT_COMMAND_HIGH)) << 32
                    | u64::from(self.read(INTERRUPT_COMMAND))
            }
            ApicMode::X2apic => read_msr(IA32_X2APIC_ICR),
        }
    }

    /// Whether `vector` is in the interrupt-request register.
    pub(super) fn is_requested(self, vector: u8) -> bool {
        let word = self.read(INTERRUPT_REQUEST + 16 * u32::from(vector >> 5));
        word >> (vector & 31) & 1 != 0
    }

    /// The errors since the last time.
    pub(super) fn take_errors(self) -> u32 {
        // A write latches what has accumulated (SDM 10.5.3 Error handling).
        self.write(ERROR_STATUS, 0);
        self.read(ERROR_STATUS)
    }

    /// Takes the logical ID that `model` gives to this processor, and returns what the register
    /// then holds.
    pub(super) fn set_logical_id(self, model: LogicalModel, processor: &Processor) -> u32 {
        match model.destination_format() {
            Some(format) => {
                self.write(DESTINATION_FORMAT, format);
                let id = model.id(processor.index(), processor.apic_id());
                self.write(LOGICAL_DESTINATION, id << 24);
                self.read(LOGICAL_DESTINATION) >> 24
            }
            None => self.read(LOGICAL_DESTINATION),
        }
    }
}
