//! INS and OUTS, alone or repeated (SDM volume 2, INS and OUTS).
//!
//! The exit comes before the instruction looks at memory, so page faults are found here.

use super::{Context, Next, Outcome, advance};
use crate::emulation::paging::{Access, PageFault, PagingRegisters, Privilege};
use crate::system::Direction;
use crate::vcpu::event_injection::Event;
use crate::vcpu::extended_state::set_page_fault_address;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use crate::vmx::instructions::{RCX, RDI, RSI};
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::rflags;
use arch::{exception, vmcs};

/// Iterations at one exit at most: between two of them the guest may take an interrupt.
const LONGEST_RUN: u32 = 64;

/// What the exit says of the instruction.
#[derive(Clone, Copy, Debug)]
struct StringAccess {
    /// INS.
    is_in: bool,
    /// With REP.
    repeats: bool,
    port: u16,
    /// Bytes of an element: 1, 2 or 4.
    size: u8,
    /// What the instruction's address size leaves of RCX, RSI and RDI.
    address_mask: u64,
    /// RFLAGS.DF: towards lower addresses.
    descends: bool,
    /// Of the first element.
    linear: u64,
}

/// How a run of iterations ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The instruction is complete.
    Complete,
    /// There are iterations left.
    Interrupted,
    /// An element was not moved.
    Faulted(PageFault),
}

impl StringAccess {
    fn read(qualification: u64, vmcs: &impl Vmcs) -> Result<Self, VmxError> {
        let information = vmcs.read(vmcs::EXIT_INSTRUCTION_INFORMATION)?;
        Ok(Self {
            is_in: qualification >> 3 & 1 != 0,
            repeats: qualification >> 5 & 1 != 0,
            port: (qualification >> 16) as u16,
            size: (qualification & 7) as u8 + 1,
            // SDM 28.2.5, table "Format of the VM-Exit Instruction-Information Field as Used for INS
            // and OUTS": bits 9:7 are the address size.
            address_mask: match information >> 7 & 7 {
                0 => 0xffff,
                1 => 0xffff_ffff,
                _ => u64::MAX,
            },
            descends: vmcs.read(vmcs::GUEST_RFLAGS)? & rflags::DF != 0,
            linear: vmcs.read(vmcs::GUEST_LINEAR_ADDRESS)?,
        })
    }

    /// Sets what the address size covers of a register; 32-bit results are zero-extended.
    fn set(&self, register: &mut u64, value: u64) {
        *register = match self.address_mask {
            0xffff => *register & !0xffff | value & 0xffff,
            mask => value & mask,
        };
    }

    /// Moves elements, each by `element` with its linear address, and keeps RCX, RSI and RDI.
    fn run(
        &self,
        registers: &mut [u64; 16],
        mut element: impl FnMut(u64) -> Result<(), PageFault>,
    ) -> Progress {
        let pointer = if self.is_in { RDI } else { RSI };
        let step = if self.descends {
            u64::from(self.size).wrapping_neg()
        } else {
            u64::from(self.size)
        };
        let mut linear = self.linear;
        for _ in 0..LONGEST_RUN {
            if self.repeats && registers[RCX] & self.address_mask == 0 {
                return Progress::Complete;
            }
            if let Err(fault) = element(linear) {
                return Progress::Faulted(fault);
            }
            let before = registers[pointer] & self.address_mask;
            let after = before.wrapping_add(step) & self.address_mask;
            self.set(&mut registers[pointer], after);
            if !self.repeats {
                return Progress::Complete;
            }
            let left = (registers[RCX] & self.address_mask) - 1;
            self.set(&mut registers[RCX], left);
            if left == 0 {
                return Progress::Complete;
            }
            if after != before.wrapping_add(step) {
                // The pointer wrapped: the next address is the processor's to compute.
                return Progress::Interrupted;
            }
            linear = linear.wrapping_add(step);
        }
        Progress::Interrupted
    }
}

/// An element's bytes in guest memory, which may lie in two pages.
struct Place {
    physical: [u64; 4],
    size: usize,
}

impl Place {
    fn find<F: FrameAccess>(
        memory: &GuestMemory<F>,
        paging: &PagingRegisters,
        linear: u64,
        size: u8,
        access: Access,
        privilege: Privilege,
    ) -> Result<Self, PageFault> {
        let mut physical = [0; 4];
        let size = usize::from(size).min(physical.len());
        for (index, place) in physical.iter_mut().enumerate().take(size) {
            let linear = paging.truncate(linear.wrapping_add(index as u64));
            *place = paging.access(memory, linear, access, privilege)?;
        }
        Ok(Self { physical, size })
    }

    /// What is no RAM reads as ones.
    fn read<F: FrameAccess>(&self, memory: &GuestMemory<F>) -> u32 {
        let mut bytes = [0; 4];
        for (byte, physical) in bytes.iter_mut().zip(self.physical).take(self.size) {
            let mut one = [0xff];
            let _ = memory.read(GuestPhysical(physical), &mut one);
            [*byte] = one;
        }
        u32::from_le_bytes(bytes)
    }

