//! What the hypervisor does for a guest in the processor's place: access its memory as one of its
//! instructions does. There is one way from an address that an instruction forms to RAM or a device, and
//! each check of the processor's is on it once: [`Emulator::operand`].

pub mod address_space;
pub mod code;
pub mod device;
pub mod fault;
pub mod operand;
pub mod paging;
pub mod repetition;

use self::address_space::{AddressSpace, Alignment};
use self::device::Devices;
use self::fault::Stop;
use self::operand::Operand;
use self::paging::Access;
use crate::vm::memory::{FrameAccess, GuestMemory};
use crate::vmx::vmcs::{Vmcs, VmxError};

/// The guest at an exit, as an instruction finds it.
#[derive(Debug)]
pub struct Emulator<'a, V, F, D> {
    /// Its registers in the VMCS.
    pub vmcs: &'a mut V,
    /// Its RAM.
    pub memory: &'a GuestMemory<F>,
    /// What answers elsewhere.
    pub devices: D,
    /// How its addresses are checked and translated.
    pub space: AddressSpace,
}

impl<'a, V: Vmcs, F: FrameAccess, D: Devices<V>> Emulator<'a, V, F, D> {
    /// For the guest whose VMCS is given.
    pub fn new(vmcs: &'a mut V, memory: &'a GuestMemory<F>, devices: D) -> Result<Self, VmxError> {
        let space = AddressSpace::read(vmcs)?;
        Ok(Self {
            vmcs,
            memory,
            devices,
            space,
        })
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
        let linear = self
            .space
            .linear(self.vmcs, segment, offset, size, access)?;
        let privilege = self.space.privilege();
        let natural = Alignment::Natural;
        Ok(self.space.locate(
            self.memory,
            segment,
            linear,
            size,
            access,
            privilege,
            natural,
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
}
