//! INS and OUTS, alone or repeated (SDM volume 2, INS and OUTS).
//!
//! The exit comes behind the checks of the port (SDM 26.1.1) and before the instruction looks at memory,
//! so everything that its memory operand can do wrong is found here.

use super::emulated::{GuestDevices, conclude};
use super::{Context, Next, Outcome};
use crate::emulation::Emulator;
use crate::emulation::fault::Stop;
use crate::emulation::paging::Access;
use crate::emulation::repetition::{Progress, Repetition};
use crate::system::Direction;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::instructions::{RDI, RSI};
use crate::vmx::vmcs::Vmcs;
use arch::segment::register;
use arch::vmcs;
use core::ops::ControlFlow;

/// What the exit says of the instruction (SDM 28.2.1, table "Exit Qualification for I/O Instructions",
/// and 28.2.5, table "Format of the VM-Exit Instruction-Information Field as Used for INS and OUTS").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StringAccess {
    direction: StringDirection,
    repeats: bool,
    port: u16,
    /// Bytes of an element: 1, 2 or 4.
    size: u8,
    /// What the instruction's address size leaves of RCX, RSI and RDI.
    address_mask: u64,
    /// Number of the memory operand's segment register.
    segment: u8,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringDirection {
    /// INS.
    In,
    /// OUTS.
    Out,
}

impl StringAccess {
    fn new(qualification: u64, information: u32) -> Self {
        let direction = if qualification >> 3 & 1 != 0 {
            StringDirection::In
        } else {
            StringDirection::Out
        };
        Self {
            direction,
            repeats: qualification >> 5 & 1 != 0,
            port: (qualification >> 16) as u16,
            size: (qualification & 7) as u8 + 1,
            address_mask: match information >> 7 & 7 {
                0 => 0xffff,
                1 => 0xffff_ffff,
                _ => u64::MAX,
            },
            segment: match direction {
                // No prefix overrides ES; the field is undefined.
                StringDirection::In => register::ES,
                StringDirection::Out => (information >> 15 & 7) as u8,
            },
        }
    }
}

/// Exit reason 30 with a string instruction.
pub(super) fn instruction(
    qualification: u64,
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let string = StringAccess::new(
        qualification,
        vmcs.read(vmcs::EXIT_INSTRUCTION_INFORMATION)?,
    );
    let length = vmcs.read(vmcs::EXIT_INSTRUCTION_LENGTH)?;
    let mut registers = vcpu.registers.0;
    let devices = GuestDevices {
        vcpu: &mut *vcpu,
        context,
    };
    let mut emulator = Emulator::new(vmcs, &context.hypervisor.vm.memory, devices, registers)?;
    let flags = emulator.space.flags;
    let repetition = Repetition::new(string.repeats, string.address_mask, string.size, flags);
    let port = |direction| {
        let StringAccess { port, size, .. } = string;
        context
            .hypervisor
            .port_access(port, size, direction, context.processor)
    };
    let pointer = match string.direction {
        StringDirection::In => RDI,
        StringDirection::Out => RSI,
    };
    let element = |registers: &mut [u64; 16]| -> Result<ControlFlow<()>, Stop> {
        let offset = repetition.offset(registers[pointer]);
        let access = match string.direction {
            StringDirection::In => Access::Write,
            StringDirection::Out => Access::Read,
        };
        // Before the port is read: what it gives cannot be put back.
        let operand = emulator.operand(string.segment, offset, string.size, access)?;
        match string.direction {
            StringDirection::In => emulator.write(&operand, port(Direction::In).into())?,
            StringDirection::Out => {
                let _ = port(Direction::Out(emulator.read(&operand) as u32));
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let progress: Result<Progress, Stop> = repetition.run(&mut registers, &[pointer], element);
    vcpu.registers.0 = registers;
    conclude(progress, length, vcpu, vmcs)?;
    if context.hypervisor.vm.is_ending() {
        return Ok(Next::Leave(Leave::Ending));
    }
    Ok(Next::Resume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_says_what_is_moved() {
        // REP OUTSD from FS, 32-bit addresses.
        let access = StringAccess::new(0x3f8_0033, 4 << 15 | 1 << 7);
        let wanted = StringAccess {
            direction: StringDirection::Out,
            repeats: true,
            port: 0x3f8,
            size: 4,
            address_mask: 0xffff_ffff,
            segment: register::FS,
        };
        assert_eq!(access, wanted);
        // INSB, 64-bit addresses; bits 17:15 are undefined.
        let access = StringAccess::new(0x60_0018, 7 << 15 | 2 << 7);
        let wanted = StringAccess {
            direction: StringDirection::In,
            repeats: false,
            port: 0x60,
            size: 1,
            address_mask: u64::MAX,
            segment: register::ES,
        };
        assert_eq!(access, wanted);
    }
}
