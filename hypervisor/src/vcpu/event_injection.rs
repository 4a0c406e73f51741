//! Events that the next VM entry delivers (SDM 27.6 Event injection), and those that an exit
//! interrupted (SDM 28.2.4 Information for VM exits during event delivery).

use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, rflags};
use arch::exception;
use arch::interruption::{InterruptionInformation, InterruptionType};
use arch::vmcs;

/// Bits of the guest interruptibility state (SDM 25.4.2).
pub mod interruptibility {
    /// Blocking by STI.
    pub const STI: u32 = 1 << 0;
    /// Blocking by MOV SS.
    pub const MOV_SS: u32 = 1 << 1;
    /// Blocking by NMI.
    pub const NMI: u32 = 1 << 3;
}

/// An event to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector, type, whether there is an error code.
    pub information: InterruptionInformation,
    /// The error code.
    pub error_code: u32,
    /// Length of the instruction, for software interrupts and exceptions.
    pub instruction_length: u32,
}

impl Event {
    /// A fault raised by emulation.
    pub const fn exception(vector: u8, error_code: u32) -> Self {
        Self {
            information: InterruptionInformation::new(
                vector,
                InterruptionType::HardwareException,
                exception::pushes_error_code(vector),
            ),
            error_code,
            instruction_length: 0,
        }
    }

    /// An external interrupt.
    pub const fn external_interrupt(vector: u8) -> Self {
        Self {
            information: InterruptionInformation::new(
                vector,
                InterruptionType::ExternalInterrupt,
                false,
            ),
            error_code: 0,
            instruction_length: 0,
        }
    }

    /// A non-maskable interrupt.
    pub const NON_MASKABLE: Self = Self {
        information: InterruptionInformation::new(
            exception::NON_MASKABLE_INTERRUPT,
            InterruptionType::NonMaskable,
            false,
        ),
        error_code: 0,
        instruction_length: 0,
    };

    /// Whether it is an NMI.
    pub fn is_non_maskable(self) -> bool {
        self.information.interruption_type() == InterruptionType::NonMaskable
    }

    /// Writes the entry fields. Event injection saves RFLAGS.RF as the guest-state area has it (SDM
    /// 27.6.1.1), so that a fault's RF is set here.
    pub fn write(self, vmcs: &mut impl Vmcs) -> Result<(), VmxError> {
        let mut information = self.information;
        if information.interruption_type() == InterruptionType::HardwareException
            && exception::is_fault(information.vector())
        {
            let flags = vmcs.read(vmcs::GUEST_RFLAGS)?;
            if flags & rflags::RF == 0 {
                vmcs.write(vmcs::GUEST_RFLAGS, flags | rflags::RF)?;
            }
        }
        if information.has_error_code() {
            // SDM 27.2.1.3 VM-entry control fields: no error code for a guest in real mode, where
            // delivery pushes none.
            if vmcs.read(vmcs::GUEST_CR0)? & cr0::PE == 0 {
                information.0 &= !InterruptionInformation::ERROR_CODE;
            } else {
                vmcs.write(vmcs::ENTRY_EXCEPTION_ERROR_CODE, self.error_code)?;
            }
        }
        vmcs.write(vmcs::ENTRY_INTERRUPTION_INFORMATION, information.0)?;
        if matches!(
            self.information.interruption_type(),
            InterruptionType::SoftwareInterrupt
                | InterruptionType::PrivilegedSoftwareException
                | InterruptionType::SoftwareException
        ) {
            vmcs.write(vmcs::ENTRY_INSTRUCTION_LENGTH, self.instruction_length)?;
        }
        Ok(())
    }

    /// The event whose delivery the last exit interrupted: it must be delivered again. Also brings
    /// back blocking by NMI that an interrupted IRET had ended, or that a re-delivered NMI brings
    /// itself.
    pub fn interrupted(vmcs: &mut impl Vmcs) -> Result<Option<Self>, VmxError> {
        let information = InterruptionInformation(vmcs.read(vmcs::IDT_VECTORING_INFORMATION)?);
        if !information.is_valid() {
            return Ok(None);
        }
        if information.interruption_type() == InterruptionType::NonMaskable {
            // SDM 27.6.1.1: injection of an NMI with virtual NMIs wants it unblocked before.
            let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
            vmcs.write(
                vmcs::GUEST_INTERRUPTIBILITY_STATE,
                state & !interruptibility::NMI,
            )?;
        }
        let error_code = if information.has_error_code() {
            vmcs.read(vmcs::IDT_VECTORING_ERROR_CODE)?
        } else {
            0
        };
        Ok(Some(Self {
            // Bit 12 is undefined here and reserved at entry.
            information: InterruptionInformation(
                information.0 & !InterruptionInformation::NMI_UNBLOCKING,
            ),
            error_code,
            instruction_length: vmcs.read(vmcs::EXIT_INSTRUCTION_LENGTH)?,
        }))
    }
}

