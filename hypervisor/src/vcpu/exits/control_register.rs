//! Accesses to control registers that exit.

use super::{Context, Next, Outcome, advance, general_protection};
use crate::system::report::physical_address_width;
use crate::vcpu::guest_state::{
    Accepted, ProcessorLimits, seen_cr0, write_cr0, write_cr3, write_cr4,
};
use crate::vcpu::run::flush_translations;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vmx::instructions::RSP;
use crate::vmx::vmcs::Vmcs;
use arch::control_register::cr0;
use arch::vmcs;

/// Exit qualification (SDM 28.2.1, table "Exit Qualification for Control-Register Accesses").
pub(super) fn access(
    vcpu: &mut VirtualProcessor,
    vmcs: &mut impl Vmcs,
    context: Context,
) -> Outcome {
    let qualification = vmcs.read(vmcs::EXIT_QUALIFICATION)?;
    let register = (qualification >> 8 & 15) as usize;
    let value = match register {
        RSP => vmcs.read(vmcs::GUEST_RSP)?,
        _ => vcpu.registers.0[register],
    };
    let memory = &context.hypervisor.vm.memory;
    let limits = || ProcessorLimits {
        cr4: context.hypervisor.capabilities.cr4.may_be_1,
        physical_address_width: physical_address_width(),
    };
    let accepted = match (qualification >> 4 & 3, qualification & 15) {
        (0, 0) => {
            flush_translations(vcpu, context.hypervisor)?;
            write_cr0(value, vmcs, memory, limits())?
        }
        (0, 3) => {
            flush_translations(vcpu, context.hypervisor)?;
            write_cr3(value, vmcs, memory, limits())?
        }
        (0, 4) => {
            flush_translations(vcpu, context.hypervisor)?;
            write_cr4(value, vmcs, memory, limits())?
        }
        (0, 8) => match vcpu.apic.write_cr8(value) {
            Ok(effect) => {
                super::follow_up(effect, vcpu, vmcs, context)?;
                Accepted::Yes
            }
            Err(_) => Accepted::No,
        },
        (1, 3 | 8) => {
            let value = match qualification & 15 {
                3 => vmcs.read(vmcs::GUEST_CR3)?,
                _ => vcpu.apic.cr8(),
            };
            match register {
                RSP => vmcs.write(vmcs::GUEST_RSP, value)?,
                _ => vcpu.registers.0[register] = value,
            }
            Accepted::Yes
        }
        // CLTS: TS is the guest's, so only the read shadow can have made this exit.
        (2, _) => {
            let cr0 = vmcs.read(vmcs::GUEST_CR0)?;
            vmcs.write(vmcs::GUEST_CR0, cr0 & !cr0::TS)?;
            Accepted::Yes
        }
        // LMSW: sets PE, MP, EM and TS, and cannot clear PE.
        (3, _) => {
            let source = qualification >> 16 & 0xffff;
            let seen = seen_cr0(vmcs)?;
            let pe = seen & cr0::PE;
            write_cr0(seen & !0xf | source & 0xf | pe, vmcs, memory, limits())?
        }
        _ => return super::simple::unexpected(28, vcpu, vmcs, context),
    };
    if accepted == Accepted::No {
        return general_protection(vcpu);
    }
    advance(vmcs)?;
    Ok(Next::Resume)
}
