//! I/O instructions in VMX non-root operation (SDM 25.1.3, 24.6.4 I/O-bitmap addresses).

use arch::{exit::ExitReason, vmx_control::primary};

use super::VmExit;
use crate::cpu::{Cpu, raise::Raised};

/// An I/O instruction as the exit qualification describes it (SDM 27.2.1, table 27-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The first port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// How the port is encoded.
    pub encoding: PortEncoding,
    /// INS or OUTS.
    pub string: Option<StringAccess>,
}

/// How an I/O instruction names its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEncoding {
    /// DX.
    Register,
    /// An immediate byte.
    Immediate,
}

/// What INS and OUTS add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringAccess {
    /// With a REP prefix.
    pub repeated: bool,
    /// Linear address of the memory operand.
    pub linear: u64,
    /// VM-exit instruction information: address size in bits 9:7, segment in bits 17:15.
    pub instruction_information: u32,
}

impl Access {
    const fn qualification(&self) -> u64 {
        let (string, repeated) = match self.string {
            Some(string) => (1, string.repeated as u64),
            None => (0, 0),
        };
        (self.size as u64 - 1) & 7
            | (self.input as u64) << 3
            | string << 4
            | repeated << 5
            | (matches!(self.encoding, PortEncoding::Immediate) as u64) << 6
            | (self.port as u64) << 16
    }
}

/// Leaves the guest if the access is intercepted. Privilege faults come before.
#[inline]
pub fn check(cpu: &mut Cpu, access: &Access) -> Result<(), Raised> {
    if !cpu.vmx.non_root || !intercepts(cpu, access.port, access.size) {
        return Ok(());
    }
    let mut exit = VmExit::qualified(ExitReason::IoInstruction, access.qualification());
    if let Some(string) = access.string {
        cpu.vmx.guest.linear_address = string.linear;
        exit = exit.with_instruction_information(string.instruction_information);
    }
    Err(cpu.vm_exit(exit))
}

fn intercepts(cpu: &Cpu, port: u16, size: u8) -> bool {
    let controls = &cpu.vmx.guest.controls;
    if !controls.primary(primary::USE_IO_BITMAPS) {
        return controls.primary(primary::UNCONDITIONAL_IO_EXITING);
    }
    (0..u32::from(size)).any(|i| {
        let port = u32::from(port) + i;
        // SDM 25.1.3: an access that wraps around the 16-bit port space exits.
        if port > 0xffff {
            return true;
        }
        let [a, b] = controls.io_bitmaps;
        let bitmap = if port < 0x8000 { a } else { b };
        match cpu.ram.offset(bitmap + u64::from(port & 0x7fff) / 8) {
            Some(at) => cpu.ram.load::<u8>(at) >> (port & 7) & 1 != 0,
            None => true,
        }
    })
}
