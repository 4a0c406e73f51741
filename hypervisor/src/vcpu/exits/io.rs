//! I/O instructions.

use super::{Context, Next, Outcome, advance, string_io};
use crate::system::Direction;
use crate::vcpu::run::Leave;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::instructions::RAX;
use crate::vmx::vmcs::Vmcs;
use arch::vmcs;

/// Exit qualification (SDM 28.2.1, table "Exit Qualification for I/O Instructions").
pub(super) fn instruction(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    let size = (qualification & 7) as u8 + 1;
    let port = (qualification >> 16) as u16;
    let (is_in, is_string) = (qualification >> 3 & 1 != 0, qualification >> 4 & 1 != 0);
    if is_string {
        return string_io::instruction(qualification, vcpu, vmcs, context);
    }
    let mask = crate::emulation::native::mask(size);
    let rax = vcpu.registers.0[RAX];
    let hypervisor = context.hypervisor;
    let direction = if is_in {
        Direction::In
    } else {
        Direction::Out((rax & mask) as u32)
    };
    let value = hypervisor.port_access(port, size, direction, context.processor);
    if is_in {
        let value = u64::from(value) & mask;
        // A 32-bit result is zero-extended.
        vcpu.registers.0[RAX] = if size == 4 {
            value
        } else {
            rax & !mask | value
        };
    }
    advance(vmcs)?;
    if hypervisor.vm.is_ending() {
        return Ok(Next::Leave(Leave::Ending));
    }
    Ok(Next::Resume)
}
