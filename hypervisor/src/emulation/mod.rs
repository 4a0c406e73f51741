//! What the hypervisor does for a guest in the processor's place: access its memory as one of its
//! instructions does, and carry out whole instructions.
//!
//! There is one way from an address that an instruction forms to RAM or a device, and each check of the
//! processor's is on it once: [`Emulator::operand`]. An instruction finds all of its operands before it
//! changes anything.

mod address;
pub mod address_space;
mod arithmetic;
mod bit;
mod branch;
pub mod code;
pub mod decoder;
pub mod device;
mod division;
mod exchange;
pub mod fault;
mod instruction;
mod moves;
pub mod native;
pub mod operand;
pub mod paging;
pub mod registers;
pub mod repetition;
mod stack;
mod string;
mod vector;
pub mod vector_registers;

use self::address_space::{AddressSpace, Alignment};
use self::device::Devices;
use self::fault::Stop;
use self::operand::Operand;
use self::paging::Access;
use self::registers::Registers;
use crate::vm::memory::{FrameAccess, GuestMemory};
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::vmcs;

/// The guest at an exit, as an instruction finds it.
#[derive(Debug)]
pub struct Emulator<'a, V, F, D> {
    /// Its registers in the VMCS.
    pub vmcs: &'a mut V,
    /// Its RAM.
    pub memory: &'a GuestMemory<F>,
    /// What answers elsewhere.
    pub devices: D,
    /// How its addresses are checked and translated; its RFLAGS.
    pub space: AddressSpace,
    /// Its general registers.
    pub registers: Registers,
}

impl<'a, V: Vmcs, F: FrameAccess, D: Devices<V>> Emulator<'a, V, F, D> {
    /// For the guest whose VMCS is given, which has these registers but for RSP.
    pub fn new(
        vmcs: &'a mut V,
        memory: &'a GuestMemory<F>,
        devices: D,
        mut registers: [u64; 16],
    ) -> Result<Self, VmxError> {
        let space = AddressSpace::read(vmcs)?;
        registers[RSP] = vmcs.read(vmcs::GUEST_RSP)?;
        Ok(Self {
            vmcs,
            memory,
            devices,
            space,
            registers: Registers(registers),
        })
    }

    /// Writes back what the VMCS has of the registers, and gives the others.
    pub fn finish(self) -> Result<Registers, VmxError> {
        self.vmcs.write(vmcs::GUEST_RSP, self.registers.0[RSP])?;
        self.vmcs.write(vmcs::GUEST_RFLAGS, self.space.flags)?;
        Ok(self.registers)
    }

    /// Where `size` bytes at `offset` of segment register `segment` are, for an access that the
    /// instruction makes; or its fault. A write that cannot be taken back asks before it begins.
    pub fn operand(
        &mut self,
        segment: u8,
        offset: u64,
        size: u8,
        access: Access,
    ) -> Result<Operand, Stop> {
        self.aligned_operand(segment, offset, size, access, Alignment::Natural)
    }

    /// The same with another rule for its alignment.
    fn aligned_operand(
        &mut self,
        segment: u8,
        offset: u64,
        size: u8,
        access: Access,
        alignment: Alignment,
    ) -> Result<Operand, Stop> {
        let linear = self
            .space
            .linear(self.vmcs, segment, offset, size, access)?;
        let privilege = self.space.privilege();
        Ok(self.space.locate(
            self.memory,
            segment,
            linear,
            size,
            access,
            privilege,
            alignment,
        )?)
    }

    /// Fetches more of the instruction that `code` begins with.
    pub fn fetch(&mut self, code: &mut code::Code) -> Result<(), Stop> {
        code.extend(&self.space, self.vmcs, self.memory, &mut self.devices)
    }

    /// Reads an operand.
    pub fn read(&mut self, operand: &Operand) -> u128 {
        operand.read(self.memory, &mut self.devices)
    }

    /// Writes an operand.
    pub fn write(&mut self, operand: &Operand, value: u128) -> Result<(), VmxError> {
        operand.write(value, self.memory, &mut self.devices, self.vmcs)
    }

    /// Reads an operand of 8 bytes at most, replaces it by `change` of it and gives what it was: in RAM by
    /// one atomic step.
    fn modify(
        &mut self,
        operand: &Operand,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<u64, VmxError> {
        loop {
            let old = self.read(operand) as u64;
            let new = change(old);
            match operand.compare_exchange(self.memory, old, new) {
                Some(true) => return Ok(old),
                // Another processor was faster, and so has made progress.
                Some(false) => {}
                None => {
                    self.write(operand, new.into())?;
                    return Ok(old);
                }
            }
        }
    }
}