    /// What is no RAM takes nothing.
    fn write<F: FrameAccess>(&self, memory: &GuestMemory<F>, value: u32) {
        let bytes = value.to_le_bytes();
        for (byte, physical) in bytes.iter().zip(self.physical).take(self.size) {
            let _ = memory.write(GuestPhysical(physical), &[*byte]);
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
    let string = StringAccess::read(qualification, vmcs)?;
    let paging = PagingRegisters::read(vmcs)?;
    // SDM 25.4.1: SS's DPL is the current privilege level.
    let privilege = if vmcs.read(vmcs::GUEST_SS_ACCESS_RIGHTS)? >> 5 & 3 == 3 {
        Privilege::User
    } else {
        Privilege::Supervisor
    };
    let hypervisor = context.hypervisor;
    let memory = &hypervisor.vm.memory;
    let port =
        |direction| hypervisor.port_access(string.port, string.size, direction, context.processor);
    let progress = string.run(&mut vcpu.registers.0, |linear| {
        let access = if string.is_in {
            Access::Write
        } else {
            Access::Read
        };
        let place = Place::find(memory, &paging, linear, string.size, access, privilege)?;
        if string.is_in {
            place.write(memory, port(Direction::In));
        } else {
            let _ = port(Direction::Out(place.read(memory)));
        }
        Ok(())
    });
    match progress {
        Progress::Complete => advance(vmcs)?,
        Progress::Interrupted => {}
        Progress::Faulted(fault) => {
            set_page_fault_address(fault.linear);
            vcpu.event = Some(Event::exception(exception::PAGE_FAULT, fault.error_code));
        }
    }
    if hypervisor.vm.is_ending() {
        return Ok(Next::Leave(Leave::Ending));
    }
    Ok(Next::Resume)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const OUTSB: StringAccess = StringAccess {
        is_in: false,
        repeats: true,
        port: 0x3f8,
        size: 1,
        address_mask: u64::MAX,
        descends: false,
        linear: 0x1000,
    };

    fn registers(count: u64, source: u64, destination: u64) -> [u64; 16] {
        let mut registers = [0; 16];
        registers[RCX] = count;
        registers[RSI] = source;
        registers[RDI] = destination;
        registers
    }

    #[test]
    fn a_repeated_run_moves_each_element_and_ends_at_its_limit() {
        let mut registers = registers(70, 0x5000, 7);
        let mut moved = Vec::new();
        let first = OUTSB.run(&mut registers, |linear| {
            moved.push(linear);
            Ok(())
        });
        assert_eq!(first, Progress::Interrupted);
        assert_eq!(moved, (0x1000..0x1040).collect::<Vec<u64>>());
        assert_eq!(
            (registers[RCX], registers[RSI], registers[RDI]),
            (6, 0x5040, 7)
        );
        let rest = StringAccess {
            linear: 0x1040,
            ..OUTSB
        };
        assert_eq!(rest.run(&mut registers, |_| Ok(())), Progress::Complete);
        assert_eq!((registers[RCX], registers[RSI]), (0, 0x5046));
        assert_eq!(
            OUTSB.run(&mut registers, |_| panic!("none is left")),
            Progress::Complete
        );
    }

    #[test]
    fn without_rep_there_is_one_element_whatever_rcx_says() {
        let mut registers = registers(0, 0x10, 0x20);
        let ins = StringAccess {
            is_in: true,
            repeats: false,
            size: 2,
            descends: true,
            ..OUTSB
        };
        assert_eq!(ins.run(&mut registers, |_| Ok(())), Progress::Complete);
        assert_eq!(
            (registers[RCX], registers[RSI], registers[RDI]),
            (0, 0x10, 0x1e)
        );
    }

    #[test]
    fn narrow_addresses_leave_or_clear_the_rest_of_a_register_and_wrap() {
        let high = 0xaaaa_0000_0000_0000;
        let bits16 = StringAccess {
            address_mask: 0xffff,
            size: 4,
            ..OUTSB
        };
        let mut narrow = registers(high | 2, high | 0xfffe, 0);
        assert_eq!(bits16.run(&mut narrow, |_| Ok(())), Progress::Interrupted);
        assert_eq!((narrow[RCX], narrow[RSI]), (high | 1, high | 2));
        let bits32 = StringAccess {
            address_mask: 0xffff_ffff,
            ..OUTSB
        };
        let mut narrow = registers(high | 1, high | 0xff, 0);
        assert_eq!(bits32.run(&mut narrow, |_| Ok(())), Progress::Complete);
        assert_eq!((narrow[RCX], narrow[RSI]), (0, 0x100));
    }

    #[test]
    fn a_fault_leaves_the_registers_at_its_element() {
        let fault = PageFault {
            linear: 0x1002,
            error_code: 0,
        };
        let mut registers = registers(5, 0x5000, 0);
        let progress = OUTSB.run(&mut registers, |linear| {
            if linear == fault.linear {
                Err(fault)
            } else {
                Ok(())
            }
        });
        assert_eq!(progress, Progress::Faulted(fault));
        assert_eq!((registers[RCX], registers[RSI]), (3, 0x5002));
    }
}
