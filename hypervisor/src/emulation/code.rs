//! The bytes of the instruction at CS:RIP (SDM 5.3 Limit checking; volume 2, 2.3.11 for the longest).

use super::address_space::{AddressSpace, Alignment};
use super::device::{self, Devices};
use super::fault::{Fault, Stop};
use super::paging::Access;
use crate::vm::memory::{FrameAccess, GuestMemory, GuestPhysical};
use crate::vmx::vmcs::Vmcs;
use arch::segment::register;

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// As much of an instruction as has been fetched. The page behind the first is fetched from only when
/// its bytes are wanted, for the fetch may fault.
#[derive(Debug)]
pub struct Code {
    bytes: [u8; LONGEST],
    length: usize,
    rip: u64,
}

impl Code {
    /// Nothing of the instruction at `rip` yet.
    pub const fn at(rip: u64) -> Self {
        Self {
            bytes: [0; LONGEST],
            length: 0,
            rip,
        }
    }

    /// What has been fetched.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Fetches more: up to the end of a page, of the segment, or of the longest instruction. The fault of
    /// the first byte that is not there.
    pub fn extend<V: Vmcs, F: FrameAccess, D: Devices<V>>(
        &mut self,
        space: &AddressSpace,
        vmcs: &V,
        memory: &GuestMemory<F>,
        devices: &mut D,
    ) -> Result<(), Stop> {
        if self.length >= LONGEST {
            // SDM 6.15, "Interrupt 13": an instruction of more than 15 bytes.
            return Err(Fault::GENERAL_PROTECTION.into());
        }
        let (linear, in_segment) = space.code(vmcs, self.rip.wrapping_add(self.length as u64))?;
        let place = space.locate(
            memory,
            register::CS,
            linear,
            1,
            Access::Fetch,
            space.privilege(),
            Alignment::Any,
        )?;
        let in_page = (4096 - (linear & 0xfff)) as usize;
        let count = in_page.min(in_segment).min(LONGEST - self.length);
        let end = self.length + count;
        let Some(bytes) = self.bytes.get_mut(self.length..end) else {
            return Ok(());
        };
        let physical = place.first();
        if memory.read(GuestPhysical(physical), bytes).is_err() {
            device::read(devices, physical, bytes);
        }
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulation::address_space::Mode;
    use crate::emulation::device::tests::Recorder;
    use crate::emulation::paging::tests::{FLAT, LONG, memory};
    use crate::vmx::vmcs::tests::MapVmcs;
    use arch::vmcs;

    fn space(mode: Mode) -> AddressSpace {
        AddressSpace {
            mode,
            privilege_level: 0,
            flags: 2,
            paging: if mode == Mode::Bits64 { LONG } else { FLAT },
        }
    }

    #[test]
    fn the_next_page_is_fetched_when_its_bytes_are_wanted() {
        let memory = memory(&[
            (0x1000, 0x2001),
            (0x2000, 0x3001),
            (0x3000, 0x4001),
            (0x4000, 0x8001),
        ]);
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        memory.write(GuestPhysical(0x8ff8), &bytes).unwrap();
        let mut code = Code::at(0xffc);
        let mut devices = Recorder::default();
        let mut fetch = |code: &mut Code| {
            code.extend(
                &space(Mode::Bits64),
                &MapVmcs::default(),
                &memory,
                &mut devices,
            )
        };
        fetch(&mut code).unwrap();
        assert_eq!(code.bytes(), [5, 6, 7, 8]);
        let fault = Fault {
            vector: 14,
            error_code: 0x10,
            page_fault_address: Some(0x1000),
        };
        assert_eq!(fetch(&mut code), Err(Stop::Fault(fault)));
        memory.write_u64(GuestPhysical(0x4008), 0x9001).unwrap();
        memory.write(GuestPhysical(0x9000), &[9, 10]).unwrap();
        fetch(&mut code).unwrap();
        assert_eq!(code.bytes()[..6], [5, 6, 7, 8, 9, 10]);
        assert_eq!(code.bytes().len(), 15);
        // No instruction is longer.
        assert_eq!(
            fetch(&mut code),
            Err(Stop::Fault(Fault::GENERAL_PROTECTION))
        );
    }

    #[test]
    fn code_ends_with_its_segment() {
        let memory = memory(&[(0x5000, 0x0807_0605_0403_0201)]);
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_CS_BASE.0, 0x4000),
            (vmcs::GUEST_CS_LIMIT.0, 0x1002),
            (vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xc09b),
        ]);
        let mut code = Code::at(0x1000);
        let space = space(Mode::Protected);
        let mut devices = Recorder::default();
        code.extend(&space, &map, &memory, &mut devices).unwrap();
        assert_eq!(code.bytes(), [1, 2, 3]);
        assert_eq!(
            code.extend(&space, &map, &memory, &mut devices),
            Err(Stop::Fault(Fault::GENERAL_PROTECTION))
        );
    }

    #[test]
    fn code_may_be_a_devices() {
        let mut devices = Recorder::default();
        let mut code = Code::at(0xfffe);
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_CS_BASE.0, 0xfec0_0000),
            (vmcs::GUEST_CS_LIMIT.0, 0xffff_ffff),
        ]);
        code.extend(&space(Mode::Protected), &map, &memory(&[]), &mut devices)
            .unwrap();
        assert_eq!(code.bytes(), [0xff, 0xff]);
        assert_eq!(devices.reads, [0xfec0_fffc]);
    }
}
