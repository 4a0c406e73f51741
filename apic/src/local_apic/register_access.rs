//! Software's accesses to the registers: by page offset in xAPIC mode (SDM 10.4.1), by MSR in
//! x2APIC mode (SDM 10.12.1).

use arch::apic_register::{
    ARBITRATION_PRIORITY, DESTINATION_FORMAT, END_OF_INTERRUPT, ERROR_STATUS, ID, IN_SERVICE,
    INTERRUPT_COMMAND, INTERRUPT_COMMAND_HIGH, INTERRUPT_REQUEST, LOGICAL_DESTINATION,
    PROCESSOR_PRIORITY, REMOTE_READ, SELF_IPI, SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE,
    TASK_PRIORITY, TIMER_CURRENT_COUNT, TIMER_DIVIDE, TIMER_INITIAL_COUNT, VERSION,
};
use arch::interrupt_command::{
    DELIVERY_STATUS, DeliveryMode, InterruptCommand, Shorthand, TriggerMode, X2APIC_RESERVED,
};
use arch::msr::{X2APIC_FIRST, X2APIC_LAST};

use super::local_vector_table::READ_ONLY;
use super::{ApicError, Effect, LocalApic, LocalVector, TimerMode, X2APIC_COMMAND_HIGH};
use crate::apic_base::{ApicMode, GeneralProtection};
use crate::register_page::RegisterPage;

/// The defined bits of the ICR's low word, without delivery status.
const COMMAND_BITS: u32 = !(X2APIC_RESERVED as u32) & !(DELIVERY_STATUS as u32);
/// The defined bits of the divide configuration register.
const DIVIDE_BITS: u32 = 0b1011;

/// What software may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadOnly,
    WriteOnly,
    ReadWrite,
    /// Not there, in this mode.
    Reserved,
}

impl<P: RegisterPage> LocalApic<P> {
    // SDM 10.4.1, table "Local APIC Register Address Map"; 10.12.1.2, table "Local APIC Register
    // Address Map Supported by x2APIC".
    fn access(&self, offset: u32) -> Access {
        let x2apic = self.mode() == ApicMode::X2apic;
        match offset {
            ID | LOGICAL_DESTINATION if x2apic => Access::ReadOnly,
            ID | LOGICAL_DESTINATION => Access::ReadWrite,
            ARBITRATION_PRIORITY | REMOTE_READ if !x2apic => Access::ReadOnly,
            DESTINATION_FORMAT | INTERRUPT_COMMAND_HIGH if !x2apic => Access::ReadWrite,
            SELF_IPI if x2apic => Access::WriteOnly,
            VERSION | PROCESSOR_PRIORITY | TIMER_CURRENT_COUNT => Access::ReadOnly,
            IN_SERVICE..0x280 if offset & 0xf == 0 => Access::ReadOnly,
            END_OF_INTERRUPT => Access::WriteOnly,
            TASK_PRIORITY | SPURIOUS_VECTOR | ERROR_STATUS | INTERRUPT_COMMAND
            | TIMER_INITIAL_COUNT | TIMER_DIVIDE => Access::ReadWrite,
            _ => match LocalVector::from_offset(offset) {
                Some(LocalVector::CorrectedMachineCheck)
                    if !self.configuration.features.corrected_machine_check =>
                {
                    Access::Reserved
                }
                Some(_) => Access::ReadWrite,
                None => Access::Reserved,
            },
        }
    }

    /// A 32-bit read of the register page at `offset`. 0 if not in xAPIC mode; a reserved register
    /// reads 0 and is an error in ESR, whose interrupt may then be deliverable.
    pub fn read_register(&mut self, offset: u32, now: u64) -> u32 {
        if self.mode() != ApicMode::Xapic {
            return 0;
        }
        match self.access(offset) {
            Access::ReadOnly | Access::ReadWrite => self.value(offset, now),
            // UNCONFIRMED: no error, and 0.
            Access::WriteOnly => 0,
            Access::Reserved => {
                self.record_error(ApicError::IllegalRegister);
                0
            }
        }
    }

    /// A 32-bit write of the register page at `offset`. Ignored if not in xAPIC mode, or if the
    /// register is read-only; a reserved register is an error in ESR.
    pub fn write_register(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        if self.mode() != ApicMode::Xapic {
            return Effect::None;
        }
        match self.access(offset) {
            Access::ReadOnly => Effect::None,
            Access::WriteOnly | Access::ReadWrite => self.write(offset, value, now),
            Access::Reserved => {
                self.record_error(ApicError::IllegalRegister);
                Effect::PriorityChanged
            }
        }
    }

    /// RDMSR of 800H to 8FFH.
    ///
    /// # Errors
    /// Not in x2APIC mode; a reserved or write-only register.
    // SDM 10.12.1.3 Reserved Bit Checking.
    pub fn read_msr(&self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        let offset = self.offset_of(msr)?;
        match self.access(offset) {
            Access::ReadOnly | Access::ReadWrite if offset == INTERRUPT_COMMAND => {
                let high = self.page.read(X2APIC_COMMAND_HIGH);
                Ok(u64::from(high) << 32 | u64::from(self.value(offset, now)))
            }
            Access::ReadOnly | Access::ReadWrite => Ok(u64::from(self.value(offset, now))),
            Access::WriteOnly | Access::Reserved => Err(GeneralProtection),
        }
    }