/// Whether the guest could take a maskable interrupt at its next instruction boundary.
pub fn accepts_interrupts(vmcs: &impl Vmcs) -> Result<bool, VmxError> {
    let enabled = vmcs.read(vmcs::GUEST_RFLAGS)? & rflags::IF != 0;
    let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
    Ok(enabled && state & (interruptibility::STI | interruptibility::MOV_SS) == 0)
}

/// Whether the guest could take an NMI.
pub fn accepts_non_maskable(vmcs: &impl Vmcs) -> Result<bool, VmxError> {
    let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
    // SDM 27.3.1.5: some processors want no blocking by STI either.
    Ok(state & (interruptibility::STI | interruptibility::MOV_SS | interruptibility::NMI) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;

    #[test]
    fn a_fault_carries_its_error_code() {
        let mut map = MapVmcs::default();
        map.fields.insert(vmcs::GUEST_CR0.0, cr0::PE);
        Event::exception(13, 0x18).write(&mut map).unwrap();
        assert_eq!(
            map.writes,
            [(0x6820, 1 << 16), (0x4018, 0x18), (0x4016, 0x8000_0b0d)]
        );
        map.writes.clear();
        Event::exception(6, 0).write(&mut map).unwrap();
        assert_eq!(map.writes, [(0x4016, 0x8000_0306)]);
    }

    #[test]
    fn a_debug_exception_leaves_the_resume_flag_as_it_is() {
        for flags in [2, 0x1_0002] {
            let mut map = MapVmcs::default();
            map.fields.insert(vmcs::GUEST_RFLAGS.0, flags);
            Event::exception(exception::DEBUG, 0)
                .write(&mut map)
                .unwrap();
            assert_eq!(map.writes, [(0x4016, 0x8000_0301)]);
        }
    }

    #[test]
    fn a_fault_in_real_mode_has_no_error_code() {
        let mut map = MapVmcs::default();
        Event::exception(13, 0x18).write(&mut map).unwrap();
        assert_eq!(map.writes, [(0x6820, 1 << 16), (0x4016, 0x8000_030d)]);
    }

    #[test]
    fn an_interrupted_software_interrupt_keeps_its_length() {
        let mut map = MapVmcs::default();
        assert_eq!(Event::interrupted(&mut map), Ok(None));
        map.fields.extend([(0x4408, 0x8000_1480u64), (0x440c, 2)]);
        let event = Event::interrupted(&mut map).unwrap().unwrap();
        assert_eq!(event.information.0, 0x8000_0480);
        event.write(&mut map).unwrap();
        assert_eq!(map.writes, [(0x4016, 0x8000_0480), (0x401a, 2)]);
    }

    #[test]
    fn an_interrupted_non_maskable_interrupt_is_unblocked_to_be_delivered_again() {
        let mut map = MapVmcs::default();
        map.fields.extend([(0x4408, 0x8000_0202u64), (0x4824, 8)]);
        let event = Event::interrupted(&mut map).unwrap().unwrap();
        assert_eq!(event, Event::NON_MASKABLE);
        assert_eq!(map.fields[&0x4824], 0);
    }

    #[test]
    fn what_blocks_interrupts() {
        let mut map = MapVmcs::default();
        for (flags, state, maskable, non_maskable) in [
            (0x202u64, 0u64, true, true),
            (0x002, 0, false, true),
            (0x202, 1, false, false),
            (0x202, 2, false, false),
            (0x202, 8, true, false),
        ] {
            map.fields.extend([(0x6820, flags), (0x4824, state)]);
            assert_eq!(accepts_interrupts(&map), Ok(maskable), "{flags:x} {state}");
            assert_eq!(accepts_non_maskable(&map), Ok(non_maskable));
        }
    }
}
