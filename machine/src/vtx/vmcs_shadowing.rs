//! VMREAD and VMWRITE in VMX non-root operation (SDM 24.10 VMCS types: ordinary and shadow, 25.1.3,
//! 24.6.15 VMCS shadowing bitmap addresses).

use super::vmcs::NO_POINTER;
use crate::cpu::Cpu;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// VMREAD.
    Read,
    /// VMWRITE.
    Write,
}

/// Whether the access to `encoding` goes to the shadow VMCS instead of leaving the guest.
pub fn is_shadowed(cpu: &Cpu, direction: Direction, encoding: u64) -> bool {
    let controls = &cpu.vmx.guest.controls;
    if !controls.vmcs_shadowing() || encoding >> 15 != 0 {
        return false;
    }
    let bitmap = match direction {
        Direction::Read => controls.vmread_bitmap,
        Direction::Write => controls.vmwrite_bitmap,
    };
    let byte = cpu.ram.offset(bitmap + encoding / 8);
    byte.is_some_and(|place| cpu.ram.load::<u8>(place) >> (encoding & 7) & 1 == 0)
}

/// RAM offset of the VMCS that VMREAD and VMWRITE access: the current one, in VMX non-root operation the
/// one that the VMCS link pointer references. `None` if there is none.
pub fn accessed_region(cpu: &Cpu) -> Option<u64> {
    if cpu.vmx.non_root {
        let pointer = cpu.vmx.guest.controls.link_pointer;
        (pointer != NO_POINTER).then(|| cpu.ram.offset(pointer))?
    } else {
        (cpu.vmx.current != NO_POINTER).then_some(cpu.vmx.region)
    }
}