    /// WRMSR of 800H to 8FFH.
    ///
    /// # Errors
    /// Not in x2APIC mode; a reserved or read-only register; a reserved bit. Nothing changes then.
    // SDM 10.12.1.3 Reserved Bit Checking.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let offset = self.offset_of(msr)?;
        match self.access(offset) {
            Access::WriteOnly | Access::ReadWrite => {}
            Access::ReadOnly | Access::Reserved => return Err(GeneralProtection),
        }
        if offset == INTERRUPT_COMMAND {
            return self.write_x2apic_command(value);
        }
        let allowed = self.x2apic_bits(offset);
        let reserved_timer_mode = offset == LocalVector::Timer.offset()
            && TimerMode::from_entry(value as u32) == TimerMode::Reserved;
        // UNCONFIRMED: that the reserved timer mode 11b faults.
        if value & !u64::from(allowed) != 0 || reserved_timer_mode {
            return Err(GeneralProtection);
        }
        Ok(self.write(offset, value as u32, now))
    }

    fn offset_of(&self, msr: u32) -> Result<u32, GeneralProtection> {
        if self.mode() == ApicMode::X2apic && (X2APIC_FIRST..=X2APIC_LAST).contains(&msr) {
            Ok((msr - X2APIC_FIRST) << 4)
        } else {
            Err(GeneralProtection)
        }
    }

    /// The bits that a write in x2APIC mode may set.
    fn x2apic_bits(&self, offset: u32) -> u32 {
        match offset {
            END_OF_INTERRUPT | ERROR_STATUS => 0,
            TASK_PRIORITY | SELF_IPI => 0xff,
            SPURIOUS_VECTOR => self.spurious_vector_bits(),
            TIMER_DIVIDE => DIVIDE_BITS,
            TIMER_INITIAL_COUNT => u32::MAX,
            _ => LocalVector::from_offset(offset).map_or(0, |entry| {
                entry.writable(self.configuration.features.tsc_deadline) | READ_ONLY
            }),
        }
    }

    /// The value of a register that can be read.
    fn value(&self, offset: u32, now: u64) -> u32 {
        match offset {
            ARBITRATION_PRIORITY => u32::from(self.arbitration_priority()),
            PROCESSOR_PRIORITY => u32::from(self.processor_priority()),
            TIMER_CURRENT_COUNT => self.timer_count(now),
            // Bit 12: this local APIC has always sent already.
            INTERRUPT_COMMAND => self.page.read(offset) & !(DELIVERY_STATUS as u32),
            // No remote read has succeeded since the Pentium 4.
            REMOTE_READ => 0,
            _ => self.page.read(offset),
        }
    }

    /// Writes a register that can be written; reserved bits fall away.
    fn write(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        match offset {
            TASK_PRIORITY => self.set_task_priority(value as u8),
            END_OF_INTERRUPT => {
                self.page.write(END_OF_INTERRUPT, 0);
                self.end_of_interrupt()
            }
            ID | LOGICAL_DESTINATION => {
                self.page.write(offset, value & 0xff00_0000);
                Effect::IdentityChanged
            }
            DESTINATION_FORMAT => {
                self.page.write(offset, value | 0x0fff_ffff);
                Effect::IdentityChanged
            }
            SPURIOUS_VECTOR => {
                self.page.write(offset, value & self.spurious_vector_bits());
                if value & SPURIOUS_VECTOR_ENABLE == 0 {
                    self.mask_all_entries();
                }
                Effect::IdentityChanged
            }
            ERROR_STATUS => {
                self.latch_errors();
                Effect::None
            }
            INTERRUPT_COMMAND => {
                let low = value & COMMAND_BITS;
                self.page.write(offset, low);
                let high = self.page.read(INTERRUPT_COMMAND_HIGH);
                self.send(InterruptCommand::from_xapic(low, high))
            }
            INTERRUPT_COMMAND_HIGH => {
                self.page.write(offset, value & 0xff00_0000);
                Effect::None
            }
            SELF_IPI => {
                // SDM 10.12.11 SELF IPI Register: as a fixed, edge-triggered command to oneself.
                let mut command = InterruptCommand::decode(value & 0xff, 0);
                command.shorthand = Shorthand::SelfOnly;
                self.send(command)
            }
            TIMER_INITIAL_COUNT => self.write_initial_count(value, now),
            TIMER_DIVIDE => self.write_divide(value & DIVIDE_BITS, now),
            _ => match LocalVector::from_offset(offset) {
                Some(entry) => self.write_entry(entry, value),
                None => Effect::None,
            },
        }
    }

    // SDM 10.12.9 ICR Operation in x2APIC Mode. Bit 12 is not among the reserved bits that fault,
    // and reads back 0 (prior-art B5 #1).
    fn write_x2apic_command(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value & X2APIC_RESERVED != 0 {
            return Err(GeneralProtection);
        }
        let value = value & !DELIVERY_STATUS;
        self.page.write(INTERRUPT_COMMAND, value as u32);
        self.page.write(X2APIC_COMMAND_HIGH, (value >> 32) as u32);
        Ok(self.send(InterruptCommand::from_x2apic(value)))
    }

    fn send(&mut self, command: InterruptCommand) -> Effect {
        match command.delivery_mode {
            // SDM 10.5.3: then the illegal vector is not looked at.
            DeliveryMode::LowestPriority
                if !self.configuration.features.lowest_priority_commands =>
            {
                self.record_error(ApicError::RedirectableIpi);
                return Effect::PriorityChanged;
            }
            // The message goes out all the same and is the receivers' error too. The receiver of a
            // self-IPI is this local APIC, which has received it when software reads on.
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if command.vector < 16 => {
                self.record_error(ApicError::SendIllegalVector);
                if command.delivery_mode == DeliveryMode::Fixed
                    && command.shorthand == Shorthand::SelfOnly
                {
                    let _ = self.accept(command.vector, TriggerMode::Edge);
                    return Effect::PriorityChanged;
                }
            }
            _ => {}
        }
        Effect::SendInterrupt(command)
    }
}

const _: () = assert!(INTERRUPT_REQUEST + 0x80 == ERROR_STATUS);
